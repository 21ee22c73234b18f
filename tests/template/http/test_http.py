"""The API over a real connection: what clients really send, the answer each gets, and an app that lives on.

Every row of the second table of bad inputs has its test here; what needs killed processes or a held-up disk stands in
test_serving_faults.py.
"""
import contextlib
import hmac
import json
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from helpers import ROOT, environment, passed
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner
from slots import put_in_slots

from mlops_lifecycle.core.serving import auth as keys
from mlops_lifecycle.cli import app as command_line
from mlops_lifecycle.core.serving.middleware import PROBES
from mlops_lifecycle.core.models.features import Encoder, row_of
from mlops_lifecycle.core.serving.ledger import Act, Change, Record
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.core.models.release import write_release
from mlops_lifecycle.core.serving.server import PatientProtocol
from mlops_lifecycle.core.serving.server import served as on_loopback
from mlops_lifecycle.core.data.readers import texts_of
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.problem.definition import example_of
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.plan import plan
from mlops_lifecycle.core.serving.predictor import columns_for, features_for, trial_workspace
from mlops_lifecycle.serving import create_app
from mlops_lifecycle.staging import artificial
from mlops_lifecycle.transform import FEATURES

GOOD = example_of(problem.Request)
SECRET = "N0SECRET"


@contextlib.contextmanager
def served(app, **options):
    """The app behind a real socket on loopback, and a client."""
    with on_loopback(app, **options) as (port, _):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client: yield client


def settings(**serving):
    """The project's settings with other limits."""
    return load_settings(environ={f"MLOPS_SERVING__{name.upper()}": str(value) for name, value in serving.items()})


def trial(folder) -> Workspace:
    """A workspace in which the project's rule serves."""
    return trial_workspace(folder, problem, plan.model_dump(mode="json"))


def feed(workspace, times) -> None:
    """Lookups that live at these times, whatever the key: what nothing is known of is decided by the rule."""
    log = ServingLog(workspace.serving_db)
    for lookup in FEATURES.lookups:
        keys = {name: "?" for name in lookup.key}
        log.lookups.put(lookup, pd.DataFrame([keys | {"known_at": time} for time in times]).reindex(
            columns=[*lookup.key, "known_at", *lookup.values]))
    log.close()


def add_model(workspace, fed=True, **manifest) -> str:
    """Release a small model of the project's features, learned from artificial requests; its id."""
    requests, log = artificial(problem.Request, 60), ServingLog(workspace.root / "aside.db")
    if fed: feed(workspace, pd.date_range("2013-06-30", "2013-07-20", freq="1h", tz="UTC"))
    at = np.datetime64("2013-06-01", "us")
    asked = [problem.Request.model_validate_json(json.dumps(request)) for request in requests]
    rows = [columns_for(problem, entity, workspace, at)[1] for entity in asked]
    frame = pd.DataFrame([features_for(FEATURES, row, log.lookups, at) for row in rows]); log.close()
    from sklearn.ensemble import HistGradientBoostingClassifier
    encoder = Encoder.fit(frame, FEATURES.features)
    matrix = encoder.encode({n: frame[n].to_numpy(object) for n in frame})
    matrix[0, np.isnan(matrix).all(axis=0)] = 0.0  # scikit-learn wants a value in each column
    matrix[1, np.isnan(matrix[1:]).all(axis=0)] = 1.0
    model = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5, random_state=0).fit(matrix, [0, 1] * 30)
    made = {"kind": "model", "name": "small", "as_of": "2013-06-01", "threshold": 0.5,
            "encoder": encoder.to_dict(), "features": FEATURES.describe()} | manifest
    return write_release(workspace.releases, made, {}, model).name


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The project's app with the rule deployed, in a workspace of its own."""
    workspace = trial(tmp_path_factory.mktemp("api"))
    with served(create_app(settings(max_body_bytes=300_000, max_batch=20), workspace)) as client:
        client.workspace = workspace
        yield client


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
    "NUL": (PLAIN.replace(b'"UA"', b'"\\u0000A"'), 422, "carrier"),
    "a lone surrogate in a field of its own": (PLAIN.replace(b"{", b'{"note": "\\udfff", ', 1), 422, "note"),
    "a 20-digit integer": (with_(flight=10**20), 422, "flight"),
    "a 5,000-digit integer": (PLAIN.replace(b"9001", b"9" * 5_000), 422, None),
    "text for a number": (with_(distance="1.5"), 422, "distance"),
    "true for a number": (with_(flight=True), 422, "flight"),
    "a fraction for an integer": (with_(flight=1.5), 422, "flight"),
    "null for a required field": (with_(carrier=None), 422, "carrier"),
    "a missing field": (without("origin"), 422, "origin"),
    "an extra field": (with_(colour="red"), 422, "colour"),
    "a time without an offset": (with_(scheduled_departure="2013-07-01T05:45:00"), 422, "scheduled_departure"),
    "a number for a time": (with_(scheduled_departure=1372657500), 422, "scheduled_departure"),
    # kind 2: a time is RFC 3339 with a zone, and digits are no seconds since 1970
    **{f"the time {text}": (with_(scheduled_departure=text), 422, "scheduled_departure") for text in (
        "20130708", "201307080545", "1373276700", "1373276700.5", "2013-07-08", "05:45", "now", "20130708T054500Z",
        " 2013-07-08T05:45:00Z", "2013-07-08T05:45:00Z\n", "2013-07-08T24:00:00Z", "2013-W28-1T05:45:00Z", "08/07/2013 05:45")},
    "the year 1": (with_(scheduled_departure="0001-01-01T00:00:00+14:00"), 422, "scheduled_departure"),
    "a secret in the wrong place": (with_(carrier=SECRET), 422, "carrier"),
    "duplicate keys": (PLAIN.replace(b"{", b'{"flight": 1, ', 1), 422, "flight"),
    "nesting 100,000 deep": (b'{"carrier": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422, None),
    "a list": (b"[]", 422, None),
    "nothing": (b"", 422, None),
    "trailing junk": (PLAIN + b" junk", 422, None),
    "bad UTF-8": (PLAIN.replace(b"UA", b"\xff\xfe"), 400, None),
    "a body too large": (with_(note="x" * 300_001), 413, None),
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


def test_feedback_unknown_repeated_contradicting(api):
    told = ask(api, PLAIN).json()
    def react(reaction, id=told["prediction_id"]):
        return api.post("/v1/feedback", json={"prediction_id": id, "reaction": reaction})
    first, again = react("late"), react("late")
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    assert react("on_time").status_code == 409
    assert react("late", "0" * 32).status_code == 404
    assert react("late", "../x").status_code == react("exploded").status_code == 422
    assert react("helped").json()["label"] is None


def test_unknown_routes_methods_and_odd_paths(api):
    assert api.get("/v1/predict").status_code == 405
    paths = "/v1/nothing", "/v2/models/..%2Fx", "/docs/assets/..%2f..%2fsettings.ini"
    assert {api.get(path).status_code for path in paths} == {404}


VERBS = "approve", "reject", "clear", "deploy", "promote", "hold", "rollback", "releases"  # of operators


def test_the_contract_has_every_route_and_status(api):
    document = api.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/predict/batch", "/v1/feedback", "/v1/model", "/v1/predictions/{prediction_id}",
            "/v1/reviews", "/v2/health/live", *(f"/v1/admin/{verb}" for verb in VERBS),
            "/v2/health/ready", "/v2/models/{name}/infer"} <= set(document["paths"])
    assert {"200", "413", "415", "422", "503"} <= set(document["paths"]["/v1/predict"]["post"]["responses"])
    assert {"404", "409"} <= set(document["paths"]["/v1/feedback"]["post"]["responses"])


