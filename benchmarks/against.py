"""Another benchmark, of an earlier commit and of this work tree in turn: is a figure worse than it was?

    python benchmarks/against.py REV [--times N] BENCHMARK [ARGUMENT …]
    python benchmarks/against.py main~40 serving 2 peak latency
    python benchmarks/against.py main~40 --times 1 quality 7

Both trees are copies, with the packages that are installed here, each with a workspace of its own; a benchmark that
needs a life cycle makes one in each. They run in turn, `--times` each, and the median of each figure counts. Prints
one JSON line a figure, and a table for people on standard error.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "template" / "support"))
from planted_faults import checkout


def measured(tree: Path, benchmark: str, arguments: list[str]) -> dict[str, tuple[float | None, str]]:
    """{figure: value and unit} of one run of a tree's own benchmark."""
    environment = os.environ | {"PYTHONPATH": str(tree), "MLOPS_WORKSPACE": str(tree / "workspace")}
    command = [sys.executable, f"benchmarks/{benchmark}.py", *arguments]
    out = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = [json.loads(line) for line in out.splitlines() if line.startswith('{"figure"')]
    return {line["figure"]: (line["value"], line["unit"]) for line in lines}


def main() -> None:
    """Measure in turn, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", metavar="REV", help="the earlier commit")
    parser.add_argument("--times", type=int, default=2, help="runs of each tree")
    parser.add_argument("benchmark", help="file of benchmarks/, without .py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what that benchmark takes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="against-") as folder:
        trees = {given.revision: Path(folder) / "earlier", "this": Path(folder) / "this"}
        for revision, tree in trees.items():
            tree.mkdir()
            checkout("." if revision == "this" else revision, tree)
        runs = {name: [] for name in trees}
        for _ in range(given.times):
            for name, tree in trees.items(): runs[name].append(measured(tree, given.benchmark, given.arguments))
    for figure, (_, unit) in runs["this"][0].items():
        values = {name: [run[figure][0] for run in found if run.get(figure, (None,))[0] is not None]
                  for name, found in runs.items()}
        middle = {name: statistics.median(found) if found else None for name, found in values.items()}
        earlier, now = middle[given.revision], middle["this"]
        ratio = now / earlier if earlier and now is not None else None
        print(json.dumps({"figure": figure, "unit": unit, "earlier": earlier, "now": now, "ratio": ratio, "runs": values}),
              flush=True)
        print(f"{figure:64} {unit:20} earlier {earlier}  now {now}" + (f"  × {ratio:.3f}" if ratio else ""), file=sys.stderr)


if __name__ == "__main__":
    main()
