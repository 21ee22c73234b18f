"""The canary's evidence: its errors hold at every number of days, more looks or repeated rows add nothing, no data never promotes."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_lifecycle.core.foundation.settings import CanarySettings
from mlops_lifecycle.core.operations.evidence import cost_evidence, judge
from mlops_lifecycle.core.operations.guards import Climb, check_guards, too_often
from mlops_lifecycle.core.operations.sequential_tests import clustered_interval, share_evidence
from mlops_lifecycle.core.problem.costs import Costs
from mlops_lifecycle.core.problem.tasks import BINARY

COSTS, SAME, ARMS = Costs(5, 1), CanarySettings(outcome_depends_on_decision="no"), CanarySettings()


def storms(rng, days):
    """Day effects that correlate by 0.3 from one day to the next."""
    effect = rng.normal(size=days)
    for at in range(1, days): effect[at] = 0.3 * effect[at - 1] + np.sqrt(1 - 0.09) * effect[at]
    return effect


EFFECTS = {"equal": lambda rng, days: rng.normal(size=days), "heavy": lambda rng, days: rng.standard_t(3, days), "storms": storms}


@pytest.mark.parametrize("days", [5, 10, 30, 90])
@pytest.mark.parametrize("effects", EFFECTS)
def test_looking_after_every_day_is_wrong_no_oftener_than_said(days, effects):
    wrong, climbs, looks = 0, 120, np.unique(np.linspace(2, days, 20).astype(int))
    for seed in range(climbs):
        rng = np.random.default_rng(seed)
        at = np.repeat(np.arange(days), 4)
        x, entity = 3 * EFFECTS[effects](rng, days)[at] + rng.normal(size=len(at)), rng.integers(0, 200, len(at))
        for day in looks:
            n = 4 * day
            now = clustered_interval(x[:n], np.ones(n), at[:n], entity[:n], 0.025, 0.025)
            if not now.low <= 0 <= now.high:
                wrong += 1
                break
    assert wrong <= 0.05 * climbs + 2 * np.sqrt(0.05 * 0.95 * climbs)


def test_entities_that_come_again_every_day_are_one_observation_each():
    """Eight entities, each with a mean of its own, on sixty days: what they differ by is no evidence."""
    wrong = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        at, who = np.repeat(np.arange(60), 8), np.tile(np.arange(8), 60)
        x = rng.normal(size=8)[who] + 0.1 * rng.normal(size=480)
        now = clustered_interval(x, np.ones(480), at, who, 0.025, 0.025)
        wrong += not now.low <= 0 <= now.high
    assert wrong <= 5


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_repeated_rows_add_nothing(seed, times):
    rng = np.random.default_rng(seed)
    at, who, x = np.repeat(np.arange(20), 5), rng.integers(0, 50, 100), rng.normal(size=100)
    once = clustered_interval(x, np.ones(100), at, who, 0.025, 0.05)
    again = clustered_interval(*(np.tile(a, times) for a in (x, np.ones(100), at, who)), 0.025, 0.05)
    assert again.high - again.low >= 0.99 * (once.high - once.low) and np.isclose(again.middle, once.middle)
    mixed = rng.permutation(100)
    shuffled = clustered_interval(x[mixed], np.ones(100), at[mixed], who[mixed], 0.025, 0.05)
    assert np.allclose([shuffled.low, shuffled.high], [once.low, once.high])


def test_a_share_that_is_allowed_is_seldom_found_to_be_too_high():
    rng = np.random.default_rng(0)
    failed = np.cumsum(rng.random((1_000, 3_000)) < 0.01, axis=1)[:, ::20]
    evidence = share_evidence(failed, np.broadcast_to(np.arange(3_000)[::20] + 1, failed.shape), 0.01)
    assert (evidence.max(axis=1) >= 20).mean() <= 0.05


def climb(days=20, each=60, share=10.0, worse=0.0, depends=False, seed=0):
    """Requests of two releases, the second of which decides at random as often as `worse` says."""
    rng, rows = np.random.default_rng(seed), days * each
    chance, entity = rng.beta(1, 3, rows), rng.integers(0, 500, rows)
    frame = pd.DataFrame({"entity": entity, "day": np.repeat(pd.date_range("2024-03-01", periods=days), each), "share": share,
                          "arm": np.where(entity % 100 < share, "canary", "stable"),
                          "outcome": (rng.random(rows) < chance).astype(float)})
    for release in ("stable", "canary"):
        decision = (chance > 1 / 6).astype(float)
        if release == "canary": decision = np.where(rng.random(rows) < worse, rng.integers(0, 2, rows), decision)
        frame = frame.assign(**{f"{release}_decision": decision, f"{release}_score": chance, f"{release}_ms": 3.0,
                                f"{release}_failed": 0.0, f"{release}_unknown": 0.0})
    return frame


def test_failures_are_counted_since_any_day_and_what_is_allowed_is_seldom_found_too_often():
    good, wrong = climb(days=28, each=100), 0
    since = len(good) - 20
    assert too_often(Climb(good), np.arange(len(good)) >= since, 0.01, 0.004)  # twenty failures at the end of four weeks
    assert not too_often(Climb(good), np.arange(len(good)) % 110 == 0, 0.01, 0.004)  # twenty-five over all of them
    for seed in range(60):
        failed, days = np.random.default_rng(seed).random(len(good)) < 0.01, good.day - good.day.min()
        wrong += any(too_often(Climb(good[days < n]), failed[days < n], 0.01, 0.05) for n in pd.to_timedelta([1, 3, 7, 14, 28], "D"))
    assert wrong <= 6  # of 60, at 5 %


@given(st.sampled_from([0, 2, 75, 100]), st.sampled_from([SAME, ARMS]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_without_outcomes_nothing_is_raised_or_promoted(share, limits, person):
    frame = climb(share=float(share)).assign(outcome=np.nan)
    assert judge(Climb(frame), share, COSTS, limits, person=person).action == ("next" if share == 0 else "hold")
    nobody = frame.assign(**{name: np.nan for name in frame if name.startswith("canary_")}, arm="stable")
    assert judge(Climb(nobody), share, COSTS, limits, person=person).action == "hold"


def test_what_no_outcome_has_told_apart_goes_to_a_person_or_back():
    frame = climb(days=30).assign(outcome=np.nan)
    found = judge(Climb(frame), 10, COSTS, SAME)
    assert (found.action, found.finding, found.back_to) == ("roll back", "not told apart", "train")
    assert judge(Climb(frame), 10, COSTS, SAME, person=True).action == "hold"


@pytest.mark.parametrize("limits, most", [(SAME, 0), (ARMS, 1)])
def test_a_release_that_decides_at_random_is_never_better(limits, most):
    wrong = [cost_evidence(Climb(climb(worse=0.5, share=50.0, seed=seed)), COSTS, limits).interval.high < 0 for seed in range(20)]
    assert sum(wrong) <= most


def test_two_equal_arms_of_readers_who_differ_are_seldom_told_apart_while_the_share_grows():
    shares, wrong = np.repeat([2.0, 10.0, 25.0, 75.0], 7), 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        frame, lean = climb(days=28, each=80, seed=seed), rng.normal(-1, 1, 500)
        chance = 1 / (1 + np.exp(-(lean[frame.entity] + rng.normal(size=28)[np.arange(len(frame)) // 80])))
        frame["share"] = np.repeat(shares, 80)
        frame = frame.assign(arm=np.where(rng.uniform(0, 100, 500)[frame.entity] < frame.share, "canary", "stable"),
                             outcome=(rng.random(len(frame)) < chance).astype(float), stable_decision=0.0, canary_decision=0.0)
        looks = [cost_evidence(Climb(frame[:80 * days]), COSTS, ARMS) for days in (10, 16, 22, 28)]
        wrong += any(not look.interval.low <= 0 <= look.interval.high for look in looks)
    assert wrong <= 6  # of 40: 2.5 % on one side, 5 % on the other


def test_own_requests_find_what_the_same_requests_find():
    frame = climb(days=60, each=300, worse=0.6, share=50.0)
    for limits in (SAME, ARMS):
        assert cost_evidence(Climb(frame), COSTS, limits).interval.low > 0


def test_a_crash_for_a_value_that_few_requests_have_is_found_and_named():
    rng = np.random.default_rng(0)
    frame = climb(days=5, each=800).assign(branch=lambda d: rng.choice(["a", "harbour", None], len(d), p=[0.99, 0.004, 0.006]))
    failing = frame.assign(canary_failed=(frame.branch == "harbour").astype(float))
    fault = check_guards(Climb(failing), SAME, BINARY, ["branch", "entity"])
    assert fault and fault.guard == "errors in a group" and "branch is harbour" in fault.reason
    missing = frame.assign(canary_failed=frame.branch.isna().astype(float))
    fault = check_guards(Climb(missing), SAME, BINARY, ["branch"])
    assert fault and "branch is missing" in fault.reason
    assert check_guards(Climb(frame), SAME, BINARY, ["branch", "entity"]) is None
