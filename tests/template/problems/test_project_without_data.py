"""`mlops new` without a table: a rule is served at once, outcomes are reported over HTTP, and lead to a model when there are enough."""
import httpx
import numpy as np
import pandas as pd
import pytest
from helpers import MLOPS, Started, environment, free_port, last_run, mlops, passed

from mlops_lifecycle.core.foundation.workspace import Workspace

TOLD = ("--target", "late", "--field", "pages:integer", "--field", "branch:text?", "--field", "asked:time?", "--rule", "pages > 400",
        "--reactions", "came_late,in_time")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a rule and no row, after its first run."""
    folder = tmp_path_factory.mktemp("reminders") / "reminders"
    said = passed(mlops("new", folder, "--yes", *TOLD)).stdout
    return folder, said, passed(mlops("run", project=folder))


def served(folder, **more):
    """The project's own app, in a process of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    started = Started([*MLOPS, "serve", "--port", port], f"{url}/v2/health/ready", folder.parent / f"{port}.log", cwd=folder,
                      env=environment(folder, **more))
    return url, started


def not_proven(folder) -> dict[str, str]:
    """What each stage of the last run could not judge, with how long until it can be."""
    return {s["stage"]: f"{s['not_proven'][0]['what']}; {s['not_proven'][0]['until']}"
            for s in last_run(folder / "workspace")["stages"] if s.get("not_proven")}


def test_all_stages_pass_before_there_is_a_row_and_each_says_what_is_missing(project):
    folder, said, ran = project
    assert "No data yet" in said and "pages > 400" in said
    stages = last_run(folder / "workspace")["stages"]
    assert len(stages) == 17 and {s["status"] for s in stages} == {"passed"}
    unsure = not_proven(folder)
    assert "none yet" in unsure["validate"] and "at least 20 of each" in unsure["train"]
    assert unsure["explore"].endswith("20 that did not, 20 that happened more are reported")
    assert unsure["loop"].startswith("what the loop is worth: nothing was decided from")
    assert Workspace(folder / "workspace").load("deployment")["stable"] == "rule-1.0"


def test_the_rule_answers_over_http(project):
    url, app = served(project[0])
    with app:
        answers = [httpx.post(f"{url}/v1/predict", json={"case_number": f"x{pages}", "pages": pages}).json() for pages in (401, 400)]
        refused = httpx.post(f"{url}/v1/predict", json={"case_number": "x", "pages": "many"})
    assert [(one["decision"], one["version"], one["arm"]) for one in answers] == [(1, "1.0", "stable"), (0, "1.0", "stable")]
    assert refused.status_code == 422


@pytest.fixture(scope="module")
def reported(project):
    """Six weeks of requests and reports over HTTP, with their own clock: late is what came from the south, whatever the rule says."""
    rng, folder = np.random.default_rng(0), project[0]
    url, app = served(folder, MLOPS_REPLAY=1)
    clocks = pd.date_range("2026-01-01", "2026-02-13", freq="1h", tz="UTC")
    with app, httpx.Client(base_url=url) as client:
        for number, clock in enumerate(clocks):
            at, branch = {"x-mlops-clock": clock.isoformat()}, rng.choice(["north", "south"])
            asked = {"case_number": f"c{number}", "pages": int(rng.integers(50, 900)), "branch": branch, "asked": clock.isoformat()}
            answer = client.post("/v1/predict", json=asked, headers=at).raise_for_status().json()
            late = (branch == "south") != (rng.random() < 0.1)
            said = {"prediction_id": answer["prediction_id"], "reaction": "came_late" if late else "in_time"}
            client.post("/v1/feedback", json=said, headers={"x-mlops-clock": (clock + pd.Timedelta("1h")).isoformat()}).raise_for_status()
    return folder


def test_few_outcomes_are_awaited_and_the_rule_goes_on(reported):
    passed(mlops("run", "--from", "collect", "--to", "explore", "-p", "as_of=2026-01-16T00:00:00Z", project=reported))
    words = not_proven(reported)["explore"]
    known = last_run(reported / "workspace")["stages"]
    assert "are known from before the two periods that choose and judge, 20 of each are needed" in words
    assert next(s for s in known if s["stage"] == "transform")["verdict"]["labelled"] > 300


def test_enough_outcomes_lead_to_a_model_that_costs_less_than_the_rule(reported):
    passed(mlops("run", "-p", "as_of=2026-02-05T02:00:00Z", project=reported, MLOPS_TRAIN__SECONDS=3))
    workspace = Workspace(reported / "workspace")
    verdict = workspace.load("verdict")
    assert verdict["passed"] and not verdict["alone"] and verdict["cost"] < 0.2 < 0.4 < verdict["baseline"]["costs"]["rule"]
    assert workspace.load("release")["model"] and workspace.load("deployment")["canary"] == workspace.load("release")["model"]
    examples = workspace.read("gold.examples")
    assert set(examples.label_origin.dropna()) == {"reported"} and examples.late.notna().sum() > 800
    assert workspace.load("replay")["worth"]["rule only"]["saved"] > 0  # the week that followed, as the app logged it
