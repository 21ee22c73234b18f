"""The pages of the examples quote what the examples are."""
import re

import pytest
from helpers import ROOT, cells

PAGES = sorted((ROOT / "nbs" / "examples").glob("*.ipynb"))
LINK = re.compile(r"\]\(\.\./\.\./(tests/template/problems/\w+)\)")


def test_each_problem_has_a_page():
    named = [LINK.search("".join(cell["text"] for cell in cells(page)))[1] for page in PAGES]
    assert sorted(named) == sorted(f"tests/template/problems/{path.name}" for path in (ROOT / "tests/template/problems").iterdir()
                                   if (path / "settings.ini").is_file())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_quotes_its_problem(page):
    text = "\n".join(cell["text"] for cell in cells(page))
    files = [path.read_text() for path in (ROOT / LINK.search(text)[1]).iterdir() if path.is_file()]
    quoted = re.findall(r"```(?:python|ini)\n(.*?)\n```", text, re.S)
    assert len(quoted) > 1
    for block in quoted: assert any(block in file for file in files), f"{page.name} quotes what stands nowhere:\n{block}"
