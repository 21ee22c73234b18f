"""How long the life cycle takes, and what it is worth: `make bench`, or `python benchmarks/lifecycle.py [rounds]`.

Each round runs `mlops run` twice in an empty workspace of its own, first everything, then what changed since, and then
`mlops try` once on what they left. `python -c pass` in the same interpreter stands beside, so that a slow machine shows
in both. The median over the rounds counts.
Prints one JSON line a figure, and a table for people on standard error.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def seconds(command: list[str], **environment: str) -> float:
    """Wall time of a command that must succeed."""
    before = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        said = done.stdout[-2000:] + done.stderr[-2000:]
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return time.perf_counter() - before


def one_round() -> dict[str, float]:
    """Figures of one round, each under its name."""
    with tempfile.TemporaryDirectory() as folder:
        mlops = [sys.executable, "-c", "from mlops_lifecycle.cli import app; app()"]
        here = {"MLOPS_WORKSPACE": f"{folder}/workspace", "MLOPS_REPORTS": f"{folder}/reports"}
        figures = {
            "python -c pass": seconds([sys.executable, "-c", "pass"]),
            "mlops --help": seconds([*mlops, "--help"]),
            "mlops run, empty workspace": seconds([*mlops, "run"], **here),
            "mlops run, again": seconds([*mlops, "run"], **here),
            "mlops try": seconds([*mlops, "try"], **here),
        }
        newest = sorted(Path(folder, "workspace", "runs").glob("*/run.json"))[0]
        documents = Path(folder, "workspace", "documents")
        verdict = json.loads(next((documents / "verdict").glob("*.json")).read_text())
        slowest = max(json.loads(newest.read_text())["stages"], key=lambda stage: stage["seconds"])
        return figures | {
            f"slowest stage ({slowest['stage']})": slowest["seconds"],
            "cost a decision, model": verdict["cost"],
            "cost a decision, bar": verdict["baseline"]["cost"],
        }


GOALS = {"mlops run, empty workspace": 240, "mlops --help": 1, "mlops try": 30}


def main(rounds: int) -> None:
    """Measure, then print."""
    measured = [one_round() for _ in range(rounds)]
    for name in measured[0]:
        value = statistics.median(m[name] for m in measured if name in m)
        unit = "cost units" if name.startswith("cost") else "s"
        beside = "cost a decision, bar" if unit == "cost units" else "python -c pass"
        against = {beside: statistics.median(m[beside] for m in measured)}
        goal = against[beside] if name == "cost a decision, model" else GOALS.get(name)
        holds = None if goal is None else value <= goal
        print(json.dumps({"figure": name, "value": round(value, 4), "unit": unit, "goal": goal, "holds": holds,
                          "against": {k: round(v, 4) for k, v in against.items()}}))
        print(f"{name:40} {value:10.3f} {unit:12} {'' if goal is None else f'goal {goal:.3f}'}", file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
