"""What a notebook costs beside its cells: `python benchmarks/runner.py [rounds]`.

In each round, in workspaces of their own and one after the other: the life cycle by `mlops run`, the same one stage
at a time, the same without lessons, the same cells as one script in one process, and papermill in a loop over the
same notebooks; then `mlops run` twice more, after an edit of prose, and after an edit of a project's own cell of 07,
`mlops status`, a notebook of one cell in a warm kernel, and `mlops matrix` with one cheap combination and with
sixteen, which have no stage in common.
The project is copied first, so that nothing here is edited. The median over the rounds counts.
Prints one JSON line a figure, and a table for people on standard error.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "project"))
from helpers import copy_project

MLOPS = [sys.executable, "-c", "from mlops_lifecycle.cli import app; app()"]

SCRIPT = """
import json, os, sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
os.chdir("nbs")
shell = InteractiveShell.instance()
for path in sorted(Path(".").glob("[0-9][0-9]_*.ipynb")):
    shell.reset()
    for cell in json.loads(path.read_text())["cells"]:
        code = "\\n".join(line for line in "".join(cell["source"]).splitlines() if not line.startswith("%"))
        if cell["cell_type"] == "code" and not shell.run_cell(code).success: sys.exit(str(path))
"""

PAPERMILL = """
import os, papermill
from pathlib import Path
os.chdir("nbs")
for path in sorted(Path(".").glob("[0-9][0-9]_*.ipynb")):
    papermill.execute_notebook(path, Path(os.environ["MLOPS_WORKSPACE"]).parent / path.name, kernel_name="python3", progress_bar=False)
"""

TRIVIAL = """
import json, sys, time
from pathlib import Path
from mlops_lifecycle.core.foundation.stages import STAGES
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.pipeline.notebook_execution import KernelExecution
from mlops_lifecycle.core.pipeline.staleness import project_code
from mlops_lifecycle.core.pipeline.warm_kernels import WARM
folder = Path(sys.argv[1])
texts = {"books = 3": ["parameters"], "import pandas, sklearn.ensemble, mlflow, great_expectations": []}
cells = [{"cell_type": "code", "id": f"c{i}", "metadata": {"tags": tags}, "execution_count": None, "outputs": [], "source": [text]}
         for i, (text, tags) in enumerate(texts.items())]
kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
(folder / "a.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
execution = KernelExecution(STAGES, project_code(load_settings()))
execution.prepare()
WARM.settled.wait()
took = []
for number in range(6):
    began = time.perf_counter()
    execution(folder / "a.ipynb", folder / f"{number}.ipynb", {}, {}, 60.0, lambda cell, cells: None)
    took.append(time.perf_counter() - began)
import psutil
warm = max(psutil.Process().children(recursive=True), key=lambda p: p.memory_info().rss)
print(json.dumps({"seconds": sorted(took)[len(took) // 2], "megabytes": warm.memory_info().rss / 1e6}))
"""


class Peak:
    """The most memory that a process and what it started had at once, in megabytes; shared pages count once."""
    def __init__(self, process: int): self.process, self.most, self.stop = psutil.Process(process), 0.0, threading.Event()

    def watch(self) -> None:
        while not self.stop.wait(0.5):
            try: everybody = [self.process, *self.process.children(recursive=True)]
            except psutil.NoSuchProcess: return
            total = 0
            for one in everybody:
                try: total += one.memory_full_info().pss
                except psutil.Error: continue  # it has ended meanwhile
            self.most = max(self.most, total / 1e6)


def seconds(command: list[str], project: Path, **environment: str) -> tuple[float, float, str]:
    """Wall time of a command that must succeed, its peak of memory, and what it said."""
    before = time.perf_counter()
    given = os.environ | {"PYTHONPATH": str(project)} | environment
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.Popen(command, cwd=project, env=given, stdout=said, stderr=subprocess.STDOUT, text=True)
        peak = Peak(done.pid)
        watching = threading.Thread(target=peak.watch)
        watching.start()
        done.wait()
        took = time.perf_counter() - before
        peak.stop.set(); watching.join()
        said.seek(0)
        text = said.read()
    if done.returncode: raise SystemExit(f"{' '.join(command)[:200]} ended with {done.returncode}:\n{text[-3000:]}")
    return took, peak.most, text


def executed(workspace: Path) -> list[str]:
    """The stages that the newest run executed."""
    run = json.loads(max((workspace / "runs").glob("*/run.json"), key=lambda p: p.stat().st_mtime_ns).read_text())
    return [s["stage"] for s in run["stages"] if s["status"] != "skipped"]


def edit(notebook: Path, kind: str, begins: str, added: str) -> None:
    """Add a text to the first cell of a kind that begins so."""
    content = json.loads(notebook.read_text())
    cell = next(c for c in content["cells"] if c["cell_type"] == kind and "".join(c["source"]).startswith(begins))
    cell["source"] = "".join(cell["source"]) + added
    notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def one_round() -> dict[str, float]:
    """Figures of one round, each under its name."""
    with tempfile.TemporaryDirectory() as folder:
        home, project = Path(folder), Path(folder) / "project"
        copy_project(project)
        def at(name: str) -> dict[str, str]:
            (home / name).mkdir(exist_ok=True)
            return {"MLOPS_WORKSPACE": str(home / name / "workspace"), "MLOPS_REPORTS": str(home / name / "reports")}
        run = [*MLOPS, "run"]
        figures = {}
        here, quiet = at("run"), at("run") | {"MLOPS_RUN__REPORT": "on demand"}
        figures["the whole run"], figures["the whole run, memory"], _ = seconds(run, project, **quiet)
        one = at("one") | {"MLOPS_RUN__REPORT": "on demand", "MLOPS_RUN__JOBS": "1"}
        figures["the whole run, one stage at a time"], _, _ = seconds(run, project, **one)
        bare = at("bare") | {"MLOPS_RUN__REPORT": "on demand", "MLOPS_RUN__LESSONS": "no"}
        figures["the whole run, without lessons"], _, _ = seconds(run, project, **bare)
        figures["the cells as one script"], _, _ = seconds([sys.executable, "-c", SCRIPT], project, **at("script"))
        loop = [sys.executable, "-c", PAPERMILL]
        figures["papermill in a loop"], figures["papermill in a loop, memory"], _ = seconds(loop, project, **at("loop"))
        figures["the first report"], _, _ = seconds([*MLOPS, "report"], project, **here)
        for name in ("mlops run, second", "mlops run, third"):
            figures[name], _, _ = seconds(run, project, **here)
            figures[f"{name}, stages"] = len(executed(home / "run" / "workspace"))
        edit(project / "nbs" / "03_curate.ipynb", "markdown", "# ", "\n\nA sentence more.")
        figures["mlops run, prose edited"], _, _ = seconds(run, project, **here)
        figures["mlops run, prose edited, stages"] = len(executed(home / "run" / "workspace"))
        figures["mlops status"], _, _ = seconds([*MLOPS, "status"], project, **here)
        edit(project / "nbs" / "07_train.ipynb", "code", "#| yours ", "\n_edited = 1\n")
        figures["mlops run, 07 edited"], _, _ = seconds(run, project, **quiet)
        again = executed(home / "run" / "workspace")
        figures["mlops run, 07 edited, stages"] = len(again)
        print(f"after an edit of 07: {', '.join(again)}", file=sys.stderr)
        days = [f"2013-{month:02d}-{day:02d}" for month in range(3, 11) for day in (1, 15)]
        for many in (1, len(days)):
            cheap = [*MLOPS, "matrix", "plan", "formulate", "code", "-p", f"as_of={','.join(days[:many])}"]
            figures[f"a matrix of {many}"], _, _ = seconds(cheap, project, **at(f"matrix-{many}"), MLOPS_RUN__REPORT="on demand")
        _, _, said = seconds([sys.executable, "-c", TRIVIAL, folder], project)
        last = json.loads(said.splitlines()[-1])
        figures["a notebook of one cell, warm"], figures["the warm process, memory"] = last["seconds"], last["megabytes"]
        return figures


GOALS = {"a notebook of one cell, warm": 0.5, "mlops run, second": 2, "mlops run, third": 2, "mlops run, prose edited": 5,
         "mlops status": 1, "the warm process, memory": 600, "mlops run, second, stages": 0, "mlops run, third, stages": 0,
         "mlops run, prose edited, stages": 0}
AGAINST = {"the whole run": "the cells as one script", "the whole run, memory": "papermill in a loop, memory"}


def main(rounds: int) -> None:
    """Measure, then print."""
    measured = [one_round() for _ in range(rounds)]
    middle = {name: statistics.median(m[name] for m in measured) for name in measured[0]}
    goals = GOALS | {name: middle[other] for name, other in AGAINST.items()}
    goals["a matrix of 16"] = middle["a matrix of 1"] * 16 / len(os.sched_getaffinity(0)) * 1.15
    for name, value in middle.items():
        unit = "MB" if name.endswith("memory") else "stages" if name.endswith("stages") else "s"
        goal = goals.get(name)
        print(json.dumps({"figure": name, "value": round(value, 3), "unit": unit, "goal": goal and round(goal, 3),
                          "holds": None if goal is None else value <= goal}))
        print(f"{name:40} {value:10.2f} {unit:8} {'' if goal is None else f'goal {goal:.2f}'}", file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
