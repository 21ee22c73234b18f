"""The data wheel's figures: how time and memory grow, what one changed month costs, how fast drift is told, and faults.

`make bench`, or `python benchmarks/data.py [rounds] [figure…]`, where a figure is one of drift, growth, month, delta,
faults; all when none is named. Everything is run in turn with what it is compared with, each time in a process of its
own, and the median over the rounds counts. Prints one JSON line a figure, and tables for people on standard error.
Evidently gets an environment of its own under .venv/, with the pandas that it works with.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIMES = (1, 4, 16)  # how many times the flights
# the first two as `mlops run` sets them
ENVIRONMENT = {"GOMP_SPINCOUNT": "1000", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


def say(figure: str, value: float, unit: str, goal: float | None, holds: bool | None, **against: float) -> None:
    """One figure, for programs and for people."""
    document = {"figure": figure, "value": float(f"{value:.4g}"), "unit": unit, "goal": goal, "holds": holds,
                "against": {k: float(f"{v:.4g}") for k, v in against.items()}}
    print(json.dumps(document), flush=True)
    beside = ", ".join(f"{k} {v:.4g}" for k, v in against.items())
    wanted = "" if goal is None else f"goal {goal:g}"
    said = "" if holds is None else "holds" if holds else "DOES NOT HOLD"
    print(f"{figure:64} {value:10.4g} {unit:10} {wanted} {said}  {beside}", file=sys.stderr)


def child(code: str, *arguments: object, python: Path | str = sys.executable, **environment: object) -> dict:
    """What a script says in the last line that it prints; it runs in a process of its own."""
    environ = os.environ | ENVIRONMENT | {k: str(v) for k, v in environment.items()}
    done = subprocess.run([str(python), "-c", code, *map(str, arguments)], cwd=ROOT, env=environ,
                          capture_output=True, text=True)
    if done.returncode: raise SystemExit(f"ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# Drift ----------------------------------------------------------------------------------------------------------------

SAMPLES = """
import sys
import numpy as np, pandas as pd
rng, rows = np.random.default_rng(0), int(sys.argv[2])
def sample(shift):
    numbers = {f"normal {i}": rng.normal(shift, 1, rows) for i in range(5)}
    numbers |= {f"skewed {i}": rng.lognormal(shift, 1, rows) for i in range(4)}
    counts = {f"count {i}": rng.poisson(20 + shift, rows) for i in range(3)}
    counts |= {f"rounded {i}": rng.normal(15 + shift, 8, rows).round(1) for i in range(2)}
    names = {f"name {i}": rng.choice([f"n{j}" for j in range(5 + 30 * i)], rows) for i in range(6)}
    return pd.DataFrame(numbers | counts | names)
for name, shift in (("before", 0.0), ("now", 0.01)): sample(shift).to_parquet(f"{sys.argv[1]}/{name}.parquet")
print("{}")
"""
OURS = """
import json, sys, time
import numpy as np, pandas as pd
from mlops_lifecycle.core.quality.drift import exact
before, now = (pd.read_parquet(f"{sys.argv[1]}/{name}.parquet") for name in ("before", "now"))
start = time.perf_counter(); found = {c: exact(before[c], now[c]) for c in before}; took = time.perf_counter() - start
start = time.perf_counter()
for c in now.select_dtypes("number"): np.sort(now[c].to_numpy())
sorting = time.perf_counter() - start
print(json.dumps({"seconds": took, "sorting": sorting, "found": found}))
"""
EVIDENTLY = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np, pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import ValueDrift
before, now = (pd.read_parquet(f"{sys.argv[1]}/{name}.parquet") for name in ("before", "now"))
numbers = list(before.select_dtypes("number")); names = [c for c in before if c not in numbers]
tests = {"psi": "psi", "jensen_shannon": "jensenshannon", "kolmogorov_smirnov": "ks", "chi_squared": "chisquare"}
asked = [(c, t) for c in before for t in tests if t != ("chi_squared" if c in numbers else "kolmogorov_smirnov")]
about = DataDefinition(numerical_columns=numbers, categorical_columns=names)
start = time.perf_counter()
sets = (Dataset.from_pandas(rows, data_definition=about) for rows in (now, before))
report = Report([ValueDrift(column=c, method=tests[t]) for c, t in asked]).run(*sets)
values = [float(m["value"]) for m in report.dict()["metrics"]]; took = time.perf_counter() - start
found = {}
for (c, t), value in zip(asked, values): found.setdefault(c, {})[t] = value
print(json.dumps({"seconds": took, "found": found}))
"""


