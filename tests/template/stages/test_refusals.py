"""What is refused at once, and the gates: one of each wheel, seen failing on what really has the fault."""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pandas as pd
import pytest
from deltalake import DeltaTable
from fastapi.testclient import TestClient
from helpers import MLOPS, ROOT, copy_project, directives, environment, free_port, last_run, mlops, passed, yours_name
from typer.testing import CliRunner
from slots import put_in_slots

from mlops_lifecycle.cli import app
from mlops_lifecycle.core.foundation.errors import UsageError
from mlops_lifecycle.core.pipeline.runner import declared
from mlops_lifecycle.core.serving.ledger import Act, Ledger
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.core.models.release import Release, write_release
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace, delta_place
from mlops_lifecycle.core.problem.definition import example_of
from mlops_lifecycle.core.projects.table_profile import texts_of_table
from mlops_lifecycle.core.serving.batch import read_rows, write_rows
from mlops_lifecycle.core.serving.predictor import trial_workspace
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.plan import plan
from mlops_lifecycle.serving import create_app

REFUSED = {
    "a stage": (["run", "lend"], {}, ['unknown stage "lend"', "plan, formulate, collect"]),
    "a wheel": (["run", "--wheel", "cog"], {}, ['unknown wheel "cog"', "data, dev, ml, ops"]),
    "nothing in between": (["run", "--from", "train", "--to", "curate"], {}, ["train to curate"]),
    "a parameter": (["run", "train", "plan", "-p", "sampel=10"], {}, ['"sampel"', "as_of, recipe, sample, seed"]),
    "a name that is code": (["run", "-p", "x=1; __import__('os').mkdir('here')=1"], {}, ['"x"']),
    "another name that is code": (
        ["run", "-p", "__import__('os').mkdir('here')=1"], {}, ["__import__('os').mkdir('here')"]),
    "a keyword": (["run", "-p", "import=1"], {}, ['"import"']),
    "a parameter without a value": (["run", "-p", "sample"], {}, ["sample", "NAME=VALUE"]),
    "a parameter's type": (["run", "-p", "sample=many"], {}, ['"sample" must be a whole number', "many"]),
    "a time without a zone": (["run", "-p", "as_of=2013-07-01"], {}, ["as_of", "no time zone"]),
    "a setting": (["run"], {"MLOPS_COSTS__MISED": 3}, ['[costs] has no setting "mised"', "did you mean missed?"]),
    "a section": (["run"], {"MLOPS_COST__MISSED": 3}, ["[cost]", "costs"]),
    "a setting out of range": (
        ["run"], {"MLOPS_COSTS__MISSED": -1}, ['[costs] "missed" must be 0 to 1,000,000', "got -1"]),
    "a missing input": (["run", "train"], {}, ["train reads", "run", "first"]),
    "an option": (["run", "--on-goback", "again"], {}, ["again"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_before_a_kernel_starts(what, workspace, tmp_path):
    arguments, settings, words = REFUSED[what]
    done = mlops(*arguments, **settings)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 1, said
    assert not [w for w in words if w not in said], said
    assert "Traceback" not in said
    assert not workspace.exists()  # no run, no record, no kernel

BROKEN = """
mount --bind read-only read-only && mount -o remount,ro,bind read-only
mount -t tmpfs -o size=1m none full && cp -a "$0/." full
head -c 2000000 /dev/zero > full/ballast 2> /dev/null
exec setpriv --bounding-set=-dac_override,-dac_read_search "$@"
"""  # in a name space of its own, where root has to respect what others may read


def test_what_a_person_can_mend_is_one_line_of_every_command(tmp_path):
    """Workspaces that are read-only, on a full disk, another user's, of another user's files, a file, and without their lake."""
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own")
    good, given = trial_workspace(tmp_path / "good", problem, plan.model_dump(mode="json")), tmp_path / "given"
    rows = pd.DataFrame({"item": ["[1]", "[2]"], "asks": "?", "answers": "[0, 1]", "content": "{}"})
    good.publish({"silver.queue": good.store("silver.queue", rows)})
    for name in ("read-only", "denied", "files-denied", "lake-denied", "no-lake"): shutil.copytree(good.root, tmp_path / name)
    for name in ("full", "given"): (tmp_path / name).mkdir()
    (tmp_path / "a-file").touch()
    (given / "requests.jsonl").write_text(json.dumps(example_of(problem.Request)) + "\n")
    (given / "answers.csv").write_text("item,answer\n[1],1\n")
    for path in (tmp_path / "files-denied").rglob("*"):
        if path.is_file(): path.chmod(0)
    for path in (tmp_path / "lake-denied" / "lake").rglob("*.parquet"): path.chmod(0)
    shutil.rmtree(tmp_path / "no-lake" / "lake")
    (tmp_path / "denied").chmod(0)
    names = "read-only", "full", "denied", "files-denied", "a-file", "lake-denied", "no-lake"
    script = ROOT / "tests" / "template" / "support" / "every_command.py"
    command = ["unshare", "-Urm", "sh", "-c", BROKEN, good.root, sys.executable, script, given, *(tmp_path / n for n in names)]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True,
                          env=environment(PYTHONPATH=ROOT, MLOPS_SETTINGS=ROOT / "settings.ini"))
    (tmp_path / "denied").chmod(0o700)
    ended, fine = json.loads(passed(done).stdout), {"yours", "status", "serve"}
    assert list(ended) == list(names)
    for name, calls in ended.items():
        for call in calls:
            assert call["fault"] is None and call["code"] in (0, 1), (name, call)
            assert call["said"].count("\n") <= 1 and "Traceback" not in call["said"], (name, call)
            if call["code"]: assert call["said"].startswith("mlops: "), (name, call)
        refused = {call["command"].split()[0]: call["said"] for call in calls if call["code"]}
        wanted = {"labels"} if "lake" in name else {"run", "keys", "score", "labels"}
        assert wanted <= set(refused) <= {"run", "keys", "score", "labels", "try", "trace"} | fine, name
        assert all(str(tmp_path / name) in refused[command] for command in wanted & {"run", "labels"}), refused


ODD = {
    "Latin-1": ("item,answer\nZürich,1\n".encode("latin-1"), "must be UTF-8, line 2 is not; it looks like Latin-1"),
    "UTF-16": ("item,answer\n[1],1\n".encode("utf-16"), "it is UTF-16"),
    "a NUL byte": (b"item,answer\n[1],\0\n", "holds a NUL byte in line 2"),
    "an archive": (b"PK\x03\x04 and more", "it is an archive"),
    "nothing": (b"", "is empty"),
    "two hundred columns": (",".join(f"c{n}" for n in range(200)).encode() + b"\n" + b"1," * 199 + b"1\n", "and 190 more"),
    "a text of five thousand letters": (b"item,answer\n" + b"a" * 5_000 + b",1\n", "… (5,000 characters)"),
    "a line break in an item": (b'item,answer\n"a\nb",1\n', "a b"),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_files_of_labels_and_requests_are_refused_in_one_line(tmp_path, monkeypatch, what):
    content, words = ODD[what]
    workspace = trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    rows = pd.DataFrame({"item": ["[1]"], "asks": "?", "answers": "[0, 1]", "content": "{}"})
    workspace.publish({"silver.queue": workspace.store("silver.queue", rows)})
    monkeypatch.setenv("MLOPS_WORKSPACE", str(workspace.root))
    (tmp_path / "odd.csv").write_bytes(content)
    for call in (["labels", "import", str(tmp_path / "odd.csv"), "--annotator", "ann"],
                 ["score", str(tmp_path / "odd.csv"), str(tmp_path / "scores.csv")]):
        done = CliRunner().invoke(app, call)
        assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.exception
        assert done.stderr.count("\n") == 1 and len(done.stderr) < 700, done.stderr
        assert words in done.stderr or "that no request has: answer, item;" in done.stderr, done.stderr
    assert not (workspace.root / "labels.jsonl").exists() and not (tmp_path / "scores.csv").exists()


def test_empty_delta_logs_and_long_ids_are_refused_in_one_line(tmp_path, monkeypatch):
    workspace = trial_workspace(tmp_path / "w", problem, plan.model_dump(mode="json"))
    monkeypatch.setenv("MLOPS_WORKSPACE", str(workspace.root))
    (tmp_path / "empty" / "_delta_log").mkdir(parents=True)
    long = "a" * 5_000
    for call, words in ((["score", str(tmp_path / "empty"), "scores.csv"], "no whole delta table"),
                        (["trace", long], "nothing is called"), (["trace", "\udcff"], "nothing is called"),
                        (["keys", "revoke", long], "no valid key"), (["keys", "make", long, "--scope", "predict"], "1 to 100"),
                        (["run", long], "unknown stage"), (["run", "-p", f"as_of={long}"], "is not a time"),
                        (["yours", long], "no stage takes"), (["score", long, "scores.csv"], "too long"),
                        (["labels", "import", long, "--annotator", "ann"], "queue")):
        done = CliRunner().invoke(app, call)
        assert done.exit_code == 1 and isinstance(done.exception, SystemExit), (call[:1], done.exception)
        assert done.stderr.count("\n") == 1 and words in done.stderr.lower(), done.stderr
    for url, words in (("postgresql://ann:secret@127.0.0.1:1/books", "cannot be opened"), ("postgres://ann:secret@here/x", "postgres://…")):
        monkeypatch.setenv("MLOPS_DATABASE", url)
        for call in (["keys", "list"], ["trace", "0" * 32], ["score", str(tmp_path / "requests.jsonl"), "scores.csv"]):
            (tmp_path / "requests.jsonl").write_text(json.dumps(example_of(problem.Request)) + "\n")
            done = CliRunner().invoke(app, call)
            assert done.exit_code == 1 and isinstance(done.exception, SystemExit), (call[:1], done.exception)
            assert done.stderr.count("\n") == 1 and words in done.stderr and "secret" not in done.stderr, done.stderr


def test_the_module_does_what_the_command_does():
    """And a fault of our own still has its stack trace."""
    command = [sys.executable, "-m", "mlops_lifecycle", "trace", "nobody"]
    done = subprocess.run(command, cwd=ROOT, env=environment(MLOPS_WORKSPACE="/nowhere"), capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and 'nothing is called "nobody"' in done.stderr
    with patch("mlops_lifecycle.core.reports.lineage.lookup", side_effect=ZeroDivisionError):
        assert isinstance(CliRunner().invoke(app, ["trace", "nobody"]).exception, ZeroDivisionError)


def append_to_yours(notebook, name: str, line: str) -> None:
    """Add a line to the last exported cell of a project that is named so."""
    content = json.loads(notebook.read_text())
    cell = [c for c in content["cells"] if yours_name(c) == name and "export" in directives("".join(c["source"]))][-1]
    cell["source"] = [*cell["source"], f"\n{line}"]
    notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def test_a_project_that_lacks_something_is_refused_by_name_before_a_run_and_by_the_app(lived, tmp_path):
    """All faults of the stages that are asked for, in one line each; other stages are not held up."""
    project, settings = copy_project(tmp_path / "project"), lived.copy(tmp_path / "workspace")
    append_to_yours(project / "nbs" / "07_train.ipynb", "estimators", 'estimators = ["dummy"]')
    append_to_yours(project / "nbs" / "08_evaluate.ipynb", "BEHAVIOURS", "del BEHAVIOURS\ndeclared_groups = lambda: None")
    runs = len(list(lived.workspace.glob("runs/*")))
    done = mlops("run", "train", "evaluate", project=project, **settings)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "stage train, cells that are yours: estimators must be Mapping[str, " in done.stderr
    assert "stage evaluate, cells that are yours: declared_groups must be a function of 1 arguments" in done.stderr
    assert len(list((tmp_path / "workspace").glob("runs/*"))) == runs
    listed = {row["name"]: row["defined"] for row in json.loads(passed(mlops("yours", "--json", project=project)).stdout)}
    assert (listed["estimators"], listed["QUESTION"], listed["KINDS"]) == ("own", "own", "default")
    append_to_yours(project / "nbs" / "01_formulate.ipynb", "problem", "problem = None")
    assert "problem must be Problem, it is NoneType None" in mlops("run", "plan", "--force", project=project, **settings).stderr
    served = mlops("serve", "--port", free_port(), project=project, **settings)
    assert served.returncode == 1 and "problem must be Problem, it is NoneType None" in served.stderr


def went_back(done, stage: str, notebook: str, *words: str) -> str:
    """The run stopped with exit code 2 and said which notebook to open, and why."""
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2, said
    for one in (f"{stage} goes back to", f"Open nbs/{notebook}.ipynb", *words): assert one in said, said
    return said


def test_data_a_missing_source_and_a_failing_expectation_lead_back(lived, flights, tmp_path):
    settings = lived.copy(tmp_path / "workspace")
    done = mlops("run", "collect", **settings | {"MLOPS_SOURCE__PLANES__WHERE": "nothing.csv"})
    went_back(done, "02_collect", "01_formulate", 'source "planes" is declared and is not there')
    broken = flights[(flights.month == "5") & (flights.day == "1")].assign(arr_delay="5000")
    broken.to_csv(tmp_path / "broken.csv", index=False)
    settings |= {"MLOPS_SOURCE__FLIGHTS__WHERE": tmp_path / "broken.csv"}
    done = mlops("run", "collect", "curate", "transform", "validate", **settings)
    went_back(done, "05_validate", "02_collect", "silver.flights arr_delay", "5000")


def test_data_a_broken_table_is_refused_whole(lived, flights, tmp_path):
    settings = lived.copy(tmp_path / "workspace")
    before = Workspace(tmp_path / "workspace").published()
    flights.head(50).rename(columns={"arr_delay": "delay"}).to_csv(tmp_path / "broken.csv", index=False)
    done = mlops("run", "collect", **settings | {"MLOPS_SOURCE__FLIGHTS__WHERE": tmp_path / "broken.csv"})
    assert done.returncode == 1 and "lacks arr_delay" in " ".join(done.stdout.split())
    assert Workspace(tmp_path / "workspace").published() == before
    assert "lacks" in (tmp_path / "workspace" / last_run(tmp_path / "workspace")["stages"][0]["report"]).read_text()


def test_data_a_clock_before_all_data_empties_nothing(lived, tmp_path):
    """Curate would leave tables without rows in the place of good ones; transform, run alone, would fail on none."""
    settings, before = lived.copy(tmp_path / "workspace"), Workspace(lived.workspace).published()
    first = Workspace(lived.workspace).read_columns("silver.flights", ["known_at"]).known_at.min().isoformat()
    for stage, words in (("curate", "silver.flights would have no row left of "), ("transform", "transform failed (ValueError")):
        with (patch("mlops_lifecycle.cli.export_edits", return_value=False),
              patch("mlops_lifecycle.core.reports.site.build_report", return_value=Path("no report"))):
            done = CliRunner().invoke(app, ["run", stage, "-p", "as_of=2012-01-01T00:00:00Z"],
                                      env={name: str(value) for name, value in settings.items()})
        assert done.exit_code == 2 and "goes back to collect: " in done.stdout and words in done.stdout, done.stdout
        assert "at the clock 2012-01-01T00:00:00+00:00 nothing is known of silver.flights" in done.stdout
        assert "the first row is known from " in done.stdout and "run with a later as_of" in done.stdout
        if stage == "curate": assert first in done.stdout
    assert Workspace(tmp_path / "workspace").published() == before


def test_data_rows_that_single_somebody_out_are_not_published(lived, tmp_path):
    shown = "carrier, origin, destination, scheduled_departure"
    settings, before = lived.copy(tmp_path / "workspace"), Workspace(lived.workspace).published()
    done = mlops("run", "transform", **settings | {"MLOPS_PRIVACY__SHOWN": shown})
    went_back(done, "04_transform", "03_curate", f"1-anonymous by {shown}", "at least 5 is wanted")
    assert Workspace(tmp_path / "workspace").published() == before


def test_ml_a_model_that_saves_too_little_is_not_passed(lived, tmp_path):
    settings = lived.copy(tmp_path / "workspace") | {"MLOPS_EVALUATE__MIN_GAIN": 3}
    went_back(mlops("run", "evaluate", **settings), "08_evaluate", "07_train", "costs significantly less than", "the limit is 3")
    run = last_run(tmp_path / "workspace")
    assert (run["status"], run["edges"][0]["from"], run["edges"][0]["to"]) == ("went_back", "evaluate", "train")
    stood = Workspace(lived.workspace).load("verdict")
    assert Workspace(tmp_path / "workspace").load("verdict") == stood  # and still stands


def test_ml_an_edge_is_followed_when_asked_and_only_while_it_changes_something(lived, tmp_path):
    settings = lived.copy(tmp_path / "workspace") | {"MLOPS_EVALUATE__MIN_GAIN": 3}  # no sample saves as much
    done = mlops("run", "train", "evaluate", "-p", "sample=150", "--on-goback", "retry", **settings)
    went_back(done, "08_evaluate", "07_train", "it changes nothing")
    run = last_run(tmp_path / "workspace")
    first, second = (edge["followed"] for edge in run["edges"])
    assert first == "yes" and "it changes nothing" in second
    assert [s["parameters"].get("sample") for s in run["stages"]] == [0, None]


def test_dev_an_app_that_does_not_serve_what_was_formulated_leads_back(lived, tmp_path):
    settings, workspace = lived.copy(tmp_path / "workspace"), Workspace(tmp_path / "workspace")
    workspace.publish({"problem": workspace.store("problem", workspace.load("problem") | {"request": {}})})
    said = "the request in the package is not the one that was formulated"
    went_back(mlops("run", "code", **settings), "09_code", "01_formulate", said)


def test_ops_no_release_while_a_question_of_ethics_is_open(lived, tmp_path):
    settings, workspace = lived.copy(tmp_path / "workspace"), Workspace(tmp_path / "workspace")
    plan = workspace.load("plan")
    plan["ethics"][0]["open"] = True
    workspace.publish({"plan": workspace.store("plan", plan)})
    before = sorted(p.name for p in workspace.releases.iterdir())
    said = "1 of 6 ethics questions are open", plan["ethics"][0]["question"]
    went_back(mlops("run", "release", **settings), "12_release", "00_plan", *said)
    assert sorted(p.name for p in workspace.releases.iterdir()) == before


def test_ops_a_canary_that_costs_more_is_rolled_back(lived, tmp_path):
    settings, workspace = lived.copy(tmp_path / "workspace"), Workspace(tmp_path / "workspace")
    good, log = Release.load(workspace.releases / workspace.load("release")["model"]), ServingLog(workspace.serving_db)
    never_acts, model = good.manifest | {"threshold": 1.1}, (good.folder / "model.skops").read_bytes()
    silent = write_release(workspace.releases, never_acts, {}, model)
    put_in_slots(log, stable=good.id, canary=silent.name, share=0.0)
    workspace.publish({"release": workspace.store("release", workspace.load("release") | {"model": silent.name})})
    sooner = settings | {"MLOPS_CANARY__ERROR_BUDGET": 0.3}  # a month of each fifth flight has few days
    went_back(mlops("run", "operate", "--force", **sooner), "14_operate", "07_train", "significantly worse")
    served = log.deployment.get()
    assert (served["stable"], served["canary"], served["share"]) == (good.id, None, 0)
    said = passed(mlops("run", "deploy", "--force", **settings)).stdout  # what was rolled back does not come back
    assert log.deployment.get() == served and f"{silent.name} is rejected by 14_operate: " in " ".join(said.split()); log.close()


def test_ops_a_stable_release_that_cannot_be_loaded_gives_way_to_the_rule(lived, tmp_path):
    """One of an older workspace, trained on features that the package no longer has: the app would not become ready."""
    settings, workspace = lived.copy(tmp_path / "workspace"), Workspace(tmp_path / "workspace")
    released, log = workspace.load("release"), ServingLog(workspace.serving_db)
    good = Release.load(workspace.releases / released["model"])
    older = good.manifest | {"features": good.manifest["features"] | {"source": "0123456789ab"}}
    old = write_release(workspace.releases, older, {}, (good.folder / "model.skops").read_bytes())
    put_in_slots(log, stable=old.name, canary=None, share=0.0)
    said = " ".join(passed(mlops("run", "deploy", "--force", **settings)).stdout.split())
    assert f"{released['rule']} serves" in said
    assert f"{old.name} cannot be loaded: {old.name} was trained on features 0123456789ab" in said
    served = log.deployment.get(); log.close()
    assert (served["stable"], served["canary"]) == (released["rule"], released["model"])
    app = create_app(load_settings(ROOT, environ={name: str(value) for name, value in settings.items()}), workspace)
    with TestClient(app, base_url="http://127.0.0.1") as client: assert client.get("/v2/health/ready").json() == {"ready": True}


def files_of(workspace: Path) -> dict[str, str]:
    """What a workspace holds, save what SQLite keeps beside a database and who had the lock last."""
    beside = ".db-wal", ".db-shm"
    kept = (path for path in workspace.rglob("*") if path.is_file() and path.suffix not in beside and path.name != "lock")
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def test_ops_a_drill_catches_a_fault_in_a_copy_and_leaves_the_workspace_as_it_was(lived, tmp_path):
    settings = lived.copy(tmp_path / "workspace")
    before = files_of(tmp_path / "workspace")
    said = passed(mlops("drill", "contract", "--keep", tmp_path / "kept", **settings)).stdout.splitlines()
    assert "serves in a copy of the workspace" in said[0] and "at 0 %: roll back: 20 of 20 scores are impossible" in said[1]
    assert said[2].startswith('Caught by the guard "scores" in the shadow') and "users got 0 answers from it" in said[2]
    assert files_of(tmp_path / "workspace") == before
    with closing(ServingLog(tmp_path / "kept" / "serving.db")) as log:
        events = [entry.event for entry in Ledger(log).entries() if entry.by == "mlops drill"]
    assert events[-2:] == ["deploy", "roll back"]


def test_ops_a_drill_that_is_interrupted_leaves_nothing_behind(lived, tmp_path):
    settings = lived.copy(tmp_path / "workspace")
    drill = subprocess.Popen([*MLOPS, "drill", "slow", "--size", "500"], cwd=ROOT, env=environment(ROOT, **settings),
                             stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert "computes 500 milliseconds longer" in drill.stdout.readline()
    os.killpg(drill.pid, signal.SIGINT)  # as a terminal does
    assert drill.wait(30) != 0 and list((tmp_path / "workspace").glob(".drill*")) == []


def test_ops_a_drill_reads_a_ledger_on_a_database_server_and_writes_nothing_there(lived, database, tmp_path):
    settings, released = lived.copy(tmp_path / "workspace"), Workspace(lived.workspace).load("release")
    with closing(ServingLog(database)) as log:
        for id in (released["rule"], released["model"]): Ledger(log).register(id, Act("12_release"), Act("automatic"))
        before = log.written(), Ledger(log).entries()
        crash = passed(mlops("drill", "crash", MLOPS_DATABASE=database, **settings)).stdout
        assert (log.written(), Ledger(log).entries()) == before
    assert "Playing" in crash and 'Caught by the guard "errors"' in crash  # the copy's log is empty at first


def test_kind_7_a_run_in_a_folder_with_an_odd_name_without_utf_8(tmp_path):
    """Braces are no parameters, and umlauts no bytes; the language of the machine is C, and Python is not told to speak UTF-8."""
    place = tmp_path / "a{b}c {{name}} #1 ü€" / ("l" * 200)
    place.mkdir(parents=True)
    speaks = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TMPDIR": place}
    where = {"MLOPS_WORKSPACE": place / "workspace", "MLOPS_REPORTS": place / "reports"}
    done = passed(mlops("run", "plan", "formulate", **where, **speaks))
    assert "01 formulate" in done.stdout and not done.stderr


@pytest.mark.parametrize("link", [False, True])
def test_kind_7_tables_stand_under_any_name_that_delta_lake_finds(tmp_path, link):
    """Rows, versions and events come back from a folder whatever its name holds; a symbolic link counts as where it leads to."""
    place = tmp_path / "50% a{b}c {{name}} #1 ü€ ?*'\"<>`~$&;:=+@!,() e\u0301\u200b"
    place.mkdir()
    if link: (tmp_path / "a%20 [link]").symlink_to(place, target_is_directory=True)
    workspace = Workspace(tmp_path / "a%20 [link]" if link else place)
    at = pd.date_range("2024-03-01", periods=3, tz="UTC")
    rows = pd.DataFrame({"loan": [1, 2, 3], "lent": at})
    first = workspace.store("silver.loans", rows)
    workspace.publish({"silver.loans": first})
    workspace.publish({"silver.loans": workspace.append("silver.loans", rows)})
    assert len(workspace.read("silver.loans")) == 6 and len(workspace.read("silver.loans", version=first["version"])) == 3
    workspace.publish({"silver.parts": workspace.store("silver.parts", iter([rows, rows]))})
    assert workspace.between("silver.parts", "lent")(at[0], at[1]).loan.tolist() == [2, 2]
    events = rows.assign(event_id=["a", "b", "c"], op="create", key="k", position=[1, 2, 3])
    for some in (events[:2], events):
        batch = SimpleNamespace(events=some, cursor={"position": int(some.position.max())})
        workspace.publish({"bronze.loans": workspace.append_events("bronze.loans", iter([batch]))})
    assert workspace.read("bronze.loans").event_id.tolist() == ["a", "b", "c"]
    unused = workspace.root / "lake" / "silver" / "loans" / "part-00000-left.parquet"
    unused.touch()
    assert DeltaTable(delta_place(unused.parent)).vacuum(0, enforce_retention_duration=False, dry_run=False, full=True) == [unused.name]
    assert len(workspace.read("silver.loans")) == 6
    assert [path.name for path in tmp_path.iterdir() if not path.is_symlink()] == [place.name]


@pytest.mark.parametrize("name", ["of [2024", "of 2024]", "a\\b", "a%20b", "a%41", "a^b", "a|b", "a\nb", "a\x7fb", "a\udcffb"])
def test_kind_7_a_name_that_delta_lake_takes_for_another_is_refused_in_one_line(tmp_path, name):
    odd = tmp_path / name
    (odd / "table" / "_delta_log").mkdir(parents=True)
    (tmp_path / "link").symlink_to(odd, target_is_directory=True)
    for refused in (lambda: Workspace(odd), lambda: Workspace(tmp_path / "link" / "workspace"), lambda: read_rows(odd / "table"),
                    lambda: write_rows(pd.DataFrame({"a": [1]}), odd / "scores"), lambda: texts_of_table(odd / "table")):
        with pytest.raises(UsageError, match=r"Delta Lake does not find tables in a folder with .+; take another one") as error: refused()
        assert "\n" not in str(error.value) and str(error.value).isprintable()
    assert [path.name for path in odd.rglob("*")] == ["table", "_delta_log"]


def test_kind_7_a_cell_that_is_not_whole_is_refused_by_the_notebooks_name(tmp_path):
    notebook = json.loads((ROOT / "nbs/00_plan.ipynb").read_text(encoding="utf-8"))
    for part, content in (("metadata", "has no metadata"), ("source", "has no source"), ("cell_type", "has no cell_type")):
        cells = [{k: v for k, v in cell.items() if (n, k) != (3, part)} for n, cell in enumerate(notebook["cells"])]
        (tmp_path / "00_plan.ipynb").write_text(json.dumps(notebook | {"cells": cells}), encoding="utf-8")
        with pytest.raises(UsageError, match=f"00_plan.ipynb: cell {notebook['cells'][3]['id']} {content}"):
            declared(tmp_path / "00_plan.ipynb")
