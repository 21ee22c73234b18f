"""The app of a project on its own contract: its rule served, every answer as promised, every reaction taken."""
import json

import pytest

from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.problem.definition import example_of
from mlops_lifecycle.core.problem.hooks import FormulateHooks, PlanHooks
from mlops_lifecycle.core.serving.api import answer_type
from mlops_lifecycle.core.serving.predictor import trial_workspace
from mlops_lifecycle.serving import contract, create_app
from mlops_lifecycle.staging import artificial, check_contract, check_privacy, check_security, served

PROBLEM, PLAN = FormulateHooks.of_project().problem, PlanHooks.of_project().plan.model_dump(mode="json")
FORMULATED = {"request": json.loads(json.dumps(PROBLEM.Request.model_json_schema()))}
REQUESTS = artificial(PROBLEM.Request, 40)


@pytest.fixture(scope="module")
def settings():
    return load_settings(environ={})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace in which the rule serves."""
    return trial_workspace(tmp_path_factory.mktemp("contract") / "workspace", PROBLEM, PLAN)


@pytest.fixture(scope="module")
def client(settings, workspace):
    with served(create_app(settings, workspace, PROBLEM)) as client: yield client


def test_answers_are_what_the_contract_promises(client, settings):
    agreed = contract(PROBLEM, PLAN, FORMULATED, settings.serving.contract)
    check = check_contract(client, agreed["openapi"], REQUESTS, answer_type(PROBLEM))
    assert check.passed, check.words


def test_what_the_contract_does_not_allow_is_refused(client, settings):
    check = check_security(client, PROBLEM.Request, settings.serving.max_body_bytes)
    assert check.passed, check.words
    name = next(iter(PROBLEM.Request.model_fields))
    refused = client.post("/v1/predict", json={field: value for field, value in REQUESTS[0].items() if field != name})
    required = PROBLEM.Request.model_fields[name].is_required()
    assert refused.status_code == (422 if required else 200)


def test_each_reaction_of_the_plan_is_taken_once_for_an_answer(client):
    for number, reaction in enumerate(PLAN["reactions"]):
        answered = client.post("/v1/predict", json=REQUESTS[number % len(REQUESTS)]).json()
        sent = {"prediction_id": answered["prediction_id"], "reaction": reaction["name"]}
        if reaction["label"] == "value": sent["value"] = 1.0
        assert client.post("/v1/feedback", json=sent).status_code == 200, reaction["name"]
    assert client.post("/v1/feedback", json={**sent, "reaction": "no such reaction"}).status_code == 422


def test_nothing_personal_is_stored(client, workspace):
    assert client.post("/v1/predict", json=example_of(PROBLEM.Request)).status_code == 200
    check = check_privacy(PROBLEM, REQUESTS, workspace.root)
    assert check.passed, check.words
