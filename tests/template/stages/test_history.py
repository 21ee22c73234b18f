"""The page of all runs: pages of old runs go, what was recorded of them stays."""
import json
import re
import shutil

import pytest

from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace, atomic_write
from mlops_lifecycle.core.reports.lineage import trace
from mlops_lifecycle.core.reports.site import build_report, runs_with_pages


@pytest.fixture
def library(tmp_path):
    """A project without notebooks, whose site is made in seconds."""
    (tmp_path / "settings.ini").write_text("[project]\nname = library\n[clock]\nas_of = 2024-03-10T00:00Z\n[reports]\nkeep = 2\n")
    return load_settings(tmp_path / "settings.ini", environ={})


def add_run(workspace: Workspace, day: int, rows: int) -> str:
    """A run of one stage, with its executed copy, after which the stage stands as this run left it."""
    run, release = f"2024030{day}-090000-aaa{day}", workspace.store("release", {"rule": f"rule-{day}"})
    record = {"stage": "collect", "notebook": "02_collect.ipynb", "wheel": "data", "status": "passed", "words": f"{rows} rows",
              "started": f"2024-03-0{day}T09:00:00+00:00", "seconds": 2.0, "run": run, "parameters": {}, "settings": "", "code": "x",
              "inputs": {},
              "outputs": {"release": release["version"]},
              "verdict": {"rows": {"loans": rows}}, "edges": [], "report": f"runs/{run}/02_collect.ipynb"}
    book = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    atomic_write(workspace.runs / run / "02_collect.ipynb", json.dumps(book))
    atomic_write(workspace.runs / run / "collect" / "record.json", json.dumps(record))
    whole = {"run": run, "started": record["started"], "seconds": 3.0, "status": "passed", "settings": "", "stages": [record], "edges": []}
    atomic_write(workspace.runs / run / "run.json", json.dumps(whole))
    atomic_write(workspace.releases / f"rule-{day}" / "manifest.json", json.dumps({"id": f"rule-{day}", "kind": "rule", "run": run}))
    workspace.publish({}, {"collect": record})
    return run


def links(site, run: str) -> set[str]:
    """The runs to which a run's page of all runs leads."""
    return set(re.findall(r'href="\.\./([^"/]+)/index\.html"', (site.parent / run / "history.html").read_text()))


def test_pages_of_old_runs_go_and_records_and_executed_notebooks_stay(library):
    workspace, runs = Workspace(library.workspace_path), []
    def kept(): return {path.relative_to(workspace.runs): path.read_bytes() for path in workspace.runs.rglob("*") if path.is_file()}
    for day in range(1, 5):
        runs.append(add_run(workspace, day, 100 * day))
        before = kept()
        site = build_report(library, workspace)
        assert kept() == before
    assert runs_with_pages(site.parent) == [runs[3], runs[2]]
    page = (site.parent / runs[3] / "history.html").read_text()
    assert all(run in page for run in runs) and "The pages of 2 of these runs are not here" in page
    assert links(site, runs[3]) == {runs[2]} and not links(site, runs[2])
    first = site.read_text()
    assert runs[2] in first and runs[1] not in first and "The pages of the last 2 runs are kept" in first
    for name in (runs[0], "rule-1"):  # a release that the oldest run wrote leads to its executed notebook
        way = trace(name, workspace)["stages"][0]["notebook"]
        assert way == f"runs/{runs[0]}/02_collect.ipynb" and (workspace.root / way).is_file()


def test_pages_that_somebody_removed_are_linked_no_more(library):
    workspace = Workspace(library.workspace_path)
    runs = [add_run(workspace, day, 100) for day in (1, 2)]
    other = library.model_copy(update={"reports": library.reports.model_copy(update={"keep": 3})})
    site = build_report(other, workspace)
    shutil.copytree(site.parent / runs[1], site.parent / runs[0])
    assert links(build_report(other, workspace), runs[1]) == {runs[0]}
    shutil.rmtree(site.parent / runs[0])
    assert not links(build_report(other, workspace), runs[1])
