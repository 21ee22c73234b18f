"""What must hold when processes are killed, disks are slow and servers are told to end."""
import json
import os
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from typer.testing import CliRunner
from slots import put_in_slots
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
    new_database,
    open_but_idle,
)

from mlops_lifecycle.cli import app as command_line
from mlops_lifecycle.core.serving import ledger as record
from mlops_lifecycle.core.serving.store import ServingLog, UnknownPrediction, feedback, predictions, reaction
from mlops_lifecycle.core.serving.server import served as on_loopback
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.problem.definition import example_of
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.plan import plan
from mlops_lifecycle.core.serving.predictor import trial_workspace
from mlops_lifecycle.serving import create_app

GOOD = example_of(problem.Request)


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
    for release in ("rule-1", "model-1"): put_in_slots(log, stable=release)
    assert record.Ledger(log).roll_back(record.Act("a test")).stable == "rule-1"
    ring, key = KeyRing(), make_key(log, "desk", ["predict"]); ring.read(log); assert ring.find(f"Bearer {key}")
    revoke_key(log, key); assert list_keys(log)[-1]["revoked"]
    assert log.predictions.days() == {"1970-01-01": 2, "2024-03-01": 1}
    log.retention.collected(at)
    assert log.retention.forget(pd.Timestamp(at, tz="UTC").to_pydatetime()) == 2
    assert log.counts() == {"predictions": 1, "feedback": 1}
    seen, tried = [len(table) for table in log.frames()], log.predictions.append(at, sandbox=True)
    assert log.database.write(reaction(tried, "outcome", "late", at, 1, sandbox=True))["label"] == 1
    assert ([len(table) for table in log.frames()], log.counts()["predictions"]) == (seen, seen[0] + 1)
    with pytest.raises(UnknownPrediction): log.database.write(reaction(first, "reminder", "helped", at, sandbox=True))
    assert log.marks()[0] == log.deployment.get()["generation"]
    log.close()


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


def test_what_looks_at_the_file_leaves_the_log_to_those_who_write_it(tmp_path):
    """One process looked at a file that had changed; another one ends, and a third still sees what the first writes."""
    log = ServingLog(tmp_path / "serving.db")
    def another(code: str) -> str:
        opened = f"from mlops_lifecycle.core.serving.store import ServingLog; log = ServingLog({str(tmp_path / 'serving.db')!r})"
        code = f"{opened}; {code}; log.close()"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    log.database.commit([{"id": "one", "at": 1}])
    with closing(sqlite3.connect(tmp_path / "serving.db")) as other: other.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the file changes
    log.database.commit([{"id": "two", "at": 2}])    # looks at the file first
    another("print(log.counts())")                   # comes and ends
    log.database.commit([{"id": "three", "at": 3}])
    assert another("print(log.counts()['predictions'])").strip() == "3"
    log.close()


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
            status, said = caller.send("GET", "/v2/health/ready")
            assert status == 503 and "full" in said["faults"]["store"] + said["faults"]["disk"], said
            assert caller.headers["retry-after"] == "1" and caller.send("GET", "/v2/health/live")[0] == 200
            disk.empty()
            assert react(kept[-1])[0] == 200 and caller.send("GET", "/v2/health/ready") == (200, {"ready": True})
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


QUICK = """
import sys
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.serving.server import run_server
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.core.serving.workers import WorkerRange
from mlops_lifecycle.serving import APP
if __name__ == "__main__":
    log = ServingLog(Workspace(load_settings().workspace_path).serving_db); log.close()
    port = int(sys.argv[sys.argv.index("--port") + 1])
    run_server(APP, "127.0.0.1", port, WorkerRange(1, 2, busy=0.2, rise=0.3, fall=0.8), log.database.file)
"""  # `mlops serve --workers 1:2`, less patient


