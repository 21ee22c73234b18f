"""The app of a small library: amounts, anomaly scores, a replay's clock, and a workspace with nothing deployed."""
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from slots import put_in_slots
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field
from sklearn.ensemble import HistGradientBoostingClassifier

from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.stages import GoBack
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.models.features import Encoder, Feature, FeatureSet, Lookup
from mlops_lifecycle.core.models.release import Release, same_features, write_release
from mlops_lifecycle.core.problem.definition import Entity, Moment, Problem, Rule, example_of
from mlops_lifecycle.core.problem.plan import Metric, Plan, Reaction, Revisit, Stakeholder, Step, answered
from mlops_lifecycle.core.operations.scoring_process import Scored
from mlops_lifecycle.core.operations.shadow import Pair, RowValues, ShadowLog, both_releases, shadow_row
from mlops_lifecycle.core.serving.api import Amount, DecidedAmount, Prediction, answer_type
from mlops_lifecycle.core.serving.auth import make_key
from mlops_lifecycle.core.serving.batch import requests_of, score_requests
from mlops_lifecycle.core.serving.contract import breaking_changes
from mlops_lifecycle.core.serving.predictor import Slots, TooOld, arm_of, sticky_fields, trial_workspace
from mlops_lifecycle.core.operations.logged_decisions import decisions_of
from mlops_lifecycle.serving import contract, create_app, openapi_of

logging.getLogger("mlops").addHandler(logging.NullHandler())
HERE = "http://127.0.0.1"


class Loan(Entity):
    "A loan, the day before the book is due."
    reader: str = Field(description="card number", pattern=r"^R[0-9]{4}$", examples=["R0001", "R0002"],
                        json_schema_extra={"personal": True})
    branch: str = Field(description="branch that lent the book", max_length=20, examples=["Harbour", "Hill"])
    due: Moment = Field(description="when the book is due", examples=["2024-03-01T18:00:00+01:00"])
    renewals: int = Field(description="times prolonged", ge=0, le=9, examples=[3, 0, 1])
    price: float | None = Field(default=None, description="of the book, euro", ge=0, le=1000, examples=[12.5])

def often_renewed(columns): return np.asarray(columns["renewals"]) / 3

LIBRARY = Problem(
    "reminders", "loan", "late", "send a reminder", "euro a loan", Loan, Rule("often renewed", "1.0", often_renewed, 0.6),
    key=("reader", "due"), decision_time=lambda columns: columns["due"] - np.timedelta64(1, "D"))
REMINDERS = Plan(
    objective="Books come back in time.", stakeholders=(Stakeholder(who="reader", wants="no fines", fears="nagging"),),
    metrics=(Metric(name="cost", target=0.5, unit="euro a loan"),),
    journey=(Step(who="reader", does="reads the letter", gets="a day"),),
    reactions=(Reaction(name="came_late", asks="outcome", label=1),
               Reaction(name="came_in_time", asks="outcome", label=0),
               Reaction(name="helped", asks="reminder"), Reaction(name="ignored", asks="reminder")),
    ethics=answered(), revisit=Revisit(reaction="ignored", share_above=0.5, at_least=20), min_saving=0)
PLAN, LOAN = REMINDERS.model_dump(mode="json"), example_of(Loan)
DATATYPES = {str: "BYTES", int: "INT64", float: "FP64"}


def two_weeks(columns): return 14.0 + 3 * np.asarray(columns["renewals"])


DAYS = replace(LIBRARY, name="days", target="days_away", action="plan for", kind="regression", decision_time=None,
               rule=Rule("two weeks", "1.0", two_weeks, 2.5, kind="regression"))
STAYED = Reaction(name="stayed_away", asks="outcome", label="value").model_dump()
COUNTED = PLAN | {"reactions": [STAYED, *PLAN["reactions"][2:]]}


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "settings.ini").write_text("[project]\nname = library\n\n[clock]\nas_of = 2024-03-01T00:00:00Z\n")
    return load_settings(tmp_path / "settings.ini", environ={})


@pytest.fixture
def desk(settings, tmp_path):
    with TestClient(create_app(settings, trial_workspace(tmp_path / "days", DAYS, COUNTED), DAYS), base_url=HERE) as client:
        yield client