def test_the_contract_says_what_is_allowed_and_its_examples_are_nobodys(api, flights):
    """A field has a meaning, and limits or a list of values, each of which is answered. No example is a flight that was."""
    schema = api.get("/openapi.json").json()["components"]["schemas"]["Request"]
    limits = {"minimum", "maximum", "pattern", "enum", "format"}
    for name, field in schema["properties"].items():
        there = {*field, *(limit for one in field.get("anyOf", ()) for limit in one)}
        assert field["description"] and limits & there, name
        for value in field.get("enum", ()): assert ask(api, with_(**{name: value})).status_code == 200
    assert schema["properties"]["origin"]["enum"] == sorted(flights.origin.unique())
    assert not set(map(str, schema["properties"]["flight"]["examples"])) & set(flights.flight)
    assert not set(schema["properties"]["tail_number"]["examples"]) & set(flights.tailnum.dropna())


def test_metrics_count_what_was_refused(api):
    assert ask(api, b"[]").status_code == 422
    assert 'mlops_requests_total{route="/v1/predict",status="422"}' in api.get("/metrics").text


def test_a_hundred_megabytes_are_refused_before_they_are_read(api):
    """Declared: at once. Chunked: at the first byte over the limit, however much is still to come.

    And a sender that goes on all the same gets rid of what sockets hold, not of a hundred megabytes.
    """
    head = b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    chunk = b"186a0\r\n" + b" " * 100_000 + b"\r\n"
    def connected(): return socket.create_connection((api.base_url.host, api.base_url.port), timeout=30)
    with connected() as wire:
        wire.sendall(head + b"content-length: 100000000\r\n\r\n")
        assert wire.recv(12) == b"HTTP/1.1 413"
    with connected() as wire:
        wire.sendall(head + b"transfer-encoding: chunked\r\n\r\n" + 3 * chunk)  # as much as is allowed, and no end
        wire.settimeout(0.5)
        with pytest.raises(TimeoutError): wire.recv(12)
        wire.settimeout(30); wire.sendall(b"1\r\n \r\n")
        assert wire.recv(12) == b"HTTP/1.1 413"
    with connected() as wire:
        wire.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(200): wire.sendall(chunk)  # twenty megabytes
    assert ask(api, PLAIN).status_code == 200


def test_who_is_slow_is_not_waited_for(tmp_path):
    class Hasty(PatientProtocol): PATIENCE = 1.0

    with served(create_app(settings(body_timeout_seconds=0.3), trial(tmp_path)), http=Hasty) as api:
        def said(content):
            with socket.create_connection((api.base_url.host, api.base_url.port), timeout=30) as wire:
                wire.sendall(content)
                return b"".join(iter(lambda: wire.recv(65_536), b""))
        assert said(b"POST /v1/predict HTTP/1.1\r\nhost: 127").startswith(b"HTTP/1.1 408")  # a header that does not end
        assert said(b"").startswith(b"HTTP/1.1 408")                                        # nothing at all
        head = b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        slow = said(head + b"content-length: 90\r\n\r\n{")                                  # a body that does not end
        assert slow.startswith(b"HTTP/1.1 408") and b"within 0.3 seconds" in slow
        assert ask(api, PLAIN).status_code == 200


def test_a_batch_of_none_too_many_and_with_one_bad_row(api):
    def batch(content): return api.post("/v1/predict/batch", json=content)
    def many(rows): return batch({"requests": rows})
    assert [many(rows).status_code for rows in ([], [GOOD] * 21, "all")] == [422, 413, 422]
    assert batch([GOOD]).status_code == 422
    answers = many([GOOD, GOOD | {"carrier": SECRET}, GOOD]).json()["answers"]
    assert [set(a) == {"detail"} for a in answers] == [False, True, False]
    assert answers[1]["detail"][0]["field"] == "carrier" and SECRET not in json.dumps(answers)
    for id in (answers[n]["prediction_id"] for n in (0, 2)):
        assert api.get(f"/v1/predictions/{id}").json()["prediction_id"] == id


ROWS = {name: BAD[name] for name in BAD if name not in ("nothing", "trailing junk", "bad UTF-8", "a body too large")} | {
    "a number": (b"7", 422, None), "no row": (b"null", 422, None)}


