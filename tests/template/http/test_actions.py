"""What the monitor does about faults of the running app: each leads to its action, and the app answers accordingly."""
import json
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from helpers import MLOPS, ROOT, Started, environment, free_port, last_run, mlops, passed

from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.models.features import columns_of
from mlops_lifecycle.core.models.release import Release
from mlops_lifecycle.core.operations.fault_injection import ALLOW, faulty_release
from mlops_lifecycle.core.serving.ledger import Act, Ledger
from mlops_lifecycle.core.serving.store import ServingLog, online, prediction_row
from mlops_lifecycle.formulate import problem

WHY, FIELDS = Act("Ada", "to try what the monitor does"), list(problem.Request.model_fields)


class Running:
    """The app of a workspace that was lived in, its ledger, its callers and its monitor."""
    def __init__(self, workspace: Workspace, settings: dict, url: str):
        self.workspace, self.settings, self.url, self.log = workspace, settings, url, ServingLog(workspace.serving_db)
        self.ledger = Ledger(self.log)
        rows = workspace.read("gold.examples")
        self.rows = rows[rows.decision_time >= rows.decision_time.max() - pd.Timedelta(days=30)].reset_index(drop=True)

    def serve(self, release: str) -> None:
        """Let a release serve, whatever served before."""
        now = self.ledger.standing()
        if now.canary: now = self.ledger.roll_back(WHY)
        if now.stable == release: return
        if release not in now.releases: self.ledger.register(release, WHY, WHY)
        elif now.releases[release].state == "rejected":
            self.ledger.clear(release, WHY)
            self.ledger.approve(release, WHY)
        self.ledger.deploy(release, WHY)
        self.serving(self.ledger.promote(WHY, force=True).generation)

    def serving(self, generation: int) -> dict:
        """What the app says that it serves, as soon as it follows the ledger."""
        until = time.monotonic() + 30
        while (seen := httpx.get(f"{self.url}/v1/model").json())["generation"] != generation:
            assert time.monotonic() < until, "the app does not follow"
            time.sleep(0.05)
        return seen

    def like_the_model(self, size: float | None = 1.0, fault: str = "miscalibrated") -> str:
        """A release like the model, of another name, whose log begins empty, and that serves."""
        self.serve(model := self.workspace.load("release")["model"])
        made = faulty_release(self.workspace.releases / model, fault, self.rows[FIELDS], size, allow=ALLOW).name
        self.serve(made)
        return made

    def ask(self, rows: pd.DataFrame, now: bool = True) -> list[dict]:
        """Answers of the app; `now` to decisions that are taken as soon as the newest values were looked up."""
        if now:
            with self.log.database.read() as connection: newest = connection.execute(sa.select(sa.func.max(online.c.known_at))).scalar()
            ahead = rows.scheduled_departure - rows.decision_time
            rows = rows.assign(scheduled_departure=pd.Timestamp(newest, unit="us", tz="UTC").ceil("s") + ahead)
        plane = "N" + rows.tail_number.str.upper().str.findall("[A-Z0-9]").str.join("").str[:6]  # instead of the pseudonym
        rows = rows[FIELDS].assign(tail_number=plane.where(rows.tail_number.notna(), None))
        asked = json.loads(rows.to_json(orient="records", date_format="iso", date_unit="s"))
        done = httpx.post(f"{self.url}/v1/predict/batch", json={"requests": asked}, timeout=120).raise_for_status()
        assert not (wrong := [one for one in done.json()["answers"] if "prediction_id" not in one]), wrong[:2]
        return done.json()["answers"]

    def decided(self, release: str, rows: pd.DataFrame) -> None:
        """What the app would have logged of decisions of other days."""
        loaded = Release.load(self.workspace.releases / release, problem.rule, ALLOW)
        scores = np.asarray(loaded.score(columns_of(rows)), dtype=float)
        names, at = [one["name"] for one in loaded.manifest["features"]["features"]], datetime.now(UTC)
        requests = json.loads(rows[FIELDS].to_json(orient="records", date_format="iso", date_unit="us"))
        features = json.loads(rows[names].to_json(orient="records"))
        self.log.database.commit([prediction_row(
            at, key=key, decision_time=when, release=release, asked=release, kind="model", model=loaded.name, version=loaded.version,
            arm="stable", generation=1, score=score, decision=float(loaded.decision(score)), threshold=loaded.threshold, review=False,
            warnings=[], request=request, features=found, seconds=0.003)
            for key, when, score, request, found in zip(rows.key, rows.decision_time, scores.tolist(), requests, features)])

    def decides(self) -> str:
        """The release that decides the next request."""
        self.ask(self.rows[:1])
        return self.log.frames()[0].sort_values("at").release.iloc[-1]

    def monitor(self, **modes: str) -> dict:
        """What `mlops run monitor` found and did, at this moment."""
        now = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        done = mlops("run", "monitor", "-p", f"as_of={now}", **self.settings, **{f"MLOPS_ACT__{k.upper()}": v for k, v in modes.items()})
        assert done.returncode in (0, 2), done.stdout + done.stderr
        found = next((self.workspace.runs / last_run(self.workspace.root)["run"]).glob("**/monitoring.json"))
        return json.loads(found.read_text()) | {"code": done.returncode, "said": " ".join(done.stdout.split())}


