"""The release that did not answer: scored from the log, whatever it does, and every row once."""
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from types import SimpleNamespace

import psutil
import pytest
import sqlalchemy as sa
from harmful import OF, Library, all_released
from helpers import ROOT
from under_load import Ledger, Server, new_database

from mlops_lifecycle.core.models.features import Feature, FeatureSet
from mlops_lifecycle.core.models.release import write_release
from mlops_lifecycle.core.operations.guards import Climb
from mlops_lifecycle.core.operations.shadow import Pair, both_releases, forget_shadow, paired_decisions, shadow_report, shadow_rows
from mlops_lifecycle.core.serving.predictor import trial_workspace
from mlops_lifecycle.core.serving.store import Database, ServingLog, predictions, shadow
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.plan import plan


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """An empty log on either store."""
    if request.param == "sqlite": return tmp_path / "serving.db"
    return new_database(request.getfixturevalue("database"), f"shadow{os.getpid()}_{abs(hash(tmp_path))}")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Releases of all kinds."""
    folder = tmp_path_factory.mktemp("releases")
    return folder, SimpleNamespace(**all_released(folder))


@pytest.fixture
def lent(tmp_path, made):
    """A library of which nothing was asked yet, and the ids of its releases."""
    where = Library(tmp_path / "w", made[0])
    yield where, made[1]
    where.log.close()


def done(one, steps: int = 50) -> None:
    """Steps until there is nothing more to do."""
    try:
        while one.step() and steps: steps -= 1
    finally: one.close()
    assert steps, "it never ends"


# In the order of commits ----------------------------------------------------------------------------------------------

def test_rows_that_come_late_or_commit_out_of_order_are_read_once(url):
    """Eight writers with clocks of their own, some of them slow to commit, some that give up; a reader all the while."""
    log, read, mark = ServingLog(url), [], None
    def write(number: int) -> None:
        database = Database(url)
        for turn in range(12):
            rows = [{"id": f"{turn:02}{number}{piece}", "at": 10**6 * ((turn * 7 + number) % 12)} for piece in range(3)]
            with database.engine.connect().execution_options(writes=True) as connection:
                transaction = connection.begin()
                connection.execute(predictions.insert(), rows)
                time.sleep(0.001 * ((number + turn) % 4))
                transaction.rollback() if (number + turn) % 5 == 0 else transaction.commit()
        database.engine.dispose()
    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers: writer.start()
    def look() -> bool:
        nonlocal mark
        some = log.arrivals.after(mark, 5)
        read.extend(row["id"] for row in some)
        if some: mark = some[-1]["id"]
        return bool(some)
    while any(writer.is_alive() for writer in writers): look()
    while look(): pass
    with log.database.read() as connection: stored = connection.execute(sa.select(predictions.c.id)).scalars().all()
    assert len(stored) > 200 and sorted(read) == sorted(stored)
    log.close()


def test_on_postgresql_a_row_waits_for_transactions_that_began_before_it(database):
    url = new_database(database, f"order{os.getpid()}")
    log, slow = ServingLog(url), Database(url)
    with slow.engine.connect() as connection:
        transaction = connection.begin()
        connection.execute(predictions.insert(), {"id": "first", "at": 0})
        log.database.commit([{"id": "second", "at": 1}])
        assert log.arrivals.after(None, 9) == [] and log.arrivals.count(None) == 0
        transaction.commit()
    assert [row["id"] for row in log.arrivals.after(None, 9)] == ["first", "second"]
    assert [row["id"] for row in log.arrivals.after("first", 9)] == ["second"] and log.arrivals.before_last(1) == "first"
    assert [row["id"] for row in log.arrivals.after("deleted", 9)] == ["first", "second"]
    log.close(); slow.engine.dispose()


def test_a_log_of_an_earlier_version_on_postgresql_gets_the_order_of_its_rows(database):
    url = new_database(database, f"older{os.getpid()}")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE predictions (id TEXT PRIMARY KEY, at BIGINT NOT NULL)")
        connection.exec_driver_sql("INSERT INTO predictions VALUES ('old', 5)")
    engine.dispose()
    log = ServingLog(url)
    log.database.commit([{"id": "new", "at": 1}])
    ServingLog(url).close()  # opened once more
    assert [row["id"] for row in log.arrivals.after(None, 9)] == ["old", "new"]
    log.close()


def test_a_mark_survives_vacuum_and_the_newest_rows_number_given_anew(tmp_path):
    """SQLite may give row numbers anew."""
    log = ServingLog(tmp_path / "serving.db")
    log.database.commit([{"id": name, "at": 0} for name in "abcdef"])
    def delete(*ids):
        gone = predictions.delete().where(predictions.c.id.in_(ids))
        log.database.write(lambda connection: connection.execute(gone).rowcount)
    delete("b", "d")
    with closing(sqlite3.connect(tmp_path / "serving.db")) as other: other.execute("VACUUM")
    assert [row["id"] for row in log.arrivals.after("c", 9)] == ["e", "f"]
    delete("f")
    log.database.commit([{"id": "g", "at": 0}])
    assert "g" in [row["id"] for row in log.arrivals.after("f", 9)]
    log.close()


# Followed -------------------------------------------------------------------------------------------------------------

def test_both_releases_score_each_row_once_on_either_store(tmp_path, url, made):
    where, ids = Library(tmp_path / "w", made[0], url), made[1]
    where.answer(300, ids.rule); where.answer(30, ids.honest)
    one, two = (where.shadow(ids.honest, ids.rule, last=250) for _ in range(2))
    assert [one.step(), one.step(), two.step()] == [200, 50, 0]
    # two that work on the same rows: the second writes nothing
    before = one.store.noted().prediction_id
    last = where.answer(5, ids.other)[-1]
    row = {"prediction_id": last, "release": ids.honest, "other": ids.rule, "at": 0}
    assert one.step() == 5 and not two.store.move(before, last, [row])
    # what was stored is not what is computed
    where.answer(4, ids.honest, features='{"renewals":0,"branch":"Hill"}')
    # it was asked, and the rule had to answer
    where.answer(2, ids.rule, asked=ids.honest, error="TimeoutError"); where.answer(2, ids.rule, sandbox=True)
    done(one); two.close()
    rows = shadow_rows(where.log, one.pair)
    assert len(rows) == 261 == rows.prediction_id.nunique() and rows.fault.isna().all() and rows.other_fault.isna().all()
    report = shadow_report(where.log, one.pair)
    assert (report.asked, report.waiting, report.rescored, report.differs) == (261, 0, 256, {"renewals": 3})
    assert report.rescored_otherwise == 2 and report.compared == 39
    both = both_releases(where.log, one.pair)
    assert len(Climb(both.assign(entity=both.key, day=0, share=2.0, outcome=1.0))) == 261 and both.canary_failed.sum() == 2
    frame = paired_decisions(where.log, one.pair)
    assert frame.groupby("release").size().to_dict() == {ids.honest: 261, ids.rule: 261}
    assert frame.groupby("release").answered.sum().to_dict() == {ids.honest: 34, ids.rule: 222}
    # retention takes the rows along, and what it deletes meanwhile gets none
    gone = row | {"prediction_id": where.answer(1, ids.rule)[0]}
    where.log.retention.forget(datetime(2024, 6, 1, tzinfo=UTC), uncollected=True)
    assert len(shadow_rows(where.log, one.pair)) == 0 and where.log.counts()["predictions"] == 0
    assert one.store.move(one.store.noted().prediction_id, gone["prediction_id"], [gone])
    where.answer(4, ids.rule)  # the mark's row is gone
    done(one)
    assert len(shadow_rows(where.log, one.pair)) == 4
    where.log.close()


def test_a_follower_that_cannot_keep_up_drops_the_oldest_rows_and_counts_them(tmp_path, url, made):
    where, ids = Library(tmp_path / "w", made[0], url), made[1]
    one = where.shadow(ids.newer, ids.rule, behind=150)
    where.answer(400, ids.rule)
    done(one)
    report = shadow_report(where.log, one.pair)
    assert (report.dropped, report.asked, report.waiting, report.agreement) == (250, 150, 0, 1.0)
    assert shadow_rows(where.log, one.pair).prediction_id.min() == f"{250:032x}"
    where.log.close()


# What releases do -----------------------------------------------------------------------------------------------------

def test_each_fault_is_charged_to_the_candidate_with_its_row_and_all_others_are_scored(lent):
    where, ids = lent
    expected = {"crash": ("crash", "SIGSEGV"), "hang": ("hang", "no answer within 400 ms"), "fail": ("error", "ValueError: many times"),
                "no_number": ("not finite", "the score is nan"), "far": ("out of range", "the score is 1.5")}
    where.answer(10, ids.honest)
    charged = {where.answer(1, ids.honest, OF[name])[0]: name for name in expected}
    charged[where.answer(1, ids.honest, features='{"renewals":0}')[0]] = "lacks"
    charged[where.answer(1, ids.honest, features='{"renewals":"0","branch":"Hill"}')[0]] = "text"
    unknown = where.answer(1, ids.honest, features='{"renewals":0,"branch":"Moon"}')
    charged[where.answer(1, ids.honest, request="{", key=None)[0]] = "unreadable"
    where.answer(10, ids.honest)
    one = where.shadow(ids.planted, ids.rule, budget_ms=400)
    # the rule does the same harm, which is not the candidate's: it is asked about these rows in its own turn
    one.scorer.reader.columns = lambda row: json.loads(row["request"]) and {"renewals": 3}
    done(one)
    rows = shadow_rows(where.log, one.pair).set_index("prediction_id")
    expected |= {"lacks": ("features", "the row lacks branch"), "text": ("features", "the row lacks renewals"),
                 "unreadable": ("features", "the stored row cannot be used")}
    found = rows[rows.fault.notna()]
    assert {charged[id]: fault for id, fault in found.fault.items()} == {name: fault for name, (fault, _) in expected.items()}
    for id, words in found.error.items(): assert expected[charged[id]][1] in words
    assert len(rows) == 29 and rows.other_score.notna().sum() == 28 and rows.score.notna().sum() == 22  # one out of range is kept
    report = shadow_report(where.log, one.pair, lambda requests: requests.renewals)
    assert (report.errors, report.scored, report.lacks) == (8, 21, {"branch": 1, "renewals": 1})
    assert (report.unknown, report.unknown_rows) == ({"branch": 1}, 1) and rows.features[unknown[0]]
    both = both_releases(where.log, one.pair)
    assert both.canary_failed.sum() == 6 and both.canary_unknown.sum() == 1 and both.stable_failed.sum() == 1
    assert report.errors_by_group.errors[OF["crash"]] == 1 and report.errors_by_group.errors.sum() == 7


def test_a_candidate_that_crashes_again_and_again_is_given_up_by_every_follower(lent):
    where, ids = lent
    where.answer(3, ids.honest); where.answer(5, ids.honest, OF["leave"])
    one = where.shadow(ids.rule, ids.honest, most_deaths=2)
    done(one)
    report = shadow_report(where.log, one.pair)
    assert one.gave_up and report.faults == {"crash": 2} and (report.asked, report.waiting) == (5, 3)
    again = where.shadow(ids.rule, ids.honest, most_deaths=2)
    assert again.gave_up and again.step() == 0 and again.process.child is None


def test_one_that_ends_the_process_or_was_spoiled_is_charged_while_it_is_loaded(lent):
    where, ids = lent
    where.answer(3, ids.rule)
    (where.releases.workspace.releases / ids.other / "trees.bin").write_bytes(b"other")
    features = where.releases.features
    where.releases.features = lambda: FeatureSet((*features().features, Feature("times", ("renewals",), abs)))
    one = where.shadow(ids.honest, ids.rule)
    done(one)
    assert one.gave_up and "was trained on features" in shadow_report(where.log, one.pair).first_fault
    where.releases.features = features
    for id, fault, words in ((ids.always, "crash", "while it was loaded: the process ended with exit code 3"),
                             (ids.other, "load", "was tampered with"), ("model-lost", "load", "SHA256SUMS")):
        one = where.shadow(id, ids.rule)
        done(one)
        report = shadow_report(where.log, one.pair)
        assert one.gave_up and report.faults == {fault: 1} and words in report.first_fault


def test_a_leak_is_seen_and_ended_at_the_limit_and_slowness_is_measured_on_the_same_rows(lent):
    where, ids = lent
    where.answer(10, ids.honest, OF["slow"])
    one = where.shadow(ids.rule, ids.honest, memory_mb=5_000)
    one.step()
    candidate, stable = shadow_report(where.log, one.pair).latency
    assert candidate.p50 > 4.9 and stable.p50 < candidate.p50
    where.answer(30, ids.honest, OF["leak"])
    done(one)
    assert 200 < shadow_report(where.log, one.pair).growth_mb < 400  # 30 times 8 MB
    limit = shadow_rows(where.log, one.pair).memory.min() / 1e6 + 80
    one = where.shadow(ids.newer, ids.honest, memory_mb=limit, most_deaths=2)
    done(one)
    report = shadow_report(where.log, one.pair)
    assert report.faults == {"memory": 2} and report.memory_mb[0] < limit + 20 and "allowed are" in report.first_fault


def test_a_process_that_gets_no_processor_for_a_while_is_not_charged_with_it(lent):
    """As on a busy machine, where one of low priority may wait for longer than a row may take."""
    where, ids = lent
    forget_shadow(where.log, ids.newer)
    where.answer(2, ids.honest)
    one = where.shadow(ids.newer, ids.rule, budget_ms=400, last=2)
    one.step()
    stopped = one.process.child.process.pid
    os.kill(stopped, signal.SIGSTOP)
    goes_on = threading.Timer(0.6, os.kill, (stopped, signal.SIGCONT)); goes_on.start()
    where.answer(2, ids.honest)
    assert one.step() == 2 and one.process.child.process.pid == stopped
    goes_on.join()
    assert shadow_rows(where.log, one.pair).fault.isna().all()
    one.close()


# Killed, and beside the app -------------------------------------------------------------------------------------------

def test_a_follower_of_the_running_app_is_killed_and_goes_on_and_no_row_is_lost_or_doubled(tmp_path):
    """kill -9 under load; what scores for it ends with it, and the next one goes on."""
    workspace = trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    stable, candidate = f"rule-{problem.rule.version}", "rule-99.0"
    write_release(workspace.releases, {
        "kind": "rule", "name": "stricter", "version": "99.0", "threshold": 0.0, "rule": problem.rule.sha}, {})
    follower = f"""
