"""What must hold when processes are killed, disks are slow and servers are told to end."""
import json
import os
import shutil
import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from under_load import (
    BODY,
    REACTION,
    Caller,
    Ledger,
    Server,
    SmallDisk,
    deploy_into,
    held_up,
    killed_under_load,
    missing,
    open_but_idle,
    postgresql,
)

from mlops_lifecycle.core.serving.store import ServingLog, feedback, predictions
from mlops_lifecycle.core.serving.server import served as on_loopback
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.plan import plan
from mlops_lifecycle.core.serving.predictor import trial_workspace
from mlops_lifecycle.serving import create_app


@pytest.fixture
def served(tmp_path):
    """A workspace in which the rule serves, and servers on it."""
    trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    started = []

    def start(workers=1, **more):
        started.append(Server(tmp_path / "w", workers, **more))
        return started[-1]
    start.workspace = Workspace(tmp_path / "w")
    yield start
    for server in started: server.kill()


@pytest.fixture(scope="module")
def database():
    with postgresql() as url: yield url


@pytest.mark.parametrize("time_", range(3))
def test_what_was_acknowledged_is_there_after_a_kill_on_sqlite(tmp_path, time_):
    killed_under_load(tmp_path / "w", seed=time_)


@pytest.mark.parametrize("time_", range(3))
def test_what_was_acknowledged_is_there_after_a_kill_on_postgresql(tmp_path, database, time_):
    killed_under_load(tmp_path / "w", database, seed=time_)


def test_the_log_is_the_same_on_postgresql(database):
    """Deployments, look-ups, reactions and groups: the tables that stand in SQLite."""
    import numpy as np
    import pandas as pd

    from mlops_lifecycle.core.models.features import Lookup
    from mlops_lifecycle.core.serving.auth import KeyRing, list_keys, make_key, revoke_key
    log = ServingLog(database)
    log.database.write(lambda connection: [connection.execute(table.delete()) for table in (feedback, predictions)])
    at = np.datetime64("2024-03-01T12:00", "us")
    first = log.predictions.append(at, score=0.1 + 0.2, review=True, features={"a": float("nan")}, warnings=["one"])
    refused = lambda connection: 1 / 0
    stored = log.database.commit([{"id": "b", "at": 1}, refused, {"id": "c", "at": 2}])
    assert [type(found).__name__ for found in stored] == ["str", "ZeroDivisionError", "str"]
    def late(): return log.feedback.append(first, "outcome", "late", at=at, label=1)
    assert late() == late()
    assert [row["id"] for row in log.predictions.undecided()] == [first] and log.predictions.get(first)["score"] == 0.1 + 0.2
    lookup = Lookup("queue", ("branch",), ("waiting",))
    frame = pd.DataFrame({"branch": ["Hill"], "known_at": pd.to_datetime(["2024-03-01T08:00Z"]), "waiting": [3]})
    log.lookups.put(lookup, frame); log.lookups.put(lookup, frame)
    assert log.lookups.get("queue", ("Hill",), at)["waiting"] == 3
    for release in ("rule-1", "model-1"): log.deployment.set(stable=release)
    assert log.deployment.roll_back()["stable"] == "rule-1"
    ring, key = KeyRing(), make_key(log, "desk", ["predict"]); ring.read(log); assert ring.find(f"Bearer {key}")
    revoke_key(log, key); assert list_keys(log)[-1]["revoked"]
    assert log.predictions.days() == {"1970-01-01": 2, "2024-03-01": 1}
    log.retention.collected(at)
    assert log.retention.forget(pd.Timestamp(at, tz="UTC").to_pydatetime()) == 2
    assert log.counts() == {"predictions": 1, "feedback": 1}
    assert log.marks()[0] == log.deployment.get()["generation"]
    log.close()


def test_a_database_server_that_goes_away_is_503_and_comes_back(tmp_path, database, monkeypatch):
    """Nobody is told that something was stored. When the server is there again, so is the app, with all it acknowledged."""
    trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    deploy_into(database, tmp_path / "w")
    monkeypatch.setenv("MLOPS_DATABASE", database)
    with on_loopback(create_app(load_settings(), Workspace(tmp_path / "w"))) as (port, _):
        caller = Caller(port)
        kept = [caller.send("POST", "/v1/predict", BODY)[1]["prediction_id"]]
        database.stop()
        try:
            asked = caller.send("POST", "/v1/predict", BODY)[0]
            probed = [caller.send("GET", f"/v2/health/{probe}")[0] for probe in ("ready", "live")]
            assert (asked, probed) == (503, [503, 200])
        finally: database.start()
        kept.append(caller.send("POST", "/v1/predict", BODY)[1]["prediction_id"])
    log = ServingLog(database)
    assert sorted(log.frames()[0]["id"]) == sorted(kept); log.close()