@pytest.fixture
def client(settings, tmp_path):
    with TestClient(create_app(settings, trial_workspace(tmp_path / "trial", LIBRARY, PLAN), LIBRARY), base_url=HERE) as one:
        yield one


def test_a_crowd_is_answered_together_and_each_gets_its_own_answer(client):
    def renewed(times): return client.post("/v1/predict", json=LOAN | {"renewals": times}).json().get("score")
    with ThreadPoolExecutor(8) as crowd: told = list(crowd.map(renewed, [0, 1, 2, 3, 99, 3, 2, 1]))
    assert told[4] is None
    assert [t for t in told if t is not None] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3])


def test_the_pages_run_only_what_belongs_to_them(client):
    refused = client.post("/v1/predict", json=LOAN | {"renewals": 99})
    assert refused.status_code == 422
    page, docs = client.get("/"), client.get("/docs")
    assert "Send a reminder?" in page.text and "script-src 'self'" in page.headers["content-security-policy"]
    assert [client.get(f"/page.{kind}").status_code for kind in ("css", "js", "exe")] == [200, 200, 404]
    assert "/docs/assets/swagger-ui-bundle.js" in docs.text and "https://" not in docs.text
    assert "'sha256-" in docs.headers["content-security-policy"]
    assert client.get("/docs/assets/swagger-ui-bundle.js").status_code == 200
    assert 'mlops_requests_total{route="/v1/predict",status="422"}' in client.get("/metrics").text
    document = client.get("/openapi.json").json()
    offered = document["components"]["schemas"]["Feedback"]["properties"]["reaction"]["enum"]
    assert offered == ["came_late", "came_in_time", "helped", "ignored"] and "/v1/predict" in document["paths"]


def test_an_amount_is_answered_with_its_margin_and_without_a_range_from_a_rule(desk):
    told = desk.post("/v1/predict", json=LOAN).json()
    assert answer_type(DAYS) is Amount and Amount.model_validate(told) and answer_type(LIBRARY) is Prediction
    assert [told[name] for name in ("score", "threshold", "decision", "interval")] == [23.0, 2.5, 25.5, None]


def test_the_reaction_to_an_amount_brings_the_amount(desk):
    told = desk.post("/v1/predict", json=LOAN).json()
    def say(**more): return desk.post("/v1/feedback", json={"prediction_id": told["prediction_id"]} | more)
    assert [say(reaction="stayed_away", value=v).status_code for v in (21.5, 21.5, 22.0)] == [200, 200, 409]
    for wrong in ({"reaction": "stayed_away"}, {"reaction": "helped", "value": 1.0}):
        assert say(**wrong).json()["detail"][0]["field"] == "value"
    def person(**said): return desk.post(f"/v1/reviews/{told['prediction_id']}", json=said)
    for wrong in (True, "24", None, [24.0]):  # an amount is a number
        assert say(reaction="stayed_away", value=wrong).json()["detail"][0]["field"] == "value"
        assert person(decision=wrong).json()["detail"][0]["field"] == "decision"
    person = person(decision=24)
    assert person.json()["reaction"] == "24"


def test_tensors_give_an_amount(desk):
    tensors = [{"name": n, "datatype": DATATYPES[type(v)], "shape": [1], "data": [v]} for n, v in LOAN.items()]
    asked = {"inputs": tensors, "outputs": [{"name": "decision"}]}
    decision, = desk.post("/v2/models/days/infer", json=asked).json()["outputs"]
    assert decision == {"name": "decision", "datatype": "FP64", "shape": [1], "data": [25.5]}


def test_the_contract_says_what_an_amount_and_an_anomaly_score_mean():
    shown = openapi_of(DAYS, COUNTED)["components"]["schemas"]
    assert [shown[n]["properties"]["decision"]["type"] for n in ("Prediction", "Told")] == ["number", "number"]
    assert shown["DecidedAmount"]["title"] == DecidedAmount.__name__
    strange = replace(LIBRARY, kind="anomaly", rule=replace(LIBRARY.rule, kind="anomaly"))
    unlike = openapi_of(strange, PLAN)["components"]["schemas"]
    for name in ("Prediction", "Told"):
        assert "how unlike the others" in unlike[name]["properties"]["score"]["description"]


