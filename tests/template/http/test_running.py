"""The app while it runs: what it tells of itself, and what it takes in without a restart."""
import io
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_http import GOOD, PLAIN, SECRET, add_model, ask, feed, served, settings, trial, with_
from under_load import new_database
from slots import put_in_slots

from mlops_lifecycle.core.serving import predictor as service
from mlops_lifecycle.core.serving import ledger
from mlops_lifecycle.core.serving.middleware import LOG, JsonLines
from mlops_lifecycle.core.serving.auth import make_key, revoke_key
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.core.models.release import sign
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.plan import plan
from mlops_lifecycle.core.serving.batch import requests_of, score_requests
from mlops_lifecycle.core.serving.predictor import trial_workspace
from mlops_lifecycle.serving import create_app
from mlops_lifecycle.transform import FEATURES

RULE = f"rule-{problem.rule.version}"


def families(api) -> list:
    """What /metrics tells, as a Prometheus server reads it; without the times since when each is counted."""
    told = text_string_to_metric_families(api.get("/metrics").raise_for_status().text)
    return [family for family in told if not family.name.endswith("_created")]


def figures(api) -> dict[str, float]:
    """Each sample under its name and labels: `mlops_score_count release=rule-1.0`."""
    def called(sample): return " ".join([sample.name, *(f"{k}={v}" for k, v in sample.labels.items())])
    return {called(sample): sample.value for family in families(api) for sample in family.samples}


def comes_true(holds) -> None:
    """Wait for what the app does by itself, a few times a second."""
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.02)


@contextmanager
def changed(workspace):
    """The log of a workspace in which something is changed behind the app's back."""
    log = ServingLog(workspace.serving_db)
    try: yield log
    finally: log.close()


@contextmanager
def moves(api, by: dict[str, int]):
    """In the block each of these grows by so much, and nothing else that is counted; asking here is counted too."""
    before = figures(api)
    yield
    grown = {name: n - before.get(name, 0) for name, n in figures(api).items() if "_total" in name or "_count" in name}
    assert {name: n for name, n in grown.items() if n and "route=/metrics" not in name} == by


def asked(status: int = 200) -> dict[str, int]:
    """What every request for a prediction moves."""
    of_route = "mlops_requests_total", "mlops_request_seconds_count"
    return {f"{of_route[0]} route=/v1/predict status={status}": 1, f"{of_route[1]} route=/v1/predict": 1}


def answered(arm: str, release: str, decision: int) -> dict[str, int]:
    """What one that is answered moves besides."""
    return asked() | {
        f"mlops_predictions_total arm={arm} decision={decision} release={release}": 1,
        f"mlops_decision_seconds_count arm={arm} release={release}": 1,
        f"mlops_score_count release={release}": 1, "mlops_log_seconds_count": 1}


KINDS = {"counter": {"_total"}, "gauge": {""}, "histogram": {"_bucket", "_sum", "_count"}}  # and how they end
PROMISED = {f"mlops_{name}" for name in (
    "requests", "request_seconds", "predictions", "decision_seconds", "score", "unknown_categories",
    "lookup_age_seconds", "requests_inside", "log_waiting", "log_seconds")}


def test_metrics_are_called_as_prometheus_wants_it(tmp_path):
    """Counters end in _total, durations are in seconds, a histogram is complete, and each says what it is."""
    with served(create_app(settings(), trial(tmp_path))) as api:
        assert ask(api, PLAIN).status_code == 200
        told = families(api)
        assert {family.name for family in told} >= PROMISED
        for family in told:
            name = family.name
            assert name.startswith("mlops_") and family.documentation and family.type in KINDS, name
            assert "time" not in family.documentation or name.endswith("_seconds"), name
            assert {s.name.removeprefix(name) for s in family.samples} <= KINDS[family.type], name
            last = [s for s in family.samples if s.labels.get("le") == "+Inf"]
            assert family.type != "histogram" or last or not family.samples, name


