"""Matrices: each combination is as a run of its own would be, none disturbs another, and all end when they are told to."""
import hashlib
import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest
from helpers import MLOPS, ROOT, environment, mlops
from test_life_cycle import lasting

from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.serving.store import ServingLog

NOTEBOOKS = {"00_plan": ["books = 3\nhours = 0.0", """#| run
import time
with StageRun("plan") as run:
    if hours: (run.folder / "asleep").touch()
    time.sleep(3600 * hours)
    run.save("plan", {"books": books})
    run.passed(f"{books} books a reader")"""], "01_formulate": ["days = 21.0", """#| run
with StageRun("formulate") as run:
    if days > 90: raise ValueError("nobody waits that long")
    if run.load("plan")["books"] > 5: raise GoBack("plan", "at most 5 books")
    run.save("problem", {"days": days})
    run.passed(f"{days} days")"""]}


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> dict:
    """The settings of a project with two short notebooks."""
    root = tmp_path_factory.mktemp("library")
    (root / "settings.ini").write_text("[project]\nname = library\n[clock]\nas_of = 2024-03-10T00:00Z\n")
    (root / "nbs").mkdir()
    imports = "from mlops_lifecycle.core.pipeline.stage_run import StageRun\nfrom mlops_lifecycle.core.foundation.stages import GoBack"
    for name, (parameters, run) in NOTEBOOKS.items():
        cells = [{"cell_type": "code", "id": f"c{i}", "metadata": {"tags": ["parameters"] if i == 1 else []},
                  "execution_count": None, "outputs": [], "source": text} for i, text in enumerate([imports, parameters, run])]
        kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
        notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
        (root / "nbs" / f"{name}.ipynb").write_text(json.dumps(notebook))
    return {"MLOPS_SETTINGS": root / "settings.ini", "MLOPS_WORKSPACE": root / "workspace"}


