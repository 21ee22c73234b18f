"""The search of 07 against FLAML, same seconds, same rows: `python benchmarks/against_flaml.py [--only 1-20] [--seconds 15] [--seeds 3]`.

The tables of any_table.py that have a target, each by `mlops new --yes` and a run up to 04. Then both learn from the same rows of gold
with the same features, on one core, and decide the same test set; what a mistake costs is what the project assumes. FLAML searches for
the log loss, or the mean absolute error of amounts, with its usual families, and acts from the threshold that follows from the costs.
The ratio is our cost to its cost: 1 where both are 0, and below 1 where ours is cheaper. FLAML gets an environment of its own under
.venv/. Prints one JSON line a table and seed, and at the end the median over tables of each table's median over seeds.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

FLAML = ("flaml[automl]==2.8.0", "pyarrow")


def theirs(folder: Path, seconds: float, seed: int) -> None:
    """Search with FLAML; runs in its environment."""
    from flaml import AutoML
    train, test, kind = pd.read_parquet(folder / "train.parquet"), pd.read_parquet(folder / "test.parquet"), (folder / "kind").read_text()
    task, metric = ("regression", "mae") if kind == "regression" else ("classification", "log_loss")
    found = AutoML()
    found.fit(train.drop(columns="target"), train.target, task=task, metric=metric, time_budget=seconds, seed=seed, n_jobs=1, verbose=0)
    rows = test.drop(columns="target")
    score = found.predict(rows) if kind == "regression" else found.predict_proba(rows)[:, list(found.classes_).index(1)]
    np.save(folder / "scores.npy", np.asarray(score, dtype=float))


def compare(project: Path, seconds: float, seeds: int, python: Path) -> list[dict]:
    """Both searches on the gold of a project; runs in the project, with its own code."""
    from mlops_lifecycle.core.foundation.settings import load_settings
    from mlops_lifecycle.core.foundation.workspace import Workspace
    from mlops_lifecycle.core.models.evaluation_case import pick
    from mlops_lifecycle.core.problem.costs import calibrated_threshold, costs_of, mean_cost
    from mlops_lifecycle.formulate import problem
    from mlops_lifecycle.train import estimators, search_space, split, train, training_rows
    from mlops_lifecycle.transform import FEATURES
    os.environ["MLOPS_TRAIN__SECONDS"] = str(seconds)
    settings, examples = load_settings(project), Workspace(project / "workspace").read("gold.examples")
    as_of, period, target, costs = settings.clock.as_of, settings.clock.period, problem.target, costs_of(settings, problem.kind)
    features, task, folder = FEATURES.learned(()), costs.task, Path(tempfile.mkdtemp())
    learn, test = training_rows(examples, target, as_of, period), split(examples, target, as_of, period)["test"]
    for name, rows in (("train", learn), ("test", test)):
        table = rows[[one.name for one in features.features]].copy()
        for one in features.features:
            table[one.name] = table[one.name].astype("object" if one.categorical else "float64")
            if one.categorical: table[one.name] = table[one.name].fillna("missing").astype(str).astype("category")
        table.assign(target=rows[target].to_numpy(task.outcome)).to_parquet(folder / f"{name}.parquet")
    (folder / "kind").write_text(problem.kind)
    y, rows = test[target].to_numpy(task.outcome), []
    for seed in range(seeds):
        started = time.monotonic()
        found = train(examples, features, problem, settings, as_of, estimators, seed=seed, search_space=search_space)
        if not found: return [{"ended": found.missing}]
        winner, threshold = pick(found)
        if task.probability: threshold = calibrated_threshold(costs)
        ours = mean_cost(y, task.decide(winner.score(test), threshold), costs)
        took = time.monotonic() - started
        command = [str(python), __file__, "--theirs", str(folder), "--seconds", str(seconds), "--seed", str(seed)]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode: return [*rows, {"ended": f"FLAML: {ran.stderr.strip().splitlines()[-1][:200]}"}]
        score = np.load(folder / "scores.npy")
        its = mean_cost(y, task.decide(score, calibrated_threshold(costs) if task.probability else 0.0), costs)
        rows.append({"seed": seed, "rows": len(learn), "judged": len(y), "ours": ours, "flaml": its, "tried": len(found.trials),
                     "seconds": round(took, 1), "ratio": 1.0 if ours == its else float(ours / its) if its else float("inf"),
                     "winner": winner.name})
    return rows


def environment() -> Path:
    """FLAML's Python."""
    from data import ROOT
    python = ROOT / ".venv" / "flaml" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *FLAML], check=True)
    return python


def main() -> None:
    warnings.filterwarnings("ignore")
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", default="", help="a part of the tables, such as 1-20")
    options.add_argument("--seconds", type=float, default=15, help="of each search")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--theirs", help=argparse.SUPPRESS)
    options.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options.add_argument("--project", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.theirs: return theirs(Path(given.theirs), given.seconds, given.seed)
    if given.project:
        from data import ROOT
        print(json.dumps(compare(Path(given.project), given.seconds, given.seeds, ROOT / ".venv" / "flaml" / "bin" / "python")))
        return None
    from any_table import HOME, command, part
    HOME.mkdir(parents=True, exist_ok=True)
    environment()
    tables = [one for one in part(given.only) if one[1][2]]  # those with a target
    medians = []
    for number, (name, _, target, table) in tables:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            file, project = Path(folder) / f"{name.split('/')[1]}.csv", Path(folder) / "project"
            table.to_csv(file, index=False)
            made = command("new", str(project), "--data", str(file), "--yes", "--target", target, at=Path(folder))
            if not made.returncode: made = command("run", "--to", "transform", at=project, MLOPS_RUN__REPORT="on demand")
            if made.returncode:
                print(json.dumps({"number": number, "table": name, "ended": made.stderr.strip()[-200:]}), flush=True)
                continue
            arguments = ["--project", str(project), "--seconds", str(given.seconds), "--seeds", str(given.seeds)]
            ran = subprocess.run([sys.executable, __file__, *arguments], cwd=project, capture_output=True, text=True,
                                 env=os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"})
            rows = json.loads(ran.stdout.splitlines()[-1]) if not ran.returncode else [{"ended": ran.stderr.strip()[-300:]}]
        for row in rows: print(json.dumps({"number": number, "table": name} | row), flush=True)
        if ratios := [row["ratio"] for row in rows if "ratio" in row]: medians.append(float(np.median(ratios)))
    if medians:
        print(json.dumps({"tables": len(medians), "seconds": given.seconds, "median ratio": float(np.median(medians)), "goal": 1.0,
                          "ours cheaper": int(np.sum(np.array(medians) < 1)), "alike": int(np.sum(np.array(medians) == 1)),
                          "flaml cheaper": int(np.sum(np.array(medians) > 1))}))


if __name__ == "__main__": main()
