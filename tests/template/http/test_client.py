"""The typed client that `mlops client` writes, as another program would use it: against the running app."""
import subprocess
import sys
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.request import Request, urlopen

import pytest
from helpers import ROOT
from test_http import GOOD, served, settings, trial
from typer.testing import CliRunner

from mlops_lifecycle.cli import app as command_line
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.serving.client import client_files
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.plan import plan
from mlops_lifecycle.serving import create_app, openapi_of


@pytest.fixture(scope="module")
def client():
    """The generated file as a module."""
    made = types.ModuleType("client")
    sys.modules["client"] = made  # where its data classes look for names
    exec(client_files(openapi_of(problem, plan.model_dump(mode="json")))["client.py"], vars(made))
    return made


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The address of the app, and how many predictions its log holds."""
    workspace = trial(tmp_path_factory.mktemp("client"))
    log = ServingLog(workspace.serving_db)
    with served(create_app(settings(max_batch=20), workspace)) as api:
        yield str(api.base_url), lambda: log.counts()["predictions"]
    log.close()


def test_a_decision_a_batch_and_a_report(client, desk):
    asks = client.Client(desk[0])
    said = asks.predict(client.Request(**GOOD))
    assert said.decision in (0, 1) and said.warnings == [] and len(said.prediction_id) == 32
    wrong = client.Request(**GOOD | {"flight": 0})
    first, second = asks.predict_batch([client.Request(**GOOD), wrong])
    assert first.decision == said.decision and isinstance(second, client.Invalid) and second.wrong[0][0] == "flight"
    reaction = plan.reactions[0].name
    assert asks.feedback(said.prediction_id, reaction) == asks.feedback(said.prediction_id, reaction)


def test_each_refusal_is_an_error_of_its_own(client, desk):
    asks = client.Client(desk[0])
    with pytest.raises(client.Invalid, match="422: flight: ") as told: asks.predict(client.Request(**GOOD | {"flight": 0}))
    assert told.value.status == 422
    with pytest.raises(client.NotFound): asks.feedback("0" * 32, plan.reactions[0].name)
    asks.predict(client.Request(**GOOD), "order-7")
    with pytest.raises(client.Conflict): asks.predict(client.Request(**GOOD | {"flight": 9}), "order-7")
    with pytest.raises(client.NotAllowed): client.Client(desk[0], key="no key").predict(client.Request(**GOOD))
    with pytest.raises(client.NoAnswer): client.Client("http://127.0.0.1:9", tries=2, wait=0.01).predict(client.Request(**GOOD))


class Lossy(BaseHTTPRequestHandler):
    """Between client and app: hands requests on, and loses or replaces the first answers."""
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        kind = self.server.faults.pop(0) if self.server.faults else None
        if kind == "busy":
            self.send_response(503); self.send_header("retry-after", "0"); self.end_headers(); return
        sent = {name: value for name, value in self.headers.items() if name.lower() in ("content-type", "idempotency-key")}
        answer = urlopen(Request(self.server.behind + self.path, body, sent)).read()
        self.server.keys.append(sent.get("Idempotency-Key") or sent.get("Idempotency-key"))
        if kind == "lost": self.connection.close(); return
        self.send_response(200); self.end_headers(); self.wfile.write(answer)

    def log_message(self, *_): pass


@pytest.fixture
def lossy(desk):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Lossy)
    server.behind, server.keys, server.faults, server.url = desk[0], [], [], f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown(); thread.join(); server.server_close()


def test_a_lost_answer_is_asked_for_again_and_nothing_is_decided_twice(client, desk, lossy):
    before, lossy.faults = desk[1](), ["busy", "lost", "lost"]
    said = client.Client(lossy.url, wait=0.01).predict(client.Request(**GOOD))
    assert len(lossy.keys) == 3 and len(set(lossy.keys)) == 1 and desk[1]() == before + 1 and said.prediction_id
    lossy.faults = ["busy", "lost"]
    with pytest.raises(client.NoAnswer): client.Client(lossy.url, wait=0.01).predict_batch([client.Request(**GOOD)])  # it has no key
    assert desk[1]() == before + 2
    lossy.faults = ["busy"] * 2
    with pytest.raises(client.Busy): client.Client(lossy.url, tries=2, wait=0.01).predict(client.Request(**GOOD))


def test_the_command_writes_a_file_that_a_type_checker_accepts(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.chdir(ROOT)
    workspace = Workspace(tmp_path / "workspace")
    def wrote(): return CliRunner().invoke(command_line, ["client", str(tmp_path / "client")])
    assert wrote().exit_code == 1 and not (tmp_path / "client").exists()
    document = {"openapi": openapi_of(problem, plan.model_dump(mode="json")), "version": "1.0"}
    workspace.publish({"contract": workspace.store("contract", document)})
    assert wrote().exit_code == 0 and wrote().exit_code == 0  # its own file may be written again
    checker = Path(sys.executable).parent / "basedpyright"
    done = subprocess.run([checker, "--level", "error", "client.py"], cwd=tmp_path / "client", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    (tmp_path / "client" / "client.py").write_text("mine")
    assert "not written by mlops client" in wrote().stderr and (tmp_path / "client" / "client.py").read_text() == "mine"
