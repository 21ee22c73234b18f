"""Kernels that die, run too long, are stopped or meet another run, forked from a warm process and side by side."""
import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from helpers import MLOPS, environment, last_run, mlops

from mlops_lifecycle.core.foundation.workspace import Workspace

IMPORTS = "import os, signal, time\nfrom pathlib import Path\nimport numpy as np, pandas as pd\n" \
          "from mlops_lifecycle.core.pipeline.stage_run import StageRun"
BOTH_BEGAN = "while len(list(here.glob('*.began'))) < 2: time.sleep(0.01)"
LEAVES = {"plan": "run.save('plan', {'books': books})", "formulate": "run.save('problem', {'days': 21})",
          "collect": "run.write('bronze.loans', pd.DataFrame({'n': np.arange(books)}))",
          "code": "run.save('contract', {'routes': books})"}
STAGES = {"00_plan": "plan", "01_formulate": "formulate", "02_collect": "collect", "09_code": "code"}


def write_stage(root: Path, notebook: str, happens: str = "") -> None:
    """A stage that says it has begun, to which something happens, and that leaves a little."""
    name = STAGES[notebook]
    run = ["#| run", f'with StageRun("{name}", as_of="2024-03-10T00:00Z") as run:', f"    (here / '{name}.began').touch()",
           *(f"    {line}" for line in happens.splitlines()), f"    {LEAVES[name]}", f'    run.passed("{name} is done")']
    sources = [f'books = 3\nhere = "{root}"', f"#| run\n{IMPORTS}\nhere = Path(here)", "\n".join(run)]
    cells = [{"cell_type": "code", "id": f"cell-{i}", "metadata": {"tags": ["parameters"] * (i == 0)},
              "execution_count": None, "outputs": [], "source": source} for i, source in enumerate(sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    text = json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    (root / "nbs" / f"{notebook}.ipynb").write_text(text)


@pytest.fixture
def library(tmp_path) -> Path:
    """A project of four notebooks; collecting and coding do not wait for each other."""
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("[project]\nname = library\n[clock]\nas_of = 2024-03-10T00:00Z\n[run]\njobs = 2\n")
    for notebook in STAGES: write_stage(tmp_path, notebook)
    return tmp_path


def settings(root: Path, **more) -> dict:
    return {"MLOPS_SETTINGS": root / "settings.ini", "MLOPS_WORKSPACE": root / "workspace", **more}


def run(root: Path, *arguments: str, **more) -> tuple[int, dict[str, tuple[str, str]]]:
    """How a run ended, and how each stage did."""
    done = mlops("run", *STAGES.values(), *arguments, **settings(root, **more))
    return done.returncode, {s["stage"]: (s["status"], s["words"]) for s in last_run(root / "workspace")["stages"]}


def started(root: Path, **more) -> subprocess.Popen:
    return subprocess.Popen([*MLOPS, "run", *STAGES.values()], env=environment(**settings(root, **more)), cwd=root,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def wait_until(holds, otherwise: str) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)


def wait_for(root: Path, *stages: str) -> None:
    wait_until(lambda: all((root / f"{stage}.began").exists() for stage in stages), f"{stages} have not begun")


def everybody(process: subprocess.Popen) -> list[psutil.Process]:
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def published(root: Path) -> set[str]:
    return set(Workspace(root / "workspace").published()["names"])


def test_two_stages_run_at_once_and_a_kernel_that_dies_takes_no_other_with_it(library):
    write_stage(library, "02_collect", f"{BOTH_BEGAN}\nos.kill(os.getpid(), signal.SIGKILL)")
    write_stage(library, "09_code", BOTH_BEGAN)
    code, stages = run(library)
    assert code == 1 and stages["code"] == ("passed", "code is done")
    assert stages["collect"] == ("failed", "DeadKernel: the kernel died; it may have run out of memory")
    assert list(stages) == ["plan", "formulate", "collect", "code"] and published(library) == {"plan", "problem", "contract"}
    copy = json.loads(next((library / "workspace" / "runs").glob("*/02_collect.ipynb")).read_text())
    assert "the kernel died" in json.dumps(copy["cells"])
    write_stage(library, "02_collect")
    code, stages = run(library)
    assert code == 0 and {stage: status for stage, (status, _) in stages.items()} == {
        "plan": "skipped", "formulate": "skipped", "collect": "passed", "code": "skipped"}


def test_a_stage_that_runs_too_long_is_ended_and_the_one_beside_it_passes(library):
    write_stage(library, "02_collect", "(here / 'pid').write_text(str(os.getpid()))\ntime.sleep(60)")
    code, stages = run(library, MLOPS_RUN__STAGE_TIMEOUT=10)
    assert code == 1 and stages["code"][0] == "passed"
    assert stages["collect"] == ("failed", "TimeoutError: the stage ran longer than 10 seconds")
    assert not psutil.pid_exists(int((library / "pid").read_text())) and "bronze.loans" not in published(library)


DEAF = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # to Ctrl-C


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_stages_that_run_and_leaves_no_process(library, number):
    """One listens, one does not, and its worker does not either."""
    write_stage(library, "02_collect", "time.sleep(600)")
    write_stage(library, "09_code", f"{DEAF}import subprocess\nsubprocess.run(['sleep', '600'])\ntime.sleep(600)")
    process = started(library)
    wait_for(library, "collect", "code")
    processes = everybody(process)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert not psutil.wait_procs(processes, timeout=30)[1]
    record = last_run(library / "workspace")
    ends = {s["stage"]: (s["status"], s["words"]) for s in record["stages"]}
    assert record["status"] == "failed" and ends["collect"] == ends["code"] == ("failed", "interrupted")
    assert published(library) == {"plan", "problem"} and "running" not in record
    for stage, words in (("02_collect", "KeyboardInterrupt"), ("09_code", "the run was stopped")):
        copy = (library / "workspace" / "runs" / record["run"] / f"{stage}.ipynb").read_text()
        assert words in copy, stage
    for notebook in STAGES: write_stage(library, notebook)
    assert run(library)[0] == 0


def test_a_killed_run_takes_both_of_its_kernels_with_it(library):
    write_stage(library, "02_collect", "run.write('bronze.loans', pd.DataFrame({'n': [1]}))\ntime.sleep(600)")
    write_stage(library, "09_code", "time.sleep(600)")
    process = started(library)
    wait_for(library, "collect", "code")
    wait_until(lambda: len(last_run(library / "workspace").get("running", [])) == 2, "run.json does not name both")
    processes = everybody(process)
    process.kill()
    process.communicate(timeout=60)
    assert not psutil.wait_procs(processes, timeout=60)[1]
    record = last_run(library / "workspace")
    assert record["status"] == "failed" and {p["stage"] for p in record["running"]} == {"collect", "code"}
    assert published(library) == {"plan", "problem"}
    for notebook in STAGES: write_stage(library, notebook)
    assert run(library)[0] == 0


def test_a_second_run_is_refused_and_the_first_one_ends_well(library):
    waits = "while not (here / 'go on').exists(): time.sleep(0.01)"
    for notebook in ("02_collect", "09_code"): write_stage(library, notebook, waits)
    process = started(library)
    wait_for(library, "collect", "code")
    second = mlops("run", "plan", **settings(library))
    assert second.returncode == 1 and "is using" in second.stderr and len(second.stderr.splitlines()) == 1
    (library / "go on").touch()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    lines = [line for line in said.splitlines() if line[:2].isdigit()]
    assert [line[:2] for line in lines] == ["00", "01", "02", "09"]


def test_one_that_goes_back_lets_the_one_beside_it_end_and_begins_no_other(library):
    back = f"{BOTH_BEGAN}\nfrom mlops_lifecycle.core.foundation.stages import GoBack\n" \
           "if books > 2: raise GoBack('plan', 'too many books', {'books': books}, {'books': 2})"
    write_stage(library, "02_collect", back)
    write_stage(library, "09_code", f"{BOTH_BEGAN}\ntime.sleep(0.5)")
    code, stages = run(library)
    assert code == 2 and stages["collect"] == ("went_back", "too many books") and stages["code"][0] == "passed"
    assert published(library) == {"plan", "problem", "contract"}
    write_stage(library, "02_collect", back.replace("books > 2", "run.load('problem')['days'] and books > 2"))
    code, stages = run(library, "--on-goback", "retry")
    edges = last_run(library / "workspace")["edges"]
    assert edges[0]["followed"] == "yes" and run(library, "-p", "books=2")[0] == 0
