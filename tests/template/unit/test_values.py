"""Kind 4: one value, several doors, one answer. The table is in support/values.py."""
import csv
import json
import math
from datetime import UTC, date, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pydantic import AwareDatetime, Field, create_model
from sqlalchemy import create_engine, text
from values import GOOD, MISSING, NOT_A_NUMBER, REFUSED, TEXTS, TYPED

from mlops_lifecycle.core.data.ingestion import Load, parts_of, pieces_of
from mlops_lifecycle.core.data.readers import Column, SourceError
from mlops_lifecycle.core.data.schema import ARROW, typed
from mlops_lifecycle.core.foundation.errors import UsageError
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.problem.definition import Entity, Problem, Rule
from mlops_lifecycle.core.serving.batch import read_rows, requests_of, score_requests
from mlops_lifecycle.core.serving.middleware import ApiError, validated
from mlops_lifecycle.core.serving.predictor import trial_workspace
from mlops_lifecycle.plan import plan
from mlops_lifecycle.serving import create_app
from mlops_lifecycle.staging import served

PYTHON = {"integer": int, "number": float, "text": str, "boolean": bool, "time": AwareDatetime}
ASKS = {type: create_model("Ask", __base__=Entity, it=(kind | None, None)) for type, kind in PYTHON.items()}


def plain(value):
    """A value as Python has it: times in UTC."""
    if value is None or value is pd.NA or value is pd.NaT or isinstance(value, float) and math.isnan(value): return MISSING
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, pd.Timestamp): value = value.to_pydatetime()
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def collected(folder, type: str, **source) -> dict:
    """What collecting makes of each row of a source, by its number."""
    source = SimpleNamespace(**(dict(kind="database", where="", table="", text=(), key=(), cursor="", secret="", timeout=5) | source))
    load, columns = Load("it"), {"n": Column("integer", "number"), "it": Column(type, "the value")}
    try: table = pa.concat_tables(list(parts_of(pieces_of("it", source, folder), columns, load)))
    except SourceError as refused:
        assert '"it"' in str(refused)
        return {}
    assert all('"it" must be' in one["reason"] for one in load.aside)
    return dict(zip(table["n"].to_pylist(), map(plain, table["it"].to_pylist())))


def asked(type: str, table: pa.Table) -> dict:
    """What scoring makes of each row of a table."""
    found = {}
    for n in range(len(table)):
        try: found[n] = plain(requests_of(table.select(["it"]).slice(n, 1), ASKS[type])["it"].values[-1])
        except UsageError as refused: assert str(refused).startswith("1 of 1 rows are no requests: row 1, it: ")
    return found


# doors: folder, type, values of one kind of Python, the last one good -> {row: value}; what is missing there was refused

