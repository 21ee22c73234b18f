"""A workspace may stand under any name that a file system allows: app, command line and versions find the same log."""
import json

import pytest
from helpers import mlops, passed
from test_http import GOOD, served, settings, trial
from typer.testing import CliRunner
from under_load import new_database
from slots import put_in_slots

from mlops_lifecycle.cli import app as command_line
from mlops_lifecycle.core.pipeline.versions import open_workspace
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.serving import create_app


@pytest.mark.parametrize("name", ["who?", "who?mode=ro", "x#y", "two words", "ü", "50%", "a:b", "sqlite:", "it's"])
def test_app_and_command_line_look_into_the_same_log(tmp_path, name):
    workspace = trial(tmp_path / name)
    with served(create_app(settings(), workspace)) as api:
        id = api.post("/v1/predict", json=GOOD).json()["prediction_id"]
    assert open_workspace(workspace.root).version("log:serving") == "predictions 1, feedback 0"
    log = ServingLog(workspace.serving_db)
    assert log.frames()[0]["id"].tolist() == [id]
    log.close()
    found = passed(mlops("trace", id, "--json", MLOPS_WORKSPACE=workspace.root)).stdout
    assert json.loads(found)["prediction"]["id"] == id
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
    assert [path for path in tmp_path.rglob("serving.db*") if path.parent != workspace.root] == []


@pytest.mark.parametrize("name", ["50%", "a%20b", "who?sslmode=require", "x#y/z", "ü b"])
def test_a_database_may_have_any_name_and_app_and_command_line_look_into_the_same(tmp_path, database, monkeypatch, name):
    """Its address is a URL, so that a reserved character is written with a percent sign: in the name as in the password."""
    workspace = trial(tmp_path)
    url = new_database(database, name).replace("//mlops@", "//mlops:p%40ss%3A%2F%3F%25@")
    monkeypatch.setenv("MLOPS_DATABASE", url)
    log = ServingLog(workspace.serving_db)
    put_in_slots(log, stable="rule-1.0")
    assert (log.database.engine.url.database, log.database.engine.url.password) == (name, "p@ss:/?%")
    with served(create_app(settings(), workspace)) as api:
        id = api.post("/v1/predict", json=GOOD).json()["prediction_id"]
    assert open_workspace(workspace.root).version("log:serving") == "predictions 1, feedback 0"
    assert log.frames()[0]["id"].tolist() == [id]
    log.close()
    found = CliRunner().invoke(command_line, ["trace", id, "--json"], env={"MLOPS_WORKSPACE": str(workspace.root)})
    assert json.loads(found.stdout)["prediction"]["id"] == id
