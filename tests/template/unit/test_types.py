"""What the package says of its types: the type checker holds it, a wrong one is found, and nothing is hidden from it."""
import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

MODULES = [path for path in sorted((ROOT / "mlops_lifecycle").rglob("*.py")) if path.name != "_modidx.py"]
ANYTHING = {  # parameters that take a value of any kind
    "as_text(value)", "as_json(value)", "cell_of(value)", "harmless(cell)", "in_cell(value)", "with_unit(value)",  # what stands in a cell
    "prediction_row(row)", "Predictions.append(row)",  # columns by name, each of its own type
    "type_fault(value)", "type_fault(declared)", "spelled(declared)", "shown(value)",  # a hook's value, and any type
    "render(values)",  # what a template asks for
    "cells_of(table)",  # an element of lxml, which declares no types
    "learn(estimator)", "ask(estimator)",  # scikit-learn declares neither fit nor predict on its common class
    "served(options)", "server_config(options)",  # of uvicorn.Config
    "WarmProvisioner.launch_kernel(kwargs)",  # of subprocess.Popen, as jupyter_client declares them
    # A feature's text is part of each release, which an annotation would change: arrays, or one value of a request
    "identity(value)", "hour_of_day(time)", "day_of_week(time)", "holiday_distance(days)", "from_holiday(time)",
    "hours_since(time)", "hours_since(hour)", "turnaround(time)", "turnaround(hour)", "turnaround(minutes)",
    "planned_turnaround(time)", "planned_turnaround(hour)", "planned_turnaround(minutes)", "planned_turnaround(delay)",
    "logistic_regression(changes)", "extra_trees(changes)", "gradient_boosting(changes)",  # of the estimator
}


def type_checker(folder, *files):
    """What the type checker says of the package in a folder, as pyproject.toml sets it up."""
    command = [Path(sys.executable).parent / "basedpyright", "--pythonpath", sys.executable, *files]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_package_holds_its_types():
    done = type_checker(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("planted, found", [
    ("nearness_of: int = 'near'", "reportAssignmentType"), ("mean_cost([1], [1], 'costs')", "reportArgumentType"),
    ("Costs(1, 1).price_of_a_miss", "reportAttributeAccessIssue")])
def test_a_wrong_type_is_found(tmp_path, planted, found):
    shutil.copytree(ROOT / "mlops_lifecycle", tmp_path / "mlops_lifecycle")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    module = tmp_path / "mlops_lifecycle" / "core" / "problem" / "costs.py"
    module.write_text(module.read_text(encoding="utf-8") + f"\n{planted}\n", encoding="utf-8")
    done = type_checker(tmp_path, module)
    assert done.returncode == 1 and found in done.stdout and "1 error" in done.stdout


def test_what_the_type_checker_may_overlook_is_little_and_has_a_reason():
    overlooked = [line for module in MODULES for line in module.read_text(encoding="utf-8").splitlines()
                  if re.search(r"(pyright|type): *ignore", line)]
    assert len(overlooked) < 20
    for line in overlooked: assert re.search(r"# pyright: ignore\[\w+\]  # \w", line), line


def public_parameters(module):
    """Module, function and parameter of everything public, each with its annotation or None."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    functions = [("", node) for node in tree.body]
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef) and not owner.name.startswith("_"):
            functions += [(f"{owner.name}.", node) for node in owner.body]
    for owner, function in functions:
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or function.name.startswith("_"): continue
        given = function.args
        for one in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]:
            if one is not None and one.arg not in ("self", "cls"):
                yield f"{owner}{function.name}({one.arg})", one.annotation and ast.unparse(one.annotation)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_parameters_say_what_they_take(module):
    loose = {name: annotation for name, annotation in public_parameters(module)
             if annotation in (None, "Any", "object") and name not in ANYTHING}
    assert not loose


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_methods_stand_in_their_class(module):
    tree = ast.parse(module.read_text(encoding="utf-8"))
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    hung = [ast.unparse(target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name)]
    assert not [name for name in hung if name.split(".")[0] in classes or name[0].isupper()]
