"""Whole runs on real data, as people start them: all seventeen stages, again, otherwise, with the rule only."""
import json
import os
import shutil

import httpx
import pandas as pd
import pytest
from helpers import MLOPS, ROOT, Started, environment, free_port, mlops, passed
from slots import put_in_slots
from deltalake import write_deltalake

from mlops_lifecycle.core.serving.store import ServingLog, feedback
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.stages import STAGES
from mlops_lifecycle.core.foundation.workspace import Workspace, digest, to_arrow
from mlops_lifecycle.core.pipeline.runner import Runner, choose
from mlops_lifecycle.core.problem.definition import example_of
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.release import training_cells

STAGE_KEYS = {"stage", "notebook", "wheel", "status", "seconds", "parameters", "inputs", "outputs", "verdict", "report"}


def statuses(run: dict) -> dict[str, str]:
    return {s["stage"]: s["status"] for s in run["stages"]}


def test_all_seventeen_stages_pass_and_leave_what_the_table_says(lived):
    run, workspace = lived.run, Workspace(lived.workspace)
    assert run.keys() == {"run", "started", "seconds", "status", "settings", "stages", "edges"}
    assert run["status"] == "passed" and run["edges"] == []
    assert statuses(run) == {s.name: "passed" for s in STAGES}
    for row, stage in zip(STAGES, run["stages"], strict=True):
        assert STAGE_KEYS <= stage.keys()
        assert (stage["notebook"], stage["wheel"]) == (f"{row.notebook}.ipynb", row.wheel)
        for pattern in row.leaves:
            assert any(name == pattern or pattern.endswith(".*") and name.startswith(pattern[:-1])
                       for name in stage["outputs"])
        assert stage["outputs"].keys() <= workspace.published()["names"].keys() and stage["verdict"]
        executed = json.loads((lived.workspace / stage["report"]).read_text())
        assert not [c for c in executed["cells"] for out in c.get("outputs", []) if out["output_type"] == "error"]
    assert workspace.load("verdict")["passed"] and workspace.load("operation")["stable"]


def test_a_run_says_in_plain_words_how_it_went(lived):
    said = " ".join(lived.said.split())
    assert all(f"{s.notebook}" in said or s.name in said for s in STAGES)
    for words in ("The model costs", "The evaluation says", "The canary was", "The monitor advises", "the loop calls", "index.html"):
        assert words in said
    assert lived.site.is_file()


def test_a_second_run_skips_what_did_not_change(lived, tmp_path):
    """The run's own canary is no news; a caller is, to collect and to what reads bronze or its catalog."""
    settings, workspace = lived.copy(tmp_path / "workspace"), Workspace(tmp_path / "workspace")
    run = json.loads(passed(mlops("run", "--json", **settings)).stdout)
    assert statuses(run) == {s.name: "skipped" for s in STAGES} and run["status"] == "passed"
    log = ServingLog(workspace.serving_db)
    asked = log.frames()[0]
    assert asked.replayed.all() and len(asked) > 100
    log.predictions.append(asked["at"].max().to_pydatetime(), replayed=None)
    log.close()
    changed = passed(mlops("status", "--json", **settings | {"MLOPS_COSTS__MISSED": 6}))
    read = {"formulate", "explore", "train", "evaluate", "release", "operate", "monitor", "loop"}
    why = {row["stage"]: row["stale"] for row in json.loads(changed.stdout)}
    assert {stage for stage, reasons in why.items() if "settings [costs] changed" in reasons} == read
    assert {stage for stage, reasons in why.items() if "log:serving changed" in reasons} == {"collect", "monitor"}


def test_an_outcome_that_callers_report_against_the_source_is_a_finding_and_the_source_counts(lived, tmp_path):
    """A month later the source knows what became of the flights that the app was asked about; then 40 reports are turned round."""
    settings, workspace = lived.copy(tmp_path / "workspace"), Workspace(tmp_path / "workspace")
    settings |= {"MLOPS_MONITOR__MIN_DAYS": 5} | {f"MLOPS_ACT__{action}": "tell" for action in ("ROLL_BACK", "HOTFIX", "REVIEW")}
    def monitored(*stages: str) -> dict:
        passed(mlops("run", *stages, "monitor", "--force", "-p", "as_of=2013-07-01T00:00:00Z", **settings))
        return workspace.load("monitoring")
    before, log = monitored("collect", "curate", "transform"), ServingLog(workspace.serving_db)
    predictions, reported = log.frames()
    own = predictions.id[predictions.release == log.deployment.get()["stable"]]
    reported = reported[reported.label.notna() & reported.prediction_id.isin(own)]
    of_some = feedback.c.prediction_id.in_(reported.prediction_id.iloc[:40].tolist())
    turned = feedback.update().where(of_some, feedback.c.label.is_not(None)).values(label=1 - feedback.c.label)
    assert log.database.write(lambda connection: connection.execute(turned).rowcount) == 40; log.close()
    after = monitored()
    assert before["findings"] == [] and after["figures"] == before["figures"] and "saves against rule" in after["figures"]["quality"]
    assert after["findings"] == [f"40 of {len(reported)} outcomes that callers reported contradict the source, which counts"]


