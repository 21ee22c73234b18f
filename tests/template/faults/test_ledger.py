"""The ledger of deployments under two writers, a kill, an outage and any order of verbs, on SQLite and PostgreSQL."""
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pyarrow as pa
import pytest
from helpers import ROOT, environment
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from under_load import new_database

from mlops_lifecycle.core.foundation.errors import UsageError
from mlops_lifecycle.core.models.release import write_release
from mlops_lifecycle.core.problem.definition import Entity, Problem, Rule
from mlops_lifecycle.core.serving import batch_log
from mlops_lifecycle.core.serving.batch import requests_of
from mlops_lifecycle.core.serving.predictor import trial_workspace
from mlops_lifecycle.core.serving.ledger import Act, Ledger, LedgerRefusal, Lease, WrongState, fold
from mlops_lifecycle.core.serving.store import NotStored, ServingLog

STAGE, BY_ITSELF, PASSED = Act("12_release"), Act("automatic"), Act("Ada", "seen", {"passed": True})
NEXT = {"next": True}  # evidence that is enough for a larger share


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request, tmp_path):
    """Where a new log is."""
    if request.param == "sqlite": return tmp_path / "serving.db"
    return new_database(request.getfixturevalue("database"), f"ledger {uuid4().hex}")


def ledger_with(where, *models: str, load_error=None) -> Ledger:
    """A rule and models, each stable after the one before."""
    ledger = Ledger(ServingLog(where), load_error)
    for id in ("rule-1", *models):
        ledger.register(id, STAGE, BY_ITSELF)
        if ledger.deploy(id, Act("Ada")).canary: ledger.promote(PASSED)
    return ledger


def test_a_second_roll_back_goes_further_back_and_at_last_to_the_rule(where):
    broken = {"a": ""}
    ledger = ledger_with(where, "a", "b", "c", load_error=lambda id: broken.get(id, ""))
    broken["b"] = "changed model.skops"
    assert [ledger.roll_back(Act("Ada", "worse")).stable for _ in range(2)] == ["a", "rule-1"]  # b cannot be loaded
    with pytest.raises(WrongState, match="nothing to go back to from rule-1; allowed now: deploy b"): ledger.roll_back(Act("Ada"))
    states = {id: record.state for id, record in ledger.standing().releases.items()}
    assert states == {"rule-1": "stable", "a": "rejected", "b": "retired", "c": "rejected"}
    assert ledger.log.deployment.get() == ledger.standing().slots


def test_what_was_rejected_comes_back_by_no_verb_until_somebody_clears_it(where):
    ledger = ledger_with(where, "a")
    ledger.roll_back(Act("15_monitor", "drift"))
    ways = (lambda: ledger.register("a", STAGE, BY_ITSELF), lambda: ledger.deploy("a", PASSED), lambda: ledger.approve("a", PASSED),
            lambda: ledger.promote(PASSED, force=True), lambda: ledger.fall_back("a", PASSED), lambda: ledger.trial("a"),
            lambda: ledger.step(0.1, PASSED), lambda: ledger.roll_back(PASSED))
    for way in ways:
        try: way()
        except LedgerRefusal: pass
        assert ledger.standing().of("a").state == "rejected" and ledger.standing().stable == "rule-1"
    assert ledger.clear("a", Act("Ada", "the drift was a holiday")).of("a").state == "candidate"
    with pytest.raises(WrongState, match="a is candidate; allowed now: approve, reject"): ledger.deploy("a", PASSED)
    ledger.approve("a", PASSED)
    assert ledger.deploy("a", PASSED).canary == "a"


def test_an_approval_lasts_and_one_that_was_superseded_while_it_waited_is_not_deployed(where):
    ledger = ledger_with(where)
    seen = Act("12_release", "released", {"saving": 0.12})
    for id in ("a", "b"): ledger.register(id, seen, approver="Ann")
    with pytest.raises(WrongState, match="a is retired: superseded by b; allowed now: clear, reject"): ledger.deploy("a", PASSED)
    ledger.approve("b", Act("Ada", "read the card"))
    for policy in (None, BY_ITSELF): record = ledger.register("b", STAGE, policy)
    assert (record.state, record.approval.by, record.approval.reason) == ("approved", "Ada", "read the card")
    assert record.approval.evidence == {"seen": {"saving": 0.12}}


