"""Monitoring: the cases that a lesson has no room for."""
import json
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mlops_lifecycle.core.foundation.stages import GoBack
from mlops_lifecycle.core.models.features import Feature, FeatureSet
from mlops_lifecycle.core.problem.costs import Costs
from mlops_lifecycle.core.foundation.settings import ActSettings, DiagnosisSettings, EvaluateSettings, MonitorSettings, PrivacySettings
from mlops_lifecycle.core.operations.diagnosis import COMMANDS, DIAGNOSES, SEVERITY, STAGE, Finding, carry_out, diagnose
from mlops_lifecycle.core.operations.feedback import check_feedback
from mlops_lifecycle.core.operations.operation_figures import draw_moved
from mlops_lifecycle.core.serving.ledger import Ledger
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.core.quality.input_drift import drift, effective_days
from mlops_lifecycle.core.quality.outliers import good_rows
from mlops_lifecycle.monitoring import Around, check_health, enforce, health, monitor, quality
from mlops_lifecycle.core.problem.plan import answered
from mlops_lifecycle.release import reference

CANARY = SimpleNamespace(max_error_share=0.01, max_p99_ms=250)
SETTINGS = SimpleNamespace(monitor=MonitorSettings(), canary=CANARY, diagnosis=DiagnosisSettings(), train=SimpleNamespace(seed=0),
                           evaluate=EvaluateSettings(), privacy=PrivacySettings())
COSTS = Costs(missed=5, needless=1)


def month(start, hill=0.5, renewals=(0.4, 0.3, 0.2, 0.1), late=0.25, seed=0, rows=1500):
    rng = np.random.default_rng(seed)
    loans = pd.DataFrame({"decision_time": pd.date_range(start, periods=rows, freq="28min", tz="UTC"),
                          "branch": np.where(rng.random(rows) < hill, "Hill", "Harbour"),
                          "renewals": rng.choice(4, rows, p=renewals).astype(float)})
    loans["score"] = np.clip(0.05 + 0.25 * loans.renewals + rng.normal(0, 0.03, rows), 0.01, 0.99)
    return loans.assign(decision=(loans.score >= 0.2).astype(int), error=None, seconds=0.003,
                        outcome=(rng.random(rows) < 0.05 + late * loans.renewals).astype(float))


MAY, JUNE, JULY = (month(f"2024-0{m}-01", seed=seed) for m, seed in ((5, 1), (6, 2), (7, 3)))
AUGUST = month("2024-08-01", hill=0.1, renewals=(0.1, 0.2, 0.3, 0.4), late=0.02, seed=4)
WORLD = reference([MAY, JUNE], FeatureSet((Feature("branch", categorical=True), Feature("renewals"))),
                  [MAY.score, JUNE.score], "outcome")
RELEASE = SimpleNamespace(id="model-1", kind="model", reference=WORLD)


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    """Two releases, the second of which serves."""
    found = Ledger(ServingLog(tmp_path / "serving.db"))
    for one in ("rule-1.0", "model-1"): found.trial(one)
    return found


def act(found, ledger, **modes):
    """What the stage does about a finding."""
    acted = carry_out(found["diagnosis"], found["release"], ledger, ActSettings(**modes), "15_monitor", datetime(2024, 9, 1, tzinfo=UTC))
    enforce(found, acted)
    return acted


def test_every_action_has_a_stage_a_command_and_a_mode():
    actions = {DiagnosisSettings().of(name) for name in DiagnosisSettings.model_fields}
    assert actions < set(STAGE) and set(STAGE) == set(COMMANDS) == {name.replace("_", " ") for name in ActSettings.model_fields}


def test_quiet_answers_raise_no_alarm_and_no_answers_have_no_latency():
    assert health(JULY, CANARY)[1] == []
    assert health(JULY[:0], CANARY)[0]["p99_ms"] is None
    assert check_health(JULY.drop(columns="error"), CANARY)[2] == "no answers were logged"


