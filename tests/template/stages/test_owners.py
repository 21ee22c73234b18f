"""Who answers for a stage is named where that person has something to do: on pages, ways back, alarms and approvals."""
import json
from html import escape

import pytest
from helpers import ROOT, last_run, mlops, passed

from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.stages import STAGES

OWNERS = load_settings(ROOT, environ={}).owners.by_stage()
PLAN = """#| run
from mlops_lifecycle.core.foundation.stages import GoBack
from mlops_lifecycle.core.pipeline.stage_run import StageRun
with StageRun("plan", as_of=as_of) as run:
    if books > 5: raise GoBack("plan", f"{books} books a reader, at most 5 may")
    run.save("plan", {"objective": "Readers wait less.", "reactions": []})
    run.passed(f"{books} books a reader")"""


@pytest.fixture
def library(tmp_path) -> dict:
    """The environment of a project of one notebook, whose owner has an address."""
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text(
        "[project]\nname = library\n[clock]\nas_of = 2024-03-10T00:00Z\n[owners]\nplan = Ann <ann@library.example>\n")
    cells = [{"cell_type": "code", "id": f"cell-{i}", "metadata": {"tags": tags}, "execution_count": None, "outputs": [],
              "source": source} for i, (tags, source) in enumerate([(["parameters"], 'as_of = ""\nbooks = 7'), ([], PLAN)])]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "nbs" / "00_plan.ipynb").write_text(json.dumps(notebook))
    return {"MLOPS_SETTINGS": tmp_path / "settings.ini", "MLOPS_WORKSPACE": tmp_path / "workspace",
            "MLOPS_REPORTS": tmp_path / "reports", "MLOPS_RUN__REPORT": "every run"}


def test_a_way_back_names_the_owner_of_the_stage_it_leads_to(library):
    done = mlops("run", "plan", **library)
    assert done.returncode == 2 and "The owner of plan is Ann <ann@library.example>." in done.stdout
    edge, = last_run(library["MLOPS_WORKSPACE"])["edges"]
    assert edge["owner"] == "Ann <ann@library.example>"
    executed = (library["MLOPS_WORKSPACE"] / "runs").glob("*/00_plan.ipynb")
    assert "owner: Ann &lt;ann@library.example&gt;" in next(executed).read_text()
    front = (library["MLOPS_REPORTS"] / "index.html").read_text()
    assert front.count("Ann &lt;ann@library.example&gt;") == 2  # beside the way back, and in the table
    page = next(library["MLOPS_REPORTS"].glob("*/00_plan.html")).read_text()
    assert "Owner: Ann &lt;ann@library.example&gt;" in page


def test_nobody_is_named_where_nobody_owns(library):
    settings = library["MLOPS_SETTINGS"]
    settings.write_text(settings.read_text().partition("[owners]")[0])
    assert "owner" not in mlops("run", "plan", **library).stdout.lower()
    assert "owner" not in last_run(library["MLOPS_WORKSPACE"])["edges"][0]
    assert "<th>owner</th>" not in (library["MLOPS_REPORTS"] / "index.html").read_text()


def test_an_owner_of_nothing_is_refused_with_what_there_is(library):
    settings = library["MLOPS_SETTINGS"]
    settings.write_text(settings.read_text().replace("plan = Ann", "plans = Ann"))
    done = mlops("run", "plan", **library)
    assert done.returncode == 1 and not library["MLOPS_WORKSPACE"].exists()
    assert '[owners]: "plans" is no wheel and no stage: the wheels are dev, ml, data, ops, all, the stages plan,' in done.stderr


def test_pages_name_the_owner_of_each_stage(lived):
    front = lived.site.read_text()
    for row in STAGES:
        page = next(lived.site.parent.glob(f"*/{row.notebook}.html")).read_text()
        assert f"Owner: {escape(OWNERS[row.name])}" in page
    assert front.count('<td class="owner">') == len(STAGES)
    rows = json.loads(passed(mlops("status", "--json", **lived.settings)).stdout)
    assert {row["stage"]: row["owner"] for row in rows} == OWNERS


def test_other_owners_make_no_stage_run_again(lived):
    causes = lambda **more: [row["stale"] for row in json.loads(passed(mlops("status", "--json", **lived.settings, **more)).stdout)]
    assert causes(MLOPS_OWNERS__DATA="Ann", MLOPS_OWNERS__CURATE="Ben") == causes()


def test_an_approval_that_is_awaited_names_who_gives_it(lived, tmp_path):
    settings = lived.copy(tmp_path / "workspace") | {"MLOPS_RELEASE__APPROVAL": "person"}
    for file in (tmp_path / "workspace").glob("serving.db*"): file.unlink()  # and with it the approval by the settings
    said = passed(mlops("run", "release", **settings)).stdout
    assert f"waits for the approval of {OWNERS['release']}" in said
    assert "--reason WHY" in " ".join(said.split())