def test_a_larger_share_than_the_climb_had_needs_evidence_or_force_with_a_reason(where):
    ledger, person = ledger_with(where), Act("Ada", "it looks well")
    ledger.register("a", STAGE, BY_ITSELF); ledger.deploy("a", person)
    refused = ("the evidence on a is not enough for 2% of the requests, there is no verdict on it yet; allowed now: "
               "a share of 0% at most, hold, rollback, promote by force, with a reason")
    with pytest.raises(WrongState, match=refused): ledger.step(0.02, person)
    with pytest.raises(UsageError, match="a larger share by force needs a reason"): ledger.step(0.02, Act("Ada"), force=True)
    assert ledger.step(0.05, Act("operate", evidence=NEXT)).share == 0.05
    ledger.judge(Act("operate", "3 of 50 outcomes known", {"passed": False}))
    with pytest.raises(WrongState, match="for 10% of the requests, the last verdict was: 3 of 50 outcomes known"): ledger.step(0.1, person)
    assert [ledger.step(share, person).share for share in (0.01, 0.05, 0.05)] == [0.01, 0.05, 0.05]  # as it was, or less
    forced = ledger.step(0.5, person, force=True).climb[-1]
    assert (forced.share, forced.by, forced.reason, forced.evidence) == (0.5, "Ada", "it looks well", {"forced": True})
    with pytest.raises(WrongState, match="there is no verdict|3 of 50"): ledger.promote(person)
    ledger.hold(person)
    with pytest.raises(WrongState, match="Ada holds a"): ledger.step(0.1, Act("operate", evidence=NEXT))
    ledger.roll_back(person); ledger.clear("a", person); ledger.approve("a", person); ledger.deploy("a", person)
    with pytest.raises(WrongState): ledger.step(0.05, person)  # what it had in the climb before does not count
    ledger.log.close()


@pytest.mark.parametrize("writers", [2, 8])
def test_of_writers_who_saw_the_same_state_one_succeeds(where, writers):
    ledger = ledger_with(where)
    ledger.register("a", STAGE, BY_ITSELF)
    seen = ledger.deploy("a", Act("Ada")).generation

    def move(number):
        own = Ledger(ServingLog(where))
        try: return own.step((number + 1) / 100, Act(f"controller {number}", evidence=NEXT, generation=seen)).share
        except WrongState: return None
        finally: own.log.close()
    with ThreadPoolExecutor(writers) as pool: moved = [share for share in pool.map(move, range(writers)) if share is not None]
    assert len(moved) == 1 and ledger.standing().share == moved[0]
    assert [entry.event for entry in ledger.entries()].count("step") == 1


WRITES = """
import sys
from mlops_lifecycle.core.serving.ledger import Act, Ledger, Lease
from mlops_lifecycle.core.serving.store import ServingLog
ledger = Ledger(ServingLog(sys.argv[1]))
assert Lease(ledger.log, "a controller", 60).take()
print("begun", flush=True)
for number in range(1_000_000): ledger.step(number % 100 / 100, Act("a controller", evidence={"next": True}))
"""


