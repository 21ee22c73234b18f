"""05 on the real year: it is quiet in honest months, and a fault is an alarm in its first month and names its stage."""
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pandas as pd
import pytest
from expectation_cases import COLUMNS as TYPES
from expectation_cases import cases, frame_of
from helpers import mlops, passed
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from year import FAULTS, STAGE, honest, lived as seen_at, raised, with_fault

from mlops_lifecycle.core.quality.drift import exact, ks_distance
from mlops_lifecycle.core.quality.expectations import ELSEWHERE, Expectation, check, limit_of
from mlops_lifecycle.core.foundation.stages import GoBack
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.validate import EXPLAINED, explain, gate


def test_the_honest_months_raise_at_most_three_alarms_and_each_is_explained():
    found = explain(raised(honest()), EXPLAINED)
    assert len(found) <= 3, [a["words"] for a in found]
    assert all(a["explained"] for a in found), [a["words"] for a in found]
    assert all(a["period"] >= "2013-02-26" for a in found)  # eight weeks of warm-up


def test_what_comes_later_changes_no_alarm():
    whole, early = raised(honest()), raised(seen_at(pd.Timestamp("2013-06-01T00:00Z")))
    assert early == [a for a in whole if a["period"] < "2013-06-01"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_alarm_in_its_first_month_and_names_the_stage(fault):
    found = with_fault(fault, pd.Timestamp("2013-06-01T00:00Z"))
    assert [a["stage"] for a in found] == [STAGE[FAULTS[fault][0]]], [a["words"] for a in found]
    assert found[0]["change"] > found[0]["limit"]


def waves(rows: int, shift: int, phase: float) -> pd.DataFrame:
    """Columns of all sorts that need no random numbers."""
    i = np.arange(rows)
    return pd.DataFrame({
        "smooth": np.sin(i * 0.7 + phase) * 3 + np.cos(i * 0.013) * 2 + shift,
        "whole": (i * i * 7 + i * 3) % (101 + shift * 4),
        "few": (i * 5 + i // 7) % (4 + (shift > 0)),
        "skewed": np.exp(np.sin(i * 1.3 + phase) * 2 + shift / 10),
        "name": np.array(list("abcdefg"))[(i * i + i // 3) % (5 + 2 * (shift > 0))]})


EVIDENTLY = {  # what Evidently 0.7.23 says of waves(12_000, 0, 0) and waves(15_000, 1, 0.4)
    "smooth": {"psi": 0.6557795382231895, "jensen_shannon": 0.2063775466895984,
               "kolmogorov_smirnov": 2.376641694237319e-126},
    "whole": {"psi": 0.3389410148419752, "jensen_shannon": 0.2018688450721643,
              "kolmogorov_smirnov": 5.630546244584312e-74},
    "few": {"psi": 1.6275197675193636, "jensen_shannon": 0.28801117030237117, "kolmogorov_smirnov": 0.0},
    "skewed": {"psi": 0.5564753466387109, "jensen_shannon": 0.1752174362284364,
               "kolmogorov_smirnov": 6.775294235002804e-60},
    "name": {"psi": 1.8993148790355727, "jensen_shannon": 0.3212942334819565, "chi_squared": 0.0},
}


@pytest.mark.parametrize("column", EVIDENTLY)
def test_the_measures_are_those_of_evidently(column):
    found = exact(waves(12_000, 0, 0)[column], waves(15_000, 1, 0.4)[column])
    assert found == pytest.approx(EVIDENTLY[column], abs=1e-6, rel=1e-9)


def test_a_small_sample_gets_the_exact_probability():
    found = exact(waves(900, 0, 0).smooth, waves(800, 1, 0.05).smooth)
    assert found["kolmogorov_smirnov"] == pytest.approx(4.401519473567439e-08, rel=1e-9)


samples = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6)), min_size=1, max_size=300)


@settings(max_examples=200, deadline=None)
@given(samples, samples, st.integers(1, 7))
def test_looking_only_where_the_gap_may_be_finds_the_gap(one, other, step):
    gap = ks_2samp(one, other, method="asymp").statistic
    assert ks_distance(np.sort(one), np.sort(other), step) == pytest.approx(gap, abs=1e-12)


class Hook(BaseHTTPRequestHandler):
    """A chat room that keeps what it is told."""
    def do_POST(self):
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200); self.end_headers()

    def log_message(self, *_): pass


def files(workspace) -> dict[str, str]:
    parts = (workspace / "lake" / "gold" / "distributions").glob("*.parquet")
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in parts}


def test_an_alarm_stops_the_run_and_is_told_once_and_the_log_only_grows(lived, tmp_path):
    here, server = lived.copy(tmp_path / "workspace"), HTTPServer(("127.0.0.1", 0), Hook)
    workspace, server.told = Workspace(tmp_path / "workspace"), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flights = workspace.read("bronze.flights")
    may = flights.scheduled_departure >= "2013-05-01"
    half, availability = flights[~may | (flights.index % 2 == 0)], workspace.published()["names"]["bronze.flights"]["gates"]
    workspace.publish({"bronze.flights": workspace.store("bronze.flights", half, availability)})
    before, log = workspace.published(), files(workspace.root)
    for _ in range(2):
        room = f"http://127.0.0.1:{server.server_port}/room"
        done = mlops("run", "validate", "--force", **here | {"MLOPS_WEBHOOK": room, "MLOPS_DRIFT__MIN_ROWS": 100})
        said = " ".join(done.stdout.split())
        assert done.returncode == 2 and "05_validate goes back to collect" in said, said
        assert "Open nbs/02_collect.ipynb" in said and "rows of bronze.flights is" in said, said
    assert workspace.published() == before and files(workspace.root) == log
    assert len(server.told) == 1 and "flights: rows of bronze.flights is 0." in server.told[0]["text"]
    assert "since 2013-05-01; back to collect" in server.told[0]["text"]
    logged = map(json.loads, (workspace.root / "alerts.jsonl").read_text().splitlines())
    found = [e for e in logged if e.get("alarm", {}).get("figure") == "rows"]
    assert len(found) == 2 and len({e["run"] for e in found}) == 2
    free = here | {"MLOPS_DRIFT__GO_BACK_ON": "new"}
    passed(mlops("run", "validate", "--force", **free))  # the same, where it need not stop
    after = files(workspace.root)
    assert log.items() < after.items()
    assert workspace.load("validation")["alarms"][-1]["stage"] == "collect"
    server.shutdown()


@pytest.mark.parametrize("type", TYPES)
def test_kind_6_every_expectation_answers_on_a_column_of_each_type(type):
    """All in one suite: it holds, it fails, or it says why it cannot be checked; and none raises where the column is empty."""
    frame, asked = frame_of(type), cases(type)
    wanted = [Expectation("gold.examples", kind, arguments, "collect", "it must") for kind, arguments, _ in asked]
    found = check(lambda name: frame.__getitem__, lambda name: frame, wanted)
    place = {(row.expectation, row.column, row.limit): row for row in found.itertuples()}
    rows = [place[e.kind.removeprefix("Expect"), e.column, limit_of(e)] for e in wanted]
    answered = [(*one, row.passed, row.figure) for one, row in zip(asked, rows)]
    wrong = [one for one in answered if one[2] not in (None, one[3])]
    assert not wrong
    silent = [(row.expectation, row.figure) for row in rows if row.figure in ("", *(["all hold", "holds"] if not row.passed else []))]
    assert not silent
    with pytest.raises(GoBack) as back: gate(found)
    assert back.value.stage == "collect" and f"{sum(~found.passed)} of {len(found)} expectations do not hold" in str(back.value)
    empty = check(lambda name: frame.head(0).__getitem__, lambda name: frame.head(0), wanted)
    assert len(empty) == len(wanted) and empty.figure.str.len().min() > 0
    assert not empty.passed[empty.expectation.isin(["ColumnDistinctValuesToEqualSet", "ColumnDistinctValuesToContainSet"])].any()


def test_kind_6_what_is_asked_here_is_all_that_great_expectations_ships_for_pandas():
    import great_expectations.expectations as shipped
    asked = {kind for type in TYPES for kind, _, _ in cases(type)}
    assert {name for name in dir(shipped) if name.startswith("Expect")} == asked | {name for name in ELSEWHERE if name.startswith("Expect")}
    for name in ELSEWHERE:
        with pytest.raises(ValueError, match=name): Expectation("gold.examples", name)


def test_kind_6_missing_integers_beyond_the_share_that_may_be_missing_lead_back_to_collect():
    frame = pd.DataFrame({"days": pd.array([1, None, None, 4], "Int64")})
    often = dict(column="days", mostly=0.9)
    wanted = [Expectation("bronze.loans", "ExpectColumnValuesToNotBeNull", often, "collect", "asked of all")]
    with pytest.raises(GoBack, match="2 of 4") as back: gate(check(lambda name: frame.__getitem__, lambda name: frame, wanted))
    assert back.value.stage == "collect"
