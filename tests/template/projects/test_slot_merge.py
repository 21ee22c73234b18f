"""Merging by slot, for any three notebooks, and for the template's own."""
import json

import pytest
from helpers import NOTEBOOKS, ROOT, owned
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_lifecycle.core.projects.slot_merge import merge_notebooks, slots_of, text_of

TEXTS = ["one", "two", "#| yours A\n1", "#| yours A\n2", "#| yours B\n1"]


def cell(id, text): return {"id": id, "cell_type": "code", "metadata": {}, "source": text}
def notebook(cells): return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


notebooks = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(TEXTS)), unique_by=lambda pair: pair[0]).map(
    lambda pairs: notebook([cell(id + "-own" * text.startswith("#"), text) for id, text in pairs]))


def template_of(book): return [c for c, slot in zip(book["cells"], slots_of(book["cells"]), strict=True) if slot is None]
def own_of(book): return [text_of(c) for c, slot in zip(book["cells"], slots_of(book["cells"]), strict=True) if slot is not None]


@settings(max_examples=300, deadline=None)
@given(notebooks, notebooks, notebooks)
def test_nothing_is_lost_and_nothing_made_up(base, project, new):
    done = merge_notebooks(base, project, new)
    ids = [c["id"] for c in done.notebook["cells"]]
    assert len(ids) == len(set(ids))
    came = [text for text in own_of(new) if text.split()[2] in done.new_slots]
    assert sorted(own_of(done.notebook)) == sorted(own_of(project) + came)  # a project loses none of its cells
    for choice in ("keep", "take"):  # a cell that goes may take the place of another with it
        settled, left = {}, done.conflicts
        while left:
            assert not settled.keys() & {conflict.name for conflict in left}
            settled |= {conflict.name: choice for conflict in left}
            left = merge_notebooks(base, project, new, settled).conflicts


@settings(max_examples=200, deadline=None)
@given(notebooks, notebooks)
def test_without_a_change_on_one_side_the_other_counts(base, other):
    assert merge_notebooks(base, other, base).notebook == other
    done = merge_notebooks(base, base, other)
    assert template_of(done.notebook) == template_of(other)
    assert {conflict.why for conflict in done.conflicts} <= {"the new template has no such slot"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda n: n.relative_to(ROOT / "nbs").with_suffix("").as_posix())
def test_slots_are_the_cells_that_a_project_owns(path):
    cells = json.loads(path.read_text())["cells"]
    assert [slot is not None for slot in slots_of(cells)] == owned(cells)