def test_days_are_counted_by_how_evenly_rows_lie_in_them():
    hourly = pd.Series(pd.date_range("2024-07-01", periods=28 * 24, freq="h", tz="UTC"))
    assert effective_days(hourly[:5 * 24]) < 7 < 26 < effective_days(hourly)


def test_a_short_stretch_may_move_further_than_a_long_one():
    ten_days, all_july = (drift(rows, WORLD, 0.0001).set_index("column").limit for rows in (JULY[:500], JULY))
    assert (ten_days > all_july[ten_days.index]).all()


@pytest.mark.parametrize("kind, costs", [("rule", COSTS), ("model", Costs(5, 1, capacity=0.2, kind="anomaly"))])
def test_a_score_that_is_no_probability_has_no_calibration_gap(kind, costs):
    assert "calibration gap" not in quality(JULY, kind, costs, 0.05)[0]


def test_august_is_worse_than_never_than_the_rule_and_than_its_own_probabilities():
    found = quality(AUGUST.assign(rule=0), "model", COSTS, 0.05)[1]
    assert {a.what: a.about for a in found} == {
        "saving against never": "concept drift", "saving against rule": "harm", "calibration gap": "calibration"}


def test_what_cannot_be_evaluated_is_unknown():
    assert monitor(AUGUST, RELEASE, COSTS, SETTINGS)["action"] == "retrain"
    week = monitor(JULY.head(360), RELEASE, COSTS, SETTINGS)
    assert {"drift: 360 predictions, at least 500 are needed ([monitor] min_rows)",
            "quality: outcomes of 7 days, at least 14 are needed to compare costs ([monitor] min_days)",
            "estimated cost: every outcome is known"} < {*week["unknown"]}
    few = monitor(JULY.head(150), RELEASE, COSTS, SETTINGS)["unknown"]
    assert "quality: 150 outcomes have arrived, at least 200 are needed ([monitor] min_labelled)" in few
    rule = SimpleNamespace(id="rule-1.0", kind="rule", reference={})
    assert {"drift: rule-1.0 has no reference to compare with", "estimated cost: every outcome is known"} < {
        *monitor(JULY, rule, COSTS, SETTINGS)["unknown"]}
    assert json.dumps(week["figures"])


PLAN = {
    "objective": "Books come back in time.", "min_saving": 0,
    "stakeholders": [{"who": "reader", "wants": "no fines", "fears": "nagging"}],
    "metrics": [{"name": "cost", "target": 0.7, "unit": "€ a loan"}],
    "journey": [{"who": "reader", "does": "reads", "gets": "a day"}],
    "ethics": [e.model_dump() for e in answered()],
    "reactions": [{"name": "came_late", "asks": "outcome", "label": 1}, {"name": "in_time", "asks": "outcome", "label": 0},
                  {"name": "helped", "asks": "reminder"}, {"name": "ignored", "asks": "reminder"}],
    "revisit": {"reaction": "ignored", "share_above": 0.5, "at_least": 20}}


def test_ignored_predictions_lead_back_to_the_plan(ledger):
    ignored = monitor(JULY, RELEASE, COSTS, SETTINGS, Around(PLAN, {"ignored": 18, "helped": 6, "came_late": 300}))
    assert ignored["action"] == "review"
    assert act(ignored, ledger).words == f"ticket {ledger.standing().tickets[0].number} asks for a review, mlops tickets"
    with pytest.raises(GoBack, match="back to plan: soon: review model-1: the product does not keep"): act(ignored, ledger, review="auto")


def test_a_release_that_fails_is_rolled_back_and_the_rule_that_fails_leads_back_to_the_code(ledger):
    failing = monitor(JULY.assign(error="KeyError"), RELEASE, COSTS, SETTINGS)
    assert failing["action"] == "roll back" and "the service fails" in failing["says"]
    assert act(failing, ledger).words == "model-1 was rolled back, rule-1.0 serves"
    assert ledger.standing().of("model-1").state == "rejected"
    of_rule = monitor(JULY.assign(error="KeyError"), SimpleNamespace(id="rule-1.0", kind="rule", reference={}), COSTS, SETTINGS)
    with pytest.raises(GoBack, match="back to code: urgent: hotfix rule-1.0"): act(of_rule, ledger)