def test_one_bad_row_of_a_batch_is_its_own_error(api):
    """Whatever is wrong with it: it is refused like a single request, and its neighbours are answered."""
    before = len(stored(api.workspace))
    for name, (bad, _, field) in ROWS.items():
        answer = in_batch(api, PLAIN, bad, PLAIN)
        assert answer.status_code == 200, name
        first, wrong, last = answer.json()["answers"]
        assert first["score"] == last["score"] and list(wrong) == ["detail"], name
        assert wrong == ask(api, bad).json() and (field is None or field in wrong["detail"][0]["field"]), name
    assert len(stored(api.workspace)) == before + 2 * len(ROWS)


def test_a_batch_that_is_not_json_is_refused_as_a_whole(api):
    """At the character at which a reader of JSON stops; nothing of it is stored."""
    before = len(stored(api.workspace))
    for bad in (b"", b"{", b"}", b"]", b'{"carrier": tru}', b'{"carrier" "UA"}', PLAIN + b" junk", b'"', PLAIN + b"]}", b"{} {}"):
        answer = in_batch(api, PLAIN, bad)
        with pytest.raises(json.JSONDecodeError) as stops: json.loads(b'{"requests": [' + PLAIN + b"," + bad + b"]}")
        assert answer.status_code == 422 and answer.json()["detail"][0]["message"].endswith(f"at character {stops.value.pos}"), bad
    for whole in (b"[]", b"7", b'{"requests": [], "more": 1}', b'{"requests": [{}], "requests": [{}]}', b"{}", b'{"requests": {}}'):
        answer = api.post("/v1/predict/batch", content=whole, headers={"content-type": "application/json"})
        assert answer.status_code == 422 and answer.json()["detail"], whole
    assert len(stored(api.workspace)) == before


def in_batch(api, *rows) -> httpx.Response:
    content = b'{"requests": [' + b",".join(rows) + b"]}"
    return api.post("/v1/predict/batch", content=content, headers={"content-type": "application/json"})


def test_in_a_crowd_everybody_gets_the_answer_to_what_was_asked(api):
    """Requests of one instant go through together: nobody gets another's answer, or pays for what is wrong with it."""
    def asks(n):
        departs = f"2013-07-01T{n % 24:02}:30:00-04:00"
        return GOOD | {"flight": 1 + n, "scheduled_departure": departs} | ({"origin": "SFO"} if n % 10 == 3 else {})
    asked = [asks(n) for n in range(120)]
    for n in range(9, 120, 10): asked[n] = asked[n - 1]  # the same again, under the same name
    names = [{"idempotency-key": f"crowd-{n // 10}"} if n % 10 > 7 else {} for n in range(120)]
    def post(row, name): return api.post("/v1/predict", json=row, headers=name)
    with ThreadPoolExecutor(16) as crowd: told = list(crowd.map(post, asked, names))
    assert [a.status_code for a in told] == [422 if row["origin"] == "SFO" else 200 for row in asked]
    for sent, answer in zip(asked, told):
        if answer.status_code == 422: continue
        kept = api.get(f"/v1/predictions/{answer.json()['prediction_id']}").json()
        row = row_of(problem.Request.model_validate_json(json.dumps(sent)), problem.zone)
        assert kept["features"]["flight"] == row["flight"]
        assert answer.json()["score"] == kept["score"] == float(problem.rule.score(row))
    assert len({a.json()["prediction_id"] for a in told if a.status_code == 200}) == 120 - 12 - 12


def test_a_category_never_seen_is_answered_with_a_warning_and_counted(tmp_path):
    workspace = trial(tmp_path)
    log = ServingLog(workspace.serving_db); put_in_slots(log, stable=add_model(workspace)); log.close()
    with served(create_app(settings(), workspace)) as api:
        told = ask(api, with_(destination="XXX")).json()
        assert told["model"] == "small" and told["review"] and any('"destination"' in w for w in told["warnings"])
        assert 'mlops_unknown_categories_total{feature="destination"} 1.0' in api.get("/metrics").text
        assert [w["prediction_id"] for w in api.get("/v1/reviews").json()["waiting"]] == [told["prediction_id"]]


def test_what_lies_outside_of_the_scope_is_422_with_the_reason(api):
    """Alone, and in a batch beside a row that is answered; nothing is stored of it."""
    before, outside = len(stored(api.workspace)), GOOD | {"origin": "SFO"}
    refused = ask(api, json.dumps(outside).encode())
    assert refused.status_code == 422 and problem.scope[0].says in refused.json()["detail"][0]["message"]
    answers = api.post("/v1/predict/batch", json={"requests": [outside, GOOD]}).json()["answers"]
    assert answers[0] == refused.json() and answers[1]["prediction_id"]
    assert len(stored(api.workspace)) == before + 1


def test_the_app_starts_without_what_only_training_needs():
    """Scikit-learn and SciPy's statistics cost a second and a hundred megabytes each worker."""
    heavy = "sklearn", "scipy", "skops", "mlflow", "matplotlib", "great_expectations"
    code = (f"import sys; from mlops_lifecycle import serving, transform; "
            f"print(*{{m.split('.')[0] for m in sys.modules}} & {set(heavy)!r})")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert passed(done).stdout.split() == []


def test_unknown_models_and_versions_are_404(api):
    own = f"models/{problem.name}/versions"
    for path in ("models/others", "models/..%2Fx", f"{own}/9", f"{own}/..%2F..%2Fx", f"{own}/9/ready"):
        assert api.get(f"/v2/{path}").status_code == 404, path
    assert api.post("/v2/models/others/infer", json={"inputs": []}).status_code == 404
    names = "../x", "..", "model-x", ".hidden"
    assert {api.post("/v1/admin/deploy", json={"release": name}).status_code for name in names} == {404}


