"""What the monitor sees, and how well: `python benchmarks/monitoring.py [estimate] [honest] [planted] [seconds]`; all when none is named.

The year's real flights. For each month from April on (the first with two months before it to judge on) the recipe of 07 is trained on
what was known at its first day; its scores of the two months before and of the month itself are kept in workspace/benchmarks/monitoring.
`honest` looks at the end of each month, `planted` at the end of each day of July after a fault began on the eighth.
Prints one JSON line a figure, and a table for people on standard error.
"""
import os
import sys

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"): os.environ.setdefault(name, "1")

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd

from data import ROOT
from quality import Year, say
from mlops_lifecycle.core.foundation.settings import Settings, load_settings
from mlops_lifecycle.core.models.features import columns_of
from mlops_lifecycle.core.problem.costs import costs_of
from mlops_lifecycle.core.problem.tasks import price
from mlops_lifecycle.core.quality.estimated_cost import estimate_cost
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.monitoring import monitor
from mlops_lifecycle.release import reference
from mlops_lifecycle.train import estimators, search_space, train
from mlops_lifecycle.transform import FEATURES

HOME = ROOT / "workspace" / "benchmarks" / "monitoring"
MONTHS = range(4, 13)
FOUND_WITHIN = 7  # days


@cache
def year() -> Year: return Year(tempfile.mkdtemp())


@cache
def settings() -> Settings: return load_settings(ROOT, environ={})


@cache
def examples() -> pd.DataFrame:
    """Gold, as known at the end of the year; made once, and kept."""
    path = HOME / "examples.parquet"
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        year().gold(year().tables).examples.to_parquet(path)
    return pd.read_parquet(path).sort_values("decision_time", kind="stable")


def clock(month: int) -> pd.Timestamp: return pd.Timestamp(2013, month, 1, tz="UTC")


@cache
def decided(month: int) -> pd.DataFrame:
    """What the model of a month decided in the two months before it, on which it was judged, and in the month."""
    path, as_of = HOME / f"{month:02}.parquet", clock(month)
    rows = examples()
    if not path.exists():
        found = train(rows[rows.decision_time < as_of], FEATURES, problem, year().settings, as_of, estimators, search_space=search_space)
        best = min(found, key=lambda c: c.metrics["cost"])
        some = rows[(rows.decision_time >= as_of - pd.DateOffset(months=2)) & (rows.decision_time < as_of + pd.DateOffset(months=1))]
        pd.DataFrame({"score": best.score(some), "threshold": best.metrics["threshold"]}, index=some.index).to_parquet(path)
    said = pd.read_parquet(path)
    rows = rows.loc[rows.index.isin(said.index)].join(said).rename(columns={problem.target: "outcome"})
    rows = rows[rows.outcome.notna()].astype({"outcome": float})
    return rows.assign(decision=(rows.score >= rows.threshold).astype(float), rule=problem.rule.decide(columns_of(rows)), error=None,
                       seconds=0.003 * np.random.default_rng(month).lognormal(0, 0.3, len(rows)))


@cache
def parts(month: int) -> tuple[pd.DataFrame, pd.DataFrame, SimpleNamespace]:
    """The months before, the month, and the release."""
    rows, as_of = decided(month), clock(month)
    before, now = rows[rows.decision_time < as_of], rows[rows.decision_time >= as_of]
    half = as_of - pd.DateOffset(months=1)
    halves = [before[before.decision_time < half], before[before.decision_time >= half]]
    made = reference(halves, FEATURES, [one.score.to_numpy() for one in halves], "outcome")
    return before, now, SimpleNamespace(id=f"model-{as_of:%Y-%m}", kind="model", reference=made)


# Figures ----------------------------------------------------------------------------------------------------------------------

def estimate() -> None:
    costs, errors, covered, told = costs_of(settings(), problem.kind), [], [], {}
    for month in MONTHS:
        before, now, _ = parts(month)
        found = estimate_cost(now, before, costs)
        true = float(price(now.outcome.to_numpy(), now.decision.to_numpy(), costs).mean())
        errors.append(abs(found.cost / true - 1))
        covered.append(found.low <= true <= found.high)
        told[f"{clock(month):%B}"] = found.cost / true - 1
    say("cost estimated before labels, mean absolute error", float(np.mean(errors)), "of the cost", 0.1, "lower", told)
    say("months in which its interval covers the true cost", float(np.mean(covered)), "of all", 0.8, "higher")