@pytest.mark.parametrize("mode, tickets", [("ask", 1), ("tell", 0)])
def test_what_may_not_be_done_is_asked_for_or_told(ledger, mode, tickets):
    worse = monitor(AUGUST.assign(rule=0), RELEASE, COSTS, SETTINGS)
    for _ in range(2): acted = act(worse, ledger, roll_back=mode)
    assert (acted.action, acted.mode, acted.done, ledger.standing().stable) == ("roll back", mode, False, "model-1")
    assert [one.evidence["action"] for one in ledger.standing().tickets] == tickets * ["roll back"]


def test_a_table_in_the_settings_says_what_is_done(ledger):
    careful = SimpleNamespace(**vars(SETTINGS) | {"diagnosis": DiagnosisSettings(harm="retrain")})
    worse = monitor(AUGUST.assign(rule=0), RELEASE, COSTS, careful)
    with pytest.raises(GoBack, match="back to train"): act(worse, ledger, retrain="auto")


def test_decisions_beside_another_release_count_for_quality_alone():
    ten_days = JULY[:500]
    assert any(why.startswith("quality") for why in monitor(ten_days, RELEASE, COSTS, SETTINGS)["unknown"])
    judged = monitor(ten_days, RELEASE, COSTS, SETTINGS,
                     Around(beside=JULY[500:].drop(columns=["branch", "renewals", "seconds"])))
    assert judged["figures"]["quality"]["labelled"] == len(JULY) and judged["rows"] == 500


def test_the_figure_has_what_is_furthest_over_its_limit_on_top():
    moved, allowed = {"score": 3.0, "branch": 0.3, "renewals": 0.1}, {"score": 4.0, "branch": 0.25, "renewals": 0.25}
    ax = draw_moved(moved, allowed, unjudged=1, most=2).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["score", "branch"]
    assert ax.get_title(loc="left") == "1 of 3 columns moved further than their limit, 1 not judged"


def test_every_finding_says_how_much_it_hurries_and_what_to_type():
    found = monitor(AUGUST.assign(rule=0), RELEASE, COSTS, SETTINGS)
    assert found["severity"] == "urgent" and [one["severity"] for one in found["alarms"]][::len(found["alarms"]) - 1] == ["urgent", "look"]
    assert all(one["command"] == COMMANDS[one["action"]] for one in found["alarms"]) and set(SEVERITY) == set(DIAGNOSES)


def test_answers_that_take_longer_are_asked_about_and_roll_nothing_back(ledger):
    slow = pd.concat([JULY, month("2024-07-30", seed=5)], ignore_index=True)
    slow["seconds"] = 0.003 * np.random.default_rng(0).lognormal(0, 0.3, len(slow))
    assert monitor(slow, RELEASE, COSTS, SETTINGS)["diagnosis"].about is None
    found = monitor(slow.assign(seconds=slow.seconds.where(slow.index < len(slow) - 700, 2 * slow.seconds)), RELEASE, COSTS, SETTINGS)
    assert (found["diagnosis"].about, found["severity"]) == ("latency", "look")
    acted = act(found, ledger, hotfix="auto")
    assert (acted.mode, acted.done, ledger.standing().stable) == ("ask", False, "model-1") and len(ledger.standing().tickets) == 1


def test_a_group_that_is_served_worse_is_reviewed(ledger):
    unfair = JULY.assign(decision=np.where(JULY.branch == "Hill", 0, JULY.outcome))
    found = monitor(unfair, RELEASE, COSTS, SETTINGS, Around(groups=unfair[["branch"]]))
    assert "fairness" in {one["about"] for one in found["alarms"]} and found["figures"]["groups"]["missed"][0]["fair"] is False
    assert monitor(JULY, RELEASE, COSTS, SETTINGS, Around(groups=JULY[["branch"]]))["alarms"] == []
    only = diagnose([Finding("difference in missed cases", "branch", 0.6, 0.25, "fairness")], "model", DiagnosisSettings())
    assert (only.action, only.severity) == ("review", "soon")
    assert carry_out(only, "model-1", ledger, ActSettings(review="ask"), "15_monitor", datetime(2024, 9, 1, tzinfo=UTC)).ticket