def test_more_load_than_it_can_carry(tmp_path):
    """With the log held up, requests gather inside; from the limit on they are sent away, but no probe. Then all is well."""
    app = create_app(settings(max_concurrent_requests=5), trial(tmp_path))
    with served(app) as api, ThreadPoolExecutor(30) as crowd:
        assert ask(api, PLAIN).status_code == 200
        commit, free = app.serving.log.database.commit, threading.Event()
        app.serving.log.database.commit = lambda writes: free.wait(60) and commit(writes)
        asked = [crowd.submit(ask, api, PLAIN) for _ in range(30)]
        while sum(a.done() for a in asked) < 25: time.sleep(0.01)
        assert (api.get("/v2/health/live").status_code, api.get("/v2/health/ready").status_code) == (200, 200)
        free.set()
        answers = [a.result() for a in asked]
        refused = [a for a in answers if a.status_code == 503]
        assert len(refused) == 25 and {a.status_code for a in answers} == {200, 503}
        assert all(a.headers["retry-after"] == "1" for a in refused)
        assert ask(api, PLAIN).status_code == 200


def test_a_full_disk_a_locked_and_a_vanished_log_are_503_and_recover(tmp_path):
    """Nothing is acknowledged that is not stored, and nothing has to be restarted."""
    workspace = trial(tmp_path / "w")
    app = create_app(settings(), workspace)
    app.serving.log.database.engine.dispose()
    with served(app) as api:
        kept = [ask(api, PLAIN).json()["prediction_id"]]
        refuses = lambda: (answer := ask(api, PLAIN)).status_code == 503 and answer.headers["retry-after"] == "1"
        react = lambda: api.post("/v1/feedback", json={"prediction_id": kept[0], "reaction": "late"})

        def pages(most):
            with app.serving.log.database.engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA max_page_count = {most}")
        pages(1)  # as small as it is: SQLITE_FULL
        while (answer := ask(api, PLAIN)).status_code == 200: kept.append(answer.json()["prediction_id"])
        assert refuses() and api.get("/v2/health/live").status_code == 200
        pages(1_000_000)
        kept.append(ask(api, PLAIN).json()["prediction_id"])

        with contextlib.closing(sqlite3.connect(workspace.serving_db, isolation_level=None)) as other:
            with app.serving.log.database.engine.connect() as connection: connection.exec_driver_sql("PRAGMA busy_timeout = 50")
            other.execute("BEGIN IMMEDIATE")
            assert refuses() and react().status_code == 503
            other.execute("ROLLBACK")
        kept.append(ask(api, PLAIN).json()["prediction_id"])

        away = tmp_path / "away"
        workspace.serving_db.rename(away)
        assert refuses() and react().status_code == 503
        assert (api.get("/v2/health/live").status_code, api.get("/v2/health/ready").status_code) == (200, 503)
        away.rename(workspace.serving_db)
        kept.append(ask(api, PLAIN).json()["prediction_id"])
        assert react().status_code == 200
    log = ServingLog(workspace.serving_db)
    predictions, feedback = log.frames(); log.close()
    assert sorted(predictions["id"]) == sorted(kept) and len(feedback) == 1


def test_no_key_a_wrong_one_and_a_clients_one_on_an_admin_route(tmp_path, monkeypatch):
    """401, 401 and 403. Whoever guesses learns nothing from the time it takes: the same is compared, near or far."""
    workspace = trial(tmp_path)
    log = ServingLog(workspace.serving_db)
    client, admin = ({"authorization": f"Bearer {keys.make_key(log, name, [name])}"} for name in ("predict", "admin"))
    log.close()
    compared = []
    def compare(a, b): compared.append((len(a), len(b))); return hmac_digest(a, b)
    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    with served(create_app(settings(requests_a_second=5), workspace)) as api:
        def send(path, **headers):
            return api.post(path, content=PLAIN, headers={"content-type": "application/json"} | headers)
        strangers = {}, {"authorization": "Bearer mlops_00000000_x"}, {"authorization": client["authorization"] + "x"}
        assert [send("/v1/predict", **headers).status_code for headers in strangers] == [401] * 3
        assert send("/v1/admin/rollback", **client).status_code == 403
        assert len(set(compared)) == 1 and len(compared) == 4
        assert send("/v1/predict").headers["www-authenticate"] == "Bearer"
        assert api.post("/v1/admin/promote", json={}, headers=admin).status_code == 409
        assert send("/v1/predict", **admin).status_code == 403
        many = [send("/v1/predict", **client) for _ in range(12)]
        assert {answer.status_code for answer in many} == {200, 429}
        assert all(answer.headers["retry-after"] == "1" for answer in many if answer.status_code == 429)
        infer = f"/v2/models/{problem.name}/infer"  # the same refusals in the protocol's form
        asked = [send(infer), send(infer, **admin), *(send(infer, **client) for _ in range(12))]
        assert {401, 403, 429} <= {answer.status_code for answer in asked}
        assert all(set(answer.json()) == {"error"} for answer in asked if answer.status_code in (401, 403, 429))
        assert api.get("/v2/health/ready").status_code == 200 and api.get("/docs").status_code == 200
        assert api.get("/v1/model", headers={"host": "evil.example"}).status_code == 401


hmac_digest = hmac.compare_digest


def test_without_a_key_only_this_machine_may_ask(api):
    assert ask(api, PLAIN).status_code == 200
    strangers = [{"host": "evil.example"}, {"x-forwarded-for": "10.1.2.3"}, {"forwarded": "for=10.1.2.3"}]
    kind = {"content-type": "application/json"}
    assert {api.post("/v1/predict", content=PLAIN, headers=kind | more).status_code for more in strangers} == {401}


