"""`mlops try`: what an edit gains on a sample, paired with the state before it, while nothing is published."""
import hashlib
import json
from pathlib import Path

import pytest
from helpers import copy_project, mlops

WORSE = 'estimators, search_space = {"dummy": estimators["dummy"]}, {}'


def tried(project, settings, *arguments, **more) -> dict:
    """The result of a try; a gate of the small sample may fail."""
    done = mlops("try", "--json", "--rows", 2000, *arguments, project=project, **settings | more)
    assert done.returncode in (0, 2), done.stdout + done.stderr
    result = json.loads(done.stdout) | {"exit": done.returncode, "said": done.stderr}
    assert (done.returncode == 2) == any(ended["back_to"] for ended in result["stages"])
    return result


def append(notebook: Path, name: str, line: str) -> None:
    """Add a line at the end of the last exported cell that a project owns under a name."""
    content = json.loads(notebook.read_text())
    cell = [c for c in content["cells"] if "".join(c["source"]).startswith(f"#| yours {name}\n#| export\n")][-1]
    cell["source"] = ["".join(cell["source"]) + "\n" + line]
    notebook.write_text(json.dumps(content, indent=1))


def content_of(workspace: Path) -> dict:
    """Each file of a workspace beside those of tries, by its content."""
    files = [path for path in workspace.rglob("*") if path.is_file() and path.relative_to(workspace).parts[0] != "try"]
    return {path.relative_to(workspace): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def there(lived, tmp_path_factory):
    """A copied project with a workspace that has run."""
    folder = tmp_path_factory.mktemp("try")
    return copy_project(folder / "project"), lived.copy(folder / "workspace")


def test_an_edit_is_measured_against_the_state_before_it(there):
    project, settings = there
    before = content_of(settings["MLOPS_WORKSPACE"])
    first = tried(project, settings)
    assert [ended["stage"] for ended in first["stages"]] == ["transform", "validate", "explore", "train", "evaluate"]
    assert first["gain"]["why"] == "this is the first try" and first["gain"]["saves"] > 0
    assert "because this is the first try: the candidate saves" in first["words"]

    notebook = project / "nbs" / "07_train.ipynb"
    finished = notebook.read_text()
    append(notebook, "estimators", WORSE)
    worse = tried(project, settings)
    assert "exported nbs/07_train.ipynb" in worse["said"]
    gain = worse["gain"]
    assert gain["high"] < 0 and gain["low"] < gain["saves"] < gain["high"] and gain["rows"] == first["gain"]["rows"]
    assert worse["words"].startswith("The edit costs ") and "significantly" in worse["words"]

    again = tried(project, settings)
    assert [again["gain"][figure] for figure in ("saves", "low", "high", "changed")] == [0, 0, 0, 0]
    assert again["words"].startswith("Nothing changed since the try of ")

    notebook.write_text(finished)
    better = tried(project, settings)
    assert better["gain"]["low"] > 0 and better["gain"]["saves"] == pytest.approx(-gain["saves"])
    assert content_of(settings["MLOPS_WORKSPACE"]) == before


def test_a_gate_that_fails_is_named_and_the_gain_is_still_told(there):
    project, settings = there
    result = tried(project, settings, MLOPS_EVALUATE__MIN_GAIN=3)
    last = result["stages"][-1]
    assert (result["exit"], last["stage"], last["back_to"]) == (2, "evaluate", "train")
    assert any(name.startswith("costs significantly less than") for name in last["failed"])
    assert "A run would go back from evaluate to train" in result["said"] and result["gain"]


def test_it_ends_where_it_is_told_to(there):
    project, settings = there
    result = tried(project, settings, "transform")
    assert [ended["stage"] for ended in result["stages"]] == ["transform"] and result["gain"] is None
    unknown = mlops("try", "plan", project=project, **settings)
    assert unknown.returncode == 1 and '"STAGE" must be one of transform, validate' in unknown.stderr


def test_without_curated_tables_it_says_what_to_run(there, tmp_path):
    done = mlops("try", project=there[0], MLOPS_WORKSPACE=tmp_path / "empty")
    assert done.returncode == 1 and "mlops run --to curate" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "empty").exists()
