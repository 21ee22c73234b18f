"""Files as people really send them: each bad one gets its answer, and what was published stays as it was."""
import gzip
import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import ROOT, environment
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_lifecycle.collect import collect, write_bronze
from mlops_lifecycle.core.data.hooks import CollectHooks
from mlops_lifecycle.core.data.connectors import as_blocks
from mlops_lifecycle.core.data.ingestion import Load, files_of, grouped, parts_of
from mlops_lifecycle.core.foundation.settings import Source
from mlops_lifecycle.core.data.readers import Column, SourceError, blocks_of_csv, fit, plain_types, read_file
from mlops_lifecycle.core.pipeline.stage_run import StageRun
from mlops_lifecycle.core.pipeline.versions import open_workspace
from mlops_lifecycle.core.foundation.settings import load_settings

COLUMNS = {"loans": {
    "loan": Column("integer", "number of the loan"), "reader": Column("text", "number of the reader"),
    "branch": Column("text", "where"),
    "borrowed": Column("time", "when the book left"), "fine": Column("number", "to be paid", "euro")}}
HEADER = "loan,reader,branch,borrowed,fine"
GOOD = f"""{HEADER}
9007199254740993,007,NA,2024-03-01T09:00:00Z,0.5
2,012,north,2024-03-02T09:00:00Z,1
3,013,south,2024-03-03T09:00:00Z,
"""
SETTINGS = """[project]
name = library
[clock]
as_of = 2024-04-01T00:00Z
[source.loans]
where = in/*
key = loan
known_at = borrowed
"""


class Library:
    """A project with one table of loans, and the collecting of it as the stage does it."""
    def __init__(self, folder):
        self.folder, self.workspace = folder, open_workspace(folder / "workspace")
        (folder / "settings.ini").write_text(SETTINGS)
        self.settings = load_settings(folder, environ={})
        (folder / "in").mkdir()

    def send(self, content: str | bytes, name: str = "loans.csv"):
        for old in (self.folder / "in").iterdir(): old.unlink()
        return self.add(content, name)

    def add(self, content: str | bytes, name: str):
        (self.folder / "in" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return self

    def collect(self, **more) -> StageRun:
        with StageRun("collect", settings=self.settings, workspace=self.workspace) as run:
            write_bronze(run, collect(self.settings.source, self.folder, CollectHooks(COLUMNS=COLUMNS), **more))
        return run

    @property
    def loans(self) -> pd.DataFrame: return self.workspace.read("bronze.loans")
    @property
    def aside(self) -> pd.DataFrame: return self.workspace.read("bronze.quarantine")


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path)
    library.send(GOOD).collect()
    return library


def zipped(content: str) -> bytes:
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive: archive.writestr("loans.csv", content)
    return into.getvalue()


