"""What a table may bring and its answer: refused whole, set aside with a reason, or taken exactly as it came."""
import csv
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_stages import curate_own

from mlops_lifecycle.collect import collect
from mlops_lifecycle.core.data.catalog import Table
from mlops_lifecycle.core.data.hooks import CollectHooks, CurateHooks
from mlops_lifecycle.core.serving.batch import read_rows, write_rows
from mlops_lifecycle.core.data.readers import Column, SourceError
from mlops_lifecycle.core.models.features import Feature, FeatureSet, Lookup, check_lookup
from mlops_lifecycle.core.pipeline.stage_run import StageRun
from mlops_lifecycle.core.foundation.settings import Source, load_settings
from mlops_lifecycle.core.foundation.stages import GoBack
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.curate import curate
from mlops_lifecycle.core.quality.exploration import rank_features
from mlops_lifecycle.explore import suspect_leaks
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.train import split, too_few_labels
from mlops_lifecycle.core.models.examples import check_inputs, decisions

NOW = pd.Timestamp("2024-06-01T00:00Z")
COLUMNS = {
    "loan": Column("integer", "number of the loan"),
    "reader": Column("text", "card number", personal=True),
    "branch": Column("text", "where"),
    "fee": Column("number", "what was paid", unit="EUR"),
    "copies": Column("integer", "number of books"),
    "lent": Column("time", "when the book left"),
    "back": Column("time", "when it came back"),
    "known_at": Column("time", "from when on the row is known", source="computed")}
GOOD = {"loan": "1", "reader": "R0007", "branch": "NA", "fee": "1.5", "copies": "2",
        "lent": "2024-03-01T09:00:00Z", "back": "2024-03-08T09:00:00Z"}
LABEL = {"late": Column("integer", "1 when it came back late", source="computed"),
         "label_known_at": Column("time", "from when on that is known", source="computed")}
AVAILABILITY, LABEL_AVAILABILITY = {"loans": {"known_at": "*"}}, {"loans": {"label_known_at": ["late"]}}


def late(tables):
    loans = tables["loans"]
    days = (loans.back - loans.lent).dt.days
    late = (days > 28).astype("Int64").where(loans.back.notna())
    return tables | {"loans": loans.assign(late=late, label_known_at=loans.back)}


def known_when_lent(tables):
    return tables | {"loans": tables["loans"].assign(known_at=tables["loans"].lent)}


DECLARED = CollectHooks(COLUMNS={"loans": COLUMNS}, add_known_at=known_when_lent, AVAILABILITY=AVAILABILITY)


class Library:
    """A source of loans in a folder of its own, and the way from it to silver."""
    about = {"loans": Table("the desk", ("features", "labels"))}

    def __init__(self, folder):
        self.folder, self.workspace = folder, Workspace(folder / "workspace")
        self.sources = {"loans": Source(where="loans.csv", key="loan")}

    def text(self, *rows: dict, columns=tuple(GOOD)) -> str:
        out = io.StringIO(); writer = csv.writer(out, lineterminator="\n"); writer.writerow(columns)
        writer.writerows([(GOOD | {"loan": str(i)} | row).get(c, "") for c in columns] for i, row in enumerate(rows, 1))
        return out.getvalue()

    def bronze(self, *rows: dict, **more):
        (self.folder / "loans.csv").write_text(self.text(*rows, **more))
        return collect(self.sources, self.folder, DECLARED)

    def curated(self, bronze, about=None, label=late, label_columns=LABEL, now=NOW):
        tables = {**bronze.tables, "quarantine": bronze.quarantine}
        store = self.workspace.store
        self.workspace.publish({f"bronze.{n}": store(f"bronze.{n}", t, bronze.availability.get(n)) for n, t in tables.items()})
        return curate(
            {n: self.workspace.read(f"bronze.{n}", now) for n in tables}, self.sources, self.workspace.pseudonyms, DECLARED,
            CurateHooks(TABLES=about or self.about, label=label, LABEL_COLUMNS={"loans": label_columns},
                        LABEL_AVAILABILITY=LABEL_AVAILABILITY), now)

    def silver(self, *rows: dict, **more):
        return self.curated(self.bronze(*rows), **more)


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path)


