"""Each notebook's lessons, run against the exported module: what they cover is what they teach.

`nbdev-test` runs the definitions of the notebook itself, which measures nothing of the package. Here the lesson
cells run in the module's own namespace, so that coverage sees the package's lines.
"""
import ast
import importlib
import inspect
import re

import pytest
from helpers import NOTEBOOKS, ROOT, cells, directives, yours_name

EXPORTED = {"export", "exporti", "exports"}


def module_of(notebook):
    """The name of the module that the notebook exports, or None."""
    for cell in cells(notebook):
        if found := re.search(r"^#\|\s*default_exp\s+(\S+)", cell["text"], re.M):
            return "mlops_lifecycle." + found[1]


def lessons(notebook):
    """The code cells that teach: neither exported nor run on real data."""
    for cell in cells(notebook):
        if cell["cell_type"] == "code" and not directives(cell["text"]) & (EXPORTED | {"run", "default_exp"}):
            yield "\n".join(line for line in cell["text"].splitlines() if not line.startswith("%"))


def defined(code):
    """The functions and classes that code defines."""
    return {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


WITH_MODULE = [n for n in NOTEBOOKS if module_of(n)]


@pytest.mark.parametrize("notebook", WITH_MODULE, ids=lambda n: n.relative_to(ROOT / "nbs").with_suffix("").as_posix())
def test_lessons_hold_against_the_package(notebook, monkeypatch):
    monkeypatch.chdir(notebook.parent)
    names = vars(importlib.import_module(module_of(notebook))) | {"__name__": "__main__"}
    for number, lesson in enumerate(lessons(notebook)):
        exec(compile(lesson, f"{notebook.name}, lesson {number}", "exec"), names)


@pytest.mark.parametrize("notebook", WITH_MODULE, ids=lambda n: n.relative_to(ROOT / "nbs").with_suffix("").as_posix())
def test_every_public_export_is_used_in_a_lesson_that_asserts(notebook):
    module = importlib.import_module(module_of(notebook))
    taught = "\n".join(lessons(notebook))
    nodes = list(ast.walk(ast.parse(taught)))
    used = {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    calls = (getattr(n.func, "id", "") for n in nodes if isinstance(n, ast.Call))
    asserts = (sum(isinstance(n, ast.Assert) for n in nodes)
               + sum(name.startswith(("test_", "expect_")) for name in calls))
    # what a route does is asked for over HTTP
    called = lambda thing: inspect.isroutine(thing) or inspect.isclass(thing)
    routes = {route.endpoint.__name__ for route in getattr(getattr(module, "router", None), "routes", [])}
    public = [name for name in getattr(module, "__all__", [])
              if not name.startswith("_") and called(getattr(module, name)) and name not in routes]
    own = {name for cell in cells(notebook) if yours_name(cell) for name in defined(cell["text"])}  # a project may teach them
    missing = [name for name in public if name not in used | own]
    assert not missing, f"{notebook.name} shows no example of {', '.join(missing)}"
    assert asserts or not public, f"{notebook.name} asserts nothing"
