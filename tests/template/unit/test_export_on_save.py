"""A module that is exported while others import it is the old one or the new one, and no save is lost to an export."""
import json
import logging
import threading
from types import SimpleNamespace

import pytest

from mlops_lifecycle.core.pipeline import export_on_save as hook

CONFIGURATION = '[project]\nname = "library"\nversion = "0.1.0"\n[tool.nbdev]\nnbs_path = "nbs"\n'


@pytest.fixture
def write(tmp_path):
    """Write the only notebook of a small project."""
    (tmp_path / "pyproject.toml").write_text(CONFIGURATION)
    notebook = tmp_path / "nbs" / "00_lend.ipynb"
    notebook.parent.mkdir()
    def write(code: str):
        cells = [{"cell_type": "code", "id": name, "metadata": {}, "execution_count": None, "outputs": [], "source": source}
                 for name, source in (("name", "#| default_exp lend"), ("code", "#| export\n" + code))]
        notebook.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        return notebook
    return write


def test_no_reader_ever_sees_half_a_module(write, tmp_path):
    long = {word: f"def due(): return '{word}'\n" + "\n".join(f"name_{i} = '{word}'" for i in range(300)) for word in ("soon", "late")}
    module, seen, ended = tmp_path / "library" / "lend.py", set(), threading.Event()
    hook.export_notebook(write(long["soon"]), tmp_path)
    whole = {module.read_text().replace("soon", word) for word in long}
    def read():
        while not ended.is_set(): seen.add(module.read_text())
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(10):
            for word in ("late", "soon"): assert hook.export_notebook(write(long[word]), tmp_path) == [module.relative_to(tmp_path)]
    finally:
        ended.set()
        reader.join()
    assert seen and seen <= whole


def test_whatever_goes_wrong_the_hook_returns_and_the_log_names_the_notebook(write, tmp_path, caplog, monkeypatch):
    manager = SimpleNamespace(log=logging.getLogger("lab"))
    def save(code: str, **model) -> str:
        caplog.clear()
        with caplog.at_level(logging.INFO, "lab"):
            hook.export_on_save(str(write(code)), {"type": "notebook"} | model, manager, tmp_path)
        return caplog.text
    assert "nbs/00_lend.ipynb exported: library/lend.py" in save("days = 21")
    before = (tmp_path / "library" / "lend.py").read_text()
    for code, model in (("days =", {}), ("days = 7", {"message": "Notebook validation failed"})):
        assert "nbs/00_lend.ipynb is saved, but not exported" in save(code, **model)
    def full(path, text): raise OSError("no space left on device")
    monkeypatch.setattr(hook, "atomic_write", full)
    assert "no space left on device" in save("days = 7")
    assert (tmp_path / "library" / "lend.py").read_text() == before
