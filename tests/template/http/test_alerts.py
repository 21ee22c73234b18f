"""What Prometheus sees of the running app, and what it raises an alarm for; a real one scrapes a real app."""
import asyncio
import json
import re
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pandas as pd
import pytest
import yaml
from helpers import ROOT
from slots import put_in_slots
from test_http import GOOD, PLAIN, add_model, ask, trial, with_

from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.operations.fault_injection import ALLOW, faulty_release
from mlops_lifecycle.core.serving.middleware import Metrics
from mlops_lifecycle.core.serving.server import served
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.core.operations.traffic_replay import free_port
from mlops_lifecycle.serving import create_app

MONITORING = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"][0]["rules"]
HARM = {  # what a drill makes of the app's figures: series and how they grow by the minute; what is not named stays well
    "MlopsDown": {'up{job="mlops"}': "0x60"},
    "MlopsErrors": {'mlops_requests_total{route="/v1/predict",status="503"}': "0+5x60"},
    "MlopsReleaseFails": {'mlops_release_failures_total{release="model-1"}': "0+5x60"},
    "MlopsSlow": {'mlops_request_seconds_bucket{route="/v1/predict",le="1"}': "0+50x60",
                  'mlops_request_seconds_bucket{route="/v1/predict",le="5"}': "0+100x60",
                  'mlops_request_seconds_bucket{route="/v1/predict",le="+Inf"}': "0+100x60"},
    "MlopsRuleDecides": {'mlops_rule_decided_total{reason="TooOld"}': "0+10x60"},
    "MlopsStaleLookups": {'mlops_stale_lookups_total{lookup="queue"}': "0+10x60"},
    "MlopsUnknownCategories": {'mlops_unknown_categories_total{feature="branch"}': "0+10x60"},
    "MlopsLogWaits": {"mlops_log_waiting": "200x60"},
}
WELL = {'up{job="mlops"}': "1x60", 'mlops_requests_total{route="/v1/predict",status="200"}': "0+100x60",
        'mlops_predictions_total{arm="stable",release="model-1",decision="1"}': "0+100x60",
        'mlops_request_seconds_bucket{route="/v1/predict",le="1"}': "0+100x60",
        'mlops_request_seconds_bucket{route="/v1/predict",le="+Inf"}': "0+100x60", "mlops_log_waiting": "0x60"}


def promtool(*words) -> str:
    """What promtool says; it has to pass."""
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_and_the_configuration_are_what_prometheus_reads():
    assert f"{len(RULES)} rules found" in promtool("check", "rules", MONITORING / "rules.yaml")
    promtool("check", "config", "--syntax-only", MONITORING / "prometheus.yaml")
    assert {rule["alert"] for rule in RULES} == set(HARM)
    for rule in RULES: assert rule["annotations"]["command"].startswith("mlops ") and rule["labels"]["severity"] in ("urgent", "soon")


@pytest.mark.parametrize("file", ["rules.yaml", "dashboard.json"])
def test_every_figure_that_is_watched_is_one_of_the_apps(file):
    told = {sample for family in Metrics().registry.collect() for sample in (
        family.name, *(f"{family.name}_{part}" for part in ("total", "bucket", "sum", "count")))}
    named = set(re.findall(r"mlops_[a-z_]+", re.sub(r"job=..mlops", "", (MONITORING / file).read_text())))
    assert len(named) > 7 and named <= told


def test_each_rule_fires_under_its_own_fault_and_none_does_without(tmp_path):
    """promtool plays an hour of figures: one without a fault, and one for each rule."""
    def played(series, fires):
        expected = [{"eval_time": "50m", "alertname": rule["alert"], "exp_alerts": []} for rule in RULES if rule["alert"] != fires]
        return {"interval": "1m", "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": expected, "name": fires or "well",
                "promql_expr_test": [{"expr": f'count(ALERTS{{alertname="{fires}",alertstate="firing"}})', "eval_time": "50m",
                                      "exp_samples": [{"labels": "{}", "value": 1}]}] if fires else []}
    cases = [played(WELL, "")] + [played(WELL | series, name) for name, series in HARM.items()]
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": [str(MONITORING / "rules.yaml")], "tests": cases}))
    promtool("test", "rules", tmp_path / "test.yaml")
    wrong = {"rule_files": [str(MONITORING / "rules.yaml")], "tests": [played(WELL, "MlopsDown")]}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    assert subprocess.run(["promtool", "test", "rules", tmp_path / "wrong.yaml"], capture_output=True).returncode  # it can fail


