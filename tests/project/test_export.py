"""The package is what the notebooks say: nothing to export, to clean or to render, and who lags behind is warned."""
import filecmp
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import NOTEBOOKS, ROOT, copy_project, environment, tracked

from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.pipeline import notebook_sync
from mlops_lifecycle.core.pipeline.notebook_sync import StaleModuleWarning, export_changed, write_readme
from mlops_lifecycle.core.pipeline.stage_run import StageRun


def test_the_package_and_the_readme_say_what_the_notebooks_say():
    export_changed(ROOT, check=True)
    write_readme(ROOT, check=True)


def differences(one: Path, other: Path) -> list[str]:
    """Files that are not the same in two folders."""
    files = lambda root: {p.relative_to(root) for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    unlike = [p for p in files(one) & files(other) if not filecmp.cmp(one / p, other / p, shallow=False)]
    return sorted(map(str, files(one) ^ files(other))) + list(map(str, unlike))


def test_clean_and_export_leave_no_diff(tmp_path):
    before, after = copy_project(tmp_path / "before"), copy_project(tmp_path / "after")
    for command in ("nbdev-clean", "nbdev-export"):
        subprocess.run([Path(sys.executable).parent / command], cwd=after, env=environment(after),
                       check=True, capture_output=True)
    assert not differences(before, after)


def test_each_template_stands_in_a_notebook():
    """None is left over in the package after its block has gone."""
    told = {path for notebook in NOTEBOOKS for path in notebook_sync.exported(notebook, ROOT) if path.parent.name == "templates"}
    assert told and told == {Path(path) for path in tracked() if Path(path).parent.name == "templates"}


def test_a_person_whose_modules_lag_behind_their_notebooks_is_warned_as_a_run_opens(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook_sync, "interactive", lambda: True)
    lags = "mlops_lifecycle.core.pipeline.stage_run"
    notebook = "nbs/core/pipeline/stage_run.ipynb"
    monkeypatch.setattr(notebook_sync, "stale", lambda module, root: [notebook] * (module == lags))
    with pytest.warns(StaleModuleWarning, match=f"{lags} is not what {notebook} says") as told:
        with StageRun("plan", settings=load_settings(ROOT, environ={}), workspace=Workspace(tmp_path)) as run:
            run.passed("planned")
    assert len(told) == 1
