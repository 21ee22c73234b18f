"""The table of limits: for each row, a caller at the limit is served, and one beyond it gets what the row says.

A new row without an entry in BEYOND fails, and so does an entry whose row is gone.
"""
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import numpy as np
import pandas as pd
import pytest
from test_http import GOOD, PLAIN, RULE, add_model, settings, trial, with_
from test_wire import answers, chunked, request, sent, wire
from typer.testing import CliRunner
from under_load import postgresql
from slots import put_in_slots

from mlops_lifecycle.cli import app as command_line
from mlops_lifecycle.core.foundation.settings import ServingSettings
from mlops_lifecycle.core.serving import readiness, server, store
from mlops_lifecycle.core.serving.auth import make_key
from mlops_lifecycle.core.serving.limits import CLOSED, limits_of
from mlops_lifecycle.core.serving.server import PatientProtocol, served
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.serving import create_app
from mlops_lifecycle.transform import FEATURES


class Hasty(PatientProtocol): PATIENCE = 0.8


SMALL = dict(max_body_bytes=20_000, body_timeout_seconds=1.2, max_batch=5, max_concurrent_requests=3, requests_a_second=4,
             decision_limit_ms=150, retention_days=5)
LIMITS = {limit.name: limit for limit in limits_of(settings(**SMALL).serving, Hasty)}
BEYOND = {}  # by name of a limit: asks at the limit, and beyond it; the status and the message of the last answer


def beyond(name, setting=""):
    """The entry of a limit; one of the settings has the name of its meaning."""
    def note(ask): BEYOND[ServingSettings.meaning(setting) + name if setting else name] = ask; return ask
    return note


class Api:
    """An app that is served, asked over a connection of its own each time."""
    def __init__(self, workspace, own=None, **options):
        self.workspace, self.app = workspace, create_app(own or settings(**SMALL), workspace)
        self.running = served(self.app, **{"http": Hasty} | options)
        self.port, self.server = self.running.__enter__()
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self): self.running.__exit__(None, None, None)

    def ask(self, content=PLAIN, path="/v1/predict", method="POST", **headers):
        named = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        with httpx.Client(trust_env=False, timeout=30) as client:
            return client.request(method, self.url + path, content=content, headers=named)

    def get(self, path, **headers): return self.ask(b"", path, "GET", **headers)
    def post(self, path, content, **headers): return self.ask(json.dumps(content).encode(), path, **headers)


