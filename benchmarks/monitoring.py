"""What the monitor sees, and how well: `python benchmarks/monitoring.py [estimate] [honest] [planted] [seconds]`; all when none is named.

The year's real flights. For each month from April on (the first with two months before it to judge on) the recipe of 07 is trained on
what was known at its first day; its scores of the two months before and of the month itself are kept in workspace/benchmarks/monitoring.
`honest` looks at the end of each month, `planted` at the end of each day of July after a fault began on the eighth, or, for errors and
latency, after each hundred requests. Outliers, groups, feedback and the plan's promises are judged as by 15.
Prints one JSON line a figure, and a table for people on standard error.
"""
import os
import sys

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"): os.environ.setdefault(name, "1")

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd

from data import ROOT
from quality import Year, say
from mlops_lifecycle.core.foundation.settings import Settings, load_settings
from mlops_lifecycle.core.models.features import columns_of
from mlops_lifecycle.core.operations.feedback import check_feedback
from mlops_lifecycle.core.problem.costs import costs_of
from mlops_lifecycle.core.problem.tasks import price
from mlops_lifecycle.core.quality.estimated_cost import estimate_cost
from mlops_lifecycle.core.quality.outliers import GoodRows, good_rows
from mlops_lifecycle.evaluate import declared_groups
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.monitoring import Around, monitor
from mlops_lifecycle.plan import plan
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
    rng = np.random.default_rng(month)
    heard = rng.random(len(rows)) < 0.9
    return rows.assign(decision=(rows.score >= rows.threshold).astype(float), rule=problem.rule.decide(columns_of(rows)), error=None,
                       seconds=0.003 * rng.lognormal(0, 0.3, len(rows)), at=rows.decision_time,
                       reported=(rows.decision_time + pd.to_timedelta(rng.uniform(4, 12, len(rows)), "h")).where(heard))


@cache
def parts(month: int) -> tuple[pd.DataFrame, pd.DataFrame, SimpleNamespace]:
    """The months before, the month, and the release."""
    rows, as_of = decided(month), clock(month)
    before, now = rows[rows.decision_time < as_of], rows[rows.decision_time >= as_of]
    half = as_of - pd.DateOffset(months=1)
    halves = [before[before.decision_time < half], before[before.decision_time >= half]]
    made = reference(halves, FEATURES, [one.score.to_numpy() for one in halves], "outcome")
    return before, now, SimpleNamespace(id=f"model-{as_of:%Y-%m}", kind="model", reference=made)


@cache
def good(month: int) -> GoodRows | None:
    """What rows from before a month were like."""
    rows = examples()
    return good_rows(rows[rows.decision_time < clock(month)], [one.name for one in FEATURES.features])


def look(month: int, rows: pd.DataFrame) -> dict:
    """What the monitor says of rows that the model of a month decided."""
    before, _, release = parts(month)
    groups = pd.concat([rows[list(problem.protected)], declared_groups(rows)], axis=1)
    ever = pd.concat([before[before.decision_time < rows.decision_time.min()], rows])
    feedback = pd.DataFrame({"prediction_id": ever.index, "asks": "outcome", "at": ever.reported}).dropna()
    reported = check_feedback(ever, feedback, rows.decision_time.max(), settings().monitor)
    return monitor(rows, release, costs_of(settings(), problem.kind), settings(),
                   Around(plan.model_dump(mode="json"), before=before, good=good(month), groups=groups, feedback=reported))


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


def explained(alarm: dict, figures: dict, before: pd.DataFrame, now: pd.DataFrame) -> str:
    """What explains an alarm of an honest month: the values in the two months before and in the month, or what followed the decisions."""
    column = alarm["column"]
    if alarm["what"] == "share of outliers":
        seldom = [f"{name} in {share:.1%} of the rows" for name, share in [*figures["outliers"]["outside the range"].items()][:3]]
        return f"outside the range of all months before: {', '.join(seldom) or 'no single column'}"
    if alarm["about"] not in ("input drift", "data source") or column not in now:
        was, is_ = (f"{rows.outcome.mean():.1%} late at a mean score of {rows.score.mean():.3f}" for rows in (before, now))
        return f"{was} before, {is_} in the month"
    if pd.api.types.is_numeric_dtype(now[column]):
        was, is_ = (f"{rows[column].median():.4g} ({rows[column].isna().mean():.1%} missing)" for rows in (before, now))
        return f"the median was {was}, is {is_}"
    was, is_ = (rows[column].astype(str).value_counts(normalize=True) for rows in (before, now))
    most = is_.sub(was, fill_value=0).abs().idxmax()
    return f'"{most}" was {was.get(most, 0):.1%} of the rows, is {is_.get(most, 0):.1%}'