class Watched:
    """A real Prometheus that scrapes an app three times a second, with rules that look back on four seconds, and do not wait."""
    def __init__(self, folder, port: int):
        config, quick = yaml.safe_load((MONITORING / "prometheus.yaml").read_text()), (MONITORING / "rules.yaml").read_text()
        job, = config["scrape_configs"]
        job |= {"scrape_interval": "300ms", "scrape_timeout": "300ms", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        del job["authorization"]  # on this machine, and while no key exists, none is needed
        quick = re.sub(r"for: \d+m", "for: 300ms", re.sub(r"\[(\d+m|1h)\]", "[4s]", quick))
        (folder / "rules.yaml").write_text(quick)
        config["global"] = config.get("global", {}) | {"evaluation_interval": "300ms"}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config | {"rule_files": [str(folder / "rules.yaml")]}))
        there = f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={there}"], stdout=subprocess.DEVNULL, stderr=(folder / "said").open("w"))
        self.asked = httpx.Client(base_url=f"http://{there}", trust_env=False)

    def fires(self, *alerts: str, meanwhile=lambda: None) -> None:
        """Wait until all of these fire."""
        until = time.monotonic() + 60
        while missing := set(alerts) - self.firing():
            assert time.monotonic() < until, f"{missing} did not fire"
            meanwhile()
            time.sleep(0.2)

    def firing(self) -> set[str]:
        """The alerts that fire now."""
        asked = {"query": 'ALERTS{alertstate="firing"}'}
        return {one["metric"]["alertname"] for one in self.asked.get("/api/v1/query", params=asked).json()["data"]["result"]}

    def close(self) -> None:
        self.asked.close()
        self.process.terminate()
        self.process.wait(20)


def waiting_callers(port: int, count: int) -> None:
    """So many predictions at once."""
    async def all_at_once():
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30,
                                     limits=httpx.Limits(max_connections=count)) as api:
            kind = {"content-type": "application/json"}
            await asyncio.gather(*(api.post("/v1/predict", content=PLAIN, headers=kind) for _ in range(count)))
    asyncio.run(all_at_once())


def test_a_real_prometheus_scrapes_the_running_app_and_each_rule_fires_under_its_fault(tmp_path):
    workspace = trial(tmp_path / "workspace")
    patient = {"MLOPS_RELEASE__ALLOW": ",".join(ALLOW), "MLOPS_SERVING__DECISION_LIMIT_MS": "60000"}  # a slow model is waited for
    app = create_app(load_settings(environ=patient), workspace)
    with (served(app) as (port, server), closing(ServingLog(workspace.serving_db)) as log, ThreadPoolExecutor(1) as aside,
          httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as api):
        assert ask(api, PLAIN).status_code == 200
        with closing(Watched(tmp_path, port)) as watched:
            assert waited(watched.asked, 'mlops_requests_total{route="/v1/predict",status="200"}') == "1"
            assert waited(watched.asked, 'up{job="mlops"}') == "1"
            rules = watched.asked.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
            assert {rule["name"] for rule in rules} == set(HARM) and all(rule.get("lastError", "") == "" for rule in rules)
            for _ in range(4): ask(api, PLAIN); time.sleep(0.5)
            assert watched.firing() == set()
            rule = log.deployment.get()["stable"]
            put_in_slots(log, stable=add_model(workspace, fed=False))
            # nothing was ever looked up, so the rule decides in the model's place
            watched.fires("MlopsRuleDecides", "MlopsStaleLookups", meanwhile=lambda: ask(api, PLAIN))

            def fault(name, size=None): return faulty_release(workspace.releases / model, name, pd.DataFrame([GOOD]), size, ALLOW).name
            put_in_slots(log, stable=(model := add_model(workspace)))
            put_in_slots(log, stable=fault("crash"))
            watched.fires("MlopsReleaseFails", meanwhile=lambda: ask(api, PLAIN))
            put_in_slots(log, stable=fault("slow", 1_100))
            watched.fires("MlopsSlow", "MlopsUnknownCategories", meanwhile=lambda: ask(api, with_(destination="ZZZ")))
            put_in_slots(log, stable=rule)  # which answers 150 callers at once
            with closing(sqlite3.connect(workspace.serving_db, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")  # somebody else writes, and does not end
                callers = aside.submit(waiting_callers, port, 150)
                watched.fires("MlopsLogWaits")
                other.execute("ROLLBACK")
                callers.result()
            workspace.serving_db.rename(tmp_path / "away.db")         # the log is gone
            workspace.serving_db.mkdir()
            watched.fires("MlopsErrors", meanwhile=lambda: ask(api, PLAIN))
            server.should_exit = True
            watched.fires("MlopsDown")


def waited(asked: httpx.Client, expression: str) -> str:
    """The value of an expression, as soon as there is one."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try: found = asked.get("/api/v1/query", params={"query": expression}).json()["data"]["result"]
        except (httpx.HTTPError, ValueError, KeyError): found = []
        if found: return found[0]["value"][1]
        time.sleep(0.2)
    raise AssertionError(f"Prometheus knows nothing of {expression}")


def test_the_dashboard_has_a_panel_for_each_thing_to_look_at():
    board = json.loads((MONITORING / "dashboard.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert all(panel["targets"] and panel["title"] and panel["description"] for panel in panels)
    places = [tuple(panel["gridPos"].values()) for panel in panels]
    assert len(panels) >= 8 and len(set(places)) == len(places)