def test_no_answer_comes_before_the_disk_has_it(served):
    """A kill cannot show what a power cut would.

    With every sync held up for 300 ms, no 200 may arrive sooner, to one caller or many, to a request or a reaction.
    A read still may.
    """
    server = served()
    caller = Caller(server.port)
    known = [caller.send("POST", "/v1/predict", BODY)[1]["prediction_id"] for _ in range(5)]
    with held_up(server.process.pid, 300):
        def timed(path, body):
            own, started = Caller(server.port), time.perf_counter()
            status, _ = own.send("POST", path, body)
            return status, time.perf_counter() - started
        def ask(_): return timed("/v1/predict", BODY)
        def react(id): return timed("/v1/feedback", json.dumps({"prediction_id": id, "reaction": REACTION}).encode())
        with ThreadPoolExecutor(8) as pool:
            waited = [ask(0), *pool.map(ask, range(8))]
            told = [react(known[0]), *pool.map(react, known[1:])]
        assert all(status == 200 and seconds >= 0.3 for status, seconds in waited + told), (waited, told)
        median = statistics.median(seconds for _, seconds in waited[1:])
        assert median < 8 * 0.3 + 5  # one sync for those who wait together, not one each
        started = time.perf_counter()
        assert caller.send("GET", "/v2/health/live")[0] == 200 and time.perf_counter() - started < 0.3


def test_a_disk_that_is_full_acknowledges_nothing_and_is_taken_up_again(tmp_path):
    """A real one, of four megabytes. What was acknowledged before and after is there, and nobody restarted anything."""
    trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    disk = SmallDisk(tmp_path / "disk", tmp_path / "w")
    server = disk.serve()
    try:
        caller, kept = Caller(server.port), []
        def ask(): return caller.send("POST", "/v1/predict", BODY)
        def react(id):
            return caller.send("POST", "/v1/feedback", json.dumps({"prediction_id": id, "reaction": REACTION}).encode())
        for _ in range(2):
            kept.append(ask()[1]["prediction_id"])
            disk.fill()
            while (answer := ask())[0] == 200: kept.append(answer[1]["prediction_id"])  # the log as it is has room
            assert [answer[0], ask()[0], react(kept[-1])[0]] == [503] * 3
            assert caller.headers["retry-after"] == "1" and caller.send("GET", "/v2/health/live")[0] == 200
            disk.empty()
            assert react(kept[-1])[0] == 200
        kept.append(ask()[1]["prediction_id"])
        shutil.copytree(disk.inside, tmp_path / "seen")  # while nobody asks
    finally: server.kill()
    log = ServingLog(tmp_path / "seen" / "serving.db")
    predictions, feedback = log.frames(); log.close()
    assert sorted(predictions["id"]) == sorted(kept)
    assert set(feedback["prediction_id"]) < set(kept) and len(feedback) == 2


def test_told_to_end_it_answers_what_it_accepted(served):
    """SIGTERM under load: what was acknowledged is stored, no request that was begun breaks off, a kept connection is
    answered once more."""
    server = served(2)
    ledger, kept = Ledger(server.port, callers=6), open_but_idle(server.port)
    broken = []

    def watching():
        """One request after another on fresh connections: refused by a closed port is fine, half an answer is not."""
        while server.process.poll() is None:
            caller = Caller(server.port)
            try: caller.send("POST", "/v1/predict", BODY)
            except ConnectionRefusedError: return
            except (ConnectionResetError, BrokenPipeError): continue      # it was never accepted
            except Exception as error: broken.append(repr(error))
    watcher = threading.Thread(target=watching); watcher.start()
    time.sleep(1)
    server.process.send_signal(signal.SIGTERM); time.sleep(0.2)
    head = b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    kept.sendall(head % len(BODY) + BODY)
    said = kept.recv(65_536)
    assert said.startswith(b"HTTP/1.1 200"), said[:200]
    assert server.process.wait(60) in (0, -signal.SIGTERM)
    ledger.stop(); watcher.join()
    assert not broken and len(ledger.predictions) > 10
    assert not any(missing(served.workspace.serving_db, ledger).values())


def test_workers_end_with_a_parent_that_was_killed(served):
    server = served(2)
    workers = server.workers()
    os.kill(server.process.pid, signal.SIGKILL); server.process.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert len(workers) == 2 and gone
    assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_figures_of_all_workers_are_added_up_and_lines_are_json(served):
    server = served(2)
    callers = [Caller(server.port) for _ in range(12)]
    for caller in callers: assert caller.send("POST", "/v1/predict", BODY)[0] == 200
    names = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "x-request-id": "mine"}
    assert callers[0].send("POST", "/v1/predict", b"[]", **names)[0] == 422
    callers[1].connection.request("GET", "/metrics"); text = callers[1].connection.getresponse().read().decode()
    assert 'mlops_requests_total{route="/v1/predict",status="200"} 12.0' in text
    assert server.stop() in (0, -signal.SIGTERM)
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    own = [line for line in lines if line.get("request_id") == "mine"]
    assert [(line["trace_id"], line["status"]) for line in own] == [("a" * 32, 422)]
