"""The notebooks of a project: one a stage, without outputs, imports one way, words that the glossary explains."""
import json
import re
import subprocess
import sys
from pathlib import Path

from helpers import NOTEBOOKS, ROOT, cells, environment

from mlops_lifecycle.core.foundation.stages import STAGES
from mlops_lifecycle.core.pipeline.code_versions import is_lesson


def test_each_stage_has_its_notebook_and_each_notebook_its_stage():
    found = {p.stem for p in (ROOT / "nbs").glob("*.ipynb")}
    commands = {"cli", "entry_point", "developer_commands", "project_commands", "release_commands", "try_edit"}
    assert found - {"tutorial"} == {s.notebook for s in STAGES} | {"index"} | commands  # the template alone has a tutorial


def test_imports_point_one_way():
    """The contracts of pyproject.toml: the command line, stages by falling number, the rooms from the top down."""
    linter = subprocess.run([Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT,
                            env=environment(), capture_output=True, text=True)
    assert linter.returncode == 0, linter.stdout


def test_what_a_run_executes_knows_its_names_without_the_lessons(tmp_path):
    """`[run] lessons = no` leaves them out; nothing else may need what only a lesson defines or imports."""
    for stage in STAGES:
        notebook = json.loads((ROOT / "nbs" / f"{stage.notebook}.ipynb").read_text())
        kept = [cell for cell in notebook["cells"] if not is_lesson(cell)]
        (tmp_path / f"{stage.notebook}.ipynb").write_text(json.dumps(notebook | {"cells": kept}))
    command = [Path(sys.executable).parent / "ruff", "check", "--isolated", "--no-cache", "--select", "F821", tmp_path]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_stages_link_the_glossary_and_its_names_exist():
    glossary = "\n".join(cell["text"] for cell in cells(ROOT / "nbs" / "core" / "glossary.ipynb"))
    for stage in STAGES:
        assert "(core/glossary.ipynb)" in "".join(c["text"] for c in cells(ROOT / "nbs" / f"{stage.notebook}.ipynb")), stage
    named = re.findall(r"\[`(\w+)`\]\(([\w./]+)\.ipynb\)", glossary)
    assert len(named) > 15
    for name, notebook in named:
        code = "\n".join(c["text"] for c in cells((ROOT / "nbs" / "core" / notebook).with_suffix(".ipynb").resolve()))
        assert re.search(rf"^(def|class) {name}\b|^{name}\b.*=", code, re.M), f"{name} of {notebook}"


def test_notebooks_carry_no_outputs():
    dirty = [n.name for n in NOTEBOOKS for c in cells(n) if c.get("outputs") or c.get("execution_count")]
    assert not dirty
