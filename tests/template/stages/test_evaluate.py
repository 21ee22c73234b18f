"""The verdict on real data: each gate fires on what really has the fault, and the page says so in plain words."""
import json
from contextlib import closing
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, mlops, passed

from mlops_lifecycle.core.models.features import Feature, FeatureSet, columns_of
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.stages import GoBack
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.models.slices import fairness
from mlops_lifecycle.core.models.verdict_words import in_words, month_figure, page_of
from mlops_lifecycle.evaluate import BEHAVIOURS, declared_groups, evaluate, group_gates, enforce
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.core.models.candidates import read_candidates
from mlops_lifecycle.core.serving.in_use import manifest_of
from mlops_lifecycle.core.serving.ledger import Ledger
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.transform import FEATURES


class Court:
    """What a lived life cycle left for the judge, and the judge."""
    def __init__(self, lived):
        workspace = Workspace(lived.workspace)
        chosen = {k: str(v) for k, v in lived.settings.items()}
        limits = {"MLOPS_EVALUATE__MIN_GAIN": "0", "MLOPS_EVALUATE__GROUP_LIMIT": "0"}
        self.settings = load_settings(ROOT, environ=chosen | limits)
        self.examples = workspace.read("gold.examples", as_of=pd.Timestamp(self.settings.clock.as_of))
        self.candidates = read_candidates(workspace.load("candidates"), workspace.root)
        self.winner = min(self.candidates, key=lambda c: c.metrics["cost"])
        self.plan, self.formulated = workspace.load("plan"), workspace.load("problem")
        self.since = pd.Timestamp(self.settings.clock.as_of) - pd.offsets.MonthBegin(1)  # of the judged month

    def like(self, name, score):
        """The winner, with other scores."""
        return SimpleNamespace(name=name, metrics=self.winner.metrics, score=score)

    def verdict(self, *candidates, examples=None, features=FEATURES, problem=problem, settings=None, formulated=None):
        examples = self.examples if examples is None else examples
        settings = settings or self.settings
        return evaluate(
            examples, candidates or self.candidates, features, problem, self.plan, settings, settings.clock.as_of,
            formulated=formulated or self.formulated, behaviours=BEHAVIOURS, declared=declared_groups)

    def failed(self, *candidates, **more):
        gates = self.verdict(*candidates, **more)["gates"]
        return {g["stage"]: g["gate"] for g in reversed(gates) if g["passed"] is False}


@pytest.fixture(scope="module")
def court(lived): return Court(lived)


def test_the_verdict_is_a_sentence_a_figure_and_a_table_of_gates(court):
    verdict = court.verdict()
    words = in_words(verdict, problem)
    assert words["ship"] == ("Ship it." if verdict["passed"] else "Do not ship it.") and "a month" in words["says"]
    assert words["says"] in unescape(page_of(words))
    assert "less" in month_figure(verdict, problem).axes[0].get_title(loc="left")
    assert {g["stage"] for g in verdict["gates"]} == {"formulate", "collect", "transform", "train"}
    assert all(g["passed"] in (True, False, None) for g in verdict["gates"])
    assert verdict["metric"]["ranked"] and verdict["importance"][0]["cost_increase"] > 0
    assert {s["column"] for s in verdict["slices"]} >= {"origin", "carrier", "distance flown", "found"}
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict  # plain data


def test_no_gain_leads_back_to_train(court):
    def by_rule(rows): return np.where(problem.rule.decide(columns_of(rows)) == 1, 0.99, 0.0)
    as_the_rule = court.like("as the rule", by_rule)
    with pytest.raises(GoBack, match='back to train: as the rule failed "costs significantly less than') as back:
        enforce(court.verdict(as_the_rule))
    assert back.value.parameters == {"sample": 0}


def test_a_leak_leads_back_to_transform_with_its_column(court):
    told = court.examples.assign(gate_closed_at=np.where(court.examples.late.fillna(0) == 1, np.nan, 1.0))
    leaking = FeatureSet((*FEATURES.features, Feature("gate_closed_at")), FEATURES.lookups)
    failed = court.failed(examples=told, features=leaking)
    assert failed["transform"] == "no single feature predicts the outcome (highest AUC: gate_closed_at)"


def test_a_weak_group_leads_back_to_collect_with_its_name(court):
    def sleeping(rows):
        sleeps = (rows["origin"] == "EWR") & (rows["decision_time"] >= court.since)
        return np.where(sleeps, 0.0, court.winner.score(rows))
    asleep = court.like("asleep", sleeping)
    assert "origin EWR" in court.failed(asleep)["collect"]


def test_a_weak_group_that_nobody_declared_is_found(court):
    evening = lambda rows: (rows["hour_of_day"] > 16) & (rows["decision_time"] >= court.since)
    tired = court.like("tired", lambda rows: np.where(evening(rows), 0.0, court.winner.score(rows)))
    found = [s["group"] for s in court.verdict(tired)["slices"] if s["column"] == "found" and s["weak"]]
    assert found