SET_ASIDE = {  # each beside two good rows, which go on
    "text in a numeric column": (dict(copies="two"), '"copies" must be integer'),
    "a comma in a number": (dict(fee="1,234"), '"fee" must be number'),
    "infinity": (dict(fee="inf"), '"fee" must be number'),
    "a number beyond floats": (dict(fee="1e999"), '"fee" must be number'),
    "an integer beyond 64 bits": (dict(copies="9223372036854775808"), '"copies" must be integer'),
    "an integer beyond unsigned 64 bits": (dict(copies="18446744073709551616"), '"copies" must be integer'),
    "a fraction where an integer belongs": (dict(copies="1.5"), '"copies" must be integer'),
    "the year 1": (dict(back="0001-01-01T00:00:00Z"), '"back" must be time'),
    "the year 2999": (dict(back="2999-01-01T00:00:00Z"), '"back" must be time'),
    "a time without a zone": (dict(back="2024-03-08 09:00"), '"back" must be time'),
    "an outcome after the clock": (
        dict(back="2024-08-01T09:00:00Z"), '"late" is an outcome dated after now, or at no time'),
    "a row without its key": (dict(loan=""), "no loan"),
}


@pytest.mark.parametrize("what", SET_ASIDE)
def test_a_bad_row_is_set_aside_and_counted(library, what):
    wrong, reason = SET_ASIDE[what]
    silver = library.silver({}, wrong, {})
    assert silver.tables["loans"].loan.tolist() == [1, 3]
    assert silver.quarantine.reason.tolist() == [reason]
    assert silver.quarantine.source.tolist() == ["loans"]
    assert "R0007" not in silver.quarantine.to_json()


def test_a_row_that_is_not_known_yet_is_withheld_and_not_quarantined(library):
    bronze = library.bronze({}, dict(lent="2024-07-01T09:00:00Z", back="2024-07-08T09:00:00Z"), {})
    silver = library.curated(bronze)
    assert silver.tables["loans"].loan.tolist() == [1, 3] and not len(silver.quarantine)
    assert library.workspace.read("bronze.loans").loan.tolist() == [1, 2, 3]
    later = library.curated(bronze, now=NOW + pd.Timedelta("60D"))
    assert later.tables["loans"].loan.tolist() == [1, 2, 3] and not len(later.quarantine)


