"""`make lab`: what is saved through Jupyter's own API is exported, and a save succeeds whatever becomes of the export."""
import httpx
import nbformat
import pytest
from helpers import copy_project, free_port
from lab import make_lab


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("lab") / "project")


@pytest.fixture(scope="module")
def server(project):
    port = free_port()
    with make_lab(project, port, project.parent), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        client.get("/lab")  # gives the cookie that a change is asked for
        client.headers["X-XSRFToken"] = client.cookies["_xsrf"]
        yield client


@pytest.fixture
def save(project, server):
    """Save a notebook with other texts in it, and say what the server's log says of it."""
    log = project.parent / "lab.log"
    def save(path: str, *replaced: tuple[str, str], to: str | None = None) -> str:
        text, before = (project / path).read_text(), log.stat().st_size
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        content = nbformat.reads(text, as_version=4)
        answer = server.put(f"/api/contents/{to or path}", json={"type": "notebook", "content": content})
        assert answer.status_code in (200, 201), answer.text
        assert (project / (to or path)).exists()
        return log.read_text()[before:]
    return save


def texts(project) -> dict:
    return {path: path.read_text() for path in (project / "mlops_lifecycle").rglob("*.py")}


def test_a_saved_notebook_is_exported_and_no_other(project, save):
    before = texts(project)
    assert "exported" not in save("nbs/00_plan.ipynb")
    assert texts(project) == before
    said = save("nbs/core/problem/metrics.ipynb", ("#| export", "#| export\\nEDITED = 1"))
    changed = {path for path, text in texts(project).items() if text != before.get(path)}
    assert changed == {project / "mlops_lifecycle" / "core" / "problem" / "metrics.py"}
    assert "EDITED = 1" in changed.pop().read_text()
    save("nbs/core/problem/metrics.ipynb", ("EDITED = 1", "def edited(): return 1"))
    assert "metrics.edited'" in (project / "mlops_lifecycle" / "_modidx.py").read_text()  # a name of its own
    assert "nbs/core/problem/metrics.ipynb exported: mlops_lifecycle/core/problem/metrics.py" in said


def test_a_template_is_exported_with_its_module(project, save):
    save("nbs/core/serving/web_form.ipynb", ("it stays in this tab", "it remains in this tab"))
    assert "it remains in this tab" in (project / "mlops_lifecycle/core/serving/templates/web_form.html").read_text()


def test_what_is_not_python_is_saved_and_the_module_stays(project, save):
    before = texts(project)
    said = save("nbs/00_plan.ipynb", ("#| export", "#| export\\ndef half("))
    assert "nbs/00_plan.ipynb is saved, but not exported: cell " in said and "def half(" in said
    assert texts(project) == before


def test_a_copy_does_not_take_the_module_of_its_original(project, save):
    before = texts(project)
    said = save("nbs/04_transform.ipynb", to="nbs/04_transform-Copy1.ipynb")
    assert "transform.py is exported by nbs/04_transform.ipynb" in said and texts(project) == before
    (project / "nbs" / "04_transform-Copy1.ipynb").unlink()


def test_the_index_renders_nothing(project, save):
    readme = (project / "README.md").read_text()
    save("nbs/index.ipynb", ("## Run it", "## Run that"))
    assert (project / "README.md").read_text() == readme


def test_nothing_is_configured_outside_the_project(project, server):
    written = [path.name for path in (project.parent / "JUPYTER_CONFIG_DIR").rglob("*") if path.is_file()]
    assert not [name for name in written if name.endswith((".json", ".py"))]
