"""How far the canary's verdicts can be trusted: `python benchmarks/operations.py [figure …]`, where a figure is one of same, better,
miscalibrated, some, shadow, arms, problems; all when none is named.

Climbs on paper, on the real flights of 2013 and through the package's own `judge`. A climb has a first day, the last requests before
it (step 0, before any user is asked) and the days that follow: both releases score each request, each outcome is known with its
delay, a look every six hours raises the share as soon as `judge` says so, and nobody can answer what is not told apart. The models are
those of the recipe of 07, trained at the first of April, June and September with three seeds, and kept with their scores in
workspace/benchmarks/operations. Times are drawn, for both releases alike: 3 ms, log-normal.
Prints one JSON line a figure, and a table for people on standard error.
"""
import os
import runpy
import sys

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"): os.environ.setdefault(name, "1")  # arrays are small: threads only wait

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle, permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes

from data import ROOT
from quality import Year, say
from mlops_lifecycle.core.foundation.settings import CanarySettings, Settings, load_settings
from mlops_lifecycle.core.models.features import Feature, FeatureSet
from mlops_lifecycle.core.operations.evidence import cost_evidence
from mlops_lifecycle.core.operations.gate_power import SIMULATED_FAULTS, Planted
from mlops_lifecycle.core.operations.guards import Climb
from mlops_lifecycle.core.operations.simulated_climb import SimulatedClimb, rows_of_both, simulate_climb
from mlops_lifecycle.core.problem.costs import Costs, costs_of
from mlops_lifecycle.core.problem.tasks import price
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.train import estimators, search_space, train
from mlops_lifecycle.transform import FEATURES

HOME = ROOT / "workspace" / "benchmarks" / "operations"
COLUMNS = ["carrier", "flight", "origin", "destination", "tail_number", "distance"]  # of a request
SHADOW = 2_000  # requests before any user is asked
CLOCKS, SEEDS = (4, 6, 9), (0, 1, 2)  # when models are trained, months of 2013; with which seeds
LAST = pd.Timestamp("2013-11-30T00:00Z")  # a climb that starts later has no month before the year ends
RIGHT = "promote", "hold", "not told apart"  # ends of a climb that say nothing wrong of an equal release
Spoil = Callable[[Planted], pd.DataFrame]  # what a fault makes of a climb's requests


@cache
def year() -> Year: return Year(tempfile.mkdtemp())


@cache
def flights() -> Settings: return load_settings(ROOT, environ={})


@cache
def traffic() -> pd.DataFrame:
    """The year's requests with their outcomes; made once, and kept."""
    path = HOME / "examples.parquet"
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        year().gold(year().tables).examples.to_parquet(path)
    rows = pd.read_parquet(path)
    rows = rows[rows[problem.target].notna()].sort_values("decision_time", kind="stable")
    entity = rows[["carrier", "flight", "origin"]].astype(str).agg("|".join, axis=1)
    return rows.assign(entity=pd.factorize(entity)[0], **{name: pd.Categorical(rows[name]) for name in COLUMNS})


@cache
def scores(month: int, seed: int) -> pd.DataFrame:
    """What the recipe of 07, trained at the first of the month with this seed, says to every later request."""
    path = HOME / f"{month:02}-{seed}.parquet"
    if not path.exists():
        traffic()
        examples, as_of = pd.read_parquet(HOME / "examples.parquet"), pd.Timestamp(2013, month, 1, tz="UTC")
        known, later = examples[examples.decision_time < as_of], examples[examples.decision_time >= as_of]
        found = train(known, FEATURES, problem, year().settings, as_of, estimators, seed=seed, search_space=search_space)
        best = min(found, key=lambda c: c.metrics["cost"])
        pd.DataFrame({"score": best.score(later), "threshold": best.metrics["threshold"]}, index=later.index).to_parquet(path)
    return pd.read_parquet(path)


