"""Two runs of a workspace side by side, through the command line."""
import json

from helpers import ROOT
from typer.testing import CliRunner

from mlops_lifecycle.cli import app
from mlops_lifecycle.core.foundation.workspace import Workspace


def write_run(workspace: Workspace, name: str, threshold: str, days: int) -> None:
    """A run of one stage, with an executed copy."""
    folder = workspace.runs / name
    folder.mkdir(parents=True)
    def cell(id, text, tags=()): return {"cell_type": "code", "id": id, "metadata": {"tags": list(tags)}, "source": text, "outputs": []}
    book = {"cells": [cell("limit", f"LIMIT = {days}"), cell("given", f"as_of = '{name}'", ["injected-parameters"])]}
    (folder / "07_train.ipynb").write_text(json.dumps(book | {"metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    stage = {"stage": "train", "notebook": "07_train.ipynb", "status": "passed", "words": "fitted", "seconds": 2.0 * days,
             "parameters": {"seed": days}, "sections": {"train": threshold}, "outputs": {}, "report": f"runs/{name}/07_train.ipynb"}
    (folder / "run.json").write_text(json.dumps({"run": name, "status": "passed", "seconds": 3.0, "stages": [stage]}))


def test_the_last_two_runs_as_markdown_and_as_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MLOPS_WORKSPACE", str(tmp_path))
    def diff(*words): return CliRunner().invoke(app, ["diff", *words])
    write_run(Workspace(tmp_path), "20240301-aaaa", "x", 1)
    assert "1 run is in" in diff().stderr
    write_run(Workspace(tmp_path), "20240302-bbbb", "y", 5)
    table = diff("--md").stdout.splitlines()
    assert table[0] == "### What changed from run 20240301-aaaa to 20240302-bbbb"
    assert table[4:8] == ["| settings | [train] | other values |  |", "| settings | train -p seed | 1 | 5 |",
                         "| cells | 07_train.ipynb, changed |  | limit |", "| seconds | train | 2.0 | 10.0 |"]
    assert "4 changes" in diff("aaaa", "bbbb").stdout and "[train]" in diff().stdout
    assert "Nothing." in diff("bbbb", "bbbb", "--md").stdout
    assert 'there is no run "cccc"' in diff("cccc").stderr


def test_an_executed_notebook_is_found_by_run_and_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MLOPS_WORKSPACE", str(tmp_path))
    write_run(Workspace(tmp_path), "20240301-aaaa", "x", 1)
    found = CliRunner().invoke(app, ["open", "aaaa", "train", "--no-lab"])
    assert found.stdout.strip() == str(tmp_path.resolve() / "runs" / "20240301-aaaa" / "07_train.ipynb")
    assert 'executed no stage "lend"; it has train' in CliRunner().invoke(app, ["open", "aaaa", "lend", "--no-lab"]).stderr


def test_ci_keeps_the_run_when_a_gate_fails_and_says_what_changed():
    lines = (ROOT / ".github" / "workflows" / "ci.yml").read_text().split("  matrix:")[0]
    diff, kept = lines.index("mlops diff --md"), lines.index("workspace/runs")
    assert lines.index("mlops run --force") < diff < kept < lines.index(".ci/run")
    assert lines[lines.index("mlops run --force"):kept].count("if: always()") == 2
