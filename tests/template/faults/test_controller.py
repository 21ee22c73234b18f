"""A controller that is killed in the middle of a look, that looks at a given moment, or that loses a release or its log."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import psutil
import pytest
import sqlalchemy as sa
from harmful import COSTS, LIMITS, Library, all_released, library
from helpers import ROOT, environment
from under_load import new_database

from mlops_lifecycle.core.operations.controller import Controller, operate
from mlops_lifecycle.core.operations.shadow import Pair, shadow_rows
from mlops_lifecycle.core.serving.ledger import Act, Ledger
from mlops_lifecycle.core.serving.store import ServingLog, shadow, shadow_marks

FIRST = datetime(2024, 3, 1, tzinfo=UTC)  # when the first loan is decided
AT_WORK = """
import sys
from pathlib import Path
from harmful import COSTS, LIMITS, features, library, rule
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.operations.controller import Controller
from mlops_lifecycle.core.serving.ledger import Ledger
from mlops_lifecycle.core.serving.predictor import Releases
from mlops_lifecycle.core.serving.store import ServingLog
releases = Releases(Workspace(Path(sys.argv[1])), rule, lambda: features)
where = sys.argv[2] if "://" in sys.argv[2] else Path(sys.argv[2])
Controller(Ledger(ServingLog(where, checkpoints=False)), releases, library, COSTS, LIMITS).tick()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Releases of all kinds."""
    folder = tmp_path_factory.mktemp("releases")
    return folder, SimpleNamespace(**all_released(folder))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """An empty log on either store."""
    if request.param == "sqlite": return tmp_path / "serving.db"
    return new_database(request.getfixturevalue("database"), f"controller{os.getpid()}_{abs(hash(tmp_path))}")


@pytest.fixture
def climbing(tmp_path, url, made):
    """A library whose rule is stable, and beside it a model as the canary at 10 %, after a first look."""
    where, ids = Library(tmp_path / "w", made[0], url), made[1]
    where.ids, where.url, where.ledger, step = ids, url, Ledger(where.log), Act("operate", "no guard", {"next": True})
    for id in (ids.rule, ids.honest): where.ledger.register(id, Act("12_release"), Act("automatic"))
    where.ledger.deploy(ids.rule, Act("Ada")); where.ledger.deploy(ids.honest, Act("Ada")); where.ledger.step(0.1, step)
    where.pair = Pair(ids.honest, ids.rule)
    yield where
    where.log.close()


@contextmanager
def controller_of(where, **more):
    one = Controller(where.ledger, where.releases, library, COSTS, LIMITS, **more)
    try: yield one
    finally: one.close()


def count(log, table) -> int:
    with log.database.read() as connection: return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar()


def report(where, ids: list[str], at: datetime, late: float = 1.0) -> None:
    for id in ids: where.log.feedback.append(id, "outcome", "late" if late else "in_time", at, label=late)


def test_killed_in_the_middle_of_a_look_the_next_controller_goes_on_and_no_row_is_there_twice(climbing, tmp_path):
    where = climbing
    asked, begun = where.answer(600, where.ids.rule), where.ledger.standing().number
    process = subprocess.Popen(
        [sys.executable, "-c", AT_WORK, str(tmp_path / "w"), str(where.url)], cwd=ROOT, stderr=subprocess.PIPE,
        env=environment(PYTHONPATH=f"{ROOT / 'tests/template/support'}{os.pathsep}{ROOT}"))
    until = time.monotonic() + 60
    while not count(where.log, shadow) and process.poll() is None and time.monotonic() < until: time.sleep(0.002)
    assert process.poll() is None, process.stderr.read().decode()[-3000:]
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL); process.communicate()
    gone, alive = psutil.wait_procs(children, 10)
    before, now = count(where.log, shadow), where.ledger.standing()
    assert len(gone) == 1 and not alive and 0 < before < len(asked) and now.number == begun, (before, children)
    with controller_of(where) as other: tick = other.tick()  # the lease of a process that is not there any more is free
    assert (tick.action, tick.share, tick.verdict.guard) == ("hold", 10.0, ""), tick
    rows = shadow_rows(where.log, where.pair)
    assert sorted(rows.prediction_id) == sorted(asked) and rows.fault.isna().all()
    assert [entry.event for entry in where.ledger.entries()[begun:]] == ["judge"]


def test_a_label_that_becomes_known_later_changes_nothing_at_the_clock(climbing):
    where, early, late = climbing, [], []
    for day in range(5):
        at = int((FIRST + timedelta(days=day)).timestamp() * 1e6)
        ids = where.answer(60, where.ids.rule, at=at, decision_time=at)
        early += ids[:50]; late += ids[50:]
    clock = FIRST + timedelta(days=6)
    report(where, early, clock - timedelta(days=1))
    with controller_of(where) as controller:
        def verdict(at): return controller.judged(where.ledger.standing(), where.pair, at)
        before = verdict(clock)
        report(where, late, clock + timedelta(microseconds=1), late=0.0)
        assert verdict(clock) == before and before.evidence.requests == 200  # the last day is not over
        later = verdict(clock + timedelta(days=1))
        assert later.evidence.requests == 240 and later.evidence.cost != before.evidence.cost
        tick = operate(controller, lambda tick: None, once=True, clock=clock)
    assert (tick.clock, tick.verdict) == (clock, before)
    assert where.ledger.entries()[-1].clock == int(clock.timestamp() * 1e6)


def test_a_request_that_comes_later_changes_nothing_at_the_clock(climbing):
    """Looking back at an earlier moment, as `mlops operate --once --as-of` does: the log may hold what came afterwards."""
    where, clock = climbing, FIRST + timedelta(days=6)
    def day(number: int) -> int: return int((FIRST + timedelta(days=number)).timestamp() * 1e6)
    for number in range(5): report(where, where.answer(60, where.ids.rule, at=day(number), decision_time=day(number)), clock)
    with controller_of(where) as controller:
        def verdict(at): return controller.judged(where.ledger.standing(), where.pair, at)
        before = verdict(clock)
        at_the_clock = where.answer(60, where.ids.rule, at=day(6), decision_time=day(5))
        later = where.answer(240, where.ids.rule, at=day(6) + 1, decision_time=day(5))
        report(where, at_the_clock + later, clock, late=0.0)
        assert before.evidence.requests == 240  # the last day is not over
        assert verdict(clock).evidence.requests == 300 and len(controller.climb) == 360
        assert verdict(clock + timedelta(microseconds=1)).evidence.requests == 300 and len(controller.climb) == 600
        assert verdict(clock - timedelta(microseconds=1)).evidence is None and len(controller.climb) == 300
    assert len(shadow_rows(where.log, where.pair)) == 600


@pytest.mark.parametrize("lost", ["stable", "candidate"])
def test_a_release_whose_folder_is_gone_in_the_middle_of_a_climb(climbing, lost):
    """Without the stable one nothing can be compared, so the canary waits; without its own it cannot serve, and is rolled back."""
    where = climbing
    before = where.ledger.standing()
    report(where, where.answer(60, where.ids.honest, generation=before.generation), FIRST + timedelta(days=1), late=0.0)
    shutil.rmtree(where.releases.workspace.releases / getattr(where.pair, lost))
    with controller_of(where) as controller: tick = controller.tick()
    now = where.ledger.standing()
    if lost == "stable":
        assert re.fullmatch(r"rule-1.0 decided none of the last \d+ requests, so nothing can be compared with it", tick.reason), tick
        assert (tick.action, now.slots) == ("hold", before.slots)
    else: assert (tick.action, now.canary, now.of(where.ids.honest).state) == ("roll back", None, "rejected"), tick


@contextmanager
def without_room(log: ServingLog):
    """The log's disk is full: SQLite's file may not grow; PostgreSQL, whose disk is not ours, refuses to write."""
    engine, file = log.database.engine, log.database.file
    def limit(connection, record):
        cursor = connection.cursor()
        if file:
            pages = cursor.execute("PRAGMA page_count").fetchone()[0]
            cursor.execute(f"PRAGMA max_page_count = {pages}")
        else: cursor.execute("SET default_transaction_read_only = on"); connection.commit()
        cursor.close()
    sa.event.listen(engine, "connect", limit)
    engine.dispose()
    try: yield
    finally:
        sa.event.remove(engine, "connect", limit)
        engine.dispose()


def test_a_full_disk_during_a_look_holds_the_canary_and_says_so(climbing):
    where, heard = climbing, []
    where.answer(60, where.ids.rule)
    with controller_of(where) as controller:
        controller.tick()
        asked, before = where.answer(400, where.ids.rule), where.ledger.standing()
        with without_room(where.log): tick = operate(controller, heard.append, once=True)
        assert tick.action == "wait" and tick.reason.startswith("hold: the serving log cannot be written"), tick
        assert heard == [tick] and where.ledger.standing().number == before.number
        again = operate(controller, heard.append, once=True)
    assert again.action == "hold" and count(where.log, shadow) == 60 + len(asked) and count(where.log, shadow_marks) == 1