def test_in_a_replay_the_clock_comes_with_the_request(settings, tmp_path, monkeypatch):
    with monkeypatch.context() as replay:
        replay.setenv("MLOPS_REPLAY", "1")
        app = create_app(settings, trial_workspace(tmp_path / "replay", LIBRARY, PLAN), LIBRARY)
    clock = {"x-mlops-clock": "2024-02-29T18:00:00+01:00"}
    with TestClient(app, base_url=HERE) as past:
        then, again = (past.post("/v1/predict", json=LOAN, headers=clock).json() for _ in range(2))
        yesterday = past.post("/v1/predict", json=LOAN, headers={"x-mlops-clock": "yesterday"}).json()
        assert yesterday["detail"][0]["field"] == "x-mlops-clock"
        given, _ = app.serving.log.frames()
        assert set(given["at"]) == {pd.Timestamp("2024-02-29 17:00", tz="UTC")}
        assert then["prediction_id"] != again["prediction_id"]


def test_with_nothing_deployed_the_app_lives_and_is_not_ready(settings, tmp_path):
    nothing = Workspace(tmp_path / "nothing")
    nothing.publish({"plan": nothing.store("plan", PLAN)})
    with TestClient(create_app(settings, nothing, LIBRARY), base_url=HERE) as idle:
        paths = "/v2/health/live", "/v2/health/ready", "/v1/model"
        assert [idle.get(path).status_code for path in paths] == [200, 503, 503]
        assert idle.post("/v1/predict", json=LOAN).status_code == 503


QUEUE = Lookup("queue", ("branch",), ("waiting",))
FEATURES = FeatureSet((Feature("renewals"), Feature("branch", categorical=True), Feature("waiting")), (QUEUE,))
SIX = pd.DataFrame({"renewals": [0, 0, 1, 2, 3, 3], "branch": ["Hill", "Harbour"] * 3,
                    "waiting": [1, 2, 3, 4, 5, 6], "late": [0, 0, 0, 1, 1, 1]})
LIMITS = """[project]
name = library

[clock]
as_of = 2024-03-01T00:00:00Z

[serving]
max_body_bytes = 2000
max_batch = 3
decision_limit_ms = 200
"""


class Library:
    "An app that reads its log before every request, and a small tree that is released beside the rule."
    def __init__(self, folder):
        (folder / "settings.ini").write_text(LIMITS)
        self.folder, self.workspace = folder, trial_workspace(folder / "trial", LIBRARY, PLAN)
        self.app = create_app(load_settings(folder / "settings.ini", environ={}), self.workspace, LIBRARY, FEATURES)
        self.serving, self.client = self.app.serving, TestClient(self.app, base_url=HERE)
        self.serving.memory.FRESH = 0
        self.encoder = Encoder.fit(SIX, FEATURES.features)
        tree = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=1, random_state=0)
        self.manifest = {
            "kind": "model", "name": "tree", "as_of": "2024-03-01", "threshold": 0.5, "encoder": self.encoder.to_dict(),
            "features": FEATURES.describe(), "review": [0.2, 0.4]}
        self.released = write_release(self.workspace.releases, self.manifest, {},
                                      tree.fit(self.encoder.encode(SIX), SIX.late))

    def ask(self, **changes): return self.client.post("/v1/predict", json=LOAN | changes)
    def admin(self, verb, **asked): return self.client.post(f"/v1/admin/{verb}", json=asked)

    def react(self, reaction, id):
        return self.client.post("/v1/feedback", json={"prediction_id": id, "reaction": reaction})

    def with_tree(self):
        "The tree as the canary of every request."
        assert self.admin("approve", release=self.released.name, reason="a test").status_code == 200
        assert self.admin("deploy", release=self.released.name, share=1.0, reason="all of it").json()["canary"] == self.released.name
        return self


@pytest.fixture
def library(tmp_path):
    found = Library(tmp_path)
    with found.client: yield found