def test_every_answer_is_careful_and_can_be_traced(api):
    """Headers that tell a browser to be careful, on answers of every kind; no other origin is let in; ids go round."""
    for path in ("/", "/docs", "/openapi.json", "/v1/model", "/v1/nothing", "/metrics", "/v2/health/live"):
        headers = api.get(path, headers={"origin": "https://evil.example"}).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY", path
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert "access-control-allow-origin" not in headers and "server" not in headers, path
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert api.options("/v1/predict", headers=preflight).status_code in (401, 405)
    assert api.get("/v1/model", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert len(api.get("/v1/model", headers={"x-request-id": "not an id"}).headers["x-request-id"]) == 32


def test_a_retried_predict_is_one_prediction(api):
    """Eight tries of one request at once, as a client with a bad network sends them."""
    before = len(stored(api.workspace))
    def order(body, name="order-1"):
        return api.post("/v1/predict", content=body, headers={"content-type": "application/json", "idempotency-key": name})
    with ThreadPoolExecutor(8) as pool: answers = [told.json() for told in pool.map(order, [PLAIN] * 8)]
    assert all(a == answers[0] for a in answers) and len(stored(api.workspace)) == before + 1
    assert order(with_(distance=1.0)).status_code == 409
    assert {order(PLAIN, wrong).status_code for wrong in ("", "a b", "x" * 101)} == {422}  # a name that is no name


def stored(workspace) -> list[str]:
    """The ids of the predictions in the log."""
    log = ServingLog(workspace.serving_db)
    try: return log.frames()[0]["id"].tolist()
    finally: log.close()


def test_a_new_release_is_taken_in_without_a_failed_request(tmp_path):
    workspace = trial(tmp_path)
    model = add_model(workspace)
    with served(create_app(settings(), workspace)) as api, ThreadPoolExecutor(4) as pool:
        stop, answers = threading.Event(), []

        def asking():
            with httpx.Client(base_url=api.base_url, trust_env=False, timeout=30) as own:
                while not stop.is_set(): answers.append(ask(own, PLAIN))
        crowd = [pool.submit(asking) for _ in range(3)]
        refused = api.post("/v1/admin/deploy", json={"release": model})
        assert refused.status_code == 409 and "allowed now: approve, reject" in refused.text
        assert api.post("/v1/admin/approve", json={"release": model, "reason": "a test"}).status_code == 200
        assert api.post("/v1/admin/deploy", json={"release": model}).json()["canary"] == model
        now = {"generation": 3, "stable": model, "canary": None, "share": 0.0, "step": 0, "held": ""}
        assert api.post("/v1/admin/promote", json={}).status_code == 409  # there is no evidence
        assert api.post("/v1/admin/promote", json={"force": True, "reason": "a test"}).json() == now
        until = time.monotonic() + 30
        while answers[-1:] and answers[-1].json().get("model") != "small" and time.monotonic() < until: time.sleep(0.02)
        stop.set(); [c.result() for c in crowd]
        assert {a.status_code for a in answers} == {200}
        assert {a.json()["model"] for a in answers} == {problem.rule.name, "small"}
        assert api.post("/v1/admin/rollback").json()["stable"] == "rule-" + problem.rule.version
        again = api.post("/v1/admin/deploy", json={"release": model})
        assert again.status_code == 409 and "is rejected by somebody on this machine" in again.text
        rows = api.get("/v1/admin/releases").json()["releases"]
        assert {row["release"]: row["state"] for row in rows} == {model: "rejected", "rule-" + problem.rule.version: "stable"}
        assert api.post("/v1/admin/rollback").status_code == 409


def test_the_rule_takes_over_when_the_model_breaks_and_nobody_can_when_that_breaks_too(tmp_path):
    app = create_app(settings(), trial(tmp_path / "w"))
    with served(app) as api:
        assert ask(api, PLAIN).status_code == 200
        memory = app.serving.memory
        memory.slots = replace(memory.slots, stable=replace(memory.slots.stable, rule=lambda columns: 1 / 0))
        told = ask(api, PLAIN).json()
        assert (told["model"], told["review"]) == ("rule", True)
        memory.slots = replace(memory.slots, canary=memory.slots.stable, share=1.0)
        app.serving.decider.steps = (lambda *_: 1 / 0,)
        assert ask(api, PLAIN).status_code == 503
        del app.serving.decider.steps
        assert ask(api, PLAIN).status_code == 200


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """An app that asks for keys, of one who asks and reacts and of one who runs it; and a release and a prediction in it."""
    workspace = trial(tmp_path_factory.mktemp("keyed"))
    model, log = add_model(workspace), ServingLog(workspace.serving_db)
    def key(*scopes): return {"authorization": f"Bearer {keys.make_key(log, ' '.join(scopes), scopes)}"}
    caller, admin = key("predict", "feedback"), key("admin")
    log.close()
    with served(create_app(settings(requests_a_second=0), workspace)) as client:
        asked = client.post("/v1/predict", json=GOOD, headers=caller).json()["prediction_id"]
        client.there = {"name": problem.name, "prediction_id": asked, "release": model}
        client.key_for, client.workspace = lambda path: admin if "/admin/" in path else caller, workspace
        with contextlib.closing(ServingLog(workspace.serving_db)) as log:
            client.prepare = lambda path: into_state(log, model, path.rpartition("/")[2])
            yield client


def test_a_trial_is_answered_as_usual_and_becomes_nothing(keyed):
    """By a key of scope sandbox, by the header, and by the form: no evidence, no label, nothing to review."""
    log = ServingLog(keyed.workspace.serving_db)
    sandbox = {"authorization": f"Bearer {keys.make_key(log, 'a trial', ['sandbox'])}"}
    caller, before = keyed.key_for("/v1"), (log.written(), [len(table) for table in log.frames()], len(log.predictions.undecided()))
    def tried(headers): return keyed.post("/v1/predict", json=GOOD, headers=headers)
    until = time.monotonic() + 10
    while (asked := tried(sandbox)).status_code == 401 and time.monotonic() < until: time.sleep(0.05)  # until the key is known
    ids = [answer.json()["prediction_id"] for answer in (asked, tried(caller | {"x-mlops-sandbox": "yes"}))]
    assert set(asked.json()) == set(tried(caller).json())
    def react(id, headers): return keyed.post("/v1/feedback", json={"prediction_id": id, "reaction": "late"}, headers=headers)
    assert {react(id, sandbox).status_code for id in ids} == {200}
    real = keyed.there["prediction_id"]
    assert react(real, sandbox).status_code == 404 and keyed.get(f"/v1/predictions/{real}", headers=sandbox).status_code == 404
    assert keyed.get(f"/v1/predictions/{ids[-1]}", headers=sandbox).json()["asked"] == RULE
    assert {keyed.get(path, headers=sandbox).status_code for path in ("/v1/reviews", "/v1/admin/releases")} == {403}
    assert tried(caller | {"x-mlops-sandbox": "maybe"}).status_code == 422
    assert 'data-sandbox="yes"' in keyed.get("/").text
    written, rows, doubtful = before
    assert (log.written(), len(log.predictions.undecided())) == (written | {"predictions": written["predictions"] + 1}, doubtful)
    assert [len(table) for table in log.frames()] == [rows[0] + 1, rows[1]]  # the one by the caller
    log.close()


def into_state(log, model: str, verb: str) -> None:
    """The release where this verb of an operator is possible."""
    before = {"clear": ["reject"], "deploy": ["approve"], **dict.fromkeys(("promote", "hold", "rollback"), ["approve", "deploy"])}
    slots = {"clear": {"stable": RULE, "canary": None, "share": 0.0, "step": 0}, "deploy": {"canary": model}}
    changes = [Change(event, model, slots.get(event, {})) for event in ("clear", *before.get(verb, ()))]
    if verb == "promote": changes.append(Change("judge", model, act=Act("a test", evidence={"passed": True})))
    Record(log).write(Act("a test"), lambda now: changes)


def statuses(api, operation, mode: str) -> set[int]:
    """Ask one route for what schemathesis makes of the contract, hold each answer against it, and tell the statuses."""
    from hypothesis import HealthCheck, given
    from hypothesis import settings as effort
    from schemathesis import GenerationMode, checks
    key, told = api.key_for(operation.path)["authorization"], set()
    there = api.there | {"version": api.get("/v1/model", headers=api.key_for("/v1")).json()["version"]}
    hold = [checks.not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
            checks.response_schema_conformance]
    if operation.body and not operation.path.endswith("/batch"): hold.append(checks.negative_data_rejection)

    @effort(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=GenerationMode[mode]))
    def answers_as_promised(case):
        for asked in (case.path_parameters, case.body) if mode == "POSITIVE" else ():
            if isinstance(asked, dict): asked |= {name: value for name, value in there.items() if name in asked}
        if "Authorization" in case.headers: case.headers["Authorization"] = key
        if mode == "POSITIVE" and "/admin/" in operation.path: api.prepare(operation.path)
        answer = case.call(base_url=str(api.base_url).rstrip("/"))
        case.validate_response(answer, checks=hold)
        told.add(answer.status_code)
    answers_as_promised()
    return told


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_requests_made_from_the_contract_get_no_5xx_and_no_answer_outside_of_it(keyed, mode):
    """Right requests and wrong ones, to every route under its own key.

    Right ones ask for what there is, so that each route has its 200. No wrong body is taken for a right one, but that a
    batch answers its rows one by one.
    """
    import schemathesis
    document = schemathesis.openapi.from_dict(keyed.get("/openapi.json").json())
    operations = [found.ok() for found in document.get_all_operations()]
    for operation in operations:
        if mode == "NEGATIVE" and operation.path in ("/v2", *PROBES): continue  # they take nothing, not even a key
        told = statuses(keyed, operation, mode)
        assert told and (200 in told or mode == "NEGATIVE"), f"{operation.method} {operation.path}: {told}"
    assert len(operations) > 15