def by_csv(folder, type, values):
    with open(folder / "it.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("n", "it"), *enumerate(values)])
    return collected(folder, type, kind="file", where="it.csv")


def by_json(folder, type, values):
    lines = (json.dumps({"n": n, "it": value}, ensure_ascii=False) for n, value in enumerate(values))
    (folder / "it.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return collected(folder, type, kind="file", where="it.jsonl")


def by_parquet(folder, type, values):
    pq.write_table(pa.table({"n": range(len(values)), "it": values}), folder / "it.parquet")
    return collected(folder, type, kind="file", where="it.parquet")


def by_database(url, folder, type, values, kind="text"):
    engine = create_engine(url)
    with engine.begin() as link:
        link.execute(text("drop table if exists them"))
        link.execute(text(f"create table them (n integer, it {kind})"))
        link.execute(text("insert into them values (:n, :it)"), [{"n": n, "it": value} for n, value in enumerate(values)])
    engine.dispose()
    return collected(folder, type, where=url, table="them")


def by_sqlite(folder, type, values): return by_database(f"sqlite:///{folder}/them.db", folder, type, values, COLUMN[kind_of(values)][0])


def score_of(file, type, table):
    """The table written to a file, and what scoring says to each row of it."""
    if file.suffix == ".csv": table.to_pandas().to_csv(file, index=False, quoting=csv.QUOTE_ALL)
    elif file.suffix: pq.write_table(table, file)
    else: write_deltalake(file, table, mode="overwrite", schema_mode="overwrite")
    return asked(type, read_rows(file))


def by_scored_csv(folder, type, values): return score_of(folder / "score.csv", type, pa.table({"n": range(len(values)), "it": values}))


def by_scored_parquet(folder, type, values): return score_of(folder / "score.parquet", type, pa.table({"it": values}))


def by_delta(folder, type, values): return score_of(folder / "score", type, pa.table({"it": values}))


def by_frame(folder, type, values):
    """A table with types of its own, as curate has it from a function of the project."""
    found, bad = typed(pd.Series(values), type, ARROW[type])
    return {n: plain(value) for n, (value, wrong) in enumerate(zip(found, bad)) if not wrong}


def by_request(folder, type, values):
    found = {}
    for n, value in enumerate(values):
        try: found[n] = plain(validated(ASKS[type], json.dumps({"it": value}, ensure_ascii=False)).it)
        except ApiError as refused: assert refused.errors[0]["field"] == "it" and refused.status == 422
    return found


COLUMN = {str: ("text", "text"), int: ("integer", "bigint"), float: ("real", "double precision"), bool: ("boolean", "boolean"),
          datetime: (None, "timestamptz"), "clock": (None, "timestamp")}  # in SQLite and in PostgreSQL


def kind_of(values):
    first = next((value for value in values if value is not None), None)
    return "clock" if isinstance(first, datetime) and first.tzinfo is None else first.__class__ if first is not None else str


@pytest.fixture(scope="module")
def by_postgres(database):
    return lambda folder, type, values: by_database(str(database), folder, type, values, COLUMN[kind_of(values)][1])


def same(found, right) -> bool:
    if right in (REFUSED, MISSING): return found is right
    return (found, found.__class__) == (right, right.__class__)


def differ(door, folder, type, cases: list[tuple], good) -> list:
    """The values to which a door says something else than the table."""
    answers = door(folder, type, [*(value for value, _ in cases), good])
    found = [(value, answers.get(n, REFUSED), right) for n, (value, right) in enumerate(cases)]
    return [(getattr(door, "__name__", "by_postgres"), *one) for one in found if not same(one[1], one[2])]


READ_TEXT = [by_csv, by_json, by_parquet, by_sqlite, by_scored_csv, by_scored_parquet, by_delta]


@pytest.mark.parametrize("type", TEXTS)
def test_kind_4_a_text_means_the_same_at_every_door(type, tmp_path, by_postgres):
    cases = list(TEXTS[type].items())
    good = next(cell for cell, right in cases if right not in (REFUSED, MISSING))
    wrong = [one for door in (*READ_TEXT, by_postgres) for one in differ(door, tmp_path, type, cases, good)]
    frame = [(cell, right) for cell, right in cases if type != "text"]
    wrong += differ(by_frame, tmp_path, type, frame, good) if frame else []
    # over HTTP a text is a text, and marks of a missing value are none
    http = [(cell, right if type in ("text", "time") and right is not MISSING else REFUSED) for cell, right in cases]
    assert not wrong + differ(by_request, tmp_path, type, http, good)


def groups(type: str):
    """The table's values of one kind of Python each, a missing one among them, and one that fits a column of their own type."""
    found = {}
    for value, right in TYPED[type]: found.setdefault((value.__class__, kind_of([value])), []).append((value, right))
    for (kind, like), cases in found.items():
        good = GOOD[kind].replace(tzinfo=None) if like == "clock" else GOOD[kind]
        fits = any(right is not REFUSED for _, right in cases)  # a column of which nothing fits is refused whole
        yield kind, [*cases, (None, MISSING)] if fits else cases, good


@pytest.mark.parametrize("type", TYPED)
def test_kind_4_a_value_with_a_type_of_its_own_means_the_same_at_every_door(type, tmp_path, by_postgres):
    wrong = []
    for kind, cases, good in groups(type):
        doors = [by_parquet, by_scored_parquet, by_delta]
        if kind is not date: doors.append(by_postgres)
        if kind in (int, float, str): doors.append(by_sqlite)
        if kind not in (date, datetime): doors += [by_json, by_request]  # JSON has no times
        if kind is float: doors.append(by_frame)
        wrong += [one for door in doors for one in differ(door, tmp_path, type, cases, good)]
    assert not wrong


def test_kind_4_a_gap_that_is_no_number_is_missing_in_a_table_and_no_json(tmp_path, by_postgres):
    for type in ("integer", "number"):
        for door in (by_parquet, by_scored_parquet, by_delta, by_postgres, by_frame, by_json):
            assert not differ(door, tmp_path, type, [(NOT_A_NUMBER, MISSING)], 1.0)
        assert not differ(by_request, tmp_path, type, [(NOT_A_NUMBER, REFUSED)], 1.0)


class Everything(Entity):
    """A request with a field of each type."""
    integer: int | None = Field(default=None, examples=[3])
    number: float | None = Field(default=None, examples=[1.5])
    text: str | None = Field(default=None, examples=["a"])
    boolean: bool | None = Field(default=None, examples=[True])
    time: AwareDatetime | None = Field(default=None, examples=["2024-03-01T09:00:00Z"])


def nothing(columns): return np.zeros(np.shape(columns["decision_time"])) + 0.0


ANYTHING = Problem("anything", "thing", "odd", "look", "euro a thing", Everything, Rule("never", "1.0", nothing, 1.0), key=("text",))


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    root = tmp_path_factory.mktemp("values")
    workspace = trial_workspace(root / "workspace", ANYTHING, plan.model_dump(mode="json"))
    with served(create_app(load_settings(environ={}), workspace, ANYTHING)) as client:
        client.workspace = workspace
        yield client


def test_kind_4_the_app_answers_what_the_table_says_and_its_contract_says_so(api):
    for type, cases in TYPED.items():
        for value, right in cases:
            if isinstance(value, (datetime, date)): continue
            body = json.dumps({type: value})
            answer = api.post("/v1/predict", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == (422 if right is REFUSED else 200), (type, value, answer.text)
            tensor = {"name": type, "datatype": "FP64", "shape": [1], "data": [value]}
            infer = f"/v2/models/{ANYTHING.name}/infer"
            if isinstance(value, float) and math.isfinite(value):
                assert api.post(infer, json={"inputs": [tensor]}).status_code == answer.status_code, (type, value)
    document = api.get("/openapi.json").json()
    assert "3.0 is 3" in document["info"]["description"]


def test_kind_4_a_scored_file_says_the_values_of_the_table(api, tmp_path):
    """A CSV with a column of each type, all good values of the table in it."""
    good = {type: [(text, right) for text, right in cases.items() if right is not REFUSED] for type, cases in TEXTS.items()}
    rows = max(map(len, good.values()))
    cells = {type: [cases[n % len(cases)] for n in range(rows)] for type, cases in good.items()}
    pd.DataFrame({type: [text for text, _ in cases] for type, cases in cells.items()}).to_csv(
        tmp_path / "it.csv", index=False, quoting=csv.QUOTE_ALL)
    scored = score_requests(requests_of(read_rows(tmp_path / "it.csv"), Everything), ANYTHING, api.workspace, None)
    for type, cases in cells.items():
        if type == "integer": continue  # beside a gap pandas has numbers
        assert [(text, found) for (text, right), found in zip(cases, map(plain, scored[type])) if found != right] == [], type
    assert scored.decision.tolist() == [0] * rows