from pathlib import Path
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.operations.shadow import Pair, Shadow, follow
from mlops_lifecycle.core.serving.predictor import Releases
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.formulate import problem
workspace = Workspace(Path({str(tmp_path / "w")!r}))
log = ServingLog(workspace.serving_db, checkpoints=False)
one = Shadow(log, Releases(workspace, problem.rule, lambda: None), Pair({candidate!r}, {stable!r}), problem)
follow(one, lambda: False, pause=0.02)
"""
    def start(): return subprocess.Popen([sys.executable, "-c", follower], cwd=ROOT, stderr=subprocess.PIPE)
    server = Server(tmp_path / "w")
    ledger, log, pair = Ledger(server.port, callers=1), ServingLog(workspace.serving_db), Pair(candidate, stable)
    def scored() -> int:
        with log.database.read() as connection: return connection.execute(sa.select(sa.func.count()).select_from(shadow)).scalar()
    try:
        process, before, until = start(), scored(), time.monotonic() + 60
        while scored() == before and process.poll() is None and time.monotonic() < until: time.sleep(0.02)
        assert process.poll() is None, process.stderr.read().decode()[-3000:]
        children = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL); process.wait()
        gone, alive = psutil.wait_procs(children, 10)
        assert scored() > before and len(gone) == 1 and not alive
        process = start()
        ledger.stop()
        until = time.monotonic() + 60
        while scored() < log.counts()["predictions"] and time.monotonic() < until: time.sleep(0.05)
    finally: ledger.stop(); server.kill(); process.kill()
    rows = shadow_rows(log, pair)
    assert set(ledger.predictions) <= set(rows.prediction_id) and rows.prediction_id.is_unique and len(ledger.predictions) > 50
    report = shadow_report(log, pair)
    assert (report.errors, report.waiting, report.dropped, report.rescored_otherwise) == (0, 0, 0, 0)
    assert report.asked == log.counts()["predictions"] == report.rescored
    log.close()
