"""What a project defines: in cells that anyone sees, directly after a notebook's opening, each with its own imports."""
import ast
import builtins

import pytest
from helpers import ROOT, cells, directives, owned, yours_name

from mlops_lifecycle.core.foundation.stages import STAGES
from mlops_lifecycle.core.pipeline.yours import HOOKS, check_hooks, hook_rows, write_hook_table

BOOKS = {stage.notebook: cells(ROOT / "nbs" / f"{stage.notebook}.ipynb") for stage in STAGES}
WITH_YOURS = [name for name, content in BOOKS.items() if any(map(yours_name, content))]


def test_every_name_is_defined_or_has_a_default_and_is_of_its_type():
    check_hooks([stage.name for stage in STAGES])
    rows = hook_rows(ROOT)
    assert not [row["name"] for row in rows if row["defined"] == "missing"] and len(rows) == len({row["name"] for row in rows})
    assert all((row["lines"] > 0) == (row["defined"] == "own") for row in rows)


def test_the_notebooks_with_cells_of_a_project_are_those_with_hooks():
    numbers = {stage.name: stage.notebook for stage in STAGES}
    assert set(WITH_YOURS) <= {numbers[hooks.stage] for hooks in HOOKS}


def test_contributing_has_the_same_list():
    write_hook_table(ROOT, check=True)


@pytest.mark.parametrize("name", WITH_YOURS)
def test_the_cells_of_a_project_come_directly_after_the_opening(name):
    """Before them stand prose, imports and parameters only; between the first and the last stands nothing of the template's."""
    content, mine = BOOKS[name], owned(BOOKS[name])
    first, last = mine.index(True), len(mine) - 1 - mine[::-1].index(True)
    between = [cell["id"] for cell, own in zip(content[first:last], mine[first:last]) if not own]
    assert not between, f"{name} has cells of the template between those of the project: {between}"
    for cell in content[:first]:
        if cell["cell_type"] != "code" or "parameters" in cell["metadata"].get("tags", []): continue
        lines = ast.parse("\n".join(line for line in cell["text"].splitlines() if not line.startswith("%"))).body
        opening = "default_exp" in directives(cell["text"]) or any(isinstance(line, ast.Import | ast.ImportFrom) for line in lines)
        assert opening and not [line for line in lines if isinstance(line, ast.FunctionDef | ast.ClassDef) and
                                {"export", "exporti"} & directives(cell["text"])], f"{name}: {cell['id']} comes before the project's cells"


def loaded_and_bound(tree: ast.AST) -> tuple[set[str], set[str]]:
    """The names that code uses, and those that it defines anywhere."""
    nodes = list(ast.walk(tree))
    loaded = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    bound = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    bound |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)} | {n.arg for n in nodes if isinstance(n, ast.arg)}
    bound |= {(a.asname or a.name).split(".")[0] for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    return loaded, bound


@pytest.mark.parametrize("name", WITH_YOURS)
def test_the_cells_of_a_project_bring_their_own_imports(name):
    """What they use, they import or define, or an earlier cell of theirs does; the template's cells import nothing for them."""
    known = set(dir(builtins))
    for cell in filter(yours_name, BOOKS[name]):
        loaded, bound = loaded_and_bound(ast.parse(cell["text"]))
        known |= bound
        assert loaded <= known, f"{name}, {cell['id']} uses {sorted(loaded - known)}, which none of the project's cells imports"
