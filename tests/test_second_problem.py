"""Other problems through the same notebooks: only settings.ini and the cells that are yours differ."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import ROOT, cells, copy_project, environment, is_yours, last_run, mlops, passed, replace_yours, yours
from sklearn.datasets import load_breast_cancer, load_diabetes

from mlops_lifecycle.core.stages import STAGES
from mlops_lifecycle.core.workspace import Workspace

PROBLEMS = ROOT / "tests" / "problems"


def with_yours(problem: str) -> dict[str, list[dict]]:
    """The stage notebooks that have cells of the project's, and another problem's cells for them."""
    books = [ROOT / "nbs" / f"{s.notebook}.ipynb" for s in STAGES]
    return {book.name: yours(PROBLEMS / problem / f"{book.stem}.py") for book in books if any(map(is_yours, cells(book)))}


def project_of(problem: str, root: Path, table: str, frame: pd.DataFrame) -> Path:
    """A copy of the project that is about this problem, with its table."""
    copy_project(root)
    for name, new in with_yours(problem).items(): replace_yours(root / "nbs" / name, new)
    (root / "settings.ini").write_text((PROBLEMS / problem / "settings.ini").read_text())
    (root / "data").mkdir()
    frame.to_csv(root / "data" / f"{table}.csv", index=False)
    subprocess.run([Path(sys.executable).parent / "nbdev-export"], cwd=root, env=environment(root), check=True, capture_output=True)
    return root


def passed_all(project: Path) -> Workspace:
    """What is left of a run through all stages that passed."""
    run = last_run(project / "workspace")
    assert {s["stage"]: s["status"] for s in run["stages"]} == {s.name: "passed" for s in STAGES}
    assert (project / "reports" / "index.html").is_file()
    return Workspace(project / "workspace")


def test_a_second_problem_goes_through_all_stages(tmp_path):
    table = load_breast_cancer(as_frame=True)
    columns = {name: table.data[f"mean {name}"] for name in ("radius", "texture", "smoothness", "concavity", "symmetry")}
    size = np.where(table.data["mean area"] < 600, "small", "large")
    frame = table.data.iloc[:, :0].assign(sample=[f"S{i:04d}" for i in range(len(table.data))], **columns, size=size, malignant=1 - table.target)
    project = project_of("breast_cancer", tmp_path / "project", "samples", frame)
    done = passed(mlops("run", project=project))
    workspace = passed_all(project)
    assert workspace.load("problem")["costs"] == {"missed": 20, "needless": 1}
    assert workspace.load("verdict")["passed"] and workspace.load("operation")["action"] in ("promoted", "held")
    assert "biopsies a sample" in done.stdout
    assert json.loads(passed(mlops("run", "--json", project=project)).stdout)["status"] == "passed"


def test_an_amount_goes_through_all_stages(tmp_path):
    """A value with an interval is answered, and the decision is the quantile of the prices of a unit too little and too much."""
    table = load_diabetes(as_frame=True, scaled=False).frame
    names = {"age": "age", "bmi": "bmi", "bp": "pressure", "s3": "hdl", "s5": "triglycerides", "s6": "glucose", "target": "progression"}
    frame = table[list(names)].rename(columns=names).assign(patient=[f"P{i:04d}" for i in range(len(table))], sex=table.sex.astype(int))
    project = project_of("diabetes", tmp_path / "project", "patients", frame)
    done = passed(mlops("run", project=project))
    workspace = passed_all(project)
    verdict, contract, released = (workspace.load(name) for name in ("verdict", "contract", "release"))
    assert workspace.load("problem")["kind"] == "regression" and workspace.load("problem")["costs"] == {"missed": 3, "needless": 1}
    assert verdict["passed"] and verdict["threshold"] > 0 and set(verdict["bar"]["costs"]) == {"rule", "rule, threshold renewed", "the usual amount"} and verdict["gain"][0] > 0
    assert contract["openapi"]["components"]["schemas"]["Prediction"]["properties"]["decision"]["type"] == "number"
    manifest = json.loads((workspace.releases / released["model"] / "manifest.json").read_text())
    low, high = manifest["calibration"]["interval"]
    assert manifest["decides"] == "regression" and low < 0 < manifest["threshold"] < high
    operation = workspace.load("operation")
    assert operation["action"] in ("promoted", "held") and operation["steps"][0]["canary"]["labelled"] > 0
    assert "hours a patient" in done.stdout and "too little" in done.stdout
    scored = project / "scored.csv"
    frame.head(3).drop(columns="progression").to_csv(project / "asked.csv", index=False)
    assert "decided in all" in passed(mlops("score", project / "asked.csv", scored, project=project)).stdout
    told = pd.read_csv(scored)
    np.testing.assert_allclose(told.decision, told.score + told.threshold)