REFUSED = {
    "a renamed column": (
        "loans.csv", GOOD.replace("reader", "card"),
        ["lacks reader", "expected loan, reader", "came loan, card"]),
    "a missing column": (
        "loans.csv", "loan,reader,branch,borrowed\n1,007,north,2024-03-01T09:00:00Z\n", ["lacks fine"]),
    "a column twice": ("loans.csv", GOOD.replace("branch", "reader"), ["names columns twice: reader"]),
    "a column without a name": ("loans.csv", GOOD.replace("branch", ""), ["no name for column 3"]),
    "an empty column": (
        "loans.csv", f"{HEADER}\n1,007,,2024-03-01T09:00:00Z,1\n", ['column "branch" of table "loans" is empty']),
    "a column that never fits": (
        "loans.csv", f"{HEADER}\n1,007,north,2024-03-01T09:00:00Z,one\n",
        ['column "fine" of table "loans" must be number', 'such as "one"']),
    "Latin-1": ("loans.csv", GOOD.replace("north", "köln").encode("latin-1"), ["line 3 is not", "looks like Latin-1"]),
    "UTF-16": ("loans.csv", GOOD.encode("utf-16"), ["it is UTF-16"]),
    "a NUL byte": ("loans.csv", GOOD.replace("north", "no\0th"), ["NUL byte in line 3"]),
    "a first row that is longer": (
        "loans.csv", f"{HEADER}\n1,007,north,2024-03-01T09:00:00Z,1,x\n",
        ["the first row has 6 cells, the header has 5"]),
    "a quote that is never closed": (
        "loans.csv", GOOD.replace("north", '"north'), ["opens a quote that it never closes", "line 3"]),
    "another delimiter": ("loans.csv", GOOD.replace(",", ";"), ["it seems to use ';'"]),
    "tabs": ("loans.csv", GOOD.replace(",", "\t"), ["it seems to use '\\t'"]),
    "an error page": ("loans.csv", "\n<!DOCTYPE html><title>502</title>", ["it is a web page"]),
    "an empty file": ("loans.csv", "", ["is empty"]),
    "an empty archive": ("loans.csv.gz", gzip.compress(b""), ["is empty"]),
    "a header alone": ("loans.csv", f"{HEADER}\n", ["no row that fits its header"]),
    "a workbook": ("loans.csv", zipped(GOOD), ["an archive or a workbook"]),
    "a cut archive": ("loans.csv.zip", zipped(GOOD * 9)[:-40], ["damaged or was cut off"]),
    "cut compression": ("loans.csv.gz", gzip.compress(GOOD.encode())[:-9], ["damaged or was cut off"]),
    "torn Parquet": ("loans.parquet", b"PAR1" + bytes(40), ["no whole Parquet file"]),
    "another format": ("loans.xlsx", GOOD, ["must be .csv"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_that_cannot_be_trusted_is_refused_whole(what, library):
    name, content, words = REFUSED[what]
    before = library.workspace.published()
    with pytest.raises(SourceError) as refused: library.send(content, name).collect()
    assert not [w for w in words if w not in str(refused.value)], refused.value
    assert library.workspace.published() == before and len(library.loans) == 3


class Bomb:
    """Whoever unpickles it makes a folder."""
    def __init__(self, folder): self.folder = folder
    def __reduce__(self): return os.mkdir, (str(self.folder),)


PICKLED = "loans.pkl", "loans.pickle", "loans.csv", "loans.jsonl", "loans.parquet", "loans.csv.gz", "loans.npy", "loans"


@pytest.mark.parametrize("name", PICKLED)
def test_nothing_pickled_is_ever_loaded(name, library, tmp_path):
    before = library.workspace.published()
    with pytest.raises(SourceError): library.send(pickle.dumps(Bomb(tmp_path / "made")), name).collect()
    assert not (tmp_path / "made").exists() and library.workspace.published() == before
    pickle.loads(pickle.dumps(Bomb(tmp_path / "made")))
    assert (tmp_path / "made").exists()  # it would have been seen


def test_a_pickled_type_in_a_parquet_file_is_not_loaded_either(library, tmp_path):
    hidden = {"ARROW:extension:name": "arrow.py_extension_type",
              "ARROW:extension:metadata": pickle.dumps(Bomb(tmp_path / "made"))}
    columns = [[1], ["007"], ["north"], [pd.Timestamp("2024-03-01T09:00Z")], [0.5]]
    fields = [pa.field(name, pa.array(values).type, metadata=hidden if name == "reader" else None)
              for name, values in zip(HEADER.split(","), columns)]
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), library.folder / "loans.parquet")
    library.send((library.folder / "loans.parquet").read_bytes(), "loans.parquet").collect()
    assert library.loans.reader.tolist() == ["007"] and not (tmp_path / "made").exists()


def test_the_package_knows_no_way_to_unpickle():
    words = re.compile(r"\b(pickle|cloudpickle|dill|joblib|shelve|marshal|read_pickle|allow_pickle|PickleType)\b")
    found = {path.name: words.findall(path.read_text()) for path in (ROOT / "mlops_lifecycle").rglob("*.py")}
    assert len(found) > 40 and not {name: said for name, said in found.items() if said}


def test_the_good_file_keeps_every_digit_and_every_letter(library):
    assert library.loans.loan.tolist() == [9007199254740993, 2, 3]
    assert library.loans.reader.tolist() == ["007", "012", "013"]
    assert library.loans.branch.tolist() == ["NA", "north", "south"]
    np.testing.assert_array_equal(library.loans.fine, [0.5, 1, np.nan])
    assert library.loans.known_at.tolist() == library.loans.borrowed.tolist()


ACCEPTED = {
    "a byte order mark": "\ufeff" + GOOD,
    "other line ends": GOOD.replace("\n", "\r\n"),
    "no last line end": GOOD.rstrip(),
    "an extra column": "\n".join(f"{line},{'note' if i == 0 else 'x'}" for i, line in enumerate(GOOD.splitlines())),
    "columns in another order": "\n".join(",".join(reversed(line.split(","))) for line in GOOD.splitlines()),
    "quotes": GOOD.replace("north", '"north"').replace(",007,", ',"007",'),
    "empty lines": GOOD.replace("\n", "\n\n"),
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_what_only_looks_different_is_the_same_table(what, library):
    before = library.loans
    run = library.send(ACCEPTED[what]).collect()
    pd.testing.assert_frame_equal(library.loans, before)
    assert run.verdict["loads"]["loans"]["left_out"] == (["note"] if what == "an extra column" else [])
    assert run.verdict["set_aside"] == 0


def test_single_rows_that_do_not_fit_are_set_aside_with_their_line(library):
    rows = [
        "x,008,north,2024-03-01T09:00:00Z,1",
        "5,009,north",
        '6,010,"north\nby the river",2024-03-01T09:00:00Z,1',
        "7,011,north,2024-03-01T09:00:00Z,1e999",
        '8,011,north,2024-03-01T09:00:00Z,"1,234"',
        "9,011,north,0001-01-01T00:00:00Z,1",
        "10,011,north,2024-03-01T09:00:00Z,1,2",
        "99999999999999999999,1,n,2024-03-01T09:00:00Z,1",
        "11,011,north,,1"]
    run = library.send(GOOD + "\n".join(rows) + "\n").collect()
    assert library.loans.loan.tolist() == [9007199254740993, 2, 3, 6]
    aside = library.aside.sort_values("row").set_index("row").reason
    assert aside.index.tolist() == [5, 6, 9, 10, 11, 12, 13, 14], aside
    assert [aside[5], aside[6]] == ['"loan" must be integer, got "x"', "3 cells, the header has 5"]
    assert "no known_at" in aside[14]
    assert (run.verdict["rows"], run.verdict["set_aside"]) == ({"loans": 4}, 8)
    library.send(GOOD).collect()
    assert not len(library.aside)  # the source was mended


def test_each_load_is_recorded_with_rows_version_seconds_and_what_was_refused(library):
    first = library.workspace.published()["passed"]["collect"]["verdict"]["loads"]["loans"]
    library.send(GOOD + "x,008,north,2024-03-01T09:00:00Z,1\n7,009,north,2024-03-01T09:00:00Z,1\n").collect()
    load = library.workspace.published()["passed"]["collect"]["verdict"]["loads"]["loans"]
    assert [first["rows"], first["set_aside"]] == [3, 0] and [load["rows"], load["set_aside"]] == [4, 1]
    assert load["version"] == library.workspace.version("bronze.loans") > first["version"]
    assert load["seconds"] > 0
    assert len(library.workspace.read("bronze.loans", version=first["version"])) == first["rows"]


def test_the_same_file_twice_changes_nothing(library):
    before = library.workspace.published()["names"]
    assert library.collect().outputs == {name: entry["version"] for name, entry in before.items()}
    run = library.add(GOOD, "loans (1).csv").collect()
    assert len(library.loans) == 3 and run.verdict["loads"]["loans"]["copies"] == 1


def test_a_cut_download_is_refused_on_its_checksum(library):
    whole = GOOD + "4,014,north,2024-03-04T09:00:00Z,2\n"
    library.send(whole[:-30]); (library.folder / "loans.csv.sha256").write_text("")
    stated = hashlib.sha256(whole.encode()).hexdigest()
    (library.folder / "in" / "loans.csv.sha256").write_text(f"{stated}  loans.csv\n")
    with pytest.raises(SourceError, match="its checksum must be"): library.collect()
    library.add(whole, "loans.csv").collect()
    assert len(library.loans) == 4


def test_a_file_that_grows_or_is_replaced_or_goes(library):
    library.add(GOOD.replace("\n2,", "\n20,").replace("\n3,", "\n30,"), "more.csv").collect()
    assert sorted(library.loans.loan)[:4] == [2, 3, 20, 30]
    library.add(GOOD.replace("north", "west"), "more.csv").collect()
    assert sorted(library.loans.branch) == ["NA", "NA", "north", "south", "south", "west"]
    library.send(GOOD).collect()
    assert len(library.loans) == 3


def test_json_lines_and_parquet_say_the_same(library):
    before, rows = library.loans, [dict(zip(HEADER.split(","), line.split(","))) for line in GOOD.splitlines()[1:]]
    lines = [json.dumps({k: int(v) if k == "loan" else v or None for k, v in row.items()}) for row in rows]
    run = library.send("\n".join([*lines, "[1]", '{"loan": 1, "loan": 2}']), "loans.jsonl").collect()
    pd.testing.assert_frame_equal(library.loans, before)
    assert run.verdict["set_aside"] == 2
    before.drop(columns="known_at").to_parquet(library.folder / "loans.parquet")
    library.send((library.folder / "loans.parquet").read_bytes(), "loans.parquet").collect()
    pd.testing.assert_frame_equal(library.loans, before)


MEMORY = """
import sys
from pathlib import Path
import pandas, pyarrow.csv, deltalake
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace
sys.path[:0] = {tests!r}
from test_bad_files import COLUMNS
from mlops_lifecycle.collect import collect
from mlops_lifecycle.core.data.hooks import CollectHooks
import mlops_lifecycle.core.data.readers as files
folder = Path({folder!r})
files.BLOCK = 1 << 20
files.blocks_of.__defaults__ = files.READERS[".csv"].__defaults__ = (1 << 20,)
sources = load_settings(folder, environ={{}}).source
bronze = collect(sources, folder, CollectHooks(COLUMNS=COLUMNS), size=int(sys.argv[1]))
entry = Workspace(folder / "workspace").store("bronze.loans", bronze.tables["loans"])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(entry["rows"], int(status["VmHWM"].split()[0]) * 1024)
"""


def test_a_table_larger_than_memory_is_never_held(library):
    program = MEMORY.format(tests=[str(Path(__file__).parent), str(ROOT / "tests" / "project")], folder=str(library.folder))
    def peak(rows, size):
        branch = "by the river " * 30
        lines = (f"{n},{n % 997:04d},{branch}{n},2024-03-01T09:{n % 60:02d}:00Z,{n % 13}.5\n" for n in range(rows))
        library.send(f"{HEADER}\n" + "".join(lines))
        command = [sys.executable, "-c", program, str(size)]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
        count, found = map(int, done.stdout.split())
        assert count == rows
        return found
    small, large, held = peak(50_000, 1 << 22), peak(250_000, 1 << 22), peak(250_000, 1 << 40)
    more, whole = large - small, held - small
    assert more < whole / 2, f"five times the rows cost {more:,} bytes in parts and {whole:,} when all are held"


cell = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
rows_of_cells = st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=12).filter(lambda rows: any(map(any, rows)))
columns_of_cells = st.lists(
    st.one_of(st.integers(-2**70, 2**70).map(str), st.floats().map(str), cell), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(rows=rows_of_cells, size=st.sampled_from([1 << 9, 1 << 20]))
def test_any_text_comes_back_as_it_was_written(rows, size, tmp_path_factory):
    import csv
    path = tmp_path_factory.mktemp("any") / "any.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("a", "b", "c"), *rows])
    blocks = list(blocks_of_csv(path, size))
    assert [tuple(row.values()) for b in blocks for row in b.rows.to_pylist()] == rows
    assert not [m for b in blocks for m in b.misfits]


@settings(max_examples=60, deadline=None)
@given(cells=columns_of_cells, kind=st.sampled_from(["integer", "number", "time", "boolean"]))
def test_each_row_is_typed_or_set_aside_and_none_is_lost(cells, kind):
    numbers = [str(i) for i in range(len(cells))]
    rows = pa.table({"a": pa.array([c or None for c in cells], pa.string()), "row": pa.array(numbers)})
    try: fitted, aside = fit(rows, {"a": Column(kind, "anything"), "row": Column("integer", "its number")}, "any")
    except SourceError as refused: assert 'column "a"' in str(refused); return
    table = plain_types(fitted)
    assert sorted(table.row.tolist() + [a["row"] - 1 for a in aside]) == list(range(len(cells)))
    if kind != "integer": return
    assert all(Decimal(cells[r]) == int(v) for v, r in zip(table.a, table.row) if pd.notna(v))


def test_a_copy_under_another_name_is_no_new_row(tmp_path):
    for name in ("a.csv", "b.csv"): (tmp_path / name).write_text(GOOD)
    load = Load("loans")
    rows = sum(map(len, parts_of(files_of(Source(where="*.csv"), tmp_path), COLUMNS["loans"], load)))
    assert rows == len(read_file(tmp_path / "a.csv")[0]) == 3
    assert (load.pieces, load.copies) == (2, 1)


TIMES = {  # in a log whose column declares nothing, and what comes of it
    "2024-03-01T09:00:00Z": "", "2024-03-01 10:00+01": "", "2024-03-01T09:00:00.5z": "",
    "03/04/2024 10:00": "is not a time", "13/04/2024 10:00": "is not a time", "10:00": "is not a time", "now": "is not a time",
    "today": "is not a time", "1712138400": "is not a time", 1712138400: "is not a time", "20240403": "is not a time",
    "2024-04-03": "has no time zone", "2024-04-03 10:00": "has no time zone", "2024-04-31T10:00Z": "is not a time",
    "2999-01-01T00:00Z": "lies outside", "": "no at", None: "no at"}


def test_kind_2_a_time_of_a_log_that_is_none_is_set_aside_with_its_reason(tmp_path):
    library = Library(tmp_path)
    source = "[source.desk]\nkind = log\nwhere = desk.jsonl\nknown_at = at\n"
    (tmp_path / "settings.ini").write_text(SETTINGS.partition("[source")[0] + source)
    (tmp_path / "desk.jsonl").write_text("".join(json.dumps({"at": at}) + "\n" for at in TIMES))
    library.settings = load_settings(tmp_path, environ={})
    library.collect()
    aside = dict(zip(library.aside.row, library.aside.reason))
    found = [aside.get(line, "") for line in range(1, len(TIMES) + 1)]
    assert [("at" in why) == bool(reason) and reason in why for why, reason in zip(found, TIMES.values())] == [True] * len(TIMES), found
    kept = library.workspace.read("bronze.desk")
    kept = kept[kept.op == "insert"]
    assert kept.known_at.dt.strftime("%d %H:%M").tolist() == ["01 09:00"] * 3


def test_kind_2_a_column_that_declares_its_format_and_zone_is_read_by_them(tmp_path):
    """In a log and in a file alike: once a year a clock shows an hour twice, and once it skips one."""
    when = Column("time", "when", format="%d/%m/%Y %H:%M", zone="Europe/Paris")
    cells = ["03/04/2024 10:00", "31/03/2024 02:30", "27/10/2024 02:30", "2024-04-03T10:00:00Z", "31/04/2024 10:00"]
    (tmp_path / "desk.csv").write_text("at\n" + "".join(f"{cell}\n" for cell in cells))
    (tmp_path / "desk.jsonl").write_text("".join(json.dumps({"at": cell}) + "\n" for cell in cells))
    (tmp_path / "settings.ini").write_text("[project]\nname = library\n[clock]\nas_of = 2024-05-01T00:00Z\n" + "".join(
        f"[source.{kind}]\nkind = {kind}\nwhere = desk.{end}\nknown_at = at\n" for kind, end in (("file", "csv"), ("log", "jsonl"))))
    hooks = CollectHooks(COLUMNS={"file": {"at": when}, "log": {"at": when}})
    bronze = collect(load_settings(tmp_path, environ={}).source, tmp_path, hooks)
    assert bronze.tables["file"].known_at.tolist() == [pd.Timestamp("2024-04-03T08:00Z")]
    events = pd.concat([batch.events for batch in bronze.events["log"]])
    assert events[events.op == "insert"].known_at.tolist() == [pd.Timestamp("2024-04-03T08:00Z")]
    reasons = bronze.quarantine.groupby("source").reason.agg(list)
    assert len(reasons["file"]) == 4 and "in the format" in reasons["file"][0]
    assert [r.split(" Europe/Paris ")[-1] for r in reasons["log"][:2]] == ["never showed", "showed twice"]


NAMES = ["b.c", 'd"e', "€", "f\ng", "h i", "j`k", "l'm", "n,o", "p/q", "[r]", "{s}", "#t", "%u", "ü", "1", "x;y", "=z", "select", "a" * 200]


def with_columns(library: Library, monkeypatch, *names: str) -> StageRun:
    """Loans with further columns of text, collected."""
    columns = COLUMNS["loans"] | {name: Column("text", "what the user has") for name in names}
    monkeypatch.setitem(COLUMNS, "loans", columns)
    frame = pd.DataFrame({"loan": [1], "reader": "007", "branch": "north", "borrowed": "2024-03-01T09:00Z", "fine": 1.5})
    return library.send(frame.assign(**{name: f"in {name}" for name in names}).to_csv(index=False)).collect()


def test_kind_7_names_of_columns_are_data(library, monkeypatch):
    with_columns(library, monkeypatch, *NAMES)
    assert library.loans.iloc[0][NAMES].tolist() == [f"in {name}" for name in NAMES]
    for names, words in ((["Fine"], 'fine, Fine'), (["_id"], "begin with _")):
        with pytest.raises(ValueError, match=words): with_columns(library, monkeypatch, *names)


@pytest.mark.parametrize("where", [
    "of [2024]/run #3.csv", "of [2024]/*.csv", "a{b}c/{{name}}.csv", "ü ä/sales [2024].csv", "l" * 200 + "/x?.csv"])
def test_kind_7_a_path_that_exists_is_taken_literally(tmp_path, where):
    path = tmp_path / where.replace("*", "run 1")
    path.parent.mkdir()
    path.write_text(GOOD)
    (tmp_path / "settings.ini").write_text(SETTINGS.replace("in/*", where), encoding="utf-8")
    source = load_settings(tmp_path, environ={}).source
    bronze = collect(source, tmp_path, CollectHooks(COLUMNS=COLUMNS))
    assert source["loans"].where == where and len(bronze.tables["loans"]) == 3


@pytest.mark.parametrize("spelled", [
    "{0}", "{0}  {1}\n", "{0} *{1}\r\n", "SHA256 ({1}) = {0}\n", "SHA2-256({1})= {0}\n", "{2}  other.csv\n{0}  ./{1}\n",
    "\ufeff{0}  {1}\n"])
def test_kind_7_a_checksum_counts_as_any_tool_writes_it(library, spelled):
    right = hashlib.sha256(GOOD.encode()).hexdigest()
    for total in (right, right.upper()):
        library.send(GOOD).add(spelled.format(total, "loans.csv", "0" * 64), "loans.csv.sha256")
        library.collect()
    assert len(library.loans) == 3
    for content in (spelled.format("1" * 64, "loans.csv", right), "MD5 (loans.csv) = " + "0" * 32, ""):
        library.add(content, "loans.csv.sha256")
        with pytest.raises(SourceError, match='"loans.csv" was cut off or changed'): library.collect()


# Kind 5: whole before part. What is judged of a source is judged over all of its pieces together.

DAY = "2024-03-0{}T09:00:00Z"
SECOND_DAYS = {  # the second file beside GOOD, and the rows, rows set aside and missing branches that follow
    "an empty column": ("b.csv", f"{HEADER}\n4,014,,{DAY.format(4)},1\n5,015,,{DAY.format(5)},2\n", (5, 0, 2)),
    "a header alone": ("b.csv", f"{HEADER}\n", (3, 0, 0)),
    "a header alone, without a line break": ("b.csv", HEADER, (3, 0, 0)),
    "a row that does not fit": ("b.csv", f"{HEADER}\n4,014\n", (3, 1, 0)),
    "a column that never fits": ("b.csv", f"{HEADER}\n4,014,north,{DAY.format(4)},free\n", (3, 1, 0)),
    "JSON that leaves out what is missing": ("b.jsonl", f'{{"loan": 4, "reader": "014", "borrowed": "{DAY.format(4)}"}}\n', (4, 0, 1)),
    "JSON without an object": ("b.jsonl", "[1]\n", (3, 1, 0)),
    "Parquet with a column of nothing": (
        "b.parquet", dict(loan=[4], reader=["014"], branch=pa.nulls(1), borrowed=[DAY.format(4)], fine=[1.5]), (4, 0, 1)),
    "Parquet without a row": ("b.parquet", {c: pa.array([], pa.string()) for c in HEADER.split(",")}, (3, 0, 0)),
}


def parquet(columns: dict) -> bytes:
    into = io.BytesIO()
    pq.write_table(pa.table(columns), into)
    return into.getvalue()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("what", SECOND_DAYS)
def test_emptiness_is_judged_over_all_files_of_a_source(what, first, library):
    """Kind 5: whichever file comes first."""
    name, content, wanted = SECOND_DAYS[what]
    content = parquet(content) if isinstance(content, dict) else content
    run = library.send(GOOD, "c.csv" if first else "a.csv").add(content, name).collect()
    load = run.verdict["loads"]["loans"]
    assert (len(library.loans), load["set_aside"], int(library.loans.branch.isna().sum())) == wanted
    assert (load["pieces"], load["copies"]) == (2, 0)


@pytest.mark.parametrize("name, content, words", [
    ("b.csv", HEADER, '"a.csv" has no row that fits its header'),
    ("b.csv", f"{HEADER}\n4,014,,{DAY.format(4)},1\n", 'column "branch" of table "loans" is empty'),
    ("b.csv", HEADER.replace("reader", "card"), "lacks reader; expected loan, reader"),
    ("b.jsonl", f'{{"loan": 4, "reader": "014", "borrowed": "{DAY.format(4)}", "fine": 1}}\n', "lacks branch; expected")])
def test_what_no_file_of_a_source_has_is_refused(name, content, words, library):
    """Kind 5: two files, and both are empty, or empty in the same column."""
    before = library.workspace.published()
    empty = HEADER + "\n" if name == "b.csv" else '{"loan": 3, "reader": "A", "borrowed": "2024-03-01T09:00:00Z", "fine": 1}\n'
    with pytest.raises(SourceError, match=words): library.send(empty, name.replace("b", "a")).add(content, name).collect()
    assert library.workspace.published() == before


def test_pieces_without_declared_columns_are_put_together_also_where_one_is_empty(tmp_path):
    """Kind 5: the type of a column follows from the pieces that have values of it."""
    for name, rows in {"a": "1,\n", "b": "2,3\n", "c": ""}.items(): (tmp_path / f"{name}.csv").write_text("loan,days\n" + rows)
    source = Source(where="?.csv")
    frame, = grouped(parts_of(files_of(source, tmp_path), {}, Load("loans")))
    assert frame.loan.tolist() == [1, 2] and frame.days.dropna().tolist() == [3] and str(frame.days.dtype) == "Int64"


UNDECLARED = {
    "a list": [["new"], [], None], "a record": [{"a": 1}, None, {"a": 2}], "bytes": [b"\xff", None, b"\x00"],
    "a map": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())), "nothing": pa.nulls(3),
    "a duration": pa.array([1, 2, None], pa.duration("s")), "a list of records": [[{"a": [1]}], [], None],
}


