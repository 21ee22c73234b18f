"""The API over a real connection: what clients really send, and an app that lives on."""
import contextlib
import json
import socket
import threading
import time

import httpx
import pytest
import uvicorn

from mlops_lifecycle.core.settings import load_settings
from mlops_lifecycle.formulate import example_of, problem
from mlops_lifecycle.plan import plan
from mlops_lifecycle.serving import create_app, trial_workspace

GOOD = example_of(problem.Request)
SECRET = "N0SECRET"


@contextlib.contextmanager
def served(app):
    """The app behind a real socket on loopback, and a client."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True); thread.start()
        while not server.started: time.sleep(0.02)
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=30) as client: yield client
        server.should_exit = True; thread.join()


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The project's app with the rule deployed, in a workspace of its own."""
    workspace = trial_workspace(tmp_path_factory.mktemp("api"), problem, plan.model_dump(mode="json"))
    with served(create_app(load_settings(environ={"MLOPS_SETTINGS": "", "MLOPS_SERVING__MAX_BODY_BYTES": "20000"}), workspace)) as client: yield client


def ask(api, content, kind="application/json") -> httpx.Response:
    return api.post("/v1/predict", content=content, headers={"content-type": kind})


def with_(**changes) -> bytes:
    return json.dumps(GOOD | changes).encode()


def without(name) -> bytes:
    return json.dumps({k: v for k, v in GOOD.items() if k != name}).encode()


PLAIN = with_()
BAD = {
    "NaN": (PLAIN.replace(b'"distance": 1400.0', b'"distance": NaN'), 422, "distance"),
    "Infinity": (PLAIN.replace(b'"distance": 1400.0', b'"distance": -Infinity'), 422, "distance"),
    "1e999": (PLAIN.replace(b'"distance": 1400.0', b'"distance": 1e999'), 422, "distance"),
    "a lone surrogate": (PLAIN.replace(b'"UA"', b'"\\ud800A"'), 422, "carrier"),
    "a lone surrogate in a field of its own": (PLAIN.replace(b"{", b'{"note": "\\udfff", ', 1), 422, "note"),
    "a 20-digit integer": (with_(flight=10**20), 422, "flight"),
    "a 5,000-digit integer": (PLAIN.replace(b"1545", b"9" * 5_000), 422, None),
    "text for a number": (with_(distance="1.5"), 422, "distance"),
    "true for a number": (with_(flight=True), 422, "flight"),
    "a fraction for an integer": (with_(flight=1.5), 422, "flight"),
    "null for a required field": (with_(carrier=None), 422, "carrier"),
    "a missing field": (without("origin"), 422, "origin"),
    "an extra field": (with_(colour="red"), 422, "colour"),
    "a time without an offset": (with_(scheduled_departure="2013-07-01T05:45:00"), 422, "scheduled_departure"),
    "a number for a time": (with_(scheduled_departure=1372657500), 422, "scheduled_departure"),
    "the year 1": (with_(scheduled_departure="0001-01-01T00:00:00+14:00"), 422, "scheduled_departure"),
    "a secret in the wrong place": (with_(carrier=SECRET), 422, "carrier"),
    "duplicate keys": (PLAIN.replace(b"{", b'{"flight": 1, ', 1), 422, "flight"),
    "nesting 9,000 deep": (b'{"carrier": ' + b"[" * 9_000 + b"]" * 9_000 + b"}", 422, None),
    "a list": (b"[]", 422, None),
    "nothing": (b"", 422, None),
    "trailing junk": (PLAIN + b" junk", 422, None),
    "bad UTF-8": (PLAIN.replace(b"UA", b"\xff\xfe"), 400, None),
    "a body too large": (with_(note="x" * 30_000), 413, None),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_by_name_and_the_app_lives_on(api, name):
    content, status, field = BAD[name]
    answer = ask(api, content)
    assert answer.status_code == status
    assert field is None or field in {e["field"].split(".")[0] for e in answer.json()["detail"]}
    assert SECRET not in answer.text and "Traceback" not in answer.text
    assert ask(api, PLAIN).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
def test_another_content_type_is_415(api, kind):
    assert ask(api, PLAIN, kind).status_code == 415


def test_a_chunked_body_is_cut_off_at_the_limit(api):
    sent = []

    def pieces():
        for _ in range(10_000):
            sent.append(1)
            yield b" " * 10_000

    with contextlib.suppress(httpx.WriteError): assert ask(api, pieces()).status_code == 413
    assert len(sent) < 10_000
    assert ask(api, PLAIN).status_code == 200


def test_feedback_unknown_repeated_contradicting(api):
    told = ask(api, PLAIN).json()
    react = lambda reaction, id=told["prediction_id"]: api.post("/v1/feedback", json={"prediction_id": id, "reaction": reaction})
    first, again = react("late"), react("late")
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    assert react("on_time").status_code == 409
    assert react("late", "0" * 32).status_code == 404
    assert react("late", "../x").status_code == react("exploded").status_code == 422
    assert react("helped").json()["label"] is None


def test_unknown_routes_methods_and_odd_paths(api):
    assert api.get("/v1/predict").status_code == 405
    assert {api.get(path).status_code for path in ("/v1/nothing", "/v2/models/..%2Fx", "/docs/assets/..%2f..%2fsettings.ini")} == {404}


def test_a_category_never_seen_is_answered(api):
    assert ask(api, with_(destination="XXX")).status_code == 200


def test_the_contract_has_every_route_and_status(api):
    document = api.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/feedback", "/v1/model", "/v2/health/live", "/v2/health/ready"} <= set(document["paths"])
    assert {"200", "413", "415", "422", "503"} <= set(document["paths"]["/v1/predict"]["post"]["responses"])
    assert {"404", "409"} <= set(document["paths"]["/v1/feedback"]["post"]["responses"])


def test_metrics_count_what_was_refused(api):
    assert ask(api, b"[]").status_code == 422
    assert 'mlops_requests_total{route="/v1/predict",status="422"}' in api.get("/metrics").text


def test_nothing_is_acknowledged_when_the_log_cannot_be_written(tmp_path):
    workspace = trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    with served(create_app(load_settings(), workspace)) as api:
        told = ask(api, PLAIN).json()
        away = tmp_path / "away"
        workspace.serving_db.rename(away)
        lost = ask(api, PLAIN)
        assert (lost.status_code, lost.headers["retry-after"]) == (503, "1")
        assert api.post("/v1/feedback", json={"prediction_id": told["prediction_id"], "reaction": "late"}).status_code == 503
        assert api.get("/v2/health/live").status_code == 200
        away.rename(workspace.serving_db)
        assert ask(api, PLAIN).status_code == 200
        predictions, feedback = api_log(workspace)
    assert len(predictions) == 2 and not len(feedback)


def api_log(workspace):
    from mlops_lifecycle.core.log import ServingLog
    log = ServingLog(workspace.serving_db)
    try: return log.frames()
    finally: log.close()


def test_two_broken_releases_are_503_and_not_500(tmp_path):
    from dataclasses import replace
    app = create_app(load_settings(), trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json")))
    with served(app) as api:
        assert ask(api, PLAIN).status_code == 200
        serving = app.state.serving
        serving.slots = replace(serving.slots, canary=serving.slots.stable, share=1.0)
        serving.decide = lambda *_: 1 / 0
        assert ask(api, PLAIN).status_code == 503
        del serving.decide
        assert ask(api, PLAIN).status_code == 200