def test_a_decision_of_the_rule_and_the_reactions_to_it(library):
    first = library.ask().json()
    expected = {"score": 1.0, "decision": 1, "model": "often renewed", "version": "1.0", "arm": "stable",
                "review": False, "warnings": []}
    assert {name: first[name] for name in expected} == expected
    stored = library.serving.log.predictions.get(first["prediction_id"])
    assert stored["request"]["reader"] != "R0001" and "R0001" not in json.dumps(stored)
    assert library.client.get("/v1/model").json()["kind"] == "rule"
    probes = [library.client.get(f"/v2/health/{probe}").json() for probe in ("live", "ready")]
    assert probes == [{"live": True}, {"ready": True}]
    def react(reaction, id=first["prediction_id"]): return library.react(reaction, id)
    assert react("came_late").json()["label"] == 1
    assert [react("came_late").status_code, react("came_in_time").status_code] == [200, 409]
    assert react("helped").json()["label"] is None  # another question
    assert react("helped", "0" * 32).status_code == 404


def test_a_request_with_its_own_name_is_stored_once(library):
    def named(own, **changes):
        return library.client.post("/v1/predict", json=LOAN | changes, headers={"idempotency-key": own})
    once, again = named("order-7").json(), named("order-7").json()
    assert once == again and len(library.serving.log.frames()[0]) == 1
    assert [named("order-7", renewals=0).status_code, named("two words").status_code] == [409, 422]
    assert named("order-8").json()["prediction_id"] != once["prediction_id"]


def test_a_batch_answers_row_by_row_and_has_a_limit(library):
    def many(rows): return library.client.post("/v1/predict/batch", json={"requests": rows})
    answers = many([LOAN, LOAN | {"renewals": 77}, LOAN | {"renewals": 0}]).json()["answers"]
    assert [a.get("decision") for a in answers] == [1, None, 0]
    assert answers[1]["detail"][0]["field"] == "renewals"
    assert [many(rows).status_code for rows in ([], [LOAN] * 4, "all", [LOAN])] == [422, 413, 422, 200]


def test_an_invalid_request_gets_its_status_and_is_not_repeated(library):
    def body(**changes): return json.dumps(LOAN | changes).encode()
    def status(content, kind="application/json"):
        return library.client.post("/v1/predict", content=content, headers={"content-type": kind}).status_code
    assert [status(body(renewals=99)), status(body(), "text/plain"), status(b" " * 2_001)] == [422, 415, 413]
    assert [status(b"\xff\xfe"), status(b'{"renewals": NaN}')] == [400, 422]
    assert [library.client.get(path).status_code for path in ("/v1/predict", "/v2/../etc")] == [405, 404]
    assert library.client.get("/v1/reviews?limit=many").json()["detail"][0]["field"] == "limit"
    refused = library.client.post("/v1/predict", content=body(reader="my secret"),
                                  headers={"content-type": "application/json"})
    assert "secret" not in refused.text
    assert status(body()) == 200


def test_a_canary_is_deployed_explained_and_reviewed(library):
    other = FeatureSet((*FEATURES.features[:2], Feature("waiting", function=abs, inputs=("queue",))))
    with pytest.raises(ValueError, match="was trained on features"): same_features(Release.load(library.released), other)
    assert library.admin("promote").status_code == 409  # there is no canary yet
    assert [library.admin("deploy", release=r).status_code for r in ("model-x", "../x", ".")] == [404, 404, 404]
    by_rule = library.ask().json()["prediction_id"]
    answer = library.with_tree().ask(branch="Moon").json()
    assert (answer["arm"], answer["model"], answer["review"]) == ("canary", "tree", True)
    assert answer["warnings"] == ['"branch" has a category that was not seen in training']
    id, client = answer["prediction_id"], library.client
    assert client.get(f"/v1/predictions/{by_rule}?explain=true").json()["explanation"] == []  # a rule explains itself
    assert [client.get(f"/v1/predictions/{other}").status_code for other in ("0" * 32, "..%2Fx")] == [404, 404]
    assert [w["prediction_id"] for w in client.get("/v1/reviews").json()["waiting"]] == [id]
    def person(decision): return client.post(f"/v1/reviews/{id}", json={"decision": decision})
    assert person(0).json()["reaction"] == "wait" and person(1).status_code == 409
    assert client.get("/v1/reviews").json()["waiting"] == []
    assert client.get(f"/v1/predictions/{id}").json()["reactions"][0]["asks"] == "review"


