"""The template's shape: the expected folders and only those, nothing of one problem or one machine, a small app."""
import ast
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from helpers import NOTEBOOKS, ROOT, cells, copy_project, environment, owned, tracked
from packaging.requirements import Requirement

from mlops_lifecycle.core.foundation.extras import distribution_extras
from mlops_lifecycle.core.foundation.stages import STAGES

TOP = {
    ".ci", ".gitattributes", ".github", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile",
    "README.md", "benchmarks", "deploy", "mlops_lifecycle", "nbs", "pyproject.toml", "reports", "requirements.lock",
    "settings.ini", "tests",
}


def test_the_top_level_is_the_expected_one():
    assert {path.split("/")[0] for path in tracked()} == TOP


WORDS = re.compile(
    r"flight|airport|airline|aircraft|carrier|\bplanes?\b|tail.?num|weather|nycflights|\bdepart(s|ed|ure|ures)\b"
    r"|\barrival delay", re.I)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.relative_to(ROOT / "nbs").with_suffix("").as_posix())
def test_no_word_of_the_example_problem_outside_yours(notebook):
    if notebook.name == "index.ipynb" or notebook.parent.name == "examples": return  # no project takes them along
    content = cells(notebook)
    for cell, own in zip(content, owned(content), strict=True):
        if not own:
            found = WORDS.search(cell["text"])
            assert not found, (f'{notebook.name}: "{found[0]}" in a cell that is not "yours":\n'
                               f'{cell["text"][:200]}')


def test_what_is_not_yours_knows_its_names_without_what_yours_imports(tmp_path):
    """Another project replaces the cells `#| yours`: it keeps the names that they define, not what they import."""
    for stage in STAGES:
        notebook = json.loads((ROOT / "nbs" / f"{stage.notebook}.ipynb").read_text())
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code" and "".join(cell["source"]).startswith("#| yours"):
                cell["source"] = "".join(f"{name} = None\n" for name in sorted(defined("".join(cell["source"]))))
        (tmp_path / f"{stage.notebook}.ipynb").write_text(json.dumps(notebook))
    command = [Path(sys.executable).parent / "ruff", "check", "--isolated", "--no-cache", "--select", "F821", tmp_path]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def defined(code):
    "Names of functions, classes and values at the top of `code`, without its imports."
    statements = [s for s in ast.parse(code).body if not isinstance(s, ast.Import | ast.ImportFrom)]
    named = {s.name for s in statements if isinstance(s, ast.FunctionDef | ast.ClassDef)}
    return named | {n.id for s in statements for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


INSTALLS = re.compile(r"(\.lock|\.toml|\.sh|\.ya?ml)$|^(Makefile|deploy/|\.ci/|\.github/)")  # files that say what is installed


def test_no_registry_and_no_machine_is_named():
    """No option of an index, no address of one, and where things are installed from no host at all but this machine."""
    for path in tracked():
        text = (ROOT / path).read_bytes().decode(errors="ignore")
        named = r"--(extra-)?index-url|--find-link[s]|https?://[^\s\"']+/simple\b"
        if INSTALLS.search(path): named += r"|https?://(?!127\.0\.0\.1|localhost)[\w.-]+"
        found = re.search(named, text)
        assert not found, f"{path} names {found[0]}"
        assert f"{ROOT}/" not in text, f"{path} names a path of this machine"


def test_clean_tree_finds_a_template_that_is_not_what_its_notebook_says(tmp_path):
    """The command of `make test` itself, in a copy: it passes, and fails once a word in a template's block is another."""
    copy, tools = copy_project(tmp_path / "copy"), Path(sys.executable).parent
    (copy / ".venv").mkdir()  # where the target keeps git's index
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    def clean_tree():
        return subprocess.run(["make", "clean-tree", f"BIN={tools}", "READY="], cwd=copy, env=environment(copy),
                              capture_output=True, text=True)
    assert (done := clean_tree()).returncode == 0, done.stdout + done.stderr
    notebook = copy / "nbs" / "core" / "serving" / "web_form.ipynb"
    notebook.write_text(notebook.read_text().replace("it stays in this tab", "it remains in this tab"))
    assert (done := clean_tree()).returncode and "these files are not what the notebooks say" in done.stderr
    assert re.findall(r"^ (\S+)", done.stdout, re.M)[:1] == ["mlops_lifecycle/core/serving/templates/web_form.html"]


HEAVY = {"jupyter", "jupyterlab", "ipykernel", "ipython", "mlflow", "mlflow_skinny", "great_expectations", "papermill",
         "nbdev", "sphinx"}


def closure(requirement: str) -> set[str]:
    """Every distribution that comes with a requirement here, extras and markers followed."""
    todo, seen = [Requirement(requirement)], set()
    while todo:
        wanted = todo.pop()
        for extra in {"", *wanted.extras}:
            if (wanted.name, extra) in seen: continue
            seen.add((wanted.name, extra))
            try: needs = [Requirement(line) for line in requires(wanted.name) or []]
            except PackageNotFoundError: needs = []
            todo += [r for r in needs if not r.marker or r.marker.evaluate({"extra": extra})]
    return {re.sub("[-.]", "_", name).lower() for name, _ in seen}


def test_the_serving_extra_is_small():
    serving = closure(f"{distribution_extras()[0]}[serve]")
    assert {"fastapi", "uvicorn", "scikit_learn", "skops"} <= serving
    assert not {name for name in serving if name in HEAVY or name.startswith("jupyter")}


def test_the_app_imports_nothing_heavy():
    look = f"import sys, mlops_lifecycle.serving; print(sorted({{n.split('.')[0] for n in sys.modules}} & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, env=environment(),
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_lock_pins_hashes_and_names_no_index():
    lock = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^[A-Za-z0-9][\w.\-\[\],]*==\S+.*(?:\n[ #].*)*", lock, re.M)
    assert len(pinned) > 50 and all("--hash=sha256:" in one for one in pinned)
    assert not re.search(r"https?://|^-i |index-url|^-f ", lock, re.M)