def digests(root: Path) -> dict[str, str]:
    """Every file of a workspace that is its state."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for path in found
            if not (name := path.relative_to(root).as_posix()).startswith(("matrix/", "lock"))}


def test_a_combination_leaves_what_a_plain_run_leaves_and_the_project_keeps_its_workspace(lived, tmp_path):
    """Tables have the same digests and documents the same content, whatever ran beside it, and with fewer threads."""
    few = {"MLOPS_TRAIN__CANDIDATES": 4, "MLOPS_TRAIN__FOLDS": 1}
    settings, plain = lived.copy(tmp_path / "workspace") | few, lived.copy(tmp_path / "plain" / "workspace") | few
    root = tmp_path / "workspace"
    before, meant = digests(root), ["transform", "train"]
    done = mlops("matrix", "--json", *meant, "-p", "as_of=2013-05-01", "-p", "sample=1500", "-p", "seed=0,1", **settings)
    record = json.loads(done.stdout)
    assert digests(root) == before
    one = record["combinations"][1]
    assert one["parameters"] == {"as_of": "2013-05-01T00:00Z", "sample": "1500", "seed": "1"}
    assert done.returncode == {"passed": 0, "went_back": 2}[record["status"]]
    run = json.loads(mlops("run", "--json", *meant, "-p", "as_of=2013-05-01T00:00Z", "-p", "sample=1500", "-p", "seed=1", **plain).stdout)
    assert [s["shared_by"] for s in one["stages"]] == [2, 1]
    assert [(s["stage"], s["status"]) for s in run["stages"]] == [(s["stage"], s["status"]) for s in one["stages"]]
    alone, beside = Workspace(tmp_path / "plain" / "workspace"), Workspace(one["workspace"])
    names = alone.published()["names"]
    assert beside.published()["names"].keys() == names.keys()
    for name, entry in names.items():
        if "digest" in entry: assert beside.published()["names"][name]["digest"] == entry["digest"], name
        else: assert lasting(beside.load(name)) == lasting(alone.load(name)), name
    assert beside.load("candidates") != Workspace(record["combinations"][0]["workspace"]).load("candidates")
    assert (root / "pseudonym.key").read_bytes() == (beside.root / "pseudonym.key").read_bytes()
    models = {path.relative_to(beside.root).as_posix() for path in (beside.root / "mlflow").rglob("*.skops")}
    assert models - before.keys()
    log = ServingLog(beside.serving_db)
    log.predictions.append(pd.Timestamp("2013-06-01", tz="UTC").to_pydatetime(), replayed=None)
    log.close()
    with open(beside.root / "labels.jsonl", "a") as answers: answers.write("{}\n")
    assert digests(root) == before


def test_one_that_fails_does_not_stop_the_others(library):
    done = mlops("matrix", "--json", "-p", "books=3,7", "-p", "days=21,100", "plan", "formulate", **library)
    record = json.loads(done.stdout)
    assert {one["name"]: one["status"] for one in record["combinations"]} == {
        "books-3_days-21": "passed", "books-3_days-100": "failed", "books-7_days-21": "went_back", "books-7_days-100": "failed"}
    assert (done.returncode, record["status"], done.stderr.count("\n") >= 4) == (1, "failed", True)
    assert record == json.loads((Path(library["MLOPS_WORKSPACE"]) / "matrix" / "matrix.json").read_text())
    assert [s["shared_by"] for s in record["combinations"][0]["stages"]] == [2, 1]
    assert not list(Path(library["MLOPS_WORKSPACE"]).glob("runs"))


@contextmanager
def sleeping(library: dict):
    """A matrix of four, two of whose kernels sleep for hours; its process, its folder, and all that it has started."""
    command = [*MLOPS, "matrix", "--json", "-p", "hours=0.0,1.0,2.0,3.0", "plan", "formulate"]
    run = subprocess.Popen(command, cwd=ROOT, env=environment(**library), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True, start_new_session=True)
    root, end = Path(library["MLOPS_WORKSPACE"]) / "matrix", time.monotonic() + 60
    try:
        while len(list(root.glob("hours-[123]*/runs/*/plan/asleep"))) < 2:
            assert run.poll() is None and time.monotonic() < end, run.stderr.read()
            time.sleep(0.05)
        yield run, root, psutil.Process(run.pid).children(recursive=True)
    finally: run.kill()


def test_ctrl_c_ends_all_kernels_and_the_records_say_so(library):
    """A terminal sends it to the command and to the process that imports, not to kernels: they have sessions of their own."""
    with sleeping(library) as (run, root, everybody):
        os.killpg(run.pid, signal.SIGINT)
        out, said = run.communicate(timeout=60)
    _, alive = psutil.wait_procs(everybody, timeout=20)
    assert run.returncode == 130 and not alive and "Traceback" not in said
    status = {one["name"]: (one["status"], one["words"]) for one in json.loads(out)["combinations"]}
    assert status == {f"hours-{n}.0": ("failed", "interrupted") for n in (1, 2, 3)} | {"hours-0.0": status["hours-0.0"]}
    runs = [json.loads(path.read_text()) for path in root.glob("hours-[123]*/runs/*/run.json")]
    assert runs and {(r["status"], r["stages"][0]["words"]) for r in runs} == {("failed", "interrupted")}


def test_after_a_kill_nothing_goes_on_and_the_next_matrix_begins_anew(library):
    with sleeping(library) as (run, root, everybody):
        run.kill()
        _, alive = psutil.wait_procs(everybody, timeout=30)
    assert not alive and json.loads((root / "matrix.json").read_text())["status"] == "failed"
    done = mlops("matrix", "--json", "-p", "books=4", "plan", **library)
    assert done.returncode == 0 and [path.name for path in root.iterdir() if path.is_dir()] == ["books-4"]


REFUSED = {
    "no values": ([], {}, "a matrix needs values of a parameter: -p NAME=VALUE,VALUE"),
    "no such parameter": (["-p", "book=3,4"], {}, 'unknown parameter "book"; plan takes books, hours'),
    "another kind": (["-p", "books=3,four"], {}, "\"books\" must be a whole number, got 'four'"),
    "twice": (["-p", "books=3", "-p", "books=4"], {}, "a parameter is given twice: books=3, books=4"),
    "the same value": (["-p", "books=3,3"], {}, '"books" is given the same value twice: 3,3'),
    "an empty value": (["-p", "books=3,"], {}, '"books" has an empty value in "3,"'),
    "too many": (["-p", f"books={','.join(map(str, range(300)))}"], {}, "300 combinations are more than 256"),
    "one log for all": (["-p", "books=3,4"], {"MLOPS_DATABASE": "postgresql://desk/log"}, "each combination needs a log of its own"),
}


@pytest.mark.parametrize("arguments, more, words", REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused_before_anything_runs(library, monkeypatch, tmp_path, arguments, more, words):
    from typer.testing import CliRunner
    from mlops_lifecycle.cli import app
    for name, value in (library | {"MLOPS_WORKSPACE": tmp_path / "workspace"} | more).items(): monkeypatch.setenv(name, str(value))
    done = CliRunner().invoke(app, ["matrix", "plan", *arguments])
    assert done.exit_code == 1 and done.stderr.startswith(f"mlops: {words}") and done.stderr.count("\n") == 1
    assert not (tmp_path / "workspace").exists()