def test_a_broken_promise_is_a_finding_about_the_plan():
    kept, broken = (monitor(JULY, RELEASE, COSTS, SETTINGS, Around(PLAN | {"metrics": [{**PLAN["metrics"][0], "target": target}]}))
                    for target in (0.9, 0.1))
    assert kept["diagnosis"].about is None and kept["figures"]["plan"]["promises"][0]["holds"] == "yes"
    assert (broken["diagnosis"].about, broken["action"]) == ("plan", "review") and "the plan promised" in broken["says"]
    unjudged = monitor(JULY.head(150), RELEASE, COSTS, SETTINGS, Around(PLAN))
    assert {one["holds"] for one in unjudged["figures"]["plan"]["promises"]} == {"not judged"}


def test_feedback_that_fell_is_asked_about(ledger):
    at = pd.date_range("2024-07-01", "2024-08-07", freq="20min", tz="UTC")
    loans, rng = pd.DataFrame({"at": at, "score": 0.4, "decision": 0.0}, [f"L{n}" for n in range(len(at))]), np.random.default_rng(0)
    some = loans[rng.random(len(at)) < np.where(at < "2024-07-28", 0.8, 0.4)]
    feedback = pd.DataFrame({"prediction_id": some.index, "asks": "outcome", "at": some["at"] + pd.Timedelta("1D")})
    found = monitor(JULY, RELEASE, COSTS, SETTINGS, Around(feedback=check_feedback(loans, feedback, at[-1], MonitorSettings())))
    assert (found["diagnosis"].about, act(found, ledger, review="auto").mode) == ("feedback", "ask")


def test_rows_unlike_those_of_good_times_are_input_drift_and_are_shown():
    good = good_rows(pd.concat([MAY, JUNE]), ["branch", "renewals"])
    odd = JULY.assign(renewals=JULY.renewals.where(JULY.index % 9 > 0, 40.0))
    quiet, loud = (monitor(rows, RELEASE, COSTS, SETTINGS, Around(good=good)) for rows in (JULY, odd))
    assert quiet["alarms"] == [] and [one["what"] for one in loud["alarms"]] == ["share of outliers"]
    assert "renewals 40 (0 to 3)" in loud["figures"]["outliers"]["look at"][0]["furthest"] and json.dumps(loud["figures"])
    assert monitor(odd, RELEASE, COSTS, SimpleNamespace(**vars(SETTINGS) | {"privacy": PrivacySettings(quasi_identifiers="renewals")}),
                   Around(good=good))["figures"]["outliers"]["look at"][0]["furthest"] == "renewals"


def test_a_limit_that_was_learnt_from_a_few_days_is_not_judged_by():
    young = SimpleNamespace(**vars(RELEASE) | {"reference": WORLD | {"score": WORLD["score"] | {"days": 5}}})
    found = monitor(AUGUST, young, COSTS, SETTINGS)
    assert "score" not in found["figures"]["drift"]
    assert not any(one["column"] == "score" and one["what"] == "drift" for one in found["alarms"])
    assert "drift: 1 of 3 columns are not judged: fewer than 14 days are too few to learn a limit from" in found["unknown"]


def test_values_that_are_too_old_are_the_fault_of_a_source_and_roll_nothing_back(ledger):
    starved = monitor(JULY.assign(error=np.where(JULY.branch == "Hill", "TooOld", None)), RELEASE, COSTS, SETTINGS)
    assert (starved["diagnosis"].about, starved["figures"]["health"]["failed"]) == ("data source", 0)
    assert starved["figures"]["health"]["too_old"] > 500 and act(starved, ledger, hotfix="ask").mode == "ask"
    assert ledger.standing().stable == "model-1"