def test_killed_between_two_steps_the_row_that_workers_follow_is_what_the_entries_say(where):
    ledger = ledger_with(where)
    ledger.register("a", STAGE, BY_ITSELF)
    ledger.deploy("a", Act("Ada"))
    with subprocess.Popen([sys.executable, "-c", WRITES, str(where)], cwd=ROOT, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        assert not Lease(ledger.log).take()  # the other one has it
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
    assert ledger.log.deployment.get() == ledger.standing().slots
    assert ledger.standing().number > 5 and Lease(ledger.log).take()  # whose process has ended


def test_without_its_database_the_ledger_says_so_and_nothing_is_written(where, tmp_path):
    if isinstance(where, str): gone = where.replace(where.rpartition("/")[2], "nowhere")
    else:
        gone = tmp_path / "folder" / "serving.db"
        gone.parent.write_text("no folder")
    with pytest.raises(NotStored, match="the serving log cannot be"):
        Ledger(ServingLog(gone, now=False)).roll_back(Act("Ada"))
    with pytest.raises(NotStored): Lease(ServingLog(gone, now=False)).take()


def test_a_log_from_before_the_ledger_keeps_its_history(where):
    """Generations 1 to 3 of an older version: the rule, a canary, and its promotion."""
    log = ServingLog(where)
    row = "INSERT INTO deployed VALUES (1, 1, 'rule-1', NULL, 0), (2, 2, 'rule-1', 'a', 0.1), (3, 3, 'a', NULL, 0)"
    with log.database.engine.connect().execution_options(writes=True) as connection, connection.begin():
        columns = "generation INTEGER PRIMARY KEY, at BIGINT, stable TEXT, canary TEXT, share FLOAT"
        connection.exec_driver_sql(f"CREATE TABLE deployed ({columns})")
        connection.exec_driver_sql(row)
        connection.exec_driver_sql("UPDATE deployment SET generation = 3, stable = 'a'")
    log.close()
    ledger = Ledger(ServingLog(where))
    assert ledger.standing().slots == ledger.log.deployment.get()
    assert ledger.standing().served == ["rule-1", "a"]
    back = ledger.roll_back(Act("Ada", "worse"))
    assert (back.stable, back.generation, back.number) == ("rule-1", 4, 4)


class Loan(Entity):
    """What a reader borrows."""
    reader: str = Field(examples=["R1"])
    books: int = Field(examples=[4])


def test_a_recorded_batch_is_stored_once_and_each_entity_stays_in_its_arm(where, tmp_path, monkeypatch):
    """Broken off after the first piece, recorded again, and again at a larger share."""
    if isinstance(where, str): monkeypatch.setenv("MLOPS_DATABASE", where)
    lending = Problem("loans", "loan", "late", "remind", "€ a loan", Loan, Rule("many", "1.0", lambda c: c["books"] / 10, 0.5), ("reader",))
    library = trial_workspace(tmp_path / "library", lending, {"reactions": []})
    manifest = {"kind": "rule", "name": "many", "version": "2.0", "threshold": 0.3, "rule": lending.rule.sha}
    canary = write_release(library.releases, manifest, {}).name
    ledger = Ledger(ServingLog(library.serving_db))
    ledger.register(canary, STAGE, BY_ITSELF)
    ledger.deploy(canary, PASSED, share=0.1)
    file = requests_of(pa.table({"reader": [f"R{n % 300}" for n in range(600)], "books": [4] * 600}), Loan)
    with monkeypatch.context() as broken, pytest.raises(NotStored):
        pieces = iter([batch_log.store_missing])
        broken.setattr(batch_log, "store_missing", lambda rows: next(pieces, gone)(rows))
        batch_log.record_requests(file, lending, library, None, piece=100)
    assert ledger.log.counts()["predictions"] == 100
    scored, new = batch_log.record_requests(file, lending, library, None, piece=100)
    assert (new, ledger.log.counts()["predictions"]) == (500, 600)
    assert scored.groupby("reader").arm.nunique().max() == 1 and 20 < (scored.arm == "canary").sum() < 120
    assert set(scored.release) == {"rule-1.0", canary} and scored.groupby("arm").version.unique().map(list).to_dict() == {
        "canary": ["2.0"], "stable": ["1.0"]}
    ledger.step(0.5, PASSED)
    later, _ = batch_log.record_requests(file, lending, library, None)
    assert set(scored[scored.arm == "canary"].reader) < set(later[later.arm == "canary"].reader)


def gone(rows): raise NotStored("the serving log cannot be written: it is gone")


IDS = "rule-1", "rule-2", "a", "b"
VERBS = st.one_of(
    st.tuples(st.sampled_from(["register", "approve", "reject", "clear", "deploy", "wait"]), st.sampled_from(IDS)),
    st.tuples(st.sampled_from(["step", "raise", "promote", "force", "hold", "resume", "roll_back", "judge"]), st.just("")))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(story=st.lists(VERBS, min_size=5, max_size=25))
def test_whatever_is_asked_for_in_whatever_order_the_rules_hold(story):
    with tempfile.TemporaryDirectory() as folder: tell(Ledger(ServingLog(f"{folder}/serving.db")), story)


def tell(ledger: Ledger, story: list[tuple[str, str]]) -> None:
    """Ask for one verb after the other, and hold each state against the one before."""
    act = Act("Ada", "a story")
    verbs = {"register": lambda id: ledger.register(id, act, BY_ITSELF), "wait": lambda id: ledger.register(id, act),
             "step": lambda _: ledger.step(0.1, Act("operate", evidence=NEXT)), "raise": lambda _: ledger.step(0.5, act),
             "promote": lambda _: ledger.promote(PASSED),
             "force": lambda _: ledger.promote(act, True), "hold": lambda _: ledger.hold(act), "resume": lambda _: ledger.resume(act),
             "judge": lambda _: ledger.judge(act), "roll_back": lambda _: ledger.roll_back(act),
             **{name: lambda id, name=name: getattr(ledger, name)(id, act) for name in ("approve", "reject", "clear", "deploy")}}
    before = ledger.standing()
    for name, id in story:
        try: verbs[name](id)
        except LedgerRefusal as refusal: assert "; allowed now: " in str(refusal) or "; known are: " in str(refusal)
        now = ledger.standing()
        rejected = {r.id for r in before.releases.values() if r.state == "rejected"} - ({id} if name == "clear" else set())
        assert all(now.of(r).state == "rejected" for r in rejected), "what was rejected stays so"
        assert not rejected & {now.stable, now.canary}
        if now.stable != before.stable and not str(now.stable).startswith("rule-"):
            assert now.stable in (before.canary, *before.served), "no model is stable at once"
        if before.stable: assert now.stable, "something serves from then on"
        if before.canary: assert now.share <= max(before.share, 0.1), "no larger share without evidence"
        if before.climbs and now.canary != before.canary: assert name in ("promote", "force", "roll_back"), "no deploy replaces a canary"
        assert now.generation == before.generation + (
            (now.stable, now.canary, now.share) != (before.stable, before.canary, before.share))
        assert ledger.log.deployment.get() == now.slots == fold(ledger.entries()).slots
        before = now
    ledger.log.close()