SAME = ("plan", "formulate", "collect", "curate", "transform", "validate", "explore", "train", "evaluate", "code")


def lasting(content):
    """A document without what is another each time: seconds, and names of runs."""
    if isinstance(content, list): return [lasting(one) for one in content]
    if not isinstance(content, dict): return content
    return {name: lasting(one) for name, one in content.items() if name not in ("seconds", "run", "mlflow_run", "model")}


def content_of(workspace: Workspace, name: str):
    """A document, or the digest of a table without the name of the run that wrote a row."""
    if "." not in name: return workspace.load(name)
    return digest(to_arrow(workspace.read(name).drop(columns="run", errors="ignore")))


def test_plain_kernels_one_after_the_other_leave_what_warm_ones_side_by_side_leave(lived, tmp_path):
    """Every table and document has the same content, and so the same version; two documents name runs."""
    workspace = Workspace(tmp_path / "workspace")
    workspace.root.mkdir()
    shutil.copy(lived.workspace / "pseudonym.key", workspace.root)
    settings = lived.settings | {"MLOPS_WORKSPACE": workspace.root, "MLOPS_RUN__KERNELS": "plain", "MLOPS_RUN__JOBS": 1}
    run = json.loads(passed(mlops("run", "--json", *SAME, **settings)).stdout)
    plain, warm = ({s["stage"]: s["outputs"] for s in r["stages"]} for r in (run, lived.run))
    naming = {"train": "candidates", "evaluate": "verdict"}
    for stage, document in naming.items():
        assert plain.pop(stage).keys() == warm[stage].keys() == {document}
        assert lasting(workspace.load(document)) == lasting(Workspace(lived.workspace).load(document))
    assert plain == {stage: warm[stage] for stage in SAME if stage not in naming}


def test_ten_runs_side_by_side_leave_the_same(sample, flights, tmp_path, monkeypatch):
    """The stages that run beside others, on a small sample and without lessons; runs of one process share its warm kernels."""
    flights[flights.month.astype(int) <= 6].iloc[::50].to_csv(tmp_path / "flights.csv", index=False)
    for name, value in (sample | {"MLOPS_RUN__LESSONS": "no"}).items(): monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MLOPS_SOURCE__FLIGHTS__WHERE", str(tmp_path / "flights.csv"))

    def left(name: str, **run) -> dict:
        workspace = Workspace(tmp_path / name)
        workspace.root.mkdir()
        (workspace.root / "pseudonym.key").write_bytes(bytes(32))
        settings = load_settings(ROOT, environ=os.environ | {"MLOPS_WORKSPACE": str(workspace.root)})
        settings = settings.model_copy(update={"run": settings.run.model_copy(update=run)})
        record = Runner(settings, choose(BESIDE)).go()
        assert record["status"] == "passed", [s["words"] for s in record["stages"] if s["status"] != "passed"]
        return {name: content_of(workspace, name) for name in workspace.published()["names"]}
    alone = left("alone", kernels="plain", jobs=1)
    assert {"exploration", "validation", "contract", "gold.examples"} <= alone.keys()
    for number in range(10): assert left(f"beside-{number}", jobs=3) == alone


BESIDE = ("plan", "formulate", "collect", "curate", "transform", "validate", "explore", "code")


def test_other_parameters_lead_to_another_model_and_its_release(lived, tmp_path):
    settings, chosen = lived.copy(tmp_path / "workspace"), ("--from", "train", "--to", "deploy", "-p", "seed=1", "-p", "sample=10000")
    run = json.loads(passed(mlops("run", "--json", "--force", *chosen, **settings)).stdout)
    assert len(run["stages"]) > 5 and set(statuses(run).values()) == {"passed"}
    assert Workspace(tmp_path / "workspace").load("release")["model"] != Workspace(lived.workspace).load("release")["model"]
    first, train = (next(s for s in r["stages"] if s["stage"] == "train") for r in (lived.run, run))
    assert (train["parameters"]["seed"], train["parameters"]["sample"]) == (1, 10000)
    assert 10_000 < train["verdict"]["rows"] < first["verdict"]["rows"]
    executed = json.loads((tmp_path / "workspace" / train["report"]).read_text())
    assert any("sample = 10000" in "".join(c["source"]) for c in executed["cells"])