def test_each_figure_moves_when_it_should_and_only_then(tmp_path):
    workspace = trial(tmp_path)
    model = add_model(workspace)
    with changed(workspace) as log: generation = put_in_slots(log, canary=model, share=1.0).generation
    with served(create_app(settings(), workspace)) as api:
        decided = ask(api, PLAIN).json()["decision"]
        with moves(api, answered("canary", model, decided)): ask(api, PLAIN)
        with moves(api, asked(422)): ask(api, b"[]")
        unknown = {"mlops_unknown_categories_total feature=destination": 1, "mlops_reviews_total": 1}
        other = ask(api, with_(destination="XXX")).json()["decision"]
        with moves(api, answered("canary", model, other) | unknown): ask(api, with_(destination="XXX"))
        assert figures(api)["mlops_deployment_generation"] == generation
        with changed(workspace) as log: generation = put_in_slots(log, canary=None, share=0.0).generation
        comes_true(lambda: figures(api)["mlops_deployment_generation"] == generation)
        rule = ask(api, PLAIN).json()["decision"]
        with moves(api, answered("stable", RULE, rule)): ask(api, PLAIN)


def test_the_age_of_what_is_looked_up_is_told_and_what_is_too_old_is_counted(tmp_path):
    workspace = trial(tmp_path)
    model, limited = add_model(workspace, fed=False), FEATURES.limited
    departs = datetime.fromisoformat(GOOD["scheduled_departure"])
    newest = pd.Timestamp(departs).tz_convert("UTC") - pd.Timedelta(4, unit="h")  # an hour before the decision

    with changed(workspace) as log:
        put_in_slots(log, stable=model)
        for lookup in limited:
            keys = {name: [GOOD.get(name) or "?"] for name in lookup.key}
            values = {value: [1.0] for value in lookup.values}
            log.lookups.put(lookup, pd.DataFrame(keys | {"known_at": [newest]} | values))

    def later(hours): return with_(scheduled_departure=(departs + timedelta(hours=hours)).isoformat())
    def ages(): return {name: age for name, age in figures(api).items() if name.startswith("mlops_lookup_age_seconds")}

    with served(create_app(settings(), workspace)) as api:
        assert ask(api, PLAIN).json()["model"] == "small" and not ages()
        comes_true(lambda: ages() == {f"mlops_lookup_age_seconds lookup={lookup.name}": 3600 for lookup in limited})
        soon, longest = min(v.longest for v in limited) / 3.6e9, max(v.longest for v in limited) / 3.6e9
        assert ask(api, later(soon)).json()["model"] == "small"  # an hour too late for some
        comes_true(lambda: set(ages().values()) == {3600 * (1 + soon)})
        told, stale = figures(api), [v.name for v in limited if v.longest / 3.6e9 == soon]
        assert stale and all(told[f"mlops_stale_lookups_total lookup={name}"] == 1 for name in stale)
        assert "mlops_rule_decided_total reason=TooOld" not in told
        assert ask(api, later(5 * longest)).json()["model"] == "rule"
        told = figures(api)
        assert told["mlops_rule_decided_total reason=TooOld"] == 1
        assert told[f"mlops_release_failures_total release={model}"] == 1


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_what_was_never_known_is_too_old_and_a_missing_key_is_not(tmp_path, request, monkeypatch, store):
    """An empty table, and the year 1900: a warning, the metrics, a review, and the rule decides; alone and in a file."""
    workspace = trial(tmp_path)
    if store == "postgresql":
        monkeypatch.setenv("MLOPS_DATABASE", new_database(request.getfixturevalue("database"), "never known"))
    model = add_model(workspace, fed=False)
    with changed(workspace) as log: put_in_slots(log, stable=model)
    def in_a_file(**changes):
        table = pa.table({name: [value] for name, value in (GOOD | changes).items()})
        scored = score_requests(requests_of(table, problem.Request), problem, workspace, lambda: FEATURES)
        return scored.model[0], bool(scored.review[0])
    def oldest(told): return [told.get(f"mlops_lookup_age_seconds lookup={lookup.name}") for lookup in FEATURES.limited]
    with served(create_app(settings(), workspace)) as api:
        empty = ask(api, PLAIN).json()
        assert (empty["model"], empty["review"]) == in_a_file() == ("rule", True) and "not there at all" in empty["warnings"][-1]
        told = figures(api)
        assert told["mlops_rule_decided_total reason=TooOld"] == 1
        assert all(told[f"mlops_stale_lookups_total lookup={lookup.name}"] == 1 for lookup in FEATURES.limited)
        comes_true(lambda: oldest(figures(api)) == [float("inf")] * len(FEATURES.limited))
        feed(workspace, pd.date_range("2013-07-01", "2013-07-10", freq="1h", tz="UTC"))
        comes_true(lambda: ask(api, PLAIN).json()["model"] == "small")
        alive = ask(api, PLAIN).json()  # none of its keys is in the tables
        assert in_a_file()[0] == "small" and not any("known of" in warning or "new came" in warning for warning in alive["warnings"])
        early = "1900-01-02T12:00:00Z"
        past = ask(api, with_(scheduled_departure=early)).json()
        assert (past["model"], past["review"]) == in_a_file(scheduled_departure=early) == ("rule", True)