def evidently() -> Path:
    """The Python of an environment in which Evidently works; made when it is not there."""
    folder = ROOT / ".venv" / "evidently"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        packages = ["evidently==0.7.23", "pandas==3.0.*", "pyarrow"]
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                        *packages], check=True, stdout=sys.stderr)
        (folder / "ready").touch()
    return folder / "bin" / "python"


def drift(rounds: int) -> None:
    """Exact drift of 20 columns of a million rows, against the same of a million."""
    python = evidently()
    with tempfile.TemporaryDirectory() as folder:
        child(SAMPLES, folder, 1_000_000)
        ours, theirs = [], []
        for _ in range(rounds): ours.append(child(OURS, folder)); theirs.append(child(EVIDENTLY, folder, python=python))
    took, other, sorting = (statistics.median(r[key] for r in runs)
                            for runs, key in ((ours, "seconds"), (theirs, "seconds"), (ours, "sorting")))
    mine, asked = ours[0]["found"], theirs[0]["found"]
    apart = max(abs(mine[c][t] - value) for c, tests in asked.items() for t, value in tests.items())
    same = {c: set(tests) for c, tests in mine.items()} == {c: set(tests) for c, tests in asked.items()}
    say("drift, 20 columns × 1 million rows, exact", took, "s", 2.5, took <= 2.5,
        Evidently=other, **{"sorting one sample": sorting})
    say("drift, times as fast as Evidently", other / took, "times", 10, other / took >= 10)
    say("drift, largest difference from Evidently's values", apart, "", 1e-6, same and apart <= 1e-6)


# Growth ---------------------------------------------------------------------------------------------------------------

COPIES = """
import sys
from pathlib import Path
import pandas as pd
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import resolve_files
settings, folder, years = load_settings("settings.ini", environ={}), Path(sys.argv[1]), int(sys.argv[2])
for name in ("flights", "weather"):
    table = pd.read_csv(resolve_files(settings.source[name].where, settings.root)[0], dtype=str, keep_default_na=False)
    for copy in range(years):
        moved = table.copy()
        if copy and name == "flights":  # the same wall clock in another year, whose clocks change on other days
            moved["year"] = str(2013 + copy)
            local = pd.to_datetime(moved[["year", "month", "day", "hour"]].astype(int))
            utc = local.dt.tz_localize("America/New_York", ambiguous="NaT", nonexistent="NaT").dt.tz_convert("UTC")
            moved = moved.assign(time_hour=utc.dt.strftime("%Y-%m-%dT%H:%M:%SZ"))[utc.notna()]
        elif copy:  # the same instant in another year
            moved["time_hour"] = str(2013 + copy) + table.time_hour.str[4:]
            local = pd.to_datetime(moved.time_hour, utc=True).dt.tz_convert("America/New_York")
            for part in ("year", "month", "day", "hour"): moved[part] = getattr(local.dt, part).astype(str)
        for month, rows in moved.groupby("month", sort=False):
            (folder / name).mkdir(exist_ok=True)
            rows.to_csv(folder / name / f"{2013 + copy}-{int(month):02d}.csv", index=False)
print("{}")
"""
STAGES = """
import importlib, json, resource, sys, time
from pathlib import Path
from mlops_lifecycle.core.pipeline.stage_run import StageRun
modules, seconds = {name: importlib.import_module(f"mlops_lifecycle.{name}") for name in sys.argv[1:]}, {}
if "validate" in modules: import great_expectations
for name, module in modules.items():
    notebook, = Path("nbs").glob(f"[0-9][0-9]_{name}.ipynb")
    cells = [("".join(c["source"]), c["metadata"].get("tags", ())) for c in json.loads(notebook.read_text())["cells"]]
    parameters = next(c for c, tags in cells if "parameters" in tags)
    run = next(c for c, _ in cells if c.startswith("#| run") and "StageRun(" in c)
    names = vars(module) | {"StageRun": StageRun}; exec(parameters, names)
    for cell, _ in cells:  # what only the notebook imports
        kinds = "import ", "from ", "#", " ", ")"
        if "import " in cell and all(not line.strip() or line.startswith(kinds) for line in cell.splitlines()):
            exec("\\n".join(line for line in cell.splitlines() if not line.startswith("%")), names)
    start = time.perf_counter(); exec(run, names); seconds[name] = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps({"seconds": seconds, "all": sum(seconds.values()), "gigabytes": peak}))
"""
DATA = ("collect", "curate", "transform", "validate")


