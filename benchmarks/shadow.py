"""What scoring both releases on each request costs the app: `make bench`, or `python benchmarks/shadow.py [rounds]`.

The model that is deployed in the settings' workspace, in a copy of it, answers at full load, in turn without and with a
follower that scores it and a candidate, the same model with another threshold, on everything that is stored. The server
has one core, what asks has the other, and the follower takes what it gets, at a low priority, as it would beside an app.
Prints one JSON line a figure, and a table for people on standard error.
"""
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from serving import ROOT, Deployed, load, middle, ours, say

from mlops_lifecycle.core.models.release import write_release
from mlops_lifecycle.core.operations.shadow import Pair, forget_shadow, shadow_report
from mlops_lifecycle.core.serving.store import ServingLog

FOLLOWER = """
import os, sys
from pathlib import Path
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.models.release import write_release
from mlops_lifecycle.core.operations.shadow import Pair, Shadow, ShadowLimits, follow
from mlops_lifecycle.core.serving.predictor import Releases
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.transform import FEATURES
os.nice(10)
workspace = Workspace(Path(sys.argv[1]))
log = ServingLog(workspace.serving_db, checkpoints=False)
releases = Releases(workspace, problem.rule, lambda: FEATURES)
follow(Shadow(log, releases, Pair(*sys.argv[2:]), problem, ShadowLimits(last=200)), lambda: False)
"""


@contextmanager
def following(deployed: Deployed, pair: Pair, log: ServingLog):
    """A follower that has done what there was to do when the block begins."""
    forget_shadow(log, pair.candidate)
    command = [sys.executable, "-c", FOLLOWER, str(deployed.workspace.root), pair.candidate, pair.stable]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        until = time.monotonic() + 120
        while not done(log, pair):
            if process.poll() is not None or time.monotonic() > until: raise SystemExit("the follower does not follow")
            time.sleep(0.05)
        yield
    finally: process.kill(); process.wait()


def done(log: ServingLog, pair: Pair) -> bool:
    """Whether the follower has begun and nothing waits for it."""
    with log.database.read() as connection:
        marks = dict(connection.exec_driver_sql("SELECT release, prediction_id FROM shadow_marks").all())
        if pair.candidate not in marks: return False
    return log.arrivals.count(marks[pair.candidate]) == 0


def candidate(deployed: Deployed) -> str:
    """The deployed model with another threshold, as a release of its own."""
    manifest = {name: value for name, value in deployed.release.manifest.items() if name not in ("id", "quick")}
    model = (deployed.release.folder / "model.skops").read_bytes()
    return write_release(deployed.workspace.releases, manifest | {"threshold": 1.1 * manifest["threshold"]}, {}, model).name


def beside(deployed: Deployed, rounds: int) -> None:
    """Full load without and with a follower, in turn."""
    log, found = ServingLog(deployed.workspace.serving_db, checkpoints=False), {"without": [], "with": []}
    pair, speeds, dropped = Pair(candidate(deployed), deployed.id), [], []
    with ours(deployed) as server:
        load(server, seconds=2)  # warm
        for _ in range(rounds):
            found["without"].append(load(server))
            with following(deployed, pair, log):
                before, started = shadow_report(log, pair).asked, time.perf_counter()
                found["with"].append(load(server))
                while not done(log, pair): time.sleep(0.05)
                report, seconds = shadow_report(log, pair), time.perf_counter() - started
            if report.errors: raise SystemExit(f"the follower found errors: {report.first_fault}")
            speeds.append((report.asked - before) / seconds); dropped.append(report.dropped)
    log.close()
    ratio = lambda name: statistics.median(a[name] / b[name] for a, b in zip(found["with"], found["without"]))
    rates = {name: middle(some, "rate") for name, some in found.items()}
    say("requests/s with a follower, against without", ratio("rate"), "times", 0.7, **rates, candidate=pair.candidate)
    say("p99 of a request with a follower, against without", ratio("p99"), "times", None, more=False,
        **{f"{name} ms": middle(some, "p99") for name, some in found.items()})
    say("rows that a follower scores a second, both releases", statistics.median(speeds), "rows/s",
        dropped=statistics.median(dropped), cores=os.cpu_count())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder: beside(Deployed(Path(folder)), int(sys.argv[1]) if sys.argv[1:] else 5)