class Steady:
    """Callers that note what each request got."""
    def __init__(self, port: int, callers: int, pause: float):
        self.pause, self.stopped, self.got = pause, threading.Event(), []
        self.threads = [threading.Thread(target=self.call, args=(port,)) for _ in range(callers)]
        for thread in self.threads: thread.start()

    def call(self, port: int) -> None:
        caller = Caller(port)
        while not self.stopped.wait(self.pause):
            try: status, told = caller.send("POST", "/v1/predict", BODY)
            except Exception as error: status, told = repr(error), {}
            self.got.append((status, told.get("prediction_id")))

    def stop(self) -> list:
        self.stopped.set()
        for thread in self.threads: thread.join()
        return self.got


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_workers_come_and_go_with_the_load_and_each_request_is_answered_once(served, tmp_path, request, store):
    more = {}
    if store == "postgresql":
        more["MLOPS_DATABASE"] = new_database(request.getfixturevalue("database"), "come and go")
        deploy_into(more["MLOPS_DATABASE"], served.workspace.root)
    script = tmp_path / "quick.py"
    script.write_text(QUICK)
    server = served(before=[sys.executable, script], **more)
    def comes_true(holds):
        until = time.monotonic() + 120
        while not holds():
            assert server.process.poll() is None and time.monotonic() < until, server.log.read_text()[-3000:]
            time.sleep(0.05)
    def said(words): return server.log.read_text().count(words)
    first, = server.workers()
    few = Steady(server.port, callers=2, pause=0.1)
    many = Steady(server.port, callers=6, pause=0)
    comes_true(lambda: said("answers, one of 2"))
    got = many.stop()
    comes_true(lambda: said("has ended (exit code"))  # while some still ask
    got += few.stop()
    assert [worker.pid for worker in server.workers()] == [first.pid]
    assert {status for status, _ in got} == {200}
    log = ServingLog(more.get("MLOPS_DATABASE", served.workspace.serving_db))
    stored = log.frames()[0]["id"].tolist(); log.close()
    assert sorted(stored) == sorted(id for _, id in got)
    figures = Path(first.environ()["PROMETHEUS_MULTIPROC_DIR"])
    def counted():
        caller = Caller(server.port)
        caller.send("GET", "/v2/health/live"); caller.connection.request("GET", "/metrics")
        text = caller.connection.getresponse().read().decode()
        return float(re.search(r'mlops_requests_total{route="/v1/predict",status="200"} (.*)', text)[1])
    assert counted() == len(got)  # also those of the one that left
    assert [said(words) for words in (": 1 used", ": 2 used")] == [1, 1]
    if store == "sqlite":  # one that died is replaced, whatever the store
        first.kill()
        comes_true(lambda: said("has ended (exit code -9)") and server.ready())
        assert first.pid not in [worker.pid for worker in server.workers()] and counted() == len(got)
    assert {file.name for file in figures.glob("counter_*.db")} == {"counter_0.db", "counter_1.db"}  # however many came and went
    assert server.stop() in (0, -signal.SIGTERM)


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


TENSORS = [{"name": name, "datatype": {str: "BYTES", int: "INT64", float: "FP64"}[type(value)], "shape": [1], "data": [value]}
           for name, value in GOOD.items() if value is not None]
ROUTES = [
    ("POST", "/v1/predict", GOOD), ("POST", "/v1/predict/batch", {"requests": [GOOD]}),
    ("POST", "/v1/feedback", {"prediction_id": "{id}", "reaction": REACTION}), ("GET", "/v1/predictions/{id}", None),
    ("GET", "/v1/predictions/{id}?explain=true", None), ("GET", "/v1/reviews", None),
    ("POST", "/v1/reviews/{id}", {"decision": 1}), ("POST", "/v1/admin/deploy", {"release": f"rule-{problem.rule.version}"}),
    ("POST", "/v1/admin/promote", {}), ("POST", "/v1/admin/rollback", {}),
    ("POST", f"/v2/models/{problem.name}/infer", {"inputs": TENSORS})]