@pytest.fixture(scope="module")
def rule(tmp_path_factory):
    """The app on the rule."""
    with closing(Api(trial(tmp_path_factory.mktemp("limits")))) as api: yield api


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The app on a model that looks values up."""
    workspace = trial(tmp_path_factory.mktemp("model"))
    log = ServingLog(workspace.serving_db); put_in_slots(log, stable=add_model(workspace)); log.close()
    with closing(Api(workspace)) as api: yield api


@pytest.fixture
def here(request, tmp_path, monkeypatch):
    """What an entry may need: the two apps, a place for one of its own, and patches."""
    return SimpleNamespace(get=request.getfixturevalue, folder=tmp_path, patch=monkeypatch)


def told(answer) -> tuple[int, str]:
    """The status of a refusal and its message, in either form."""
    content = answer.json()
    return answer.status_code, content["error"] if "error" in content else content["detail"][0]["message"]


def on_wire(port, *pieces, pause=0.0) -> tuple[int | None, str]:
    """The same of the last answer to bytes, until the connection is closed."""
    with wire(port) as connection:
        for piece in pieces: connection.sendall(piece); time.sleep(pause)
        found = b""
        while piece := connection.recv(65_536): found += piece
    if not found: return None, CLOSED
    head, _, content = found.rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")
    return int(head[:3]), json.loads(content)["detail"][0]["message"]


@pytest.mark.parametrize("name", LIMITS)
def test_a_caller_beyond_a_limit_gets_what_the_table_says(here, name):
    assert BEYOND[name](LIMITS[name], here) == (LIMITS[name].status, LIMITS[name].says)


def test_every_limit_is_in_the_table_and_each_row_has_its_test():
    """A number in [serving] is a limit that callers meet, but for the one that staging holds the app to."""
    assert set(BEYOND) == set(LIMITS)
    numbers = {f"[serving] {name}" for name in ServingSettings.model_fields if ServingSettings.unit(name)}
    assert numbers - {"[serving] latency_limit_ms"} == {limit.where for limit in LIMITS.values()} - {"fixed"}


def test_the_settings_help_has_unit_and_range_of_each_limit_and_the_fixed_ones():
    help_ = json.loads(CliRunner().invoke(command_line, ["settings", "serving", "--json"]).stdout)
    rows = {f"[{row['section']}] {row['name']}": row for row in help_["settings"]}
    every = limits_of(settings().serving)
    for limit in every:
        if limit.where == "fixed": continue
        row = rows[limit.where]
        low, _, high = row["allowed"].removesuffix(f" {limit.unit}").partition(" to ")
        assert float(low.replace(",", "")) <= row["value"] == limit.value <= float(high.replace(",", "")), row
    assert [fixed["name"] for fixed in help_["fixed"]] == [limit.name for limit in every if limit.where == "fixed"]


# The settings

@beyond("", "max_body_bytes")
def _(limit, here):
    api = here.get("rule")
    assert api.ask(PLAIN + b" " * (limit.value - len(PLAIN))).status_code == 200
    return told(api.ask(PLAIN + b" " * (limit.value + 1 - len(PLAIN))))


@beyond("", "body_timeout_seconds")
def _(limit, here):
    """It may be longer than a header may take: the connection waits with the app."""
    api, head = here.get("rule"), request(body=PLAIN)[:-len(PLAIN)]
    assert limit.value > Hasty.PATIENCE
    with wire(api.port) as connection:
        connection.sendall(head); time.sleep(limit.value - 0.2); connection.sendall(PLAIN)
        assert connection.recv(12) == b"HTTP/1.1 200"
    return on_wire(api.port, head)


@beyond("", "max_batch")
def _(limit, here):
    rows = [GOOD] * limit.value
    assert here.get("rule").post("/v1/predict/batch", {"requests": rows}).status_code == 200
    return told(here.get("rule").post("/v1/predict/batch", {"requests": [*rows, GOOD]}))


@beyond(", as tensors", "max_batch")
def _(limit, here):
    kinds = {str: "BYTES", int: "INT64", float: "FP64"}
    def asked(n):
        return here.get("rule").post(f"/v2/models/{problem.name}/infer", {"inputs": [
            {"name": name, "datatype": kinds[type(value)], "shape": [n], "data": [value] * n} for name, value in GOOD.items()]})
    assert asked(limit.value).status_code == 200
    return told(asked(limit.value + 1))


@contextmanager
def held(api):
    """The log writes nothing, as long as the block lasts."""
    database, free = api.app.serving.log.database, threading.Event()
    commit = database.commit
    database.commit = lambda writes: free.wait(60) and commit(writes)
    try: yield
    finally: free.set(); database.commit = commit


@beyond("", "max_concurrent_requests")
def _(limit, here):
    api = here.get("rule")
    with ThreadPoolExecutor(limit.value) as crowd:
        with held(api):
            asked = [crowd.submit(api.ask) for _ in range(limit.value)]
            while api.app.inside < limit.value: time.sleep(0.01)
            refused = told(api.ask())
        assert [one.result().status_code for one in asked] == [200] * limit.value
    return refused


@beyond("", "requests_a_second")
def _(limit, here):
    workspace = trial(here.folder)
    log = ServingLog(workspace.serving_db)
    key = {"authorization": f"Bearer {make_key(log, 'a shop', ['predict'])}"}; log.close()
    with closing(Api(workspace)) as api, httpx.Client(base_url=api.url, headers=key, trust_env=False) as client:
        asked = [client.get("/v1/model") for _ in range(int(limit.value) + 3)]
    assert {answer.status_code for answer in asked[:int(limit.value)]} == {200}
    return told(next(answer for answer in asked if answer.status_code != 200))


class Slow:
    """An estimator that takes its time."""
    def __init__(self, seconds): self.seconds = seconds
    def predict_proba(self, matrix): time.sleep(self.seconds); return np.array([[0.5, 0.5]])


@beyond("", "decision_limit_ms")
def _(limit, here):
    api = here.get("model")
    memory = api.app.serving.memory
    before = memory.slots
    def deciding(seconds):
        release = replace(before.stable, trees=None, estimator=Slow(seconds), encoder=before.stable.encoder)
        release.__dict__.pop("scorer", None)
        memory.slots = replace(before, stable=release)
        return api.ask().json()
    try:
        assert deciding(limit.value / 1e3 / 5)["model"] == "small"
        late = deciding(limit.value / 1e3 * 2)
    finally: memory.slots = before
    assert late["model"] == "rule"
    return 200, late["warnings"][-1]


@beyond("", "fallback_after_ages")
def _(limit, here):
    """`add_model` feeds every lookup up to the 20th."""
    api, newest = here.get("model"), pd.Timestamp("2013-07-20", tz="UTC")
    longest = pd.Timedelta(int(min(v.longest for v in FEATURES.limited)), "us")
    def after(age): return api.ask(with_(scheduled_departure=(newest + age + pd.Timedelta(3, "h")).isoformat())).json()
    assert after(limit.value * longest - pd.Timedelta(1, "min"))["model"] == "small"
    too_old = after(limit.value * longest + pd.Timedelta(1, "min"))
    assert too_old["model"] == "rule"
    return 200, too_old["warnings"][-1]


@beyond("", "retention_days")
def _(limit, here):
    workspace, now = trial(here.folder), datetime.now(UTC)
    log = ServingLog(workspace.serving_db)
    for name, days in (("a", limit.value + 2), ("b", limit.value - 2)):
        log.predictions.append(now - timedelta(days=days), id=name * 32, score=0.5, decision=1, kind="rule", release=RULE,
                               model="m", version="1", arm="stable", threshold=0.5, review=False, warnings=[], request={}, features={})
    log.close()
    own = settings(**SMALL).model_copy(update={"source": {}})  # nobody collects this log
    with closing(Api(workspace, own)) as api:
        until = time.monotonic() + 20
        while (old := api.get(f"/v1/predictions/{'a' * 32}")).status_code == 200 and time.monotonic() < until: time.sleep(0.02)
        assert api.get(f"/v1/predictions/{'b' * 32}").status_code == 200
    return told(old)


# The connection

@beyond("size of a request beside its body")
def _(limit, here):
    port = here.get("rule").port
    def padded(n):
        asked = request(b"GET", b"/v2/health/live", b"", b"host: 127.0.0.1", b"connection: close", b"x-padding: ")
        return asked.replace(b"x-padding: ", b"x-padding: " + b"a" * (n - len(asked)))
    assert len(padded(limit.value)) == limit.value and sent(port, padded(limit.value)) == [200]
    trailers = [b"x-%d: %s" % (n, b"t" * 1_000) for n in range(limit.value // 1_000 + Hasty.PIECE // 1_000)]
    assert sent(port, chunked(b"/v1/predict", PLAIN, *trailers))[-1:] in ([431], [])
    return on_wire(port, padded(limit.value + Hasty.PIECE))


@beyond(next(name for name in LIMITS if name.startswith("how often each of these headers")))
def _(limit, here):
    port = here.get("rule").port
    for name in limit.name.rpartition(": ")[2].split(", "):
        fields = [b"host: 127.0.0.1", b"content-type: application/json", f"{name}: a".encode(), f"{name.upper()}: b".encode()]
        status, message = on_wire(port, request(b"POST", b"/v1/predict", PLAIN, *fields))
        assert message == f"the header {name} came twice", name
    return status, message.replace(name, "NAME")


@beyond("time until the header is complete")
def _(limit, here):
    port = here.get("rule").port
    with wire(port) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: 127.0"); time.sleep(limit.value - 0.3)
        connection.sendall(b".0.1\r\nconnection: close\r\n\r\n")
        assert answers(connection) == [200]
    started, found = time.monotonic(), on_wire(port, b"GET /v2/health/live HTTP/1.1\r\nhost: 127")
    assert limit.value - 0.1 < time.monotonic() - started < limit.value + 2
    return found


@beyond("time until a body is complete that no route reads")
def _(limit, here):
    head = b"GET /v2/health/live HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\n\r\nhalf"
    started = time.monotonic()
    with wire(here.get("rule").port) as connection:
        connection.sendall(head)
        assert answers(connection) == [200]  # which come until it is closed
    assert limit.value - 0.1 < time.monotonic() - started < limit.value + 2
    return None, CLOSED


def idle(connection) -> None:
    """Ask and read the answer; the connection stays open."""
    connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def configured(name):
    return getattr(server.server_config("x:y", log_config=None), name)


@beyond("time between two requests of a connection")
def _(limit, here):
    assert configured("timeout_keep_alive") == limit.value
    with closing(Api(trial(here.folder), timeout_keep_alive=0.4)) as api, wire(api.port) as connection:
        idle(connection); time.sleep(0.2); idle(connection)
        assert connection.recv(1) == b""  # 0.4 seconds later
    return None, CLOSED


@beyond("time for another request when the server ends")
def _(limit, here):
    with closing(Api(trial(here.folder))) as api, wire(api.port) as early, wire(api.port) as late:
        idle(early); idle(late)
        api.server.should_exit = True
        time.sleep(0.25)  # it has begun to end
        idle(early)
        started = time.monotonic()
        assert late.recv(1) == b"" and time.monotonic() - started < limit.value
    return None, CLOSED


@beyond("time for an answer when the server ends")
def _(limit, here):
    assert configured("timeout_graceful_shutdown") == limit.value
    api = Api(trial(here.folder), timeout_graceful_shutdown=0.3)
    with ThreadPoolExecutor(2) as crowd:
        with held(api):
            asked = crowd.submit(api.ask)
            while not api.app.inside: time.sleep(0.01)
            api.server.should_exit = True
            ended = asked.result()
        api.close()
    return told(ended)


@beyond("connections that wait to be accepted")
def _(limit, here):
    assert configured("backlog") == limit.value
    with closing(Api(trial(here.folder), backlog=1)) as api:
        async def hangs(asked): time.sleep(1.2)
        api.app.quick["GET", "/hangs"] = hangs
        with ThreadPoolExecutor(1) as crowd:
            crowd.submit(api.get, "/hangs"); time.sleep(0.2)  # the loop accepts nothing now
            waiting = []
            with pytest.raises(TimeoutError):
                for _ in range(6): waiting.append(socket.create_connection(("127.0.0.1", api.port), timeout=0.3))
        assert waiting
        for connection in waiting: connection.close()
        assert api.ask().status_code == 200
    return None, limit.says


# What a request holds

@beyond("lists and objects inside of each other")
def _(limit, here):
    def nested(n): return told(here.get("rule").ask(b'{"carrier": ' + b"[" * (n - 1) + b"]" * (n - 1) + b"}"))
    assert nested(limit.value)[0] == 422 and nested(limit.value)[1] != limit.says
    texts = b'{"carrier": "' + b"[{" * 500 + b'"}'  # a text is not nested
    assert told(here.get("rule").ask(texts))[1] != limit.says
    rows = [PLAIN, b"[" * 5_000 + b"]" * 5_000, b"[" * 5_000]
    in_batch = here.get("rule").ask(b'{"requests": [' + b",".join(rows[:2]) + b"]}", "/v1/predict/batch").json()["answers"]
    assert "prediction_id" in in_batch[0] and in_batch[1]["detail"][0]["message"] == limit.says
    return nested(limit.value + 1)


@beyond("a whole number")
def _(limit, here):
    def long(n): return told(here.get("rule").ask(PLAIN.replace(b"9001", b"9" * n)))
    assert long(limit.value)[0] == 422 and long(limit.value)[1] != limit.says
    return long(limit.value + 1)


@beyond("name of a field that an answer repeats")
def _(limit, here):
    def named(n): return here.get("rule").ask(with_(**{"a" * n: 1})).json()["detail"][0]["field"]
    assert named(limit.value) == "a" * limit.value and named(limit.value + 1) is None
    return 422, limit.says


@beyond("Idempotency-Key")
def _(limit, here):
    assert here.get("rule").ask(idempotency_key="k" * limit.value).status_code == 200
    return told(here.get("rule").ask(idempotency_key="k" * (limit.value + 1)))


@beyond("X-Request-Id")
def _(limit, here):
    def given(id): return here.get("rule").ask(x_request_id=id)
    own, other = given("r" * limit.value), given("r" * (limit.value + 1))
    assert own.headers["x-request-id"] == "r" * limit.value and len(other.headers["x-request-id"]) == 32
    return other.status_code, limit.says


@beyond("id of a prediction, in a path")
def _(limit, here):
    id = here.get("rule").ask().json()["prediction_id"]
    assert len(id) == limit.value and here.get("rule").get(f"/v1/predictions/{id}").status_code == 200
    assert told(here.get("rule").post(f"/v1/reviews/{id}0", {"decision": 1})) == (limit.status, limit.says)
    return told(here.get("rule").get(f"/v1/predictions/{id}0"))


@beyond("id of a prediction, in feedback")
def _(limit, here):
    id = here.get("rule").ask().json()["prediction_id"]
    def react(id): return here.get("rule").post("/v1/feedback", {"prediction_id": id, "reaction": "late"})
    assert react(id).status_code == 200
    return told(react(id + "0"))


@beyond("id of a release")
def _(limit, here):
    def deploy(n): return told(here.get("rule").post("/v1/admin/deploy", {"release": "r" * n}))
    assert deploy(limit.value)[0] == 404
    return deploy(limit.value + 1)


@beyond("reviews that are listed at once")
def _(limit, here):
    assert here.get("rule").get(f"/v1/reviews?limit={limit.value}").status_code == 200
    return told(here.get("rule").get(f"/v1/reviews?limit={limit.value + 1}"))


@beyond("time for the log while another writes")
def _(limit, here):
    """A fiftieth of the time here; below, the same on PostgreSQL."""
    real, waits = store.sqlite3.connect, set()
    def connect(*words, timeout=5.0, **more): waits.add(timeout); return real(*words, timeout=timeout / 50, **more)
    here.patch.setattr(store.sqlite3, "connect", connect)
    with closing(Api(trial(here.folder))) as api, closing(real(api.workspace.serving_db, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = told(api.ask())
        other.execute("ROLLBACK")
        assert waits == {limit.value} and api.ask().status_code == 200
    return refused


def test_a_log_on_postgresql_that_another_locks_is_waited_for_as_long(tmp_path, monkeypatch):
    import sqlalchemy as sa
    limit = LIMITS["time for the log while another writes"]
    with postgresql() as database:
        monkeypatch.setenv("MLOPS_DATABASE", database)
        with closing(Api(trial(tmp_path))) as api:
            log = api.app.serving.log.database
            with log.read() as connection:
                assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == f"{limit.value:g}s"
            def hurry(connection, _): connection.execute("SET lock_timeout = 100"); connection.commit()
            sa.event.listen(log.engine, "connect", hurry)
            log.engine.dispose()
            other = sa.create_engine(log.engine.url)
            with other.connect() as connection, connection.begin():
                connection.exec_driver_sql("LOCK TABLE predictions IN EXCLUSIVE MODE")
                assert told(api.ask()) == (limit.status, limit.says)
            other.dispose()
            assert api.ask().status_code == 200


@beyond("room on the disk of the log that readiness asks for")
def _(limit, here):
    api = here.get("rule")
    assert readiness.ROOM == limit.value and api.get("/v2/health/ready").status_code == 200
    here.patch.setattr(readiness, "ROOM", 1 << 62)
    return told(api.get("/v2/health/ready"))


@beyond("keys whose looked-up values a worker remembers")
def _(limit, here):
    api = here.get("model")
    online = api.app.serving.memory.online
    first = api.ask().json()
    assert online.MOST == limit.value and len(online.found) > 1
    here.patch.setattr(type(online), "MOST", 1)
    again = api.ask(with_(tail_number="N54321")), api.ask()
    assert [answer.json()["score"] for answer in again][1] == first["score"] and len(online.found) == 1
    return again[1].status_code, limit.says
