"""How good the decisions are: `python benchmarks/quality.py [MONTH …]`, months of 2013 as numbers, else 7 9 12.

For each month a model is trained on what was known at its first day and judged on the month. FLAML gets the same gold,
the same labels and the same seconds in an environment of its own (`workspace/benchmarks/flaml`, made when it is not
there). At last the proof of honesty: whatever became known after the first of the month, or after a decision, is dealt
anew among its rows, and nothing may change.
Prints one JSON line a figure, and a table for people on standard error.
"""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from mlops_lifecycle.collect import collect
from mlops_lifecycle.core.data.hooks import CollectHooks, CurateHooks
from mlops_lifecycle.core.foundation.point_in_time import known
from mlops_lifecycle.core.models.feature_hooks import TransformHooks
from mlops_lifecycle.core.models.features import columns_of
from mlops_lifecycle.core.models.release import model_bytes
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.curate import curate
from mlops_lifecycle.core.problem.costs import costs_of, mean_cost
from mlops_lifecycle.core.problem.baselines import baseline
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.train import estimators, search_space, train, training_rows
from mlops_lifecycle.transform import FEATURES, transform

DECLARED, CURATED, TRANSFORMED = CollectHooks.of_project(), CurateHooks.of_project(), TransformHooks.of_project()
ROOT = Path(__file__).parent.parent
BARS = {7: (0.790, 0.545), 9: (0.800, 0.350), 12: (0.765, 0.615)}  # area under the ROC curve, cost
BEFORE = {7: (0.774, 0.558), 9: (0.785, 0.376), 12: (0.752, 0.644)}  # of an untuned model on fewer features
END = pd.Timestamp("2014-01-03T00:00Z")
FLAML = """
import sys, numpy as np
from flaml import AutoML
given = np.load(sys.argv[1])
model = AutoML()
model.fit(
    given["X"], given["y"], task="classification", metric="log_loss", time_budget=float(sys.argv[3]), n_jobs=2, seed=0,
    # those that take missing values; FLAML's linear ones fail on them
    split_type="time", estimator_list=["lgbm", "xgboost", "xgb_limitdepth", "rf", "extra_tree"], verbose=0)
np.save(sys.argv[2], model.predict_proba(given["X_judged"])[:, 1])
print(model.best_estimator)
"""


def say(
    figure: str, value: float, unit: str, goal: float | None = None, better: str = "lower", against: dict | None = None,
) -> None:
    """One figure as a line of JSON, and as a line for people."""
    holds = None if goal is None else bool(value <= goal if better == "lower" else value >= goal)
    document = {"figure": figure, "value": round(value, 4), "unit": unit, "goal": goal, "holds": holds,
                "against": against or {}}
    print(json.dumps(document), flush=True)
    beside = "  ".join(f"{name} {other:.4f}" for name, other in (against or {}).items())
    wanted = "" if goal is None else f"goal {goal:g}" + ("" if holds else " MISSED")
    print(f"{figure:64} {value:9.4f} {unit:22} {wanted}  {beside}", file=sys.stderr, flush=True)


def expected_calibration_error(y: np.ndarray, probability: np.ndarray, bins: int = 10) -> float:
    """Mean distance between promise and truth in ten bins of equal width, weighted by their rows."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    bins_there = (place == b for b in np.unique(place))
    return float(sum(abs(y[at].mean() - probability[at].mean()) * at.mean() for at in bins_there))


def shuffled(table: pd.DataFrame, availability: dict, moment: pd.Timestamp, seed: int, named: tuple[str, ...]) -> pd.DataFrame:
    """The table with what became known after the moment dealt anew among its rows; `named` columns, its names, stay."""
    table, rng = table.copy(), np.random.default_rng(seed)
    for column, gated in availability.items():
        later, order = np.flatnonzero(~(table[column] <= moment).to_numpy(bool)), np.arange(len(table))
        order[later] = rng.permutation(later)
        of_gates = {c for g in availability.values() if g != "*" for c in g}
        amounts = [c for c in table if pd.api.types.is_numeric_dtype(table[c]) and c not in {*named, *of_gates}]
        for name in (amounts if gated == "*" else [column, *gated]): table[name] = table[name].iloc[order].array
    return table


class Year:
    """The year's bronze, and what the package makes of it."""
    def __init__(self, folder: str):
        self.settings, self.workspace = load_settings(ROOT, environ={}), Workspace(folder)
        self.bronze, self.costs = collect(self.settings.source, ROOT, DECLARED), costs_of(self.settings)
        self.tables = {name: table[[c for c in table if not c.startswith("_")]]  # as a workspace gives them
                       for name, table in self.bronze.tables.items()}

    def gold(self, tables: dict[str, pd.DataFrame], as_of: pd.Timestamp = END):
        read = {name: known(table, as_of, self.bronze.availability[name]) for name, table in tables.items()}
        silver = curate(read, self.settings.source, self.workspace.pseudonyms, DECLARED, CURATED).tables
        return transform(silver, as_of, problem, TRANSFORMED)

    def shuffled(self, moment: pd.Timestamp) -> dict[str, pd.DataFrame]:
        clock = ("sched_dep_time", "sched_arr_time", "hour", "minute")  # curating holds them against the schedule
        return {name: shuffled(table, self.bronze.availability[name], moment, 7, (*self.settings.source[name].key, *clock))
                for name, table in self.tables.items()}