def prepared(folder: Path, years: int) -> dict:
    """Flights and weather of so many years as files, one a month, and the settings that read them."""
    folder.mkdir()
    child(COPIES, folder, years)
    settings = {
        "MLOPS_WORKSPACE": folder / "workspace",
        "MLOPS_CLOCK__AS_OF": f"{2013 + years}-01-01T00:00:00Z",
        "MLOPS_DRIFT__GO_BACK_ON": "",
        "MLOPS_SOURCE__FLIGHTS__WHERE": folder / "flights" / "*.csv",
        "MLOPS_SOURCE__WEATHER__WHERE": folder / "weather" / "*.csv",
    }
    child(STAGES, "plan", "formulate", **settings)
    return settings


def fresh(settings: dict) -> None:
    """Back to before the first load: what stands in the workspace is thrown away, save the plan and the problem."""
    workspace = Path(settings["MLOPS_WORKSPACE"])
    for path in workspace.iterdir():
        if path.name not in ("documents", "published.json"): shutil.rmtree(path) if path.is_dir() else path.unlink()
    names = json.loads((workspace / "published.json").read_text())["names"]
    kept = {"names": {n: names[n] for n in ("plan", "problem")}, "passed": {}}
    (workspace / "published.json").write_text(json.dumps(kept))


def growth(rounds: int) -> None:
    """Collect to validate on 1, 4 and 16 times the flights: time, and memory of the largest."""
    with tempfile.TemporaryDirectory() as folder:
        settings, runs = {n: prepared(Path(folder, str(n)), n) for n in TIMES}, {n: [] for n in TIMES}
        for _ in range(rounds):
            for n in TIMES: fresh(settings[n]); runs[n].append(child(STAGES, *DATA, **settings[n]))
    took = {n: statistics.median(r["all"] for r in runs[n]) for n in TIMES}
    for n in TIMES[1:]:
        ratio = took[n] / took[1] / n
        say(f"collect to validate, {n} times the flights: time against linear", ratio, "times", 1.15, ratio <= 1.15,
            **{f"{m} times, s": took[m] for m in (1, n)})
    peak = statistics.median(r["gigabytes"] for r in runs[TIMES[-1]])
    say(f"collect to validate, {TIMES[-1]} times the flights: peak memory", peak, "GB", 2.5, peak <= 2.5,
        **{f"{n} times": statistics.median(r["gigabytes"] for r in runs[n]) for n in TIMES[:-1]})
    for n in TIMES:
        stages = {stage: statistics.median(r["seconds"][stage] for r in runs[n]) for stage in runs[n][0]["seconds"]}
        print(f"  {n:2} times, s: " + ", ".join(f"{name} {s:.1f}" for name, s in stages.items()), file=sys.stderr)


