"""A project's own stages, run as people run them: what training learned from is what the app computes."""
import json

import pytest
from helpers import last_run, mlops, passed

from mlops_lifecycle.core.foundation.stages import STAGES, covers
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.models.feature_hooks import TransformHooks
from mlops_lifecycle.core.problem.hooks import FormulateHooks
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.staging import check_skew

TO = "transform"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """The environment of a workspace in which the stages up to transform have passed."""
    folder = tmp_path_factory.mktemp("stages")
    settings = {"MLOPS_WORKSPACE": folder / "workspace", "MLOPS_REPORTS": folder / "reports"}
    passed(mlops("run", "--to", TO, **settings))
    return settings


@pytest.fixture(scope="module")
def workspace(settings): return Workspace(settings["MLOPS_WORKSPACE"])


def test_each_stage_leaves_what_the_table_says(workspace):
    run = last_run(workspace.root)
    chosen = [stage for stage in STAGES if stage.number <= next(s.number for s in STAGES if s.name == TO)]
    assert [(s["stage"], s["status"]) for s in run["stages"]] == [(stage.name, "passed") for stage in chosen]
    published = workspace.published()["names"]
    for stage in chosen:
        for left in stage.leaves: assert any(covers((left,), name) for name in published), f"{stage.name} left no {left}"


def test_a_request_gets_the_features_that_training_saw(workspace, tmp_path):
    problem, features = FormulateHooks.of_project().problem, TransformHooks.of_project().FEATURES
    learned = features.learned(workspace.load("features")["taken"])
    examples = workspace.read("gold.examples")
    some = examples.sample(min(300, len(examples)), random_state=0)
    tables = {lookup.name: workspace.read(f"gold.lookup_{lookup.name}") for lookup in features.lookups}
    log = ServingLog(tmp_path / "log.db")
    check = check_skew(problem, features, some, tables, log)
    log.close()
    assert check.passed, check.words
    found = [f.name for f in learned.features if {v for lookup in features.lookups for v in lookup.values} & set(f.inputs)]
    if not some[found].notna().any(axis=None): return  # nothing that is looked up is ever found
    log = ServingLog(tmp_path / "empty.db")
    without = check_skew(problem, features, some, {name: table[:0] for name, table in tables.items()}, log)
    log.close()
    assert not without.passed, "the check finds no difference although nothing can be looked up"


def test_gold_holds_the_target_only_where_it_is_known(workspace):
    problem, examples = FormulateHooks.of_project().problem, workspace.read("gold.examples")
    assert examples.key.is_unique and examples.decision_time.notna().all()
    known = examples[problem.target].notna()
    assert examples.label_known_at[known].notna().all() and (examples.label_known_at >= examples.decision_time)[known].all()


def test_the_stages_from_features_to_evaluation_run_on_a_sample(settings):
    """`mlops try`: each of them passes or says where it would go back to, and nothing changed gains nothing."""
    for gained in (None, 0):
        done = mlops("try", "--json", "--rows", 1_000, **settings)
        assert done.returncode in (0, 2), done.stdout + done.stderr
        tried = json.loads(done.stdout)
        assert tried["stages"] and (done.returncode == 2) == any(ended["back_to"] for ended in tried["stages"])
        if gained is not None and tried["gain"]: assert tried["gain"]["saves"] == tried["gain"]["low"] == tried["gain"]["high"] == gained