def test_an_entity_meets_one_release_at_a_share_and_stays_with_the_canary(library):
    """Whatever else it asks, in a batch or alone, and by a name of its own; at 60 % nobody has left the canary of 20 %."""
    library.with_tree()
    loans = [[LOAN | {"reader": f"R{n:04}", "due": f"2024-03-{day:02}T18:00:00+01:00"} for day in (1, 9)] for n in range(40)]
    def arms():
        answers = [library.client.post("/v1/predict/batch", json={"requests": both}).json()["answers"] for both in loans]
        assert all(one["arm"] == other["arm"] for one, other in answers)
        return np.array([one["arm"] for one, _ in answers]) == "canary"
    seen = []
    for share in (0.2, 0.6, 1.0 - 1e-9):
        assert library.admin("promote", share=share).status_code == 200
        seen.append(arms())
    assert all((before <= now).all() for before, now in zip(seen, seen[1:])) and 2 <= seen[0].sum() <= 18 and seen[2].all()
    named = {"idempotency-key": "order-1"}
    assert library.admin("promote", share=0.2).status_code == 200
    moved = loans[int(np.flatnonzero(~seen[0] & seen[1])[0])][0]
    first = library.client.post("/v1/predict", json=moved, headers=named).json()
    assert first["arm"] == "stable" and library.admin("promote", share=0.6).status_code == 200
    assert library.client.post("/v1/predict", json=moved, headers=named).json() == first  # as it was answered
    assert library.client.post("/v1/predict", json=moved).json()["arm"] == "canary"


def test_a_sticky_field_that_no_request_has_is_refused_when_the_app_is_made(tmp_path):
    (tmp_path / "settings.ini").write_text(
        "[project]\nname = library\n\n[clock]\nas_of = 2024-03-01T00:00:00Z\n\n[canary]\nsticky = card\n")
    settings = load_settings(tmp_path / "settings.ini", environ={})
    with pytest.raises(ValueError, match=r'\[canary\] "sticky" names "card", but a request has reader, branch, due'):
        create_app(settings, trial_workspace(tmp_path / "trial", LIBRARY, PLAN), LIBRARY)
    assert sticky_fields(LIBRARY) == ("reader",) and sticky_fields(replace(LIBRARY, key=("due",))) == ("due",)
    assert sticky_fields(LIBRARY, ["branch"]) == ("branch",)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5), st.floats(0, 1), st.floats(0, 1), st.text(max_size=10))
@hypothesis_settings(max_examples=50)
def test_entities_only_move_to_the_canary(entities, one, other, release):
    small, large = sorted((one, other))
    for entity in entities:
        arms = [arm_of(entity, share, release) for share in (0.0, small, large, 1.0)]
        assert arms[0] == "stable" and arms[3] == "canary" and arms == sorted(arms, reverse=True)  # stable before canary


def test_the_inference_protocol_refuses_what_is_not_there(library):
    tensors = [{"name": n, "datatype": DATATYPES[type(v)], "shape": [2], "data": [v, v]} for n, v in LOAN.items()]
    def infer(content): return library.client.post("/v2/models/reminders/infer", json=content)
    assert infer({"inputs": tensors}).json()["outputs"][2]["data"] == [1, 1]
    assert infer({"inputs": tensors[:2]}).status_code == 422 and "error" in infer({}).json()
    def status(path): return library.client.get(f"/v2/models/{path}").status_code
    assert [status(path) for path in ("reminders", "reminders/ready", "reminders/versions/1.0")] == [200] * 3
    assert [status(path) for path in ("reminders/versions/9/ready", "..%2Fx", "others")] == [404] * 3
    assert library.client.get("/v2").json()["name"] == "mlops_lifecycle"


def broken(*_): raise RuntimeError("no such value R0001")


