"""The app of a small library: amounts, anomaly scores, a replay's clock, and a workspace with nothing deployed."""
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from pydantic import Field

from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.problem.definition import Entity, Moment, Problem, Rule, example_of
from mlops_lifecycle.core.problem.plan import Metric, Plan, Reaction, Revisit, Stakeholder, Step, answered
from mlops_lifecycle.core.serving.api import Amount, DecidedAmount, Prediction
from mlops_lifecycle.core.serving.predictor import trial_workspace
from mlops_lifecycle.serving import answer_type, create_app, openapi_of

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
    person = desk.post(f"/v1/reviews/{told['prediction_id']}", json={"decision": 24.0})
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
