"""Another problem through the same notebooks: only settings.ini and the cells that are yours differ."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, cells, copy_project, environment, is_yours, last_run, mlops, passed, replace_yours, yours
from sklearn.datasets import load_breast_cancer

from mlops_lifecycle.core.stages import STAGES
from mlops_lifecycle.core.workspace import Workspace

PROBLEM = ROOT / "tests" / "problems" / "breast_cancer"


def with_yours() -> dict[str, list[dict]]:
    """The stage notebooks that have cells of the project's, and the second problem's cells for them."""
    books = [ROOT / "nbs" / f"{s.notebook}.ipynb" for s in STAGES]
    return {book.name: yours(PROBLEM / f"{book.stem}.py") for book in books if any(map(is_yours, cells(book)))}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project that is about tumours."""
    root = copy_project(tmp_path_factory.mktemp("second") / "project")
    for name, new in with_yours().items(): replace_yours(root / "nbs" / name, new)
    (root / "settings.ini").write_text((PROBLEM / "settings.ini").read_text())
    table = load_breast_cancer(as_frame=True)
    columns = {name: table.data[f"mean {name}"] for name in ("radius", "texture", "smoothness", "concavity", "symmetry")}
    size = np.where(table.data["mean area"] < 600, "small", "large")
    (root / "data").mkdir()
    frame = table.data.iloc[:, :0].assign(sample=[f"S{i:04d}" for i in range(len(table.data))], **columns, size=size, malignant=1 - table.target)
    frame.to_csv(root / "data" / "samples.csv", index=False)
    subprocess.run([Path(sys.executable).parent / "nbdev-export"], cwd=root, env=environment(root), check=True, capture_output=True)
    return root


def test_the_second_problem_goes_through_all_stages(project):
    done = passed(mlops("run", project=project))
    run, workspace = last_run(project / "workspace"), Workspace(project / "workspace")
    assert {s["stage"]: s["status"] for s in run["stages"]} == {s.name: "passed" for s in STAGES}
    assert workspace.load("problem")["costs"] == {"missed": 20, "needless": 1}
    assert workspace.load("verdict")["passed"] and workspace.load("operation")["action"] in ("promoted", "held")
    assert (project / "reports" / "index.html").is_file()
    assert "biopsies a sample" in done.stdout
    assert json.loads(passed(mlops("run", "--json", project=project)).stdout)["status"] == "passed"