@pytest.mark.parametrize("what", UNDECLARED)
def test_a_parquet_column_that_nobody_declared_is_not_read_and_is_listed(what, library):
    """Kind 5: only declared columns are read."""
    columns = dict(loan=[1, 2, 3], reader=["A", "B", "C"], branch=["n", None, "s"], borrowed=[DAY.format(1)] * 3, fine=[1.5, None, 2])
    run = library.send(parquet(columns | {"more": UNDECLARED[what]}), "loans.parquet").collect()
    assert len(library.loans) == 3 and "more" not in library.loans and run.verdict["loads"]["loans"]["left_out"] == ["more"]


def test_a_declared_parquet_column_of_lists_is_refused_by_name(library):
    """Kind 5."""
    columns = dict(loan=[1], reader=["A"], branch=[["n"]], borrowed=[DAY.format(1)], fine=[1.5])
    with pytest.raises(SourceError, match='a column "branch" that cannot be written as text'):
        library.send(parquet(columns), "loans.parquet").collect()


def test_rows_of_an_api_need_not_name_every_column():
    """Kind 5: what is missing in the first block may come in a later one."""
    columns = {"loan": Column("integer", "number"), "gust": Column("number", "strongest gust")}
    rows = [{"loan": n} for n in range(3)] + [{"loan": 3, "gust": 1.5}]
    parts = list(parts_of([("api", as_blocks(rows, size=2))], columns, Load("loans")))
    assert sum(len(part) for part in parts) == 4
    with pytest.raises(SourceError, match="lacks gust"): list(parts_of([("api", as_blocks(rows[:3], size=2))], columns, Load("loans")))
