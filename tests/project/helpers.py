"""What tests of any project share: its folder, its notebooks, copies of it, and its commands."""
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

os.environ.setdefault("MPLBACKEND", "Agg")
for variable in [v for v in os.environ if v.startswith("MLOPS_")]: del os.environ[variable]  # nobody's own settings
ROOT = Path(__file__).resolve().parents[2]
HIDDEN = re.compile(r"(^|/)[._]")  # a part of a path that begins so
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not HIDDEN.search(str(p.relative_to(ROOT))))


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


def tracked() -> list[str]:
    """Files that git tracks or would track."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [line for line in out.splitlines() if (ROOT / line).exists()]


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
    """The environment of a command in a project; in a copy nothing is measured, its lines are not the package's.

    A run builds no report and executes no lessons, unless `more` says `MLOPS_RUN__REPORT="every run"`, `MLOPS_RUN__LESSONS="yes"`.
    """
    found = {k: v for k, v in os.environ.items() if project == ROOT or not k.startswith("COVERAGE_")}
    found |= {"MLOPS_RUN__REPORT": "on demand", "MLOPS_RUN__LESSONS": "no"}  # most tests look at no page
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