def honest() -> None:
    costs, found = costs_of(settings(), problem.kind), {}
    for month in MONTHS:
        before, now, release = parts(month)
        found[f"{clock(month):%B}"] = monitor(now, release, costs, settings(), before=before)
    say("honest months rolled back", float(sum(one["action"] == "roll back" for one in found.values())), "months", 0)
    calls = {name: one for name, one in found.items() if one["action"] != "nothing"}
    say("honest months with an alarm that calls for an action", float(len(calls)), "months", None)
    for name, one in calls.items(): print(f"    {name}: {one['action']}: {one['says']}", file=sys.stderr)


@dataclass(frozen=True)
class Planted:
    """A fault in July, and what has to be done about it."""
    plant: Callable[[pd.DataFrame], pd.DataFrame]
    about: tuple[str, ...]  # diagnoses that are right, each of which calls for one action


def lower(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(score=0.7 * rows.score, decision=(0.7 * rows.score >= rows.threshold).astype(float))

def some(rows: pd.DataFrame, share: float) -> np.ndarray: return np.random.default_rng(0).random(len(rows)) < share

PLANTED = {
    "a feature's unit changes": Planted(lambda rows: rows.assign(distance=1.609 * rows.distance), ("data source",)),
    "a source stops": Planted(
        lambda rows: rows.assign(**{c: np.nan for c in rows if c.startswith("temp")}), ("data source",)),
    "a category is renamed": Planted(
        lambda rows: rows.assign(carrier=rows.carrier.astype(str).replace("UA", "United")), ("data source",)),
    "scores × 0.7": Planted(lower, ("calibration", "concept drift")),
    "the label's meaning turns": Planted(lambda rows: rows.assign(outcome=1 - rows.outcome), ("concept drift", "harm")),
    "one carrier's decisions go wrong": Planted(
        lambda rows: rows.assign(decision=rows.decision.where(rows.carrier != "UA", 1 - rows.decision)), ("harm",)),
    "errors of 2 %": Planted(lambda rows: rows.assign(error=np.where(some(rows, 0.02), "KeyError", None)), ("service",)),
    "latency doubled": Planted(lambda rows: rows.assign(seconds=2 * rows.seconds), ("latency",)),
}


def planted() -> None:
    costs, (before, now, release) = costs_of(settings(), problem.kind), parts(7)
    start = clock(7) + pd.Timedelta("7D")
    for name, fault in PLANTED.items():
        days, action, says = None, "nothing", ""
        spoiled = pd.concat([before, now[now.decision_time < start], fault.plant(now[now.decision_time >= start])])
        quiet = monitor(spoiled[(spoiled.decision_time < start) & (spoiled.decision_time >= start - pd.Timedelta("30D"))],
                        release, costs, settings(), before=before)["diagnosis"].about
        for day in range(1, 22):
            look = start + pd.Timedelta(days=day)
            rows = spoiled[(spoiled.decision_time >= look - pd.Timedelta("30D")) & (spoiled.decision_time < look)]
            found = monitor(rows, release, costs, settings(), before=before)
            if found["diagnosis"].about in fault.about and found["diagnosis"].about != quiet:
                days, action, says = day, found["action"], found["says"]
                break
        say(f"{name}: days until it is diagnosed", float(days or "inf"), "days", FOUND_WITHIN, "lower")
        print(f"    {action}: {says}", file=sys.stderr)


def seconds() -> None:
    before, now, release = parts(7)
    began = time.perf_counter()
    monitor(now, release, costs_of(settings(), problem.kind), settings(), before=before)
    say(f"a month of {len(now):,} decisions is judged in", time.perf_counter() - began, "seconds", 10)


FIGURES = {one.__name__: one for one in (estimate, honest, planted, seconds)}

if __name__ == "__main__":
    for figure in sys.argv[1:] or FIGURES:
        if figure not in FIGURES: raise SystemExit(f"no figure is called {figure}: there are {', '.join(FIGURES)}")
        FIGURES[figure]()