def test_a_log_that_is_slow_is_seen_while_it_is(tmp_path):
    """The queue before it and the requests inside grow while it hangs, and afterwards its lag has been told."""
    app = create_app(settings(), trial(tmp_path))
    with served(app) as api, ThreadPoolExecutor(6) as crowd:
        assert ask(api, PLAIN).status_code == 200
        comes_true(lambda: figures(api)["mlops_log_waiting"] == 0)
        before, commit, free = figures(api), app.serving.log.database.commit, threading.Event()
        app.serving.log.database.commit = lambda writes: free.wait(60) and commit(writes)
        waiting = [crowd.submit(ask, api, PLAIN) for _ in range(6)]
        def queue(): return (told := figures(api))["mlops_log_waiting"], told["mlops_requests_inside"]
        comes_true(lambda: (now := queue())[0] >= 5 and now[1] >= 6)
        time.sleep(0.3); free.set()
        assert {one.result().status_code for one in waiting} == {200}
        comes_true(lambda: (now := queue())[0] == 0 and now[1] <= 1)
        assert figures(api)["mlops_log_seconds_sum"] - before["mlops_log_seconds_sum"] >= 6 * 0.3


def test_days_that_were_kept_long_enough_are_forgotten_without_a_restart(tmp_path, monkeypatch):
    class Clock(datetime):
        ahead = timedelta(0)

        @classmethod
        def now(cls, tz=None): return datetime.now(tz) + cls.ahead

    monkeypatch.setattr(service, "datetime", Clock)
    workspace = trial(tmp_path)
    own = settings(retention_days=5).model_copy(update={"source": {}})  # nobody collects this log
    with changed(workspace) as log:
        for name, days in (("a", 10), ("b", 3)):
            now, told = datetime.now(UTC), {"score": 0.5, "decision": 1, "kind": "rule", "release": RULE}
            log.predictions.append(now - timedelta(days=days), id=name * 32, **told)
            log.feedback.append(name * 32, "outcome", "late", at=now, label=1)
        with served(create_app(own, workspace)) as api:
            fresh = ask(api, PLAIN).json()["prediction_id"]
            left = lambda: sorted(log.frames()[0]["id"])
            comes_true(lambda: left() == sorted(["b" * 32, fresh]))
            assert [api.get(f"/v1/predictions/{id}").status_code for id in ("a" * 32, fresh)] == [404, 200]
            Clock.ahead = timedelta(days=4)
            comes_true(lambda: left() == [fresh])
            assert log.counts() == {"predictions": 1, "feedback": 0}  # the reactions went with them
            Clock.ahead = timedelta(days=5)
            assert ask(api, PLAIN).status_code == 200 and fresh in left()


def test_a_revoked_key_is_refused_without_a_restart(tmp_path):
    workspace = trial(tmp_path)
    with changed(workspace) as log:
        lost, kept = (make_key(log, name, ["predict"]) for name in ("a lost laptop", "a shop"))
        with served(create_app(settings(), workspace)) as api:
            def status(key):
                return api.post("/v1/predict", json=GOOD, headers={"authorization": f"Bearer {key}"}).status_code
            assert (status(lost), status(kept)) == (200, 200)
            revoke_key(log, lost)
            comes_true(lambda: status(lost) == 401)
            assert status(kept) == 200
            late = make_key(log, "another shop", ["predict"])
            comes_true(lambda: status(late) == 200)


@pytest.fixture
def sealed(tmp_path):
    """Settings that want releases signed, the key, and a workspace whose rule is."""
    key = bytes(range(32))
    (tmp_path / "release.key").write_bytes(key)
    own = load_settings(environ={"MLOPS_RELEASE__KEY_FILE": str(tmp_path / "release.key")})
    return own, key, trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"), key)