def asked(api, id) -> dict[str, httpx.Response]:
    """The answer of each route that needs the store."""
    def send(method, path, body):
        return api.request(method, path.replace("{id}", id), content=None if body is None else json.dumps(body).replace("{id}", id),
                           headers={"content-type": "application/json"})
    return {path: send(method, path, body) for method, path, body in ROUTES}


def all_refused(api, id, part="store", words="") -> None:
    """503 in the contract's form on each route, and the probe says what is broken."""
    for path, answer in asked(api, id).items():
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1", (path, answer.text)
        assert list(answer.json()) == (["error"] if path.startswith("/v2") else ["detail"]), (path, answer.text)
    said = api.get("/v2/health/ready")
    assert said.status_code == 503 and said.headers["retry-after"] and words in said.json()["faults"][part], said.text
    assert api.get("/v2/health/live").status_code == 200


def all_answered(api, id) -> None:
    statuses = {path: answer.status_code for path, answer in asked(api, id).items()}
    assert set(statuses.values()) <= {200, 409}, statuses  # no canary to promote, nothing to go back to
    assert statuses["/v1/predict"] == statuses["/v1/predictions/{id}"] == 200
    assert api.get("/v2/health/ready").json() == {"ready": True}


def in_place(content):
    """Another content of the file, which the app holds open."""
    return lambda path: path.write_bytes(content(path.read_bytes()))


def replaced(content):
    """Another file under its name."""
    def put(path): (path.parent / "other").write_bytes(content); (path.parent / "other").replace(path)
    return put


BROKEN = {
    "gone": (lambda path: path.unlink(), "serving.db is gone"),
    "an empty file in its place": (replaced(b""), "no such table"),
    "no database in its place": (replaced(b"no database " * 999), "not a database"),
    "emptied": (in_place(lambda content: b""), "cut off"),
    "cut off": (in_place(lambda content: content[:8192]), "cut off"),
    "overwritten": (in_place(lambda content: b"no database " * 9999), "overwritten"),
}


@pytest.fixture(scope="module")
def open_app(tmp_path_factory):
    """An app on a file, a client, and a prediction of it."""
    workspace = trial_workspace(tmp_path_factory.mktemp("broken") / "w", problem, plan.model_dump(mode="json"))
    with on_loopback(create_app(load_settings(environ={}), workspace)) as (port, _):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
            yield api, workspace.serving_db, api.post("/v1/predict", json=GOOD).json()["prediction_id"]


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_broken_is_503_on_each_route_until_it_is_put_back(open_app, tmp_path, how):
    api, path, id = open_app
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(tmp_path / "backup")) as backup:
        source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        source.backup(backup)
    breaks, words = BROKEN[how]
    breaks(path)
    all_refused(api, id, "store", words)
    for beside in ("-wal", "-shm"): path.with_name(path.name + beside).unlink(missing_ok=True)
    (tmp_path / "backup").replace(path)
    all_answered(api, id)


def test_a_server_that_is_gone_is_503_on_each_route_while_serving_and_at_the_start(tmp_path, database, monkeypatch):
    """An app that starts without its log asks for keys as soon as it knows whether there are any."""
    workspace = trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    deploy_into(database, tmp_path / "w")
    monkeypatch.setenv("MLOPS_DATABASE", database)
    def client(port): return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    with on_loopback(create_app(load_settings(environ={}), workspace)) as (port, _), client(port) as api:
        id = api.post("/v1/predict", json=GOOD).json()["prediction_id"]
        database.stop()
        away = True
        try:
            all_refused(api, id)
            with on_loopback(create_app(load_settings(environ={}), workspace)) as (second, _), client(second) as late:
                all_refused(late, id)
                assert "127.0.0.1" not in late.get("/v2/health/ready").text  # nobody learns where the database is
                database.start()
                away = False
                until = time.monotonic() + 20
                while late.get("/v2/health/ready").status_code != 200 and time.monotonic() < until: time.sleep(0.05)
                all_answered(late, id)
        finally:
            if away: database.start()
        all_answered(api, id)


