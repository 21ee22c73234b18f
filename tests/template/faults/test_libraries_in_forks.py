"""Every library that stages import does in a forked kernel what it does in a plain one, also while others do the same.

A process that forks must not have started threads, and a library may hold a lock, a pool or a random state that does not
survive a fork. Each is made to work, with threads and processes where it has them.
"""
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers import ROOT

from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.stages import STAGES
from mlops_lifecycle.core.pipeline.notebook_execution import KernelExecution, execute
from mlops_lifecycle.core.pipeline.staleness import project_code
from mlops_lifecycle.core.pipeline.warm_kernels import WARM

EXERCISES = ROOT / "tests" / "template" / "support" / "library_exercises.py"
PARTS = re.split(r"^# %% (\w+)\n", EXERCISES.read_text(), flags=re.M)[1:]  # name, text, name, text …
WORK = dict(zip(PARTS[::2], PARTS[1::2], strict=True))

def notebook_of(path: Path) -> Path:
    sources = ['to = ""', *WORK.values()]
    cells = [{"cell_type": "code", "id": f"cell-{i}", "metadata": {"tags": ["parameters"] * (i == 0)},
              "execution_count": None, "outputs": [], "source": source} for i, source in enumerate(sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_each_library_works_in_forked_kernels_under_load(tmp_path, monkeypatch):
    """Six forked kernels, three at a time, find what a plain one finds, and nobody has forgotten a library."""
    execution = KernelExecution(STAGES, project_code(load_settings(ROOT, environ={})))
    libraries = {name.partition(".")[0] for name in execution.libraries()} - set(sys.stdlib_module_names)
    exercised = WORK.keys() - {"begin", "end"}
    assert libraries == exercised, f"not exercised: {libraries - exercised}; not imported by a stage: {exercised - libraries}"
    threads = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    notebook, quiet = notebook_of(tmp_path / "libraries.ipynb"), lambda cell, cells: None
    with monkeypatch.context() as nothing_warm:
        nothing_warm.setattr(WARM, "unfit", "one plain kernel is wanted")
        execute(notebook, tmp_path / "plain-copy.ipynb", {"to": str(tmp_path / "plain.json")}, threads, 300)
    plain = json.loads((tmp_path / "plain.json").read_text())
    execution.prepare()
    WARM.settled.wait(300)
    assert not WARM.unfit

    def forked(number: int) -> dict:
        to = tmp_path / f"forked-{number}.json"
        execution(notebook, tmp_path / f"copy-{number}.ipynb", {"to": str(to)}, threads, 300.0, quiet)
        return json.loads(to.read_text())
    with ThreadPoolExecutor(3) as pool: each = list(pool.map(forked, range(6)))
    assert not plain["forked"] and all(one["forked"] for one in each)
    for one in each: assert one["found"] == plain["found"]