def test_behind_a_broken_model_stands_the_rule_and_behind_a_broken_rule_nothing(library, monkeypatch):
    library.with_tree()
    with monkeypatch.context() as patched:
        patched.setattr(library.serving.memory.online, "get", broken)
        by_stable = library.ask().json()
        assert (by_stable["arm"], by_stable["model"], by_stable["review"]) == ("canary", "often renewed", True)
        kept = lambda answer: library.serving.log.predictions.get(answer["prediction_id"])
        assert [kept(by_stable)[name] for name in ("asked", "release", "error")] == [library.released.name, "rule-1.0", "RuntimeError"]
        assert library.admin("promote", share=0.5).json()["share"] == 0.5
        assert library.admin("promote", force=True, reason="a test").json()["stable"] == library.released.name
        by_rule = library.ask().json()
        assert [by_rule[name] for name in ("model", "version", "decision", "review")] == ["rule", "1.0", 1, True]
        assert by_rule["warnings"] == ["the rule decided: the model failed"]
        assert [kept(by_rule)[name] for name in ("asked", "release", "error")] == [library.released.name, "rule-1.0", "RuntimeError"]
    predictions, feedback = library.serving.log.frames()
    span = predictions["at"].min(), predictions["at"].max()
    failed = {id: decisions_of(predictions, feedback, id, *span).error.notna().sum() for id in (library.released.name, "rule-1.0")}
    assert failed == {library.released.name: 2, "rule-1.0": 0}  # where the monitor looks for them
    assert library.ask().json()["model"] == "tree"
    library.serving.decider.steps = (broken,)
    assert library.ask().status_code == 503
    del library.serving.decider.steps
    assert library.admin("rollback").json()["stable"] == "rule-1.0"  # the release before


class Busy:
    "An estimator that uses a core until it is let go, and counts how often it was called, and how often at once."
    def __init__(self): self.go, self.calls, self.now, self.most = threading.Event(), 0, 0, 0

    def predict_proba(self, matrix):
        self.calls, self.now = self.calls + 1, self.now + 1
        self.most = max(self.most, self.now)
        until = time.monotonic() + 60
        while not self.go.is_set() and time.monotonic() < until: pass
        self.now -= 1
        return np.array([[0.5, 0.5]])


def test_a_candidate_that_is_too_slow_is_charged_and_called_once_at_a_time_while_the_stable_release_answers(library):
    log, busy, rule = library.serving.log, Busy(), "rule-1.0"
    candidate = Release(library.folder, library.manifest | {"id": "model-busy", "name": "busy"}, {}, busy, library.encoder)
    stable = library.serving.releases.load(rule)
    library.serving.memory.slots = Slots(log.deployment.get()["generation"], stable, candidate, 0.5)
    def ask(number): return library.ask(reader=f"R{number:04}").raise_for_status().json()
    with ThreadPoolExecutor(8) as callers: answers = list(callers.map(ask, range(40)))
    assert (busy.calls, busy.most) == (1, 1)  # all others were answered while it was busy
    assert {answer["version"] for answer in answers} == {"1.0"}
    stored = {arm: [log.predictions.get(a["prediction_id"]) for a in answers if a["arm"] == arm] for arm in ("stable", "canary")}
    assert len(stored["canary"]) > 5 < len(stored["stable"])
    assert {(row["asked"], row["release"], row["error"]) for row in stored["canary"]} == {("model-busy", rule, "TimeoutError")}
    assert {(row["asked"], row["release"], row["error"]) for row in stored["stable"]} == {(rule, rule, None)}
    assert 0.2 <= max(row["seconds"] for row in stored["canary"]) < 30  # of the sixty that it would take
    # what follows the log scores each request in time, and yet it was too slow for those that it was asked in the app
    pair = Pair("model-busy", rule)
    ShadowLog(log, pair).begin(0)
    rows = [shadow_row(id, Scored(pair.candidate, 0.5, 1.0, 1.0), Scored(rule, 0.5, 1.0, 1.0), pair, RowValues({}, {}))
            for id in sorted(answer["prediction_id"] for answer in answers)]
    ShadowLog(log, pair).move(ShadowLog(log, pair).noted().prediction_id, rows[-1]["prediction_id"], rows)
    both = both_releases(log, pair).set_index("id")
    assert both.canary_failed.sum() == len(stored["canary"]) and not both.stable_failed.any()
    # it is called again when it is free
    busy.go.set()
    until = time.monotonic() + 60
    while library.serving.chain.slow["model-busy"].rests and time.monotonic() < until: time.sleep(0.01)
    assert {ask(number)["model"] for number in range(40)} == {"often renewed", "busy"} and busy.most == 1


AGING = Lookup("queue", ("branch",), ("waiting",), max_age="6h")


@pytest.fixture
def aging(library):
    "The library with the tree as its release, whose looked-up values must not be older than six hours."
    put_in_slots(library.serving.log, stable=library.released.name)
    library.ask()
    library.serving.finder.features = FeatureSet(FEATURES.features, (AGING,))
    return library