def requests(rows: pd.DataFrame, stable: pd.DataFrame, canary: pd.DataFrame, costs: Costs, target: str,
             rng: np.random.Generator) -> pd.DataFrame:
    """Rows with what two releases say to them, as `simulate_climb` takes them."""
    said = [found.loc[rows.index] for found in (stable, canary)]
    decisions = [np.asarray(costs.task.decide(one.score, one.threshold), dtype=float) for one in said]
    made = rows_of_both(rows.rename(columns={target: "outcome"}), decisions, [one.score for one in said], ["entity"])
    times = {f"{release}_ms": 3 * rng.lognormal(0, 0.3, len(rows)) for release in ("stable", "canary")}
    return made.join(rows[[name for name in COLUMNS if name in rows]].reset_index(drop=True)).assign(**times)


@dataclass(frozen=True)
class Climbed:
    """How a climb ended."""
    found: SimulatedClimb
    saved: float  # by the new release from its first day to the end of the longest wait, as a share of the stable release's cost

    @property
    def end(self) -> str:
        verdict = self.found.verdict
        return verdict.action if verdict.action != "roll back" else verdict.guard or verdict.finding


def climb(rows: pd.DataFrame, start: pd.Timestamp, costs: Costs, limits: CanarySettings, seed: int) -> Climbed:
    """Raise the share of a new release from 0 until a verdict ends the climb."""
    columns, later = [name for name in COLUMNS if name in rows], (rows.decision_time >= start).to_numpy()
    found = simulate_climb(rows, costs, limits, "6h", f"release {seed}", start, columns)
    stable, canary = (float(np.nansum(price(rows.outcome.to_numpy(), rows[f"{release}_decision"].to_numpy(), costs)[later]))
                      for release in ("stable", "canary"))
    return Climbed(found, 1 - canary / stable if stable else 0.0)


def of_flights(old: tuple[int, int], new: tuple[int, int], start: pd.Timestamp, seed: int, spoil: Spoil | None = None) -> Climbed:
    """A climb of one model (clock and seed) against another on the flights from a day on."""
    settings, rng = flights(), np.random.default_rng(seed)
    time, first = traffic().decision_time, pd.Timestamp(2013, max(old[0], new[0]), 1, tz="UTC")
    before = np.flatnonzero((time >= first) & (time < start))[-SHADOW:]
    after = np.flatnonzero((time >= start) & (time < start + pd.Timedelta(days=settings.canary.longest + 3)))
    rows, costs = traffic().iloc[np.concatenate([before, after])], costs_of(settings, problem.kind)
    made = requests(rows, scores(*old), scores(*new), costs, problem.target, rng)
    planted = Planted(made, COLUMNS, float(scores(*new).threshold.iloc[0]), costs, rng)
    return climb(spoil(planted) if spoil else made, start, costs, settings.canary, seed)


def starts(clock: int, count: int) -> list[pd.Timestamp]:
    """Days from a week after the models' clock on, evenly over what is left of the year."""
    return [*pd.date_range(pd.Timestamp(2013, clock, 8, tz="UTC"), LAST, periods=count).floor("D")]


def told(climbs: list[Climbed], *parts: str) -> dict[str, float]:
    """How the climbs ended, as shares."""
    ends = Counter(one.end for one in climbs)
    return {end: ends[end] / len(climbs) for end in (*parts, *sorted({*ends} - {*parts}))}


# Faults -----------------------------------------------------------------------------------------------------------------------

def fault(name: str, size: float) -> Spoil: return partial(SIMULATED_FAULTS[name].plant, size=size)

AT_ONCE = {"crash": fault("crash", 1.0), "nan": fault("nan", 0.1), "contract": fault("contract", 1.0), "slow": fault("slow", 200)}
SOME = {"slow-some": fault("slow-some", 0.05), "crash-some": fault("crash-some", 0.002)}


# Figures ----------------------------------------------------------------------------------------------------------------------

