"""`mlops new`: three tables become projects and pass every stage; what no project can be made of is refused, and nothing is left."""
import json
import os
import re
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
from helpers import MLOPS, environment, last_run, mlops, passed
from sklearn.datasets import load_breast_cancer, load_diabetes

from mlops_lifecycle.core.foundation.stages import STAGES
from mlops_lifecycle.core.foundation.workspace import Workspace


def samples() -> pd.DataFrame:
    """Binary, no time, no key."""
    table = load_breast_cancer(as_frame=True).frame
    return table.assign(diagnosis=np.where(table.target == 0, "malignant", "benign")).drop(columns="target")


def patients() -> pd.DataFrame:
    """Amounts, a protected column, gaps, a column that says nothing, and a copy of another."""
    table = load_diabetes(as_frame=True, scaled=False).frame.rename(columns={"s6": "Blood sugar (mg)", "target": "progression"})
    table["sex"] = np.where(table.sex == 1, "f", "m")
    table.loc[::9, "bp"] = np.nan
    return table.assign(ward="north", again=table.bmi)


def visits() -> pd.DataFrame:
    """A time, no target, names that code cannot have, and remarks."""
    rng, many = np.random.default_rng(0), 900
    table = pd.DataFrame({
        "opened": pd.date_range("2024-01-01", periods=many, freq="7h").strftime("%Y-%m-%d %H:%M"),
        "Dauer (min)": rng.gamma(3, 10, many).round(1), "class": rng.choice(["a", "b", "ü"], many),
        "2nd": rng.integers(0, 50, many), "remark": [f"remark {i}" for i in range(many)]})
    table.loc[rng.choice(many, 40, replace=False), "Dauer (min)"] *= 8
    return table


TABLES = {"samples": (samples, ("--target", "diagnosis", "--happened", "malignant")), "patients": (patients, ("--target", "progression")),
          "visits": (visits, ())}


@pytest.fixture(scope="module", params=TABLES)
def project(request, tmp_path_factory):
    """A project made of one of the tables, after its first run."""
    table, options = TABLES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    table().to_csv(folder / f"{request.param}.csv", index=False)
    made = passed(mlops("new", folder / "mine", "--data", folder / f"{request.param}.csv", "--yes", *options))
    report = "on demand" if request.param == "samples" else "every run"  # two sites say as much as three
    lessons = "yes" if request.param == "visits" else "no"  # as for everybody; they do not depend on the table
    ran = mlops("run", project=folder / "mine", MLOPS_TRAIN__SECONDS=3, MLOPS_RUN__REPORT=report, MLOPS_RUN__LESSONS=lessons)
    return request.param, folder / "mine", made.stdout, ran


def test_all_stages_pass_without_an_edit_and_no_page_speaks_of_another_problem(project):
    name, folder, said, ran = project
    passed(ran)
    assert {s["stage"]: s["status"] for s in last_run(folder / "workspace")["stages"]} == {s.name: "passed" for s in STAGES}
    document = Workspace(folder / "workspace").load("problem")
    expected = {"samples": ("binary", []), "patients": ("regression", ["sex"]), "visits": ("anomaly", [])}[name]
    assert (document["kind"], document["protected"]) == expected
    assert "rehearsal: 6 questions open" in ran.stdout
    words = {"samples": "rows are numbered in 02", "patients": 'Left out: "again", it is the same as "bmi"',
             "visits": "Key: remark. Time: opened."}
    assert words[name] in said and "Assumed:" in said
    if name == "samples": return
    pages = [*(folder / "reports").rglob("*.html"), folder / "README.md"]
    assert len(pages) > 50
    strange = [page.name for page in pages if re.search(r"flight|airport|airline", page.read_text(), re.I)]
    assert not strange, f"pages of a project about {name} speak of flights: {strange[:10]}"
    site = next((folder / "reports").glob("*/card.html")).parent
    first, card = ((site / f"{page}.html").read_text() for page in ("index", "card"))
    assert "Rehearsal: 6 questions open." in first and "Rehearsal: 6 questions open." in card
    assert ("The model saves" in first) <= (not Workspace(folder / "workspace").load("verdict").get("alone"))
    assert "default prices: nobody has said" in first and ("A unit too little costs" in first) == (name == "patients")
    assert "default prices: nobody has said" in ran.stdout


def test_it_is_a_clean_repository_above_the_untouched_template(project):
    _, folder, _, _ = project
    def git(*arguments): return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert git("status", "--short") == ""
    assert git("log", "--format=%s").splitlines() == [
        "Made by mlops new from version 1 of the template", "Version 1 of the template"]
    assert git("merge-base", "main", "template") == git("rev-parse", "template")
    index = json.loads((folder / "nbs" / "01_formulate.ipynb").read_text())
    assert any("".join(cell["source"]).startswith("#| yours Request") for cell in index["cells"])


@pytest.mark.parametrize(("table", "options", "words"), [
    (lambda: visits().head(39), (), "has 39 rows, at least 40 are needed"),
    (visits, ("--target", "klass"), 'names "klass"'),
    (lambda: visits().assign(same=1), ("--target", "same"), "there is nothing to learn"),
    (visits, ("--target", "class"), "3 classes"),
    (visits, ("--time", "2nd"), "not a time"),
    (visits, ("--key", "class"), "does not name a row")])
def test_what_no_project_can_be_made_of_is_refused_by_name_and_nothing_is_left(tmp_path, table, options, words):
    table().to_csv(tmp_path / "visits.csv", index=False)
    refused = mlops("new", tmp_path / "mine", "--data", tmp_path / "visits.csv", "--yes", *options)
    assert refused.returncode == 1 and words in refused.stderr and refused.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["visits.csv"]


def test_killed_half_way_nothing_stands_at_its_place(tmp_path):
    samples().to_csv(tmp_path / "samples.csv", index=False)
    command = [*MLOPS, "new", str(tmp_path / "mine"), "--data", str(tmp_path / "samples.csv"), "--target", "diagnosis", "--yes"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True)
    while not any(path.is_dir() for path in tmp_path.iterdir()): time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "mine").exists()
    assert passed(mlops("new", tmp_path / "mine", "--data", tmp_path / "samples.csv", "--target", "diagnosis", "--yes"))