@pytest.fixture(scope="module")
def app(lived, tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("actions"), free_port()
    settings = lived.copy(folder / "workspace") | {"MLOPS_RELEASE__ALLOW": ",".join(ALLOW), "MLOPS_MONITOR__CALIBRATION_LIMIT": 0.02}
    url = f"http://127.0.0.1:{port}"
    serve = Started([*MLOPS, "serve", "--port", port], f"{url}/v2/health/live", folder / "app.log", cwd=ROOT, env=environment(**settings))
    with serve, closing((one := Running(Workspace(folder / "workspace"), settings, url)).log): yield one


def test_a_release_that_fails_is_rolled_back_and_the_next_answer_comes_from_the_one_before(app):
    failing = app.like_the_model(None, "crash")
    before = app.workspace.load("release")["model"]
    app.ask(app.rows[:200])
    found = app.monitor()
    assert (found["diagnosis"], found["severity"], found["action"]) == ("service", "urgent", "roll back"), found["says"]
    assert found["acted"]["words"] == f"{failing} was rolled back, {before} serves" and found["code"] == 0
    assert app.ledger.standing().of(failing).state == "rejected" and app.decides() == before


def test_a_source_that_stopped_leads_back_to_the_code_for_a_hotfix(app):
    app.like_the_model(1.0)
    app.ask(app.rows[:300], now=False)  # nothing is known of that time
    found = app.monitor()
    assert (found["diagnosis"], found["action"], found["code"]) == ("data source", "hotfix", 2), found["says"]
    assert "back to code" in found["said"]
    assert 'mlops hotfix --reason "…"' in {one["command"] for one in found["alarms"]}


def test_other_requests_than_before_ask_for_a_retrain(app):
    serves = app.like_the_model(0.999)
    app.decided(serves, app.rows[app.rows.carrier == app.rows.carrier.mode()[0]][:900])
    found = app.monitor(retrain="ask")
    assert (found["diagnosis"], found["action"]) == ("input drift", "retrain"), found["says"]
    ticket = next(one for one in app.ledger.standing().tickets if one.release == serves)
    assert ticket.evidence["action"] == "retrain" and "mlops run -p recipe=stable" in passed(mlops("tickets", **app.settings)).stdout


def test_scores_that_are_too_low_are_recalibrated_on_the_spot(app):
    low = app.like_the_model(0.75)
    app.decided(low, app.rows)
    found = app.monitor(recalibrate="auto")
    assert (found["diagnosis"], found["action"]) == ("calibration", "recalibrate"), found["says"]
    canary = app.ledger.standing().canary
    assert canary and found["acted"]["words"].startswith(f"{canary} is {low} with a new calibration")


def test_a_retrain_that_was_rejected_is_not_tried_again_and_a_search_finds_another_model(app):
    serves = app.like_the_model(0.9985)
    successor = faulty_release(app.workspace.releases / serves, "miscalibrated", app.rows[FIELDS], 0.5, allow=ALLOW).name
    app.ledger.register(successor, WHY, WHY)
    app.ledger.reject(successor, WHY)
    app.decided(serves, app.rows[app.rows.carrier == app.rows.carrier.mode()[0]][:900])
    found = app.monitor()
    asked = next(one for one in app.ledger.standing().tickets if one.release == serves)
    assert (found["action"], asked.evidence["action"], found["acted"]["ticket"]) == ("retrain", "search again", asked.number), found["says"]
    found = app.monitor(search_again="auto")
    assert (found["diagnosis"], found["action"], found["code"]) == ("input drift", "retrain", 2), found["says"]
    assert (found["acted"]["action"], found["acted"]["command"]) == ("search again", "mlops run")
    assert f"back to train: look: search again {serves}" in found["said"]

    # the command, as far as the canary; the clock stands still here, and the same rows and seed would find the same model
    passed(mlops("run", "--from", "train", "--to", "deploy", "-p", "seed=1", **app.settings | {"MLOPS_TRAIN__CANDIDATES": 2}))
    trained = next(one for one in last_run(app.workspace.root)["stages"] if one["stage"] == "train")
    assert trained["status"] == "passed" and trained["parameters"]["recipe"] == "" and trained["verdict"]["tried"] == 2
    now = app.ledger.standing()
    made, seen = now.of(app.workspace.load("release")["model"]), app.serving(now.generation)
    assert (now.stable, now.canary) == (seen["release"], seen["canary"]["release"]) == (serves, made.id)
    assert made.registered.number > asked.number and made.registered.evidence["trained"] == last_run(app.workspace.root)["run"]
    settled = next(one for one in app.ledger.entries() if one.event == "settle" and one.evidence["ticket"] == asked.number)
    assert (settled.by, settled.reason) == ("12_release", f"{made.id} was trained")
    assert not [one for one in now.tickets if one.evidence["action"] in ("retrain", "search again")]


def test_ignored_answers_ask_for_a_review_and_nothing_is_released_before_it(app):
    serves = app.like_the_model(0.998)
    for one in app.ask(app.rows[:80]):
        httpx.post(f"{app.url}/v1/feedback", json={"prediction_id": one["prediction_id"], "reaction": "ignored"}).raise_for_status()
    found = app.monitor()
    assert (found["diagnosis"], found["action"], found["code"]) == ("plan", "review", 0), found["says"]
    ticket = next(one for one in app.ledger.standing().tickets if (one.evidence["action"], one.release) == ("review", serves))
    refused = mlops("run", "release", "--force", **app.settings)
    assert refused.returncode == 2 and f"ticket {ticket.number} asks for a review" in " ".join(refused.stdout.split())
    passed(mlops("settle", ticket.number, "--reason", "the text is kinder now", **app.settings))
    passed(mlops("run", "release", "--force", **app.settings))