def same(count: int = 200) -> None:
    pairs = {clock: cycle(permutations(SEEDS, 2)) for clock in CLOCKS}
    plan = [(clock, start) for clock, some in zip(CLOCKS, (count * 2 // 5, count * 2 // 5, count // 5)) for start in starts(clock, some)]
    climbs = []
    for seed, (clock, start) in enumerate(plan):
        old, new = next(pairs[clock])
        climbs.append(of_flights((clock, old), (clock, new), start, seed))
    ends = told(climbs, "promote", "not told apart", "worse")
    wrong = sum(share for end, share in ends.items() if end not in RIGHT)
    say(f"same (another seed), {len(climbs)} climbs: rolled back as worse", wrong, "of all", 0.05, "lower", ends)


def better(count: int = 50) -> None:
    days = pd.date_range("2013-06-01", "2013-10-31", periods=count, tz="UTC").floor("D")
    climbs = [of_flights((4, 0), (6, 0), start, seed) for seed, start in enumerate(days)]
    def promoted(some: list[Climbed]) -> float: return float(np.mean([one.end == "promote" for one in some])) if some else float("nan")
    say(f"June against March, {count} climbs from June to October: promoted", promoted(climbs), "of all", 0.8, "higher",
        told(climbs, "promote", "not told apart", "worse"))
    clear = [one for one in climbs if one.saved >= 0.05]
    say(f"of these the {len(clear)} in which June costs at least 5 % less: promoted", promoted(clear), "of them", 0.8, "higher",
        {"climbs in which it costs more": float(np.mean([one.saved < 0 for one in climbs]))})
    waited = [one.found.days for one in climbs if one.end == "promote"]
    say("days until they were promoted, median", float(np.median(waited)), "days", None, "lower",
        {"shortest": min(waited), "longest": max(waited)})


def miscalibrated(count: int = 50) -> None:
    plan = [(clock, start) for clock, some in zip(CLOCKS, (20, 20, 10)) for start in starts(clock, some * count // 50)]
    climbs = [of_flights((clock, 0), (clock, 0), start, seed, fault("miscalibrated", 0.3)) for seed, (clock, start) in enumerate(plan)]
    ends = told(climbs, "promote", "worse", "calibration", "not told apart")
    say(f"scores × 0.7, {len(climbs)} climbs: promoted", ends["promote"], "of all", 0.05, "lower",
        ends | {"climbs in which it costs less": float(np.mean([one.saved > 0 for one in climbs])),
                "promoted, and it costs more": float(np.mean([one.end == "promote" and one.saved < 0 for one in climbs]))})


def some(count: int = 50) -> None:
    for name, spoil in SOME.items():
        climbs = [of_flights((6, 0), (6, 1), start, seed, spoil) for seed, start in enumerate(starts(6, count))]
        caught = [one for one in climbs if one.found.verdict.guard and one.found.share <= 10]
        say(f"{name}, {count} climbs: caught at or below 10 %", len(caught) / count, "of all", 0.9, "higher",
            {f"at {share:g} %": shares / count for share, shares in sorted(Counter(one.found.share for one in caught).items())})


def shadow(count: int = 20) -> None:
    for name, spoil in AT_ONCE.items():
        climbs = [of_flights((6, 0), (6, 1), start, seed, spoil) for seed, start in enumerate(starts(6, count))]
        caught = [one.found.share if one.found.verdict.guard else 100.0 for one in climbs]
        say(f"{name}, {count} climbs: share of traffic when caught", max(caught), "%", 0)


def arms(count: int = 10) -> None:
    """How much more evidence two arms of half the entities need than the same requests, for an interval of one width."""
    limits, costs, more = flights().canary, costs_of(flights(), problem.kind), []
    for seed, start in enumerate(starts(6, count)):
        rng, time = np.random.default_rng(seed), traffic().decision_time
        rows = traffic()[(time >= start) & (time < start + pd.Timedelta(days=limits.longest))]
        made = requests(rows, scores(6, 0), scores(6, 1), costs, problem.target, rng).assign(share=50.0)
        draw = rng.random(int(rows.entity.max()) + 1)[rows.entity]
        seen = Climb(made.assign(arm=np.where(draw < 0.5, "canary", "stable")))
        both = (limits.model_copy(update={"outcome_depends_on_decision": depends}) for depends in ("no", "yes"))
        found = [cost_evidence(seen, costs, one) for one in both]
        widths = [one.interval.high - one.interval.low for one in found if one]
        more.append((widths[1] / widths[0]) ** 2)
    say("evidence that two arms need, times that of the same requests, median", float(np.median(more)), "times",
        against={"least": min(more), "most": max(more)})


def small(name: str, kind: str, bunch: Callable, climbs: int = 20) -> None:
    """Same, × 0.7 and crash where there is no time and there are few rows: one comes every three hours, in a random order."""
    settings = load_settings(ROOT / "tests" / "template" / "problems" / name, environ={})
    settings = settings.model_copy(update={"canary": settings.canary.model_copy(update={"outcome_depends_on_decision": "no"})})
    table, costs, found = bunch(as_frame=True).frame, costs_of(settings, kind), {"same": [], "× 0.7": [], "crash": []}
    if kind == "binary": table["target"] = 1 - table.target  # 1: malignant
    recipe = runpy.run_path(str(ROOT / "tests" / "template" / "problems" / name / "07_train.py"))
    features = FeatureSet(tuple(Feature(column) for column in table if column != "target"), ())
    about = SimpleNamespace(target="target", kind=kind)
    for seed in range(climbs):
        time = pd.date_range("2024-01-01", periods=len(table), freq="3h", tz="UTC")
        rows = table.sample(frac=1, random_state=seed).reset_index(drop=True)
        rows = rows.assign(decision_time=time, label_known_at=time + pd.Timedelta("1h"), entity=rows.index, key=rows.index)
        as_of = pd.Timestamp(settings.clock.as_of)
        said = []
        for other in (0, 1):
            trained = train(rows[rows.decision_time < as_of], features, about, settings, as_of, recipe["estimators"],
                            seed=other, search_space=recipe["search_space"])
            best = min(trained, key=lambda c: c.metrics["cost"])
            said.append(pd.DataFrame({"score": best.score(rows), "threshold": best.metrics["threshold"]}))
        made = requests(rows, *said, costs, "target", np.random.default_rng(seed))
        made = made[made.decision_time >= as_of - pd.Timedelta(days=5)].reset_index(drop=True)
        planted = Planted(made.assign(canary_score=made.stable_score), [], float(said[0].threshold[0]), costs, np.random.default_rng(seed))
        spoiled = {"same": made, "× 0.7": fault("miscalibrated", 0.3)(planted), "crash": fault("crash", 1.0)(planted)}
        for what, rows_of_it in spoiled.items(): found[what].append(climb(rows_of_it, as_of, costs, settings.canary, seed))
    ends = {what: told(some, "promote", "not told apart", "worse") for what, some in found.items()}
    wrong = sum(share for end, share in ends["same"].items() if end not in RIGHT)
    say(f"{name}: same, {climbs} climbs: rolled back as worse", wrong, "of all", 0.05, "lower", ends["same"])
    say(f"{name}: × 0.7, {climbs} climbs: promoted", ends["× 0.7"]["promote"], "of all", 0.05, "lower", ends["× 0.7"])
    say(f"{name}: crash: share of traffic when caught", max(one.found.share for one in found["crash"]), "%", 0, "lower", ends["crash"])


def problems() -> None:
    for name, kind, bunch in (("breast_cancer", "binary", load_breast_cancer), ("diabetes", "regression", load_diabetes)):
        small(name, kind, bunch)


FIGURES = {one.__name__: one for one in (same, better, miscalibrated, some, shadow, arms, problems)}

if __name__ == "__main__":
    for figure in sys.argv[1:] or FIGURES:
        if figure not in FIGURES: raise SystemExit(f"no figure is called {figure}: there are {', '.join(FIGURES)}")
        FIGURES[figure]()