METHODS = "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"
QUERIES = "", "?explain=true", "?explain=maybe", "?limit=0", "?limit=2"
BODIES = (b"", b"{}", b"[]", b"\xff", b'{"a": 1, "a": 2}', b" " * 300_001)
BESIDE = ("/", "/docs", "/openapi.json", "/metrics", "/page.css", "/docs/assets/swagger-ui.css")  # routes that the contract leaves out
NOWHERE = (
    "/v1", "/v1/", "/v1/predict/", "/v1/nothing", "/v1//predict", "/v2/", "/v2/models", "/v2/models/", "/v2x", "/%00", "/%ff",
    "/..%2f..%2fetc", "/docs/", "/docs/assets/", "/docs/assets/..%2fsettings.ini", "/page.exe", "/v1/predictions", f"/{'a' * 3_000}")


@pytest.fixture(scope="module")
def archived(tmp_path_factory):
    """The app on the rule, with a prediction by a model that served before, and the folder of that model's release."""
    workspace = trial(tmp_path_factory.mktemp("archived"))
    model = add_model(workspace)
    with served(create_app(settings(max_body_bytes=300_000), workspace)) as client:
        client.log, client.folder = ServingLog(workspace.serving_db), workspace.releases / model
        by_model, by_rule = (serves(client, release) or ask(client, PLAIN).json() for release in (model, RULE))
        client.there = {
            "prediction_id": [by_model["prediction_id"], by_rule["prediction_id"], "0" * 32, "..%2Fx"],
            "name": [problem.name, "others", "..%2Fx"], "version": [by_rule["version"], "9", "..%2Fx"]}
        client.document = client.get("/openapi.json").json()
        yield client
        client.log.close()


RULE = f"rule-{problem.rule.version}"


def serves(api, release) -> None:
    """Deploy it, and wait until it serves alone."""
    wanted = put_in_slots(api.log, stable=release, canary=None, share=0.0).generation
    while api.get("/v1/model").json()["generation"] < wanted: time.sleep(0.02)