def test_a_database_without_a_table_or_for_reading_only_is_not_ready_until_it_is_mended(tmp_path, database, monkeypatch):
    """Other faults of a server than that it is away."""
    workspace = trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    url = new_database(database, "mended")
    deploy_into(url, tmp_path / "w")
    monkeypatch.setenv("MLOPS_DATABASE", url)
    def run(*commands):
        with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as link:
            for command in commands: link.execute(command)
    hang_up = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'mended'"
    def lock(value): run(f"alter database mended set default_transaction_read_only = {value}", hang_up)
    def rename(old, new):
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as link: link.execute(f"alter table {old} rename to {new}")
    faults = {"read-only": (lambda: lock("on"), lambda: lock("off")),
              "no table": (lambda: rename("predictions", "other"), lambda: rename("other", "predictions"))}
    with on_loopback(create_app(load_settings(environ={}), workspace)) as (port, _):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
            for name, (breaks, mends) in faults.items():
                breaks()
                refused, said = api.post("/v1/predict", json=GOOD), api.get("/v2/health/ready")
                assert (refused.status_code, list(refused.json())) == (503, ["detail"]), (name, refused.text)
                assert said.status_code == 503 and "store" in said.json()["faults"], (name, said.text)
                mends()
                assert api.get("/v2/health/ready").status_code == api.post("/v1/predict", json=GOOD).status_code == 200, name


def test_an_app_starts_beside_a_broken_file_and_serves_when_it_is_put_back(tmp_path):
    workspace = trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    path = workspace.serving_db
    shutil.copy(path, tmp_path / "backup")
    path.write_bytes(b"no database " * 999)
    with on_loopback(create_app(load_settings(environ={}), workspace)) as (port, _):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
            all_refused(api, "0" * 32, words="not a database")
            (tmp_path / "backup").replace(path)
            until = time.monotonic() + 20
            while api.get("/v2/health/ready").status_code != 200 and time.monotonic() < until: time.sleep(0.05)
            all_answered(api, api.post("/v1/predict", json=GOOD).json()["prediction_id"])


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_a_lost_pseudonym_key_is_503_and_never_made_anew_where_it_was_used(tmp_path, request, monkeypatch, store):
    """Gone, cut off and unreadable; put back, the same person has the same pseudonym again."""
    workspace = trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    if store == "postgresql":
        database = request.getfixturevalue("database")
        deploy_into(database, tmp_path / "w")
        monkeypatch.setenv("MLOPS_DATABASE", database)
    key, personal = workspace.pseudonyms.path, GOOD | {problem.personal[0]: example_of(problem.Request)[problem.personal[0]]}
    def app(): return create_app(load_settings(environ={}), Workspace(tmp_path / "w"))
    with on_loopback(app()) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
        assert api.post("/v1/predict", json=personal).status_code == 200
    content = key.read_bytes()
    def gone(): key.unlink()
    def cut(): key.write_bytes(content[:7])
    def unreadable(): key.unlink(missing_ok=True); key.mkdir()  # for root, too
    with on_loopback(app()) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
        for breaks in (gone, cut, unreadable):
            breaks()
            refused = api.post("/v1/predict", json=personal)
            assert refused.status_code == 503 and "pseudonym key" in refused.json()["detail"][0]["message"]
            said = api.get("/v2/health/ready")
            assert said.status_code == 503 and key.name in said.json()["faults"]["pseudonym key"]
        key.rmdir()
        done = CliRunner().invoke(command_line, ["score", str(requests_file(tmp_path, personal)), str(tmp_path / "scores.csv")],
                                  env={"MLOPS_WORKSPACE": str(tmp_path / "w")})
        assert done.exit_code == 1 and not key.exists()
        assert done.stderr.count("\n") == 1 and str(key) in done.stderr and "put it back from the backup" in done.stderr
        key.write_bytes(content)
        assert api.get("/v2/health/ready").json() == {"ready": True}
        told = api.post("/v1/predict", json=personal).json()["prediction_id"]
    log = ServingLog(workspace.serving_db)
    assert log.predictions.get(told)["request"][problem.personal[0]] == workspace.pseudonyms(personal[problem.personal[0]])
    log.close()


