"""kill -9 in the middle of a stage: nothing half-written is ever readable, and the next run finishes."""
import json
import sqlite3
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pandas as pd
import psutil
import pytest
from helpers import MLOPS, ROOT, environment, last_run, mlops, passed
from slots import put_in_slots

from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.core.models.release import verify
from mlops_lifecycle.core.foundation.workspace import Workspace


def read_everything(root: Path) -> int:
    """Read all that counts as published, as any reader would; fails on whatever is half there."""
    workspace = Workspace(root)
    for name, entry in workspace.published()["names"].items():
        if "." in name: assert len(workspace.read(name)) == entry["rows"], name
        else: assert workspace.load(name), name
    for release in workspace.releases.glob("[!.]*"): assert verify(release)
    for run in workspace.runs.glob("*/run.json"):
        assert json.loads(run.read_text())["status"] in ("passed", "went_back", "failed")
    return len(workspace.published()["names"])


def reading_along(root: Path, stop: threading.Event) -> int:
    """Read everything again and again until told to stop."""
    rounds = 0
    while not stop.wait(0.1): read_everything(root); rounds += 1
    return rounds


def is_kernel(process: psutil.Process) -> bool:
    """Whether it is a notebook's kernel; one that has ended meanwhile is none."""
    try: return any("ipykernel" in word for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess): return False


def killed(settings: dict, arguments: list[str], begun) -> None:
    """Start a run, read along, and kill the runner and its kernel as soon as `begun` says so.

    What else they started ends by itself.
    """
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    run = subprocess.Popen([*MLOPS, *arguments], cwd=ROOT, env=environment(**settings), **silent)
    with ThreadPoolExecutor() as pool:
        stop = threading.Event()
        read = pool.submit(reading_along, Path(settings["MLOPS_WORKSPACE"]), stop)
        try:
            while not begun():
                assert run.poll() is None, f"the run ended with {run.returncode} before it could be killed"
                time.sleep(0.002)
            everybody = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
            for process in everybody:
                if process.pid == run.pid or is_kernel(process): process.kill()
        finally: stop.set(); run.kill()
        assert read.result()
    run.wait()
    _, alive = psutil.wait_procs(everybody, timeout=60)
    assert not alive, [process.cmdline() for process in alive]


def anything(root: Path, pattern: str):
    """Whether a file of this pattern is there that was not there before."""
    before = set(root.glob(pattern))
    return lambda: any(p not in before for p in root.glob(pattern))


def collecting(root: Path, settings: dict):
    """In the middle of collect: one table is being written."""
    same = pd.read_csv(settings["MLOPS_SOURCE__FLIGHTS__WHERE"], dtype=str)
    fewer = same.iloc[:-1]  # the same flights would not be written again
    fewer.to_csv(root.parent / "fewer.csv", index=False)
    settings["MLOPS_SOURCE__FLIGHTS__WHERE"] = root.parent / "fewer.csv"
    return anything(root, "lake/bronze/flights/*.parquet")


def training(root: Path, settings: dict):
    """In the middle of train: one model is there, the other is not."""
    return anything(root, "runs/*/train/*.skops")


def operating(root: Path, settings: dict):
    """In the middle of operate: the app serves a canary that nobody will promote, and has answered a few requests."""
    settings["MLOPS_CANARY__MIN_LABELLED"] = 1_000_000
    log, model = ServingLog(root / "serving.db"), Workspace(root).load("release")["model"]
    put_in_slots(log, stable="rule-1.0", canary=model, share=0.0)
    before = log.counts()["predictions"]; log.close()

    def begun():
        with closing(sqlite3.connect(f"file:{root / 'serving.db'}?mode=ro", uri=True)) as log:
            return log.execute("select count(*) from predictions").fetchone()[0] >= before + 20
    return begun


IN_THE_MIDDLE = {"collect": collecting, "train": training, "operate": operating}


@pytest.mark.parametrize("stage", IN_THE_MIDDLE)
def test_a_killed_stage_leaves_nothing_half_written_and_the_next_run_finishes(stage, lived, tmp_path):
    """Its kernel is warm, because another stage runs before it."""
    root = tmp_path / "workspace"
    settings = lived.copy(root)
    begun, before = IN_THE_MIDDLE[stage](root, settings), Workspace(root).published()
    arguments = ["run", "plan", stage, "--force", *(["-p", "most=300"] if stage == "operate" else [])]
    killed(settings, arguments, begun)
    def others(published): return {name: entry for name, entry in published["names"].items() if name != "plan"}
    assert read_everything(root) and others(Workspace(root).published()) == others(before)
    assert last_run(root)["status"] == "failed"
    run = json.loads(passed(mlops(*arguments, "--json", **settings)).stdout)
    assert [s["status"] for s in run["stages"]] == ["passed", "passed"]
    assert read_everything(root) >= len(before["names"])


def test_what_a_killed_release_left_is_never_read_and_swept_away(lived, tmp_path):
    root = tmp_path / "workspace"
    settings, releases = lived.copy(root), root / "releases"
    model = Workspace(root).load("release")["model"]
    left = releases / f".{model}.x1y2z3"
    (releases / model).rename(left); (left / "SHA256SUMS").unlink()  # as a kill in the middle of writing leaves it
    assert read_everything(root)
    passed(mlops("run", "release", "--force", **settings))
    assert sorted(p.name for p in releases.iterdir()) == [model, "rule-1.0"] and read_everything(root)