def everywhere(api):
    """Every path, method, query and body, with the statuses that the contract has for it; and what it leaves out."""
    for template, route in api.document["paths"].items():
        names = re.findall("{(.+?)}", template)
        paths = [template.format(**dict(zip(names, values))) for values in product(*(api.there[name] for name in names))]
        own = route.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        for path, method in product(paths, METHODS):
            if "%2F" in path: yield path, method, b"", {404}; continue
            known = route.get({"HEAD": "get"}.get(method, method.lower()))
            statuses = {int(status) for status in known["responses"]} if known else {405}
            for query in QUERIES if method == "GET" and known else ("",): yield path + query, method, b"", statuses
            for body in (*BODIES, json.dumps(own).encode()) if method == "POST" and known else (): yield path, method, body, statuses
    for path, method in product(BESIDE, METHODS): yield path, method, b"", {200 if method in ("GET", "HEAD") else 405}
    for path, method in product(NOWHERE, METHODS): yield path, method, b"", {404} if method in ("GET", "HEAD") else {404, 405}


def refuses_in_form(answer, path) -> bool:
    """The contract's errors; below /v2 the protocol's."""
    told = answer.json()
    if path == "/v2" or path.startswith("/v2/"): return list(told) == ["error"] and isinstance(told["error"], str)
    errors = told["detail"]
    return list(told) == ["detail"] and errors and all(set(e) == {"field", "message"} and e["message"] for e in errors)


@pytest.mark.parametrize("state", ["healthy", "a release is gone", "a release was changed"])
def test_every_answer_of_every_route_has_the_contracts_form(archived, state, tmp_path):
    """Right and wrong paths, methods, queries and bodies: a status that the contract names, and its body."""
    serves(archived, RULE)
    changed = archived.folder / "note.txt"
    if state == "a release is gone": archived.folder.rename(tmp_path / "away")
    if state == "a release was changed": changed.write_text("added by somebody")
    try:
        seen = set()
        for path, method, body, statuses in everywhere(archived):
            answer = archived.request(method, path, content=body, headers={"content-type": "application/json"})
            status, case = answer.status_code, (state, method, path[:100], body[:50], answer.status_code, answer.text[:300])
            assert status in statuses, case
            assert (status == 405) == ("allow" in answer.headers), case
            if method == "HEAD": assert not answer.content, case
            elif status >= 400: assert answer.headers["content-type"] == "application/json" and refuses_in_form(answer, path), case
            seen.add(status)
        assert seen >= {200, 400, 404, 405, 409, 413, 422}
        serves(archived, RULE)
        by_model = f"/v1/predictions/{archived.there['prediction_id'][0]}"
        explained = archived.get(by_model + "?explain=true")
        if state == "healthy": assert explained.json()["explanation"]
        else: assert explained.status_code == 409 and explained.json()["detail"][0]["field"] == "explain"
        assert archived.get(by_model).json()["explanation"] is None  # it can be read all the same
    finally:
        changed.unlink(missing_ok=True)
        if state == "a release is gone": (tmp_path / "away").rename(archived.folder)


def test_a_number_is_no_boolean_and_no_text(archived):
    """Wherever the contract asks for a number, or for one of listed numbers: the field is named, and nothing is stored."""
    document, id = archived.document, ask(archived, PLAIN).json()["prediction_id"]
    before, tried = archived.get("/v1/model").json(), []
    for template, route in document["paths"].items():
        content = route.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        schema = document["components"]["schemas"].get(content.get("schema", {}).get("$ref", "").rpartition("/")[2], {})
        for name, field in schema.get("properties", {}).items():
            kinds = {one.get("type") for one in (field, *field.get("anyOf", ()))}
            if not kinds & {"number", "integer"}: continue
            for wrong in ("true", "false", '"1"', "[1]", "1e999", "NaN", *(["2.5"] if "number" not in kinds else [])):
                body = json.dumps(content["example"] | {name: "?"}).replace('"?"', wrong)
                answer = archived.post(template.format(prediction_id=id), content=body, headers={"content-type": "application/json"})
                assert answer.status_code == 422 and answer.json()["detail"][0]["field"] == name, (template, name, wrong, answer.text)
            tried.append((template, name))
    assert {("/v1/reviews/{prediction_id}", "decision"), ("/v1/admin/deploy", "share"), ("/v1/admin/promote", "share")} < set(tried)
    assert archived.get("/v1/model").json() == before and not archived.get(f"/v1/predictions/{id}").json()["reactions"]
    assert archived.post(f"/v1/reviews/{id}", json={"decision": 1.0}).json()["reaction"] == "act"  # kind 4: 1.0 is 1


UTC_TIMES = pa.timestamp("us", "UTC")
FILES = {  # the column, and how a file may hold it as well
    "a dictionary": ("carrier", lambda column: column.dictionary_encode()),
    "large strings": ("origin", lambda column: column.cast(pa.large_string())),
    "decimals": ("distance", lambda column: column.cast(pa.decimal128(9, 2))),
    "whole numbers": ("distance", lambda column: column.cast(pa.int64())),
    "small numbers": ("flight", lambda column: column.cast(pa.int16())),
    "numbers": ("flight", lambda column: column.cast(pa.float64())),
    "integers as pandas writes them beside a gap": ("flight", lambda column: texts_of(column.cast(pa.float64()))),  # kind 4
    "times in UTC": ("scheduled_departure", lambda column: column.cast(UTC_TIMES)),
    "times of a place": ("scheduled_departure", lambda column: column.cast(pa.timestamp("ns", "America/New_York"))),
    "times of another place": ("scheduled_departure", lambda column: column.cast(pa.timestamp("s", "+05:30"))),
    "nothing": ("tail_number", lambda column: pa.nulls(len(column))),
    "no text": ("tail_number", lambda column: pa.nulls(len(column), pa.string())),
}
WRONG_FILES = {
    "nothing": ("carrier", lambda column: pa.nulls(len(column))),
    "no text": ("origin", lambda column: pa.nulls(len(column), pa.string())),
    "no numbers": ("distance", lambda column: pa.nulls(len(column), pa.float64())),
    "an empty dictionary": ("carrier", lambda column: pa.nulls(len(column), pa.string()).dictionary_encode()),
    "underscores": ("flight", lambda column: pa.array(["9_001"] * len(column))),  # kind 4
    "blanks": ("distance", lambda column: pa.array([" 1400.0"] * len(column))),  # kind 4
    "halves": ("flight", lambda column: pc.add(column.cast(pa.float64()), 0.5)),
    "truth": ("flight", lambda column: pc.greater(column, 1)),
    "no number": ("distance", lambda column: pa.array([np.nan] * len(column))),
    "times without a zone": ("scheduled_departure", lambda column: column.cast(UTC_TIMES).cast(pa.timestamp("us"))),
    "a day in digits": ("scheduled_departure", lambda column: pa.array(["20130708"] * len(column))),  # kind 2
    "seconds": ("scheduled_departure", lambda column: pa.array([1373276700] * len(column))),  # kind 2
    "lists": ("carrier", lambda column: pa.array([[value] for value in column.to_pylist()])),
    "bytes that are no text": ("carrier", lambda column: pa.array([b"\xff"] * len(column))),
}
ASKED = artificial(problem.Request, 12)