def requests_file(folder, row) -> Path:
    (folder / "requests.jsonl").write_text(json.dumps(row) + "\n")
    return folder / "requests.jsonl"


def test_the_probe_names_a_full_disk_and_a_release_that_cannot_be_loaded(tmp_path, monkeypatch):
    """A release that cannot be loaded leaves the one before it serving, and ready; where there is none, it is not."""
    from mlops_lifecycle.core.serving import predictor, readiness
    monkeypatch.setattr(predictor.Memory, "AGAIN", 0.0)
    workspace = trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    rule = workspace.releases / f"rule-{problem.rule.version}"
    with on_loopback(create_app(load_settings(environ={}), workspace)) as (port, _):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
            log = ServingLog(workspace.serving_db)
            put_in_slots(log, canary="model-lost", share=0.5)
            until = time.monotonic() + 20
            while "faults" not in api.get("/v2/health/ready").json() and time.monotonic() < until: time.sleep(0.05)
            said = api.get("/v2/health/ready")
            assert (said.status_code, said.json()) == (200, {
                "ready": True, "faults": {"release": "a deployed release cannot be loaded"}})
            assert "model-lost" in api.get("/v1/model").json()["fault"] and api.post("/v1/predict", json=GOOD).status_code == 200
            put_in_slots(log, canary=None, share=0.0); log.close()
            monkeypatch.setattr(readiness, "ROOM", 1 << 62)
            said = api.get("/v2/health/ready")
            assert said.status_code == 503 and said.json()["faults"]["disk"] == "the disk of the serving log is full"
            monkeypatch.undo(); monkeypatch.setattr(predictor.Memory, "AGAIN", 0.0)
    rule.rename(tmp_path / "archived")
    with on_loopback(create_app(load_settings(environ={}), workspace)) as (port, _):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
            said, refused = api.get("/v2/health/ready"), api.post("/v1/predict", json=GOOD)
            assert (said.status_code, refused.status_code) == (503, 503) and "cannot be loaded" in said.json()["faults"]["release"]
            assert refused.json()["detail"][0]["message"] == "what is deployed cannot be loaded"
            (tmp_path / "archived").rename(rule)
            until = time.monotonic() + 20
            while api.get("/v2/health/ready").status_code != 200 and time.monotonic() < until: time.sleep(0.05)
            assert api.post("/v1/predict", json=GOOD).status_code == 200


def test_what_fails_unexpectedly_has_the_contracts_form_and_an_archived_release_explains_nothing(tmp_path, monkeypatch):
    workspace = trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    app = create_app(load_settings(environ={}), workspace)
    with on_loopback(app) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
        row = dict(kind="model", release="model-archived", model="m", version="1", arm="stable", score=0.5, decision=1,
                   threshold=0.5, review=False, warnings=[], request={}, features={})
        id = app.serving.log.predictions.append(datetime.now(UTC), **row)
        told, explained = (api.get(f"/v1/predictions/{id}{more}") for more in ("", "?explain=true"))
        assert (told.status_code, explained.status_code) == (200, 409) and "archived" in explained.json()["detail"][0]["message"]
        def breaks(*_): raise KeyError("R0001")
        monkeypatch.setattr(app.serving.log.predictions, "get", breaks)
        failed = api.get(f"/v1/predictions/{id}")
        assert failed.status_code == 500 and list(failed.json()) == ["detail"] and "R0001" not in failed.text