def test_where_signatures_are_required_nothing_unsigned_strange_or_changed_is_loaded(sealed):
    settings, key, workspace = sealed
    model = add_model(workspace)
    with served(create_app(settings, workspace)) as api, changed(workspace) as log:
        def deploys(): return api.post("/v1/admin/deploy", json={"release": model})
        def seen(): return (told := api.get("/v1/model").json())["release"], told["canary"], told["fault"]
        assert api.post("/v1/admin/approve", json={"release": model, "reason": "a test"}).status_code == 200
        assert (refused := deploys()).status_code == 409 and "is not signed" in refused.text
        put_in_slots(log, canary=model, share=1.0)  # past the app
        fault = f"canary: release {model} is not signed, and the settings ask for it"
        comes_true(lambda: seen() == (RULE, None, fault))
        assert ask(api, PLAIN).json()["arm"] == "stable"
        put_in_slots(log, canary=None, share=0.0)
        sign(workspace.releases / model, key[::-1])
        assert (refused := deploys()).status_code == 409 and "signed with another key" in refused.text
        sign(workspace.releases / model, key)
        forced = {"force": True, "reason": "a test"}
        assert deploys().status_code == 200 and api.post("/v1/admin/promote", json=forced).json()["stable"] == model
        assert ask(api, PLAIN).json()["model"] == "small"

    file = workspace.releases / model / "model.skops"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with served(create_app(settings, workspace)) as api:  # a start is no way around it
        assert ask(api, PLAIN).status_code == api.get("/v2/health/ready").status_code == 503
        file.write_bytes(content)
    with served(create_app(settings, workspace)) as api: assert ask(api, PLAIN).json()["model"] == "small"


def test_a_release_that_waits_for_somebodys_approval_is_not_deployed(tmp_path):
    workspace = trial(tmp_path)
    model = add_model(workspace)
    with served(create_app(settings(), workspace)) as api, changed(workspace) as log:
        ledger.Ledger(log).register(model, ledger.Act("12_release"), approver="Ann")
        refused = api.post("/v1/admin/deploy", json={"release": model})
        assert refused.status_code == 409 and "waits for the approval of Ann; allowed now: approve, reject" in refused.text
        assert api.get("/v1/model").json()["canary"] is None
        assert api.post("/v1/admin/approve", json={"release": model, "reason": "read the card"}).status_code == 200
        assert api.post("/v1/admin/deploy", json={"release": model}).json()["canary"] == model


def test_errors_are_lines_of_json_that_can_be_traced_and_tell_nothing_of_people(tmp_path, caplog):
    """Where it arose, which request it was, and which trace it belongs to; never what was sent."""
    caplog.set_level(logging.INFO, LOG.name)
    lines, handler = io.StringIO(), None
    app = create_app(settings(), trial(tmp_path))
    personal = GOOD["tail_number"]
    def fails(columns): raise ValueError(f"cannot read {personal} {SECRET} {columns}")
    try:
        LOG.addHandler(handler := logging.StreamHandler(lines)); handler.setFormatter(JsonLines())
        with served(app) as api:
            trace, parent = "a" * 32, "b" * 16
            sent = {"content-type": "application/json",
                    "x-request-id": "order-7", "traceparent": f"00-{trace}-{parent}-01"}
            def post(body, more=""): return api.post(f"/v1/predict{more}", content=body, headers=sent)
            memory = app.serving.memory
            memory.slots = replace(memory.slots, stable=replace(memory.slots.stable, rule=fails))
            assert post(PLAIN).json()["model"] == "rule"
            app.serving.decider.steps = (lambda *_: fails({}),)
            assert post(PLAIN).status_code == 503
            assert post(with_(carrier=SECRET)).status_code == 422
            assert post(b'{"requests": [' + PLAIN + b"]}", "/batch").status_code == 503
    finally: LOG.removeHandler(handler)
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    of_request = [line for line in told if line.get("request_id")]
    names = {(line["request_id"], line["trace_id"], line["parent_id"]) for line in of_request}
    assert names == {("order-7", trace, parent)}
    errors = [line["message"] for line in of_request if line["level"] == "error"]
    assert errors[0].startswith(f"{RULE} failed: ValueError in fails, {Path(__file__).name}:") and len(errors) >= 3
    assert {line["status"] for line in of_request if "status" in line} == {422, 503}
    assert all(word not in lines.getvalue() for word in (personal, SECRET, GOOD["scheduled_departure"], "cannot read"))