def honest() -> None:
    found = {f"{clock(month):%B}": look(month, parts(month)[1]) for month in MONTHS}
    say("honest months rolled back", float(sum(one["action"] == "roll back" for one in found.values())), "months", 0)
    calls = {name: one for name, one in found.items() if one["action"] != "nothing"}
    say("honest months with an alarm that calls for an action", float(len(calls)), "months", None)
    more = ("latency", "fairness", "feedback", "plan")
    kinds = {kind: float(sum(any(one["about"] == kind for one in month["alarms"]) for month in found.values())) for kind in more}
    kinds["outliers"] = float(sum(any(one["what"] == "share of outliers" for one in month["alarms"]) for month in found.values()))
    say("findings of these kinds in honest months", sum(kinds.values()), "findings", None, "lower", kinds)
    for month in MONTHS:
        one, (before, now, _) = found[f"{clock(month):%B}"], parts(month)
        if one["alarms"]: print(f"    {clock(month):%B}: {one['severity']}: {one['action']}: {one['says']}", file=sys.stderr)
        for alarm in one["alarms"]: print(f"        {alarm['words']}: {explained(alarm, one['figures'], before, now)}", file=sys.stderr)


@dataclass(frozen=True)
class Planted:
    """A fault in July, and what has to be done about it."""
    plant: Callable[[pd.DataFrame], pd.DataFrame]
    about: tuple[str, ...]  # diagnoses that are right, each of which calls for one action
    requests: bool = False  # whether it must be found within a thousand requests, not days


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
    "errors of 2 %": Planted(lambda rows: rows.assign(error=np.where(some(rows, 0.02), "KeyError", None)), ("service",), True),
    "latency doubled": Planted(lambda rows: rows.assign(seconds=2 * rows.seconds), ("latency",), True),
    "one airport's passengers are warned seldom": Planted(
        lambda rows: rows.assign(decision=rows.decision.where((rows.origin != "LGA") | some(rows, 0.2), 0.0)), ("fairness", "harm")),
    "half of the reports stop": Planted(lambda rows: rows.assign(reported=rows.reported.where(some(rows, 0.5))), ("feedback",)),
}


def looks(before: pd.DataFrame, after: pd.DataFrame, start: pd.Timestamp, requests: bool) -> Iterator[tuple[int, pd.DataFrame]]:
    """The last thirty days after so many requests, or days."""
    for number in range(100, 1_001, 100) if requests else range(1, 22):
        ended = after.head(number) if requests else after[after.decision_time < start + pd.Timedelta(days=number)]
        rows = pd.concat([before, ended])
        yield number, rows[rows.decision_time >= ended.decision_time.max() - pd.Timedelta("30D")]


def planted() -> None:
    (before, now, _), start = parts(7), clock(7) + pd.Timedelta("7D")
    ever = pd.concat([before, now])
    until, after = ever[ever.decision_time < start], ever[ever.decision_time >= start]
    quiet = look(7, until[until.decision_time >= start - pd.Timedelta("30D")])["diagnosis"].about
    for name, fault in PLANTED.items():
        found, action, says = None, "nothing", ""
        for number, rows in looks(until, fault.plant(after), start, fault.requests):
            seen = look(7, rows)
            if seen["diagnosis"].about in fault.about and seen["diagnosis"].about != quiet:
                found, action, says = number, f"{seen['severity']}: {seen['action']}", seen["says"]
                break
        unit = "requests" if fault.requests else "days"
        say(f"{name}: {unit} until it is diagnosed", float(found or "inf"), unit, 1_000 if fault.requests else FOUND_WITHIN, "lower")
        print(f"    {action}: {says}", file=sys.stderr)


def seconds() -> None:
    now = parts(7)[1]
    good(7)
    began = time.perf_counter()
    look(7, now)
    say(f"a month of {len(now):,} decisions is judged in", time.perf_counter() - began, "seconds", 10)


FIGURES = {one.__name__: one for one in (estimate, honest, planted, seconds)}

if __name__ == "__main__":
    for figure in sys.argv[1:] or FIGURES:
        if figure not in FIGURES: raise SystemExit(f"no figure is called {figure}: there are {', '.join(FIGURES)}")
        FIGURES[figure]()
