"""The verdict on a step of a canary: every condition, and which of them takes precedence."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mlops_lifecycle.core.operations.canary import evaluate_step, latency_fault
from mlops_lifecycle.core.problem.costs import Costs

COSTS = Costs(missed=5, needless=1)
LIMITS = SimpleNamespace(min_labelled=3, max_error_share=0.01, max_p99_ms=250)
LOANS = pd.DataFrame({
    "arm": ["stable"] * 6 + ["canary"] * 4, "decision": [0, 0, 1, 0, 1, 0, 1, 1, 0, 0],
    "outcome": [1, 0, 1, 0, 0, np.nan, 1, 0, 0, np.nan], "milliseconds": [4, 5, 4, 6, 4, 5, 5, 7, 5, 6],
    "failed": False})
STABLE, CANARY = (LOANS[LOANS.arm == arm] for arm in ("stable", "canary"))
EXCHANGED = LOANS.assign(arm=LOANS.arm.map({"stable": "canary", "canary": "stable"}))
SLOW_CANARY = LOANS.assign(milliseconds=np.where(LOANS.arm == "canary", 900, 5))


@pytest.mark.parametrize(("share", "now", "before", "action", "back_to"), [
    pytest.param(2, STABLE, [], "hold", "", id="the canary was not asked"),
    pytest.param(2, LOANS.assign(outcome=np.nan), [], "hold", "", id="too few outcomes"),
    pytest.param(2, LOANS, [], "next", "", id="no fault"),
    pytest.param(2, pd.concat([EXCHANGED] * 20), [], "roll back", "train", id="significantly more expensive"),
    pytest.param(2, LOANS.assign(failed=LOANS.arm == "canary"), [], "roll back", "release", id="no answers"),
    pytest.param(2, pd.concat([SLOW_CANARY] * 5), [], "roll back", "release", id="a slow canary"),
    pytest.param(2, LOANS.assign(milliseconds=900), [], "next", "", id="a slow machine"),
    pytest.param(100, CANARY, [LOANS], "next", "", id="the last step"),
    pytest.param(100, CANARY, [], "next", "", id="the only step"),
])
def test_the_verdict_on_a_step(share, now, before, action, back_to):
    verdict = evaluate_step(share, now, before, COSTS, LIMITS)
    assert (verdict.action, verdict.back_to) == (action, back_to)


def waited(**arms):
    """Answers that took so many milliseconds, by arm."""
    return pd.DataFrame([{"arm": arm, "milliseconds": ms} for arm, times in arms.items() for ms in times])


def test_a_canary_is_too_slow_only_when_it_is_slower_than_the_stable_release():
    quick, slow = [5] * 60, [5] * 50 + [900] * 10
    assert latency_fault(waited(stable=quick, canary=slow), [], 250).startswith("10 of 60 answers took more than 250 ms")
    assert not latency_fault(waited(stable=slow, canary=slow), [], 250)
    assert not latency_fault(waited(canary=slow), [waited(stable=slow)], 250)  # the last step: the one before counts
    assert latency_fault(waited(canary=slow), [waited(stable=quick)], 250)
    assert not latency_fault(waited(stable=quick, canary=quick), [], 250)
