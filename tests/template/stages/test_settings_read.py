"""A stage runs again for the sections of the settings that it reads, however it reads them, and for no others."""
import json

import pytest
from helpers import mlops, passed

from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.stages import STAGES
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.pipeline.runner import Runner, choose
from mlops_lifecycle.core.pipeline.staleness import stale


def causes(settings: dict, **changed) -> dict[str, list[str]]:
    """Why each stage is stale, by `mlops status`."""
    rows = json.loads(passed(mlops("status", "--json", **settings | changed)).stdout)
    return {row["stage"]: row["stale"] for row in rows}


@pytest.mark.parametrize("variable, readers", [
    ("MLOPS_CANARY__MIN_LABELLED", {"operate", "monitor", "loop"}),
    ("MLOPS_TRAIN__KEEP", {"explore", "train", "evaluate", "monitor"}),  # the loop has nothing to train in one period
    ("MLOPS_DRIFT__WARM_UP_DAYS", {"validate"}),
    ("MLOPS_RUN__STAGE_TIMEOUT", set()),  # the runner's own
])
def test_a_changed_section_concerns_the_stages_that_read_it(lived, variable, readers):
    before, now = causes(lived.settings), causes(lived.settings, **{variable: 77})
    section = variable.removeprefix("MLOPS_").partition("__")[0].lower()
    assert {stage for stage, why in now.items() if f"settings [{section}] changed" in why} == readers
    assert {stage for stage in now if now[stage] != before[stage]} == readers
    table = passed(mlops("status", **lived.settings | {variable: 77, "COLUMNS": 400})).stdout
    assert (f"settings [{section}] changed" in table) == bool(readers)


def test_what_an_app_in_another_process_reads_counts_too(lived):
    """14_operate starts the application, which reads its limits by itself."""
    assert "settings [serving] changed" in causes(lived.settings, MLOPS_SERVING__MAX_BATCH=77)["operate"]


def test_a_record_from_before_runs_again_for_any_change(lived, tmp_path):
    settings = lived.copy(tmp_path / "workspace") | {"MLOPS_RUN__LESSONS": "yes"}  # as it was run
    workspace = Workspace(tmp_path / "workspace")
    old = {name: {key: value for key, value in record.items() if key != "sections"}
           for name, record in workspace.published()["passed"].items()}
    workspace.publish({}, old)
    assert causes(settings) == causes(lived.settings)
    now = causes(settings, MLOPS_RUN__STAGE_TIMEOUT=77)
    assert all("settings changed" in why for why in now.values())


IMPORTS = "import os, subprocess, sys\nfrom mlops_lifecycle.core.foundation.settings import load_settings\n" \
          "from mlops_lifecycle.core.pipeline.stage_run import StageRun\n"
RUN = """
with StageRun("plan", as_of="2024-03-10T00:00Z") as run:
    {reads}
    run.save("plan", {{"reactions": []}})
    run.passed("planned")
"""
PROCESS = "subprocess.run([sys.executable, '-c', 'from mlops_lifecycle.core.foundation.settings import load_settings;" \
          "load_settings().monitor'], check=True)"


@pytest.fixture
def library(tmp_path):
    """A project of one notebook."""
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("[project]\nname = library\n[clock]\nas_of = 2024-03-10T00:00Z\n")
    (tmp_path / "other.ini").write_text("[project]\nname = other\n[clock]\nas_of = 2024-03-10T00:00Z\n")
    return tmp_path


def run_plan(library, reads: str) -> None:
    """Run a stage that reads something in its run."""
    sources = [f'as_of = ""\nhere = "{library}"', IMPORTS + RUN.format(reads=reads)]
    cells = [{"cell_type": "code", "id": f"cell-{i}", "metadata": {"tags": ["parameters"] * (i == 0)},
              "execution_count": None, "outputs": [], "source": source} for i, source in enumerate(sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (library / "nbs" / "00_plan.ipynb").write_text(json.dumps(notebook))
    run = Runner(load_settings(library, environ={}), choose(["plan"])).go()
    assert run["status"] == "passed", run["stages"][0]["words"]


def why_stale(library, **changed) -> list[str]:
    workspace = Workspace(library / "workspace")
    parameters = workspace.published()["passed"]["plan"]["parameters"]
    return stale(STAGES[0], parameters, load_settings(library, environ=changed), workspace)


VALUES = {"costs": "MISSED", "canary": "MIN_LABELLED", "monitor": "MIN_ROWS", "run": "STAGE_TIMEOUT", "clock": "PERIODS"}


def depends_on(library) -> set[str]:
    """The sections whose change runs the stage again, and is given as the cause."""
    assert why_stale(library) == []
    why = {name: why_stale(library, **{f"MLOPS_{name.upper()}__{value}": "77"}) for name, value in VALUES.items()}
    assert all(reasons in ([], [f"settings [{name}] changed"]) for name, reasons in why.items())
    return {name for name, reasons in why.items() if reasons}


@pytest.mark.parametrize("reads, sections", [
    ("run.settings.root", set()),
    ("run.settings.costs.missed", {"costs"}),
    ("load_settings().canary", {"canary"}),
    (PROCESS, {"monitor"}),
    ("load_settings(f'{here}/other.ini', environ={}).costs", set()),
    ("run.settings.model_dump()", set(VALUES)),
], ids=["nothing", "a section", "a helper", "a process", "another file", "a dump"])
def test_whatever_way_a_stage_reads_its_settings_it_depends_on_them(library, reads, sections):
    run_plan(library, reads)
    assert depends_on(library) == sections


def test_a_stage_whose_input_is_the_file_depends_on_its_content(library):
    run_plan(library, "run.file(f'{here}/settings.ini'); open(f'{here}/settings.ini').read()")
    assert depends_on(library) == set()
    settings = library / "settings.ini"
    settings.write_text(settings.read_text() + "# said the desk\n")
    assert why_stale(library) == [f"file:{settings} changed"]


def test_a_section_that_is_edited_while_a_stage_reads_it_runs_the_stage_again(library):
    edit = "with open(f'{here}/settings.ini', 'a') as file: file.write('[costs]\\nmissed = 7\\n')"
    run_plan(library, f"run.file(f'{{here}}/settings.ini'); run.settings.costs\n    {edit}\n    load_settings().costs")
    assert "settings [costs] changed" in why_stale(library)