def month(rounds: int) -> None:
    """One month's file changes, at 4 times the flights: collect to validate again, against all of it.

    It does not hold, and is not meant to for now: stages compute whole tables, and only what is wholly unchanged is
    skipped. Half of the time is Great Expectations', whose statements are about whole columns (a key is unique, a share
    is at least so much) and can only be checked on whole columns. In 04 all decisions from before the changed rows
    became known could be taken over from the last version, since slices are made in order of time; 02 could keep the
    pieces of files with a known checksum. That would spare a third, and every stage would have to prove which rows of
    the stage before are still the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings, whole, again = prepared(Path(folder, "4"), 4), [], []
        changed = Path(folder, "4", "flights", "2016-11.csv")
        for number in range(rounds):
            fresh(settings); whole.append(child(STAGES, *DATA, **settings)["all"])
            lines = changed.read_text().splitlines(keepends=True)
            changed.write_text("".join(lines[:-1 - number]))  # the last rows of the month are taken back
            again.append(child(STAGES, *DATA, **settings)["all"])
    first, second = statistics.median(whole), statistics.median(again)
    ratio = second / first
    say("one changed month recollected, 4 times the flights: against all", ratio, "times", 0.25, ratio <= 0.25,
        **{"all, s": first, "again, s": second})


# CSV to Delta ---------------------------------------------------------------------------------------------------------

BY_HAND = """
import glob, json, sys, time
import pandas as pd
from deltalake import write_deltalake
start = time.perf_counter()
rows = pd.concat([pd.read_csv(path) for path in sorted(glob.glob(sys.argv[1]))], ignore_index=True)
write_deltalake(sys.argv[2], rows, mode="overwrite")
print(json.dumps({"seconds": time.perf_counter() - start}))
"""


def delta(rounds: int) -> None:
    """From CSV to Delta at 16 times the flights: collect, with its checks, against pandas and deltalake, unchecked."""
    with tempfile.TemporaryDirectory() as folder:
        settings, ours, theirs = prepared(Path(folder, "16"), TIMES[-1]), [], []
        for number in range(rounds):
            fresh(settings); ours.append(child(STAGES, "collect", **settings)["all"])
            where = Path(folder, f"delta{number}")
            theirs.append(child(BY_HAND, settings["MLOPS_SOURCE__FLIGHTS__WHERE"], where)["seconds"])
            shutil.rmtree(where)
    checked, by_hand = statistics.median(ours), statistics.median(theirs)
    ratio = checked / by_hand
    say("CSV to Delta, 16 times the flights: against pandas and deltalake by hand", ratio, "times", 2.5, ratio <= 2.5,
        **{"collect, s": checked, "by hand, s": by_hand})


# What is noticed ------------------------------------------------------------------------------------------------------

def faults(rounds: int) -> None:
    """Each fault in each month after the warm-up, and the honest year; nothing is timed, so once is enough."""
    sys.path[:0] = [str(ROOT / "tests" / "template" / "support"), str(ROOT)]
    import pandas as pd
    from year import FAULTS, STAGE, honest, raised, with_fault

    from mlops_lifecycle.validate import EXPLAINED, explain
    months = pd.date_range("2013-03-01", "2013-12-01", freq="MS", tz="UTC")
    found, named = {}, 0
    for fault, (zone, *_) in FAULTS.items():
        told = [[a["stage"] for a in with_fault(fault, at)] for at in months]
        found[fault] = {f"{at:%b}": ", ".join(stages) or "–" for at, stages in zip(months, told)}
        named += sum(STAGE[zone] in stages for stages in told)
    print("\nThe stages that are named at the end of the month in which a fault begins", file=sys.stderr)
    print(pd.DataFrame(found).T.to_string(), file=sys.stderr)
    asked = len(FAULTS) * len(months)
    say("faults that are an alarm in their first month, and name the stage",
        named, f"of {asked}", asked, named == asked)
    quiet = explain(raised(honest()), EXPLAINED)
    table = pd.DataFrame(quiet)[["period", "table", "column", "figure", "change", "limit", "explained"]].round(3)
    print("\nAlarms of the honest months", file=sys.stderr)
    print(table.to_string(index=False, max_colwidth=120) + "\n", file=sys.stderr)
    explained = all(a["explained"] for a in quiet)
    say("alarms of the honest months, March to December", len(quiet), "alarms", 3, len(quiet) <= 3 and explained)


FIGURES = {"drift": drift, "growth": growth, "month": month, "delta": delta, "faults": faults}

if __name__ == "__main__":
    rounds, asked = int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2:] or list(FIGURES)
    for name in asked: FIGURES[name](rounds)