def test_changed_costs_and_a_metric_that_leads_elsewhere_lead_back_to_formulate(court):
    cost_increase = court.settings.model_copy(update={"costs": court.settings.costs.model_copy(update={"missed": 7.0})})
    assert court.failed(settings=cost_increase)["formulate"] == '"missed" costs what was formulated'
    def at(threshold):
        metrics = {"cost": 9.0, "threshold": threshold}
        return SimpleNamespace(name=f"from {threshold} on", score=court.winner.score, metrics=metrics)
    timid = map(at, (0.2, 0.3, 0.4, 0.5, 0.6))
    failed = court.failed(court.winner, *timid, problem=replace(problem, metric="accuracy"))
    assert failed["formulate"] == "accuracy ranks models as the cost does"


def test_a_model_that_fears_the_morning_leads_back_to_train(court):
    turned = court.like("turned", lambda rows: np.where(rows["hour_of_day"] < 12, 0.5, 0.5 * court.winner.score(rows)))
    gates = {g["gate"]: g["passed"] for g in court.verdict(turned)["gates"]}
    assert gates["behaves: a later departure in the day, significantly higher"] is False
    assert gates["behaves: a storm, significantly higher"] is True


def test_a_model_that_needs_every_table_leads_back_to_transform(court):
    def score(rows):
        found = court.winner.score(rows)
        return np.where(rows["temperature"].isna(), 0.3 - found, found)
    brittle = court.like("brittle", score)
    assert "(highest share: table weather is missing)" in court.failed(brittle)["transform"]


def test_a_candidate_is_held_against_a_release_when_asked(court, lived, tmp_path):
    settings = lived.copy(tmp_path / "workspace")
    released = Workspace(tmp_path / "workspace").load("release")
    done = mlops("run", "evaluate", "-p", f"champion={released['model']}", **settings)  # which has learned from the judged month
    assert done.returncode == 2
    assert '"costs no more than gradient boosting, which serves, but for the margin": -0.' in " ".join(done.stdout.split())
    passed(mlops("run", "evaluate", "-p", f"champion={released['rule']}", **settings))


def test_a_hotfix_changes_a_price_and_trains_nothing(lived, tmp_path):
    settings, workspace = lived.copy(tmp_path / "workspace"), Workspace(tmp_path / "workspace")
    before, trained = workspace.load("release"), workspace.published()["passed"]["train"]["run"]
    assert "a hotfix needs a reason" in mlops("hotfix", "--reason", " ", **settings).stderr
    done = passed(mlops("hotfix", "--reason", "a miss costs more", **settings | {"MLOPS_COSTS__MISSED": "6"}))
    assert "train" not in {line[3:13].strip() for line in done.stdout.splitlines()}
    after, now = workspace.load("release"), workspace.published()["passed"]
    assert after["model"] != before["model"] and (now["train"]["run"], now["release"]["run"] != trained) == (trained, True)
    manifest = manifest_of(workspace, after["model"])
    assert manifest["costs"]["missed"] == 6 and manifest["threshold"] == pytest.approx(1 / 7)
    judged, fitted = (manifest_of(workspace, id["model"]) for id in (before, after))
    assert judged["calibration"] == fitted["calibration"]  # the same model at another threshold
    with closing(ServingLog(workspace.serving_db)) as log:
        deployed = [entry for entry in Ledger(log).entries() if (entry.event, entry.release) == ("deploy", after["model"])]
    assert [entry.reason for entry in deployed] == ["hotfix: a miss costs more"]


def test_a_group_too_small_to_judge_is_said_so_and_never_passed(court):
    """Seven flights of one airport are no proof that its passengers fare alike."""
    rows = court.examples[court.examples.late.notna()].head(4000)
    of_lga = (rows.origin == "LGA").to_numpy(bool)
    few = rows.origin.where(~of_lga, np.where(of_lga.cumsum() <= 7, "LGA", "JFK")).rename("origin")
    decided = np.zeros(len(rows), dtype=int)
    fair, alone = (fairness(pd.DataFrame({"origin": groups}), rows.late, decided, limit=0.25)[0]
                   for groups in (few, few.where(few == "LGA", "JFK")))
    assert fair["too_small"] == ["LGA"] and set(fair["groups"]) == {"EWR", "JFK"} and alone["fair"] is None
    slices = pd.DataFrame({"high": [None], "other": [1.0], "weak": [None], "column": ["origin"], "group": ["LGA"]})
    said = group_gates(slices, [alone], court.settings.evaluate)
    assert [g["passed"] for g in said] == [None, None, None] and "too few cases: LGA" in said[1]["gate"]


def test_each_candidate_is_in_the_experiment_log_with_what_made_it(lived):
    from mlflow import MlflowClient
    workspace = Workspace(lived.workspace)
    document, client = workspace.load("candidates"), MlflowClient(f"sqlite:///{workspace.root}/mlflow.db")
    assert document["candidates"]
    for candidate in document["candidates"]:
        logged = client.get_run(candidate["mlflow_run"]).data
        assert {"cost", "auc", "seconds", "fold_cost"} <= set(logged.metrics) and {"seed", "rows"} <= set(logged.params)
        tags = logged.tags
        assert tags["notebook"] == "07_train.ipynb" and "gold.examples" in tags["versions"]
        assert tags["run"] == document["run"] and tags["seed"]
        assert client.get_metric_history(candidate["mlflow_run"], "fold_cost")[0].value == candidate["folds"][0]["cost"]