REFUSED = {
    "no value fits": (
        [dict(copies="two"), dict(copies="three")], SourceError,
        'column "copies" of table "loans" must be integer, no cell is, such as "two"'),
    "an empty column": ([dict(fee=""), dict(fee="")], SourceError, 'column "fee" of table "loans" is empty'),
    "one key, two contents": (
        [dict(loan="1"), dict(loan="1", fee="9")], GoBack,
        '2 rows of table "loans" share a key and differ, at most 0 may'),
    "a personal column's value is not shown": (
        [dict(reader="")] * 2, SourceError, 'column "reader" of table "loans" is empty'),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_table_is_refused_whole(library, what):
    rows, error, words = REFUSED[what]
    with pytest.raises(error) as refused: library.silver(*rows)
    assert words in str(refused.value) and "R0007" not in str(refused.value)


ORDERS = ("13/02/2024", "02/13/2024"), ("03/04/2024",), ("13.02.24 09:00", "02.13.24 09:00")


@pytest.mark.parametrize("orders", ORDERS)
def test_dates_of_unknown_order_refuse_the_table(library, orders):
    with pytest.raises(SourceError, match="whose order of day and month cannot be told"):
        library.bronze({}, *(dict(back=o) for o in orders))


def test_what_is_exact_stays_exact(library):
    big = [2**53 + 1, 2**63 - 1, -(2**63) + 1]
    silver = library.silver(*(dict(copies=str(n)) for n in big), dict(copies="")).tables["loans"]
    library.workspace.publish({"silver.loans": library.workspace.store("silver.loans", silver)})
    for table in (silver, library.workspace.read("silver.loans")):
        assert [int(n) for n in table.copies.dropna()] == big and table.copies.isna().sum() == 1
        assert table.branch.tolist() == ["NA"] * 4  # a word in a column of text
    kept = library.silver(dict(reader="007"), dict(reader="012")).tables["loans"]
    hidden = [library.workspace.pseudonyms(reader) for reader in ("007", "012")]
    assert kept.reader.tolist() == hidden  # leading zeros belong to it
    odd = library.silver({}, dict(copies=str(2**53 + 1), back="2024-09-01T00:00:00Z"))
    assert json.loads(odd.quarantine.content[0])["copies"] == 2**53 + 1


def test_copies_are_dropped_and_counted(library):
    silver = library.silver(dict(loan="1"), dict(loan="1"), dict(loan="2"))
    assert [len(silver.tables["loans"]), silver.dropped["loans"]] == [2, 1]


def test_a_rule_names_the_winner_of_one_key(library):
    about = {"loans": Table("the desk", ("features",), winner="fee")}
    silver = library.silver(dict(loan="1", fee="9"), dict(loan="1", fee="1"), about=about)
    assert silver.tables["loans"].fee.tolist() == [9]


def test_extra_and_reordered_columns_are_taken(library):
    silver = library.curated(library.bronze({}, {}, columns=(*reversed(GOOD), "colour")))
    assert "colour" not in silver.tables["loans"] and len(silver.tables["loans"]) == 2


def test_rows_come_back_when_the_rule_is_mended(library):
    strict = {"loans": Table("the desk", ("features",), rules={"too dear": lambda t: t.fee > 1})}
    bronze = library.bronze({}, dict(fee="0.5"))
    assert library.curated(bronze, about=strict).tables["loans"].loan.tolist() == [2]
    mended = {"loans": Table("the desk", ("features",), rules={"too dear": lambda t: t.fee > 100})}
    assert library.curated(bronze, about=mended).tables["loans"].loan.tolist() == [1, 2]


def test_a_join_that_multiplies_rows_is_refused(library):
    heads = pd.DataFrame({"branch": ["NA", "NA"], "head": ["ann", "ben"]})
    with pytest.raises(ValueError, match='the label turned 2 rows of table "loans" into 4'):
        library.silver({}, {}, label=lambda tables: {"loans": late(tables)["loans"].merge(heads)},
                       label_columns=LABEL | {"head": Column("text", "who minds it")})
    lookup = Lookup("heads", ("branch",), ("head",))
    with pytest.raises(ValueError, match='lookup "heads" has 2 rows that share a key and a time'):
        check_lookup(lookup, heads.assign(known_at=NOW))
    wanted = "flight", "carrier", "origin", "destination", "distance", "tail_number", "late", "label_known_at"
    found = pd.DataFrame({c: [None, None] for c in wanted})
    found = found.assign(flight=7, scheduled_departure=NOW)
    with pytest.raises(GoBack, match="2 examples share a key, at most 0 may"): decisions(found, problem, NOW)


def test_a_feature_from_after_the_event_is_refused():
    for name in (problem.target, "arr_delay", "label_known_at"):
        with pytest.raises(ValueError, match=f"feature \"{name}\" takes .*{name}.*not known at the decision"):
            check_inputs(FeatureSet((Feature(name),)), problem)
    rng = np.random.default_rng(0)
    examples = pd.DataFrame({"late": rng.integers(0, 2, 500)})
    examples = examples.assign(tells=examples.late * 2.0 + 1, noise=rng.normal(size=500))
    with pytest.raises(GoBack, match='"tells" alone: AUC 1.0000'):
        suspect_leaks(rank_features(examples, ["tells", "noise"], "late"))


@pytest.mark.parametrize("few", [0, 19])
def test_of_a_target_of_one_class_or_with_too_few_of_one_nothing_is_learned(lived, few):
    examples = Workspace(lived.workspace).read("gold.examples", as_of=pd.Timestamp("2013-06-01T00:00Z"))
    examples = examples.assign(late=(np.arange(len(examples)) < few).astype(int))
    parts = split(examples, "late", pd.Timestamp("2013-06-01T00:00Z"), "MS")
    assert f"{few} rows with late = 1; at least 20 of each are needed" in too_few_labels(parts, "late")


cells = {
    "loan": st.integers(-99, 99).map(str), "reader": st.sampled_from(["R1", "R2", ""]),
    "branch": st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6),
    "fee": st.one_of(st.floats(allow_nan=False).map(repr), st.sampled_from(["", "NA", "1,5", "-inf", "1e400", "x"])),
    "copies": st.one_of(st.integers(-9, 9).map(str), st.integers(-(2**70), 2**70).map(str),
                        st.integers(-(2**63), 2**63).map(str), st.sampled_from(["", "NaN", "1.0", "+7"])),
    "lent": st.sampled_from(["2024-03-01T09:00:00Z", "2024-03-01T09:00:00+01:00", "2024-02-30T09:00:00Z", "soon"]),
    "back": st.sampled_from(["2024-03-08T09:00:00Z", "", "2024-12-31T09:00:00Z", "0001-01-01T00:00:00Z"])}


def whole_number(text: str) -> int: return int(text.removesuffix(".0"))


