"""The tutorial, as somebody runs it from top to bottom: from a CSV file to a model that is served and monitored."""
import nbformat
from helpers import ROOT, environment
from nbclient import NotebookClient

# a busy machine proves nothing
BUSY = {f"MLOPS_{name}": 20_000 for name in (
    "CANARY__MAX_ADDED_MS", "CANARY__MAX_P99_MS", "SERVING__LATENCY_LIMIT_MS", "SERVING__DECISION_LIMIT_MS")}


def test_the_tutorial_runs_from_top_to_bottom(tmp_path, monkeypatch):
    for name, value in environment(TMPDIR=tmp_path, PYTHONPATH=ROOT, MLOPS_TRAIN__SECONDS=5, **BUSY).items():
        if name.startswith("COVERAGE_"): monkeypatch.delenv(name)  # it runs a package of its own
        else: monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(ROOT / "nbs" / "tutorial.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(ROOT / "nbs")}})
    client.execute()
    shown = {cell.id: "".join(str(output) for output in cell.get("outputs", ())) for cell in notebook.cells}
    assert "Assumed: What does a missed case cost?" in shown["tut-new"] and "missed = 5" in shown["tut-price"]
    assert "<svg" in shown["tut-run"] and "rehearsal" in shown["tut-run"].replace("\N{NO-BREAK SPACE}", " ")
    for words in ("prediction_id", "threshold", "'decision'"): assert words in shown["tut-ask"]
    assert "409" in shown["tut-outcome"] and "15 monitor" in shown["tut-monitor"] and "letters.csv" in shown["tut-trace"]
    assert not list(tmp_path.glob("tutorial-*"))