def put(library, moment):
    known = pd.DataFrame({"branch": ["Harbour"], "known_at": pd.to_datetime([moment]), "waiting": [2]})
    library.serving.log.lookups.put(AGING, known)


def test_a_model_whose_values_are_too_old_is_not_asked(aging):
    assert issubclass(TooOld, ValueError)
    put(aging, "2024-02-01T00:00Z")
    answer = aging.ask().json()
    assert answer["model"] == "rule" and "far too old" in answer["warnings"][-1], answer
    put(aging, "2024-02-29T09:00Z")
    assert aging.ask().json()["warnings"] == ['nothing new came from "queue" for 8 hours, so nothing of it was used']


def test_a_file_is_scored_as_the_app_answers(aging):
    """An ordinary loan, one in the review band, one of an unknown branch, one with old values, one with too old ones."""
    put(aging, "2024-02-29T09:00Z")
    hours = "01T10", "01T10", "01T10", "01T17", "05T10"
    some = pd.DataFrame({
        "reader": ["R0001"] * 5, "renewals": [3, 0, 3, 3, 3], "branch": ["Harbour", "Hill", "Moon", "Harbour", "Harbour"],
        "due": [f"2024-03-{hour}:00:00+00:00" for hour in hours]})
    limits = aging.serving.limits
    whole = score_requests(requests_of(pa.Table.from_pandas(some), Loan), LIBRARY, aging.workspace,
                           lambda: aging.serving.finder.features, limits.fallback_after_ages)
    alone = pd.DataFrame([aging.ask(**row).json() for row in some.assign(price=None).to_dict("records")])
    same = [name for name in alone if name in whole]
    pd.testing.assert_frame_equal(whole[same], alone[same])
    assert (whole.model.tolist(), whole.review.tolist()) == (["tree"] * 4 + ["rule"], [False, True, True, True, True])


def test_a_release_that_was_tampered_with_is_not_loaded_and_a_lost_log_refuses(library):
    library.ask()
    (library.workspace.releases / "rule-1.0" / "note.txt").write_text("added by somebody")
    put_in_slots(library.serving.log, stable="rule-1.0", canary=library.released.name)
    fault = "stable: release rule-1.0 was tampered with: added note.txt"
    assert library.client.get("/v1/model").json()["fault"] == fault
    assert library.admin("deploy", release="rule-1.0").status_code == 409
    library.serving.memory.FRESH = 0.2
    library.workspace.serving_db.rename(library.folder / "taken away")
    lost = library.ask()
    assert (lost.status_code, lost.headers["retry-after"]) == (503, "1")
    assert [library.client.get(f"/v2/health/{probe}").status_code for probe in ("live", "ready")] == [200, 503]
    (library.folder / "taken away").rename(library.workspace.serving_db)
    assert library.ask().status_code == 200


def test_a_contract_that_is_not_what_was_agreed_goes_back():
    formulated = {"request": Loan.model_json_schema()}
    with pytest.raises(GoBack, match="back to formulate: the request in the package is not the one"):
        contract(LIBRARY, PLAN, {"request": {}})
    agreed, fewer = contract(LIBRARY, PLAN, formulated), PLAN | {"reactions": PLAN["reactions"][:3]}
    assert len(contract(LIBRARY, fewer, formulated, "2.0", agreed)["breaks"]) == 1  # announced
    gone = "POST /v1/feedback asks for reaction: no longer for the value 'ignored'"
    assert breaking_changes(openapi_of(LIBRARY, PLAN), openapi_of(LIBRARY, fewer))[0] == gone
    answers = [openapi_of(LIBRARY, PLAN)["paths"][f"/v1/{path}"]["post"]["responses"] for path in ("predict", "feedback")]
    assert set(answers[0]) <= set(answers[1])


def test_the_first_key_closes_the_app_for_guesses(library):
    key = {"authorization": "Bearer " + make_key(library.serving.log, "a web shop", ["predict"])}
    library.client.portal.call(library.serving.memory.refresh)
    keys = {}, {"authorization": "Bearer guess"}, key
    statuses = [library.client.post("/v1/predict", json=LOAN, headers=own).status_code for own in keys]
    assert statuses == [401, 401, 200]
    assert library.client.post("/v1/admin/rollback", headers=key).status_code == 403