def first_and_next(month: int) -> tuple[pd.Timestamp, pd.Timestamp]:
    first = pd.Timestamp(2013, month, 1, tz="UTC")
    return first, first + pd.offsets.MonthBegin(1)


def flaml(X: np.ndarray, y: np.ndarray, X_judged: np.ndarray, seconds: float) -> np.ndarray:
    """What FLAML says of the judged rows after as many seconds."""
    home = ROOT / "workspace" / "benchmarks" / "flaml"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "flaml[automl]==2.7.0"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/given.npz", X=X, y=y, X_judged=X_judged)
        subprocess.run([python, "-c", FLAML, f"{folder}/given.npz", f"{folder}/said.npy", str(seconds)],
                       check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "2"})
        return np.load(f"{folder}/said.npy")


def judge(year: Year, examples: pd.DataFrame, month: int, rivals: bool = True) -> bool:
    """All figures of a month; whether it costs no more than FLAML."""
    first, end = first_and_next(month)
    start = time.perf_counter()
    candidates = train(examples, FEATURES, problem, year.settings, end, estimators, search_space=search_space)
    seconds = time.perf_counter() - start
    best = min(candidates, key=lambda c: c.metrics["cost"])
    def inside(a, b):
        here = (examples.decision_time >= a) & (examples.decision_time < b)
        return examples[here & examples[problem.target].notna()]
    rows, before = inside(first, end), inside(first - pd.offsets.MonthBegin(1), first)
    before, y = before[before.label_known_at <= first], rows[problem.target].to_numpy(int)
    probability, name = best.score(rows), f"{first:%B}"
    cost, rule = mean_cost(y, probability >= best.metrics["threshold"], year.costs), problem.rule
    auc_goal, cost_goal = BARS.get(month, (None, None))
    without = baseline(before[problem.target].to_numpy(int), rule.score(columns_of(before)),
                  y, rule.score(columns_of(rows)), year.costs, rule.threshold)
    untuned = dict(zip(("auc", "cost"), BEFORE.get(month, ())))
    say(f"{name}: area under the ROC curve ({best.name})", float(roc_auc_score(y, probability)), "area",
        auc_goal, "higher", {"untuned before": untuned["auc"]} if untuned else {})
    cheaper = True
    theirs = {}
    if rivals:
        known_rows = training_rows(examples, problem.target, end, year.settings.clock.period)
        X_known, y_known = best.encoder.encode(known_rows), known_rows[problem.target].to_numpy(int)
        rival = flaml(X_known, y_known, best.encoder.encode(rows), seconds)
        theirs = {"FLAML": mean_cost(y, rival >= best.metrics["threshold"], year.costs)}
        cheaper = cost <= theirs["FLAML"]
    earlier = {"untuned before": untuned["cost"]} if untuned else {}
    say(f"{name}: cost", cost, problem.unit, cost_goal, "lower", theirs | earlier | without.costs)
    say(f"{name}: expected calibration error", expected_calibration_error(y, probability), "probability", 0.04)
    say(f"{name}: training, {len(candidates.trials)} candidates", seconds, "s", 90)
    return cheaper


def honest(year: Year, examples: pd.DataFrame, month: int) -> None:
    """Nothing sees what it could not have known."""
    first, end = first_and_next(month)
    def made(of):
        candidates = train(of, FEATURES, problem, year.settings, end, estimators, search_space=search_space)
        best = min(candidates, key=lambda c: c.metrics["cost"])
        about = json.dumps([best.calibration, best.metrics["threshold"], best.encoder.to_dict()])
        return hashlib.sha256(model_bytes(best.estimator) + about.encode()).hexdigest()
    other = year.gold(year.shuffled(first)).examples
    was, is_now = (table[problem.target].to_numpy(float, na_value=-1) for table in (examples, other))
    changed = (is_now != was).sum()
    if not changed: raise SystemExit("the shuffling changed nothing, so it proves nothing")
    say(f"{first:%B}: models and thresholds that change with what became known after the first",
        float(made(other) != made(examples)), "of 1", 0)
    unequal, rng = 0, np.random.default_rng(0)
    decided = np.flatnonzero((examples.decision_time >= first) & (examples.decision_time < end))
    moments = examples.decision_time.iloc[rng.choice(decided, 2)]
    for moment in moments:
        two = year.gold(year.shuffled(moment)).examples
        asked = examples.decision_time <= moment
        a, b = (frame.set_index("key").loc[examples.key[asked], FEATURES.names] for frame in (examples, two))
        unequal += int((~((a == b) | (a.isna() & b.isna()))).any(axis=1).sum())
    say(f"{first:%B}: decisions whose features change with what became known after them",
        unequal, f"of {len(moments)} × all before", 0)


def main(months: list[int]) -> None:
    """Measure, then print."""
    with tempfile.TemporaryDirectory() as folder:
        year = Year(folder)
        examples = year.gold(year.tables).examples
        cheaper = [judge(year, examples, month) for month in months]
        goal = 2 if len(months) == 3 else None
        say("months in which FLAML with the same seconds is no cheaper", sum(cheaper), f"of {len(months)}",
            goal, "higher")
        honest(year, examples, months[0])


if __name__ == "__main__":
    main([int(month) for month in sys.argv[1:]] or [7, 9, 12])
