"""How long the site takes: `python benchmarks/report.py [--against REV] [--times N] [WORKSPACE]`.

Its first build, one after the prose of one notebook changed, and one where nothing did, by `mlops report` in a copy of
this work tree; with `--against` in a copy of an earlier commit too, in turn with this one. The site shows the runs of
WORKSPACE, which is only read; without it, of a project that never ran. Processor time stands beside the wall time, for
machines that have other things to do. The median of the times counts.
Prints one JSON line a figure, and a table for people on standard error.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "template" / "support"), str(ROOT / "tests" / "project")]
from helpers import MLOPS
from planted_faults import checkout


def report(tree: Path, workspace: Path, reports: Path) -> tuple[float, float]:
    """Wall and processor time of `mlops report`."""
    given = os.environ | {"PYTHONPATH": str(tree), "MLOPS_WORKSPACE": str(workspace), "MLOPS_REPORTS": str(reports)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*MLOPS, "report"], cwd=tree, env=given, capture_output=True, text=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode: raise SystemExit(f"mlops report ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def one_round(revision: str, workspace: Path | None) -> dict[str, float]:
    """Figures of one tree, each under its name."""
    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        tree, reports = Path(folder) / "project", Path(folder) / "reports"
        tree.mkdir()
        checkout(revision, tree)
        figures = {}
        for name in ("first build", "one page changed", "nothing changed"):
            if name == "one page changed":
                notebook = tree / "nbs" / "core" / "data" / "readers.ipynb"
                content = json.loads(notebook.read_text())
                cell = next(c for c in content["cells"][1:] if c["cell_type"] == "markdown")
                cell["source"] = "".join(cell["source"]) + "\n\nA sentence more."
                notebook.write_text(json.dumps(content))
            figures[name], figures[f"{name}, processor"] = report(tree, workspace or Path(folder) / "workspace", reports)
        newest = next(path for path in reports.iterdir() if path.is_dir() and not path.name.startswith("."))
        return figures | {"pages": len([*newest.rglob("*.html")])}


def main() -> None:
    """Measure in turn, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REV", help="an earlier commit")
    parser.add_argument("--times", type=int, default=1, help="rounds of each tree")
    parser.add_argument("workspace", nargs="?", type=Path, help="whose runs the site shows")
    given = parser.parse_args()
    trees = [".", *filter(None, [given.against])]
    rounds = {tree: [] for tree in trees}
    for _ in range(given.times):
        for tree in trees: rounds[tree].append(one_round(tree, given.workspace and given.workspace.resolve()))
    middle = {tree: {name: statistics.median(one[name] for one in found) for name in found[0]} for tree, found in rounds.items()}
    for name, value in middle["."].items():
        earlier = middle[given.against][name] if given.against else None
        unit = "pages" if name == "pages" else "s"
        print(json.dumps({"figure": name, "value": round(value, 2), "unit": unit, "earlier": earlier and round(earlier, 2),
                          "ratio": earlier and round(value / earlier, 3)}))
        beside = f"earlier {earlier:9.2f}  × {value / earlier:.3f}" if earlier else ""
        print(f"{name:30} {value:9.2f} {unit:6} {beside}", file=sys.stderr)


if __name__ == "__main__":
    main()