def test_a_prediction_can_be_traced_back_to_notebook_and_file(lived):
    log = ServingLog(lived.workspace / "serving.db")
    asked = log.frames()[0]; log.close()
    for kind in ("rule", "model"):
        one = asked[asked.kind == kind].iloc[-1]
        found = json.loads(passed(mlops("trace", one.id, "--json", **lived.settings)).stdout)
        stages = {s["stage"]: s for s in found["stages"]}
        assert found["release"]["id"] == one.release and found["run"] == lived.run["run"]
        assert {"plan", "formulate", "release"} <= stages.keys()
        for stage in stages.values(): assert (lived.workspace / stage["notebook"]).is_file() and stage["cells"]
    assert {"collect", "curate", "transform", "train", "evaluate"} <= stages.keys()
    manifest = json.loads((lived.workspace / "releases" / one.release / "manifest.json").read_text())
    assert manifest["lineage"]["cells"] == training_cells()
    assert any("flights" in name for name in found["sources"])
    assert passed(mlops("trace", one.release, **lived.settings)).stdout
    unknown = mlops("trace", "f" * 32, **lived.settings)
    assert unknown.returncode == 1 and 'nothing is called "' in unknown.stderr + unknown.stdout


def test_batch_scores_are_those_of_the_api(lived, tmp_path):
    fields = list(problem.Request.model_fields)
    asked = Workspace(lived.workspace).read("bronze.flights").tail(40)
    asked = asked.rename(columns={"dest": "destination", "tailnum": "tail_number"})
    later = asked.assign(scheduled_departure=asked.scheduled_departure + pd.Timedelta("9D"))
    asked = pd.concat([asked, later], ignore_index=True)  # by then nobody renews what is looked up
    local = asked.scheduled_departure.dt.tz_convert("America/New_York").map(pd.Timestamp.isoformat)
    asked = asked.assign(scheduled_departure=local)[fields]
    asked.to_csv(tmp_path / "in.csv", index=False)
    write_deltalake(tmp_path / "in", to_arrow(asked))
    settings, port = lived.copy(tmp_path / "workspace"), free_port()
    passed(mlops("score", tmp_path / "in.csv", tmp_path / "out.csv", **settings))
    passed(mlops("score", tmp_path / "in", tmp_path / "out.parquet", **settings))
    scored, bodies = pd.read_csv(tmp_path / "out.csv"), json.loads(asked.to_json(orient="records"))
    log = ServingLog(tmp_path / "workspace" / "serving.db")
    put_in_slots(log, canary=None, share=0.0)
    log.close()
    address = f"http://127.0.0.1:{port}"
    with Started([*MLOPS, "serve", "--port", port], f"{address}/v2/health/ready", tmp_path / "log",
                 cwd=ROOT, env=environment(**settings)):
        told = pd.DataFrame([httpx.post(f"{address}/v1/predict", json=body).json() for body in bodies])
    same = ["score", "decision", "threshold", "model", "version", "review"]
    for found in (scored, pd.read_parquet(tmp_path / "out.parquet")):
        pd.testing.assert_frame_equal(found[same], told[same], check_dtype=False, rtol=0, atol=1e-9)
    assert {*told.model[:40]} != {"rule"} and {*told.model[40:]} == {"rule"} and told.review[40:].all()


RULE_ONLY = ("plan", "formulate", "code", "build", "test", "release", "deploy")


@pytest.fixture(scope="module")
def ruled(sample, tmp_path_factory) -> dict:
    """The rule released and deployed in an empty workspace, without a row of data."""
    settings = sample | {"MLOPS_WORKSPACE": tmp_path_factory.mktemp("ruled") / "workspace"}
    run = json.loads(passed(mlops("run", *RULE_ONLY, "--json", **settings)).stdout)
    assert statuses(run) == dict.fromkeys(RULE_ONLY, "passed")
    return settings


def test_without_any_data_the_rule_is_served_and_its_log_reaches_bronze(ruled, tmp_path):
    workspace, port = Workspace(ruled["MLOPS_WORKSPACE"]), free_port()
    command = [*MLOPS, "serve", "--port", port]
    address = f"http://127.0.0.1:{port}"
    server = Started(command, f"{address}/v2/health/ready", tmp_path / "log", cwd=ROOT, env=environment(**ruled))
    with server, httpx.Client(base_url=address) as api:
        served = api.get("/v1/model").json()
        assert (served["kind"], served["model"], served["canary"]) == ("rule", problem.rule.name, None)
        told = [api.post("/v1/predict", json=example_of(problem.Request)).json() for _ in range(3)]
        assert {t["model"] for t in told} == {problem.rule.name}
        late = {"prediction_id": told[0]["prediction_id"], "reaction": "late"}
        assert api.post("/v1/feedback", json=late).status_code == 200
    assert not {name for name in workspace.published()["names"] if name.startswith("bronze.")}
    passed(mlops("run", "collect", **ruled))
    assert set(workspace.read("bronze.predictions").id) >= {t["prediction_id"] for t in told}
    feedback = workspace.read("bronze.feedback")[["prediction_id", "label"]]
    assert feedback.values.tolist() == [[told[0]["prediction_id"], 1]]
