"""The loop: the cases that a lesson has no room for."""
from functools import partial

import numpy as np
import pandas as pd
import pytest

from mlops_lifecycle.core.foundation.settings import CanarySettings
from mlops_lifecycle.core.foundation.stages import GoBack
from mlops_lifecycle.core.operations.policy_comparison import spans, worth
from mlops_lifecycle.core.problem.costs import Costs
from mlops_lifecycle.loop import Decider, Loop, Roles, admit, gate, play, replay

COSTS = Costs(missed=5, needless=1)
LIMITS = CanarySettings(steps="20, 50, 100", min_labelled=8, min_days=3, longest=20, outcome_depends_on_decision="no")
MONTHS = spans("2024-03-01T00:00Z", "MS", 3)
CANARY = partial(admit, costs=COSTS, limits=LIMITS)


def month(start, share, seed):
    rng, n = np.random.default_rng(seed), 200
    at = pd.date_range(start, periods=n, freq="3h", tz="UTC")
    kind = np.where(rng.uniform(size=n) < 0.5, "novel", "textbook")
    late = rng.uniform(size=n) < np.where(kind == "novel", share, 0.9 - share)
    return pd.DataFrame({"decision_time": at, "label_known_at": at + pd.Timedelta("2D"), "kind": kind,
                         "outcome": late.astype(float)})


LOANS = pd.concat([month("2024-03-01", 0.8, 1), month("2024-04-01", 0.1, 2), month("2024-05-01", 0.1, 3)],
                  ignore_index=True)
NOVELS = Decider("remind for novels", lambda rows: (rows.kind == "novel").to_numpy(int))
ALWAYS = Decider("always remind", lambda rows: np.ones(len(rows), int))
NEVER = Decider("never remind", lambda rows: np.zeros(len(rows), int))


def retrain(*_): return "retrain", []
def roll_back(*_): return "roll back", []
def never(clock, champion, gates): return NEVER


def too_few(clock, champion, gates):
    with gate(gates, "train"): raise GoBack("collect", "three rows are not enough")


def test_a_challenger_that_the_canary_refuses_does_not_stay():
    _, events = play(LOANS, MONTHS, ALWAYS, retrain, never, CANARY)
    assert [e["challenger"] for e in events] == ["never remind"] * 2
    assert not any(e["adopted"] for e in events)


def test_a_refusal_in_training_is_recorded_and_leaves_no_challenger():
    loop, event = Loop(Roles(NOVELS, CANARY), retrain, too_few), {"gates": []}
    loop.retrain(MONTHS[0][1], event)
    assert loop.roles.challenger is None
    assert event == {"gates": [{"stage": "train", "passed": False,
                                "reason": "back to collect: three rows are not enough"}]}


def test_a_roll_back_leads_to_what_decided_before():
    decided, events = play(LOANS, MONTHS, NOVELS, roll_back, too_few, CANARY, fallback=ALWAYS)
    assert decided[200:].tolist() == ALWAYS.decide(LOANS[200:]).tolist()
    assert [e["champion"] for e in events] == ["remind for novels", "always remind"]


def test_a_loop_that_costs_more_leads_back_to_the_monitor():
    passed = {"stage": "operate", "passed": True, "reason": "not checked"}
    with pytest.raises(GoBack, match="back to monitor: the loop costs"):
        replay(LOANS, MONTHS, ALWAYS, ALWAYS, retrain, never,
               lambda rows, champion, challenger: (challenger.decide(rows), passed), COSTS)


def test_without_a_known_outcome_nothing_is_saved():
    assert worth(np.array([np.nan]), np.array([1]), np.array([0]), COSTS)["decisions"] == 0


def test_no_rows_in_the_periods_are_no_decisions():
    decided, events = play(LOANS, spans("2025-01-01T00:00Z", "MS", 2), ALWAYS, retrain, never, CANARY)
    assert (len(decided), events) == (0, [])
