"""Gates on a small library: each fails on what has the fault, where nothing is known, and where an amount is decided."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mlops_lifecycle.core.foundation.stages import GoBack
from mlops_lifecycle.core.models.evaluation_case import review_band, reviewed, savings
from mlops_lifecycle.core.models.evaluation_figures import curve_figures, three_rows
from mlops_lifecycle.core.models.features import Feature, FeatureSet, Lookup
from mlops_lifecycle.core.models.model_tests import Behaviour
from mlops_lifecycle.core.models.slices import fairness, slices
from mlops_lifecycle.core.models.verdict_words import in_words, way
from mlops_lifecycle.core.problem.costs import Costs
from mlops_lifecycle.core.problem.tasks import BINARY, price
from mlops_lifecycle.evaluate import evaluate, group_gates, enforce, evaluation_case
from mlops_lifecycle.core.models.calibration import conformal_interval, in_doubt
from mlops_lifecycle.core.models.candidates import figures

NOW = "2024-08-01T00:00:00Z"
PLAN = {"min_saving": 0.01, "metrics": [{"name": "cost", "target": 0.7}]}
COSTS = Costs(missed=5, needless=1)
FEATURES = FeatureSet(
    (Feature("branch", categorical=True), Feature("renewals"), Feature("habit"), Feature("visitors")),
    (Lookup("door", (), ("visitors",)),))
LIMITS = SimpleNamespace(
    confidence=0.9, min_gain=0.0, bootstrap_draws=500, fairness_limit=0.25, leak_limit=0.99, min_group=30, metric_limit=0.5,
    bad_day_limit=0.25, group_limit=0.1, successor_margin=0.1, worth=0.1)
SETTINGS = SimpleNamespace(
    evaluate=LIMITS, clock=SimpleNamespace(period="MS"), costs=COSTS,
    train=SimpleNamespace(seed=0, split="time", group=""))
RULE = SimpleNamespace(name="often renewed", score=lambda columns: columns["renewals"] / 3, threshold=0.6)
LIBRARY = SimpleNamespace(
    target="late", protected=("branch",), rule=RULE, unit="euro a loan", action="send a reminder", entity="loan",
    metric="cost", kind="binary", task=BINARY, in_scope=lambda columns: columns["renewals"] <= 3)
WORSE = Behaviour("a worse habit", lambda rows: {"habit": rows["habit"] / 2 + 0.5}, "higher",
                  among=lambda rows: rows["habit"] < 0.9)


def lent():
    """One loan an hour at three branches, in June and July."""
    rng, rows = np.random.default_rng(0), 24 * 61
    loans = pd.DataFrame({
        "decision_time": pd.date_range("2024-06-01", periods=rows, freq="h", tz="UTC"),
        "branch": rng.choice(["Harbour", "Hill", "Station"], rows, p=[0.5, 0.48, 0.02]),
        "renewals": rng.integers(0, 4, rows).astype(float), "habit": rng.random(rows)})
    loans["late"] = (rng.random(rows) < 0.02 + 0.55 * loans.habit ** 3 + 0.02 * loans.renewals).astype("Int64")
    loans["label_known_at"] = loans.decision_time + pd.Timedelta("1h")
    loans["visitors"] = rng.integers(20, 90, rows).astype(float)
    return loans


LOANS = lent()
JUNE, JULY = LOANS[LOANS.decision_time < "2024-07-01"], LOANS[LOANS.decision_time >= "2024-07-01"]


def candidate(name, score):
    return SimpleNamespace(name=name, score=score, metrics=figures(JUNE.late.to_numpy(int), score(JUNE), COSTS))


INFORMED = candidate("informed", lambda t: (
    0.02 + 0.55 * t["habit"].to_numpy(float) ** 3 + 0.02 * t["renewals"].fillna(0).to_numpy(float)))
GUESSING = candidate("guessing", lambda t: np.random.default_rng(1).random(len(t)))


def judge(candidate=INFORMED, examples=LOANS, features=FEATURES, plan=PLAN, library=LIBRARY, others=(), **more):
    return enforce(evaluate(examples, [candidate, *others], features, library, plan, SETTINGS, NOW, **more))


def test_a_way_back_to_train_asks_for_all_rows():
    with pytest.raises(GoBack, match='back to train: guessing failed "costs significantly less than') as back: judge(GUESSING)
    assert back.value.parameters == {"sample": 0}


def test_a_plan_that_asks_for_more_goes_back_to_train():
    with pytest.raises(GoBack, match='back to train: informed failed "saves at least what the plan asks for"'):
        judge(plan=PLAN | {"min_saving": 2.0})


def test_a_successor_that_is_as_good_passes_and_one_that_surely_costs_more_does_not():
    threshold = INFORMED.metrics["threshold"]
    rival = SimpleNamespace(name="as good", decide=lambda columns: INFORMED.score(pd.DataFrame(columns)) >= threshold)
    assert judge(champion=rival)["champion"]["saves"] == [0, 0, 0]
    late = LOANS[LOANS.decision_time >= "2024-07-01"].late.to_numpy(int)
    seer = SimpleNamespace(name="a seer", decide=lambda columns: late)
    with pytest.raises(GoBack, match='back to train: informed failed "costs no more than a seer, which serves, but for the margin"'):
        judge(champion=seer)


def test_prices_that_were_changed_go_back_to_formulate():
    with pytest.raises(GoBack, match='formulate: informed failed ""missed" costs what was formulated": 5, the limit is 9'):
        judge(formulated={"costs": {"missed": 9, "needless": 1}})


def test_a_measure_that_leads_elsewhere_goes_back_to_formulate():
    timid = [SimpleNamespace(name=f"from {t} on", score=INFORMED.score, metrics={"cost": 9.0, "threshold": t})
             for t in (0.2, 0.25, 0.3, 0.4, 0.5)]  # more accurate, and costing more
    with pytest.raises(GoBack, match='back to formulate: informed failed "accuracy ranks models as the cost does"'):
        judge(others=timid, library=SimpleNamespace(**vars(LIBRARY) | {"metric": "accuracy"}))


def test_a_feature_that_knows_the_answer_is_named():
    told = LOANS.assign(returned_on=np.where(LOANS.late == 1, np.nan, 3.0))
    with pytest.raises(GoBack, match=r'failed "no single feature predicts the outcome \(highest AUC: returned_on\)'):
        judge(examples=told, features=FeatureSet((*FEATURES.features, Feature("returned_on"))))


def test_a_group_that_is_harmed_goes_back_to_collect():
    case = evaluation_case(LOANS, [INFORMED], LIBRARY, SETTINGS, NOW)
    harmful = np.where(JULY.branch == "Hill", ~case.decision, case.decision)
    by_branch = slices(JULY[["branch"]], case.y, harmful, np.ones(len(JULY)), COSTS, case.days)
    gates = group_gates(by_branch, fair=[], limits=LIMITS)
    with pytest.raises(GoBack, match=r"no group costs significantly more than without a model \(highest share: branch Hill\)"):
        enforce({"candidate": "harmful", "gates": gates})
    unjudged = group_gates(by_branch.assign(high=None, weak=None), [], LIMITS)
    assert [g["passed"] for g in unjudged] == [None, None]


# Books stay away for a number of days; a day too few costs three times a day too many.
BY_DAY = Costs(missed=3, needless=1, kind="regression")
AWAY = LOANS.assign(days=14 + 12 * LOANS.habit + np.random.default_rng(2).normal(0, 2, len(LOANS)))
PRICED = SimpleNamespace(**vars(SETTINGS) | {"costs": SimpleNamespace(under=3, over=1)})
EIGHTEEN = SimpleNamespace(name="18 days", score=lambda columns: np.full(len(columns["habit"]), 18.0), threshold=3.0)
ASKS = SimpleNamespace(**vars(LIBRARY) | {
    "target": "days", "kind": "regression", "task": BY_DAY.task, "unit": "hours a loan", "rule": EIGHTEEN})


def expects(rows, a_look=2.0):
    """A model of the days, with what June says of its errors, and of where a look at so much a loan pays."""
    first = rows[rows.decision_time < "2024-07-01"]
    model = SimpleNamespace(name="by habit", score=lambda t: 14 + 12 * t["habit"].to_numpy(float))
    model.metrics = figures(first.days, model.score(first), BY_DAY)
    paid = price(first.days, model.score(first) + model.metrics["threshold"], BY_DAY)
    model.calibration = {"interval": conformal_interval(first.days, model.score(first)), "confidence": 0.9,
                         "review": in_doubt(model.score(first), paid, a_look)}
    return model


def test_an_amount_is_judged_like_a_probability():
    case = evaluation_case(AWAY, [expects(AWAY)], ASKS, PRICED, NOW)
    assert set(case.best.costs) == {"rule", "rule, threshold renewed", "the usual amount"}
    assert case.decision.mean() > case.score.mean()
    assert case.bootstrap_interval(savings(case.y, case.decision, case.best.decision, BY_DAY))[0] > 0
    assert three_rows(case, FEATURES).decision.tolist() == ["nearest", "fell short", "went beyond"]
    assert fairness(case.rows[["branch"]], case.y, case.decision, 0.25, task=BY_DAY.task)[0]["fair"]
    assert "Predicted" in curve_figures(case, ASKS.unit).axes[1].get_title()
    assert review_band(Costs(5, 1, review=0.3, kind="regression")) is None  # it follows from a probability


def test_the_verdict_on_an_amount_has_its_range():
    words = in_words(evaluate(AWAY, [expects(AWAY)], FEATURES, ASKS, PLAN, PRICED, NOW), ASKS)
    assert "a unit too little counts 3" in words["counted"].lower() and "hours a month" in words["says"]
    assert "interval that should hold the outcome in 90% of the cases; it did in 9" in words["says"]
    assert way("the usual amount", ASKS) == "always the usual amount"


def test_a_range_that_does_not_hold_goes_back_to_train():
    narrow = SimpleNamespace(**vars(expects(AWAY)) | {"calibration": {"interval": [-1, 1], "confidence": 0.9}})
    wide = PLAN | {"metrics": [{"name": "cost", "target": 9.0}]}
    with pytest.raises(GoBack, match='by habit failed "90% of the outcomes lie in their interval"'):
        enforce(evaluate(AWAY, [narrow], FEATURES, ASKS, wide, PRICED, NOW))


def test_a_person_looks_where_an_amount_is_hard_to_foresee():
    noise = 8 * np.random.default_rng(5).normal(size=len(AWAY))
    wild = AWAY.assign(days=AWAY.days + np.where(AWAY.habit > 0.7, noise, 0))
    at_six = SimpleNamespace(**vars(PRICED) | {"costs": SimpleNamespace(under=3, over=1, review=6.0)})
    asked = reviewed(evaluation_case(wild, [expects(wild, 6.0)], ASKS, at_six, NOW))
    assert 0.1 < asked["share"] < 0.5 and asked["low"] > 20 and asked["saves"][0] > 0
