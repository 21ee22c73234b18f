"""kill -9 in the middle of a stage: nothing half-written is ever readable, and the next run finishes."""
import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pandas as pd
import pytest
from conftest import MLOPS, ROOT, environment, mlops, passed

from mlops_lifecycle.core.release import verify
from mlops_lifecycle.core.workspace import Workspace


def read_everything(root: Path) -> int:
    """Read all that counts as published, as any reader would; fails on whatever is half there."""
    workspace = Workspace(root)
    for name, entry in workspace.published()["names"].items():
        if "." in name: assert len(workspace.read(name)) == entry["rows"], name
        else: assert workspace.load(name), name
    for release in workspace.releases.glob("[!.]*"): assert verify(release)
    for run in workspace.runs.glob("*/run.json"): assert json.loads(run.read_text())["status"] in ("passed", "went_back", "failed")
    return len(workspace.published()["names"])


def killed(settings: dict, arguments: list[str], begun) -> None:
    """Start a run, read along, and kill every process of it as soon as `begun` says so."""
    run = subprocess.Popen([*MLOPS, *arguments], cwd=ROOT, env=environment(**settings), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    while not begun():
        assert run.poll() is None, f"the run ended with {run.returncode} before it could be killed"
        time.sleep(0.005)
    everybody = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    for process in everybody:
        try: process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess: pass
    psutil.wait_procs(everybody)
    run.wait()


def anything(root: Path, pattern: str):
    """Whether a file of this pattern is there that was not there before."""
    before = set(root.glob(pattern))
    return lambda: any(p not in before for p in root.glob(pattern))


IN_THE_MIDDLE = {
    "collect": "lake/bronze/flights/*.parquet",  # a table is being written
    "train": "runs/*/train/*.skops",             # one model is there, the other is not
}


@pytest.mark.parametrize("stage", IN_THE_MIDDLE)
def test_a_killed_stage_leaves_nothing_half_written_and_the_next_run_finishes(stage, lived, tmp_path):
    root = tmp_path / "workspace"
    settings = lived.copy(root)
    if stage == "collect":  # the same flights would not be written again
        fewer = pd.read_csv(settings["MLOPS_SOURCE__FLIGHTS__WHERE"], dtype=str).iloc[:-1]
        settings["MLOPS_SOURCE__FLIGHTS__WHERE"] = tmp_path / "fewer.csv"
        fewer.to_csv(tmp_path / "fewer.csv", index=False)
    before = Workspace(root).published()
    killed(settings, ["run", stage, "--force"], anything(root, IN_THE_MIDDLE[stage]))
    assert read_everything(root) and Workspace(root).published()["names"] == before["names"]
    assert max((root / "runs").glob("*/run.json"), key=lambda p: p.stat().st_mtime_ns).read_text().count('"failed"')
    run = json.loads(passed(mlops("run", stage, "--force", "--json", **settings)).stdout)
    assert [s["status"] for s in run["stages"]] == ["passed"]
    assert read_everything(root) >= len(before["names"])
    assert not list((root / "releases").glob(".*"))
