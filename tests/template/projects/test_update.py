"""A project with three hand-edited template cells is updated between three frozen versions of a small template."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_lifecycle.cli import app
from mlops_lifecycle.core.projects import project_update
from mlops_lifecycle.core.projects.project_update import BRANCH, commit_folder, git, update_project
from mlops_lifecycle.core.projects.template_files import read_template, write_files

VERSIONS = Path(__file__).parent / "versions"
EDITS = {  # of template cells, by hand
    "nbs/00_lend.ipynb": {"lend-due": "#| export\ndef due(day): return day + DAYS + 1"},
    "nbs/01_remind.ipynb": {"remind-words": "## Words\n\nOurs is long."},
    "nbs/core/days.ipynb": {"days-open": "#| export\ndef is_open(day): return day % 7 not in (5, 6)"},
}
OWN = {"nbs/00_lend.ipynb": {"lend-yours": "#| yours DAYS\n#| export\nDAYS = 90"},
       "nbs/01_remind.ipynb": {"remind-yours": "#| yours LETTER\n#| export\nLETTER = 'Hello'"}}


def edit(root: Path, path: str, texts: dict[str, str]) -> None:
    book = json.loads((root / path).read_text())
    for cell in book["cells"]: cell["source"] = texts.get(cell["id"], "".join(cell["source"]))
    (root / path).write_text(json.dumps(book))


def cells(root: Path, path: str) -> dict[str, str]:
    return {cell["id"]: "".join(cell["source"]) for cell in json.loads((root / path).read_text())["cells"]}


def commit(root: Path, words: str) -> None:
    git(root, "reset", "--quiet", "--hard", commit_folder(root, root, words, "HEAD", like="HEAD"))


@pytest.fixture
def project(tmp_path) -> Path:
    """Made from version 1, with own slots, settings and front page, and edited by hand."""
    root, first = tmp_path / "project", read_template(VERSIONS / "1")
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    write_files(first.files, root)
    git(root, "branch", BRANCH, commit_folder(root, root, "Version 1 of the template"))
    git(root, "reset", "--quiet", "--hard", BRANCH)
    (root / "settings.ini").write_text("[project]\nname = students\n[clock]\nas_of = 2025-01-01T00:00Z\n")
    edit(root, "nbs/index.ipynb", {"idx-title": "# Students' library"})
    for path, texts in OWN.items(): edit(root, path, texts)
    project_update.generate(root)
    commit(root, "Made from version 1")
    for path, texts in EDITS.items(): edit(root, path, texts)
    (root / "Makefile").write_text((root / "Makefile").read_text().replace("lend today", "lend all week"))
    (root / "loans.csv").write_text("loan\n1\n")
    project_update.generate(root)
    commit(root, "By hand")
    return root


def state(root: Path) -> tuple:
    return (*(git(root, "rev-parse", name) for name in ("HEAD", "main", BRANCH)), git(root, "status", "--porcelain"))


def test_three_edits_and_the_own_slots_outlive_a_new_version(project):
    done = update_project(project, read_template(VERSIONS / "2"))
    assert not done.merged.conflicts and done.merged.new_slots == ["nbs/01_remind.ipynb#SIGNED"]
    assert done.merged.kept == ["nbs/index.ipynb", "settings.ini"] and "students" in (project / "settings.ini").read_text()
    for path, texts in {**EDITS, **OWN}.items(): assert texts.items() <= cells(project, path).items()
    lend, remind = cells(project, "nbs/00_lend.ipynb"), cells(project, "nbs/01_remind.ipynb")
    assert list(lend) == ["lend-title", "lend-exp", "lend-imports", "lend-yours-md", "lend-yours", "lend-due-md", "lend-due", "lend-late"]
    assert lend["lend-due-md"] == "## When a book is due"
    assert list(remind)[2:6] == ["remind-yours-md", "remind-yours", "remind-sign-md", "remind-sign"]
    makefile = (project / "Makefile").read_text()
    assert "lend all week" in makefile and "doors and windows" in makefile and (project / "loans.csv").exists()
    look = "from lending.lend import due, late; from lending.remind import say; from lending.count import count\n" \
           "print(due(5), late(5, 97), say('Ann').split(), count('ab'))"
    said = subprocess.run([sys.executable, "-c", look], cwd=project, capture_output=True, text=True, env={"PYTHONPATH": str(project)})
    assert said.stdout.strip() == "96 False ['Hello', 'Ann', 'Your', 'library'] 2", said.stderr
    assert "Students' library" in (project / "README.md").read_text()


def test_branches_move_to_one_merge_commit(project):
    before, (main, template) = git(project, "rev-parse", "main"), (git(project, "rev-parse", name) for name in ("main", BRANCH))
    update_project(project, read_template(VERSIONS / "2"))
    assert git(project, "log", "-1", "--format=%P", "main").split() == [before, git(project, "rev-parse", BRANCH)]
    assert git(project, "rev-parse", BRANCH + "^") == template and main == before
    assert "version = 2" in git(project, "show", BRANCH + ":pyproject.toml") and "version = 2" in (project / "pyproject.toml").read_text()
    assert not git(project, "ls-tree", BRANCH, "lending") and git(project, "status", "--porcelain") == ""


def test_conflicts_are_shown_and_change_nothing_until_they_are_settled(project, monkeypatch):
    update_project(project, read_template(VERSIONS / "2"))
    was = state(project)
    monkeypatch.chdir(project)
    def update(*words): return CliRunner().invoke(app, ["update", "--from", str(VERSIONS / "3"), "--no-check", *words])
    told = update()
    assert told.exit_code == 1 and state(project) == was, told.output
    names = ["nbs/00_lend.ipynb#lend-due", "nbs/01_remind.ipynb#SIGNED"]
    assert [line.strip() for line in told.stdout.splitlines() if line.startswith("  nbs/")] == names
    assert "day + DAYS + 1" in told.stdout and "next_open(day + DAYS)" in told.stdout and "the new template has no such slot" in told.stdout
    assert update("--keep", "Makefile").exit_code == 1 and state(project) == was
    done = update("--take", names[0], "--keep", names[1])
    assert done.exit_code == 0 and "Updated to version 3 of the template" in done.stdout
    assert cells(project, "nbs/00_lend.ipynb")["lend-due"].endswith("next_open(day + DAYS)")
    assert "remind-sign" in cells(project, "nbs/01_remind.ipynb")
    assert "Nothing to update" in update().stdout


@pytest.mark.parametrize("at", ["commit-tree", "merge"])
def test_what_interrupts_an_update_leaves_the_project_as_it_was(project, monkeypatch, at):
    before, real = state(project), project_update.git
    def dies(root, *words, **more):
        if words[0] == at: raise KeyboardInterrupt
        return real(root, *words, **more)
    with monkeypatch.context() as patched:
        patched.setattr(project_update, "git", dies)
        with pytest.raises(KeyboardInterrupt): update_project(project, read_template(VERSIONS / "2"))
    after = state(project)
    assert (after[:2], after[3:]) == (before[:2], before[3:])
    assert update_project(project, read_template(VERSIONS / "2")).commit == git(project, "rev-parse", "main")  # and it can be done again


def test_what_cannot_be_updated_is_refused_by_name(project, monkeypatch):
    monkeypatch.chdir(project)
    def refused(*words):
        done = CliRunner().invoke(app, ["update", "--no-check", *words])
        assert done.exit_code == 1 and done.stderr.count("\n") == 1, done.output
        return done.stderr
    assert "is a project of version 1 of the template" in refused("--from", str(project))
    assert "neither a checkout of the template nor its wheel" in refused("--from", str(project / "nbs"))
    (project / "Makefile").write_text("mine")
    assert "uncommitted changes in Makefile" in refused("--from", str(VERSIONS / "2"))
    git(project, "checkout", "--quiet", "Makefile")
    git(project, "branch", "--quiet", "-D", BRANCH)
    assert 'there is no git branch "template"' in refused("--from", str(VERSIONS / "2"))