def fits(row: dict) -> dict[str, bool]:
    """Which cells have a value that fits, None where they have none; said otherwise than in the package."""
    number = lambda text: "," not in text and text != "x" and math.isfinite(float(text))
    whole = lambda text: "." not in text.removesuffix(".0") and -(2**63) < whole_number(text) < 2**63
    day, year = lambda text: text[:10] == "2024-03-01", lambda text: text[:4] == "2024"
    checks = {"fee": number, "copies": whole, "lent": day, "back": year}
    missing = lambda column, text: text == "" or (text in ("NA", "NaN") and column != "branch")
    return {c: None if missing(c, v) else checks.get(c, bool)(v) for c, v in row.items()}


def becomes_silver(row: dict) -> bool:
    return False not in fits(row).values() and fits(row)["lent"] and row["back"] != "2024-12-31T09:00:00Z"


def refusable(rows: list[dict]) -> bool:
    """A column without any value that fits, or one key with two contents."""
    if any(not any(fits(r)[c] for r in rows) for c in rows[0]): return True
    reads = {"loan": int, "copies": whole_number, "fee": float, "lent": pd.Timestamp, "back": pd.Timestamp}
    taken = [(r, fits(r)) for r in rows if False not in fits(r).values() and fits(r)["lent"]]
    good = {tuple(None if fit[c] is None else reads.get(c, str)(r[c]) for c in GOOD) for r, fit in taken}
    return len({g[0] for g in good}) < len(good)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries(cells), min_size=1, max_size=12))
def test_any_table_is_refused_whole_or_taken_with_every_row_accounted_for(library, rows):
    workspace = library.workspace
    workspace.publish({"silver.loans": workspace.store("silver.loans", pd.DataFrame({"loan": [1]}))})
    before = workspace.published()
    try:
        silver = library.silver(*rows)
    except (SourceError, GoBack):
        assert refusable(rows)
        assert workspace.published()["names"]["silver.loans"] == before["names"]["silver.loans"]
        return
    table, good = silver.tables["loans"], [r for r in rows if becomes_silver(r)]
    assert not refusable(rows)
    assert len(table) + len(silver.quarantine) + silver.dropped["loans"] == len(rows)
    assert sorted(table.loan) == sorted({int(r["loan"]) for r in good})
    for loan, copies, fee in zip(table.loan, table.copies, table.fee):
        came = next(r for r in good if int(r["loan"]) == loan)
        assert pd.isna(copies) and came["copies"] in ("", "NaN") or whole_number(came["copies"]) == copies
        assert pd.isna(fee) and came["fee"] in ("", "NA") or float(came["fee"]) == fee


def test_a_refusal_leaves_every_published_version_as_it_was(lived, tmp_path):
    lived.copy(tmp_path / "workspace")
    workspace = Workspace(tmp_path / "workspace")
    options = load_settings(environ={k: str(v) for k, v in lived.settings.items()})
    folder = workspace.root / "lake" / "silver"
    lake = lambda: {p: p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}
    before, files = workspace.published(), lake()
    refused, once = pytest.raises(GoBack, match="share a key and differ"), dict(settings=options, workspace=workspace)
    with refused, StageRun("curate", **once) as run:
        bronze = run.tables("bronze")
        hour = bronze["weather"].time_hour[0]
        twice = bronze["weather"].head(2).assign(temp=[1.0, 2.0], time_hour=hour, origin="EWR")
        silver = curate_own(bronze | {"weather": twice}, options.source, workspace.pseudonyms, run.as_of)
        for name, table in silver.tables.items(): run.write(f"silver.{name}", table)
    assert workspace.published() == before and lake() == files
    assert json.loads((run.folder / "record.json").read_text())["status"] == "went_back"


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
notes = st.builds(str.__add__, st.sampled_from(["=", "+", "-", "@", "\t", "", "'"]), words)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(notes, min_size=1, max_size=8))
def test_no_cell_of_an_exported_csv_is_a_formula(tmp_path, rows):
    frame = pd.DataFrame({"=note": rows, "amount": range(-3, len(rows) - 3)})
    write_rows(frame, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file: header, *lines = csv.reader(file)
    assert header == ["'=note", "amount"]
    for came, (note, amount) in zip(rows, lines):
        assert not note.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert note.removeprefix("'") in (came, came.removeprefix("'"))
        assert int(amount) < len(rows)  # a negative number is a number
    assert read_rows(tmp_path / "out.csv").num_rows == len(rows)