def in_file(file, column, held, suffix=".parquet"):
    """The requests in a file, one of their columns in another type; and the table."""
    table = pa.table({name: pa.array([row.get(name) for row in ASKED]) for name in problem.Request.model_fields})
    table = table.set_column(table.column_names.index(column), column, held(table[column].combine_chunks()))
    if suffix: pq.write_table(table, file.with_suffix(suffix))
    else: write_deltalake(file, table)
    return file.with_suffix(suffix), table


@pytest.fixture(scope="module")
def scoring(tmp_path_factory):
    """The app on a small model, and `mlops score` in the same workspace."""
    workspace = trial(tmp_path_factory.mktemp("scoring"))
    log = ServingLog(workspace.serving_db); put_in_slots(log, stable=add_model(workspace)); log.close()

    def score(file, *options):
        out = file.with_name("scores.parquet")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLOPS_WORKSPACE", str(workspace.root))
            return CliRunner().invoke(command_line, ["score", str(file), str(out), *options]), out
    with served(create_app(settings(), workspace)) as client:
        client.score, client.workspace = score, workspace
        yield client


def answers_to(scoring, table) -> pd.DataFrame:
    """What the app says to each row of a file, with a time as its text and a decimal as a number."""
    def plain(value):
        if hasattr(value, "isoformat"): return value.isoformat()
        return value if value is None or isinstance(value, str) else float(value)
    def as_json(row): return {name: plain(value) for name, value in row.items()} | {"flight": float(row["flight"])}
    rows = map(as_json, table.to_pylist())
    return pd.DataFrame([ask(scoring, json.dumps(row)).raise_for_status().json() for row in rows])


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_types_is_scored_as_the_app_answers(scoring, tmp_path, name):
    file, table = in_file(tmp_path / "asked", *FILES[name])
    done, out = scoring.score(file)
    assert done.exit_code == 0, done.stderr
    alone = answers_to(scoring, table)
    same = ["score", "decision", "threshold", "model", "version", "review"]
    pd.testing.assert_frame_equal(pd.read_parquet(out)[same], alone[same], check_exact=True)


def test_a_recorded_file_stands_in_the_log_as_the_app_would_have_stored_it(scoring, tmp_path):
    """Row for row, once however often it is recorded, and an outcome finds its decision."""
    file, table = in_file(tmp_path / "asked", *FILES["times in UTC"])
    with contextlib.closing(ServingLog(scoring.workspace.serving_db)) as log: now = put_in_slots(log, canary=RULE, share=0.5)
    until = time.monotonic() + 10
    while scoring.get("/v1/model").json()["generation"] != now.generation and time.monotonic() < until: time.sleep(0.02)
    (done, out), (again, _) = scoring.score(file, "--record"), scoring.score(file, "--record")
    assert f"{len(table)} decisions recorded" in done.stdout and "0 decisions recorded" in again.stdout, done.output
    scored, alone = pd.read_parquet(out), answers_to(scoring, table)
    with contextlib.closing(ServingLog(scoring.workspace.serving_db)) as log:
        rows = log.frames()[0].set_index("id")
        put_in_slots(log, canary=None, share=0.0)
    assert set(scored.arm) == {"stable", "canary"}
    by_file, by_app = (rows.loc[ids].reset_index(drop=True) for ids in (scored.prediction_id, alone.prediction_id))
    for features in (by_file.features, by_app.features): features.update(features.map(json.loads).map(str))
    other = ["at", "seconds", "warnings"]  # those of the app name each category
    pd.testing.assert_frame_equal(by_file.drop(columns=other), by_app.drop(columns=other))
    told = scoring.post("/v1/feedback", json={"prediction_id": scored.prediction_id[0], "reaction": "late"})
    assert told.status_code == 200


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_file_that_cannot_be_asked_is_refused_by_column(scoring, tmp_path, name):
    """In one line, with the column's name; nothing is written."""
    file, _ = in_file(tmp_path / "asked", *WRONG_FILES[name])
    done, out = scoring.score(file)
    assert (done.exit_code, done.stderr.count("\n"), out.exists()) == (1, 1, False)
    assert done.stderr.startswith("mlops: ") and WRONG_FILES[name][0] in done.stderr


def test_a_delta_table_is_asked_like_a_file(scoring, tmp_path):
    """A column without any value among its own types: missing, or refused."""
    for name in ("times of a place", "no text", "decimals"):
        file, table = in_file(tmp_path / name, *FILES[name], suffix="")
        done, out = scoring.score(file)
        assert done.exit_code == 0, done.stderr
        alone = answers_to(scoring, DeltaTable(file).to_pyarrow_table())
        assert pd.read_parquet(out).score.tolist() == alone.score.tolist()
    for name in ("no text", "no numbers", "lists"):
        file, _ = in_file(tmp_path / f"wrong {name}", *WRONG_FILES[name], suffix="")
        done, _ = scoring.score(file)
        assert done.exit_code == 1 and WRONG_FILES[name][0] in done.stderr and done.stderr.count("\n") == 1
