"""How fast the app answers, and what else could be: `make bench`, or `python benchmarks/serving.py [rounds] [figure…]`.

A figure is one of peak, latency, growth, batch, start, workers, score; all when none is named. What is measured is the
model that is deployed in the settings' workspace, in a copy of it; where there is none, a whole life cycle makes one
first. The app is asked with real requests, with look-ups, calibration and the durable log.

Beside it stand an empty endpoint with the same schema, and the endpoint that one writes first, twice: "naive" is handed
its features ready made, looks nothing up and only calls predict_proba; "naive, same question" is asked what ours is
asked, the request's own fields, makes a table of one row of them, looks up and computes the features with pandas and
calls predict_proba. Neither keeps a log, knows a scope or hides a name. Then `mlflow models serve`, BentoML and
MLServer, which like "naive" are handed ready features, in environments of their own under .venv/, made when they are
not there.

What asks is wrk, which stands in no package registry of Python's: `sudo apt-get install -y wrk` on Debian. Servers have
one core to themselves, wrk has the other. All are asked in turn, and the median over the rounds counts. Prints one JSON
line a figure, and a table for people on standard error.
"""
import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from mlops_lifecycle.core.models.features import within_reach
from mlops_lifecycle.core.serving.ledger import Ledger
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.core.operations.traffic_replay import free_port, requests_of
from mlops_lifecycle.core.models.release import Release, read_model
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace, to_arrow
from mlops_lifecycle.core.problem.definition import personal_fields
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.transform import FEATURES

ROOT = Path(__file__).parent.parent
SERVE, ASK = {0}, {1 if (os.cpu_count() or 1) > 1 else 0}  # cores
SECONDS, CONNECTIONS = 3, 16
MLOPS = [sys.executable, "-c", "from mlops_lifecycle.cli import app; app()"]
QUIET = {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "True", "PYTHONWARNINGS": "ignore",
         "PYTHONDONTWRITEBYTECODE": ""}  # compiled modules are kept, as everywhere but where somebody forbade it


def say(figure: str, value: float | None, unit: str, goal: float | None = None, more: bool = True, **against) -> None:
    """One figure, for programs and for people; `more`: whether more is better."""
    holds = None if goal is None or value is None else bool(value >= goal if more else value <= goal)
    value = value and round(value, 4)
    against = {name: round(v, 4) if isinstance(v, float) else v for name, v in against.items()}
    document = {"figure": figure, "value": value, "unit": unit, "goal": goal, "holds": holds, "against": against}
    print(json.dumps(document), flush=True)
    beside = ", ".join(f"{name} {v:,.4g}" if isinstance(v, (int, float)) else f"{name}: {v}"
                       for name, v in against.items())
    wanted = "" if goal is None else f"goal {'≥' if more else '≤'} {goal:g}, {'holds' if holds else 'MISSED'}"
    shown = "-" if value is None else format(value, ",.4g")
    print(f"{figure:66} {shown:>10} {unit:14} {wanted:22} {beside}", file=sys.stderr, flush=True)


# What is asked --------------------------------------------------------------------------------------------------------

class Deployed:
    """A copy of a workspace in which a model serves, and what it is asked."""
    def __init__(self, folder: Path):
        self.folder, there = folder, self.finished(folder)
        shutil.copytree(there, folder / "workspace", ignore=shutil.ignore_patterns("runs", "mlflow*", "serving.db*", "benchmarks"))
        self.workspace, self.id = Workspace(folder / "workspace"), self.model_in(there)
        log = ServingLog(self.workspace.serving_db); Ledger(log).trial(self.id)
        self.release = Release.load(self.workspace.releases / self.id)
        self.estimator = read_model((self.workspace.releases / self.id / "model.skops").read_bytes())
        self.examples = self.workspace.read("gold.examples")
        last = self.examples[self.examples.decision_time >= self.examples.decision_time.max() - pd.Timedelta(days=7)]
        self.asked = last.sample(min(len(last), 2_000), random_state=0)
        # what was known when the asked week was decided: without it every look-up would find nothing, and that is quick
        for lookup in FEATURES.lookups:
            table = self.workspace.read(f"gold.lookup_{lookup.name}")
            log.lookups.put(lookup, within_reach(lookup, table, self.asked.decision_time))
        log.close()
        tails = pd.Series(self.workspace.read("bronze.flights").tailnum.dropna().unique())
        self.clear = dict(zip(self.workspace.pseudonyms(tails), tails))
        self.requests = requests_of(self.asked, problem.Request, self.clear)
        # ready, and without gaps: more than peers get elsewhere
        encoder = self.release.encoder
        self.matrix = np.nan_to_num(encoder.encode({n: self.asked[n].to_numpy(object) for n in encoder.names}))

    @classmethod
    def finished(cls, folder: Path) -> Path:
        """The settings' workspace, or one that a run makes in the folder, where no model was released yet."""
        if cls.model_in(there := load_settings(ROOT).workspace_path): return there
        there = folder / "made"
        here = {"MLOPS_WORKSPACE": str(there), "MLOPS_REPORTS": str(folder / "reports")}
        made = subprocess.run([*MLOPS, "run", "--to", "operate"], cwd=ROOT, env=os.environ | here, capture_output=True, text=True)
        if cls.model_in(there): return there
        raise SystemExit(f"no model was released, so there is nothing to measure:\n{made.stdout[-2000:]}{made.stderr[-2000:]}")

    @staticmethod
    def model_in(folder: Path) -> str | None:
        """The model that serves there, or is the newest release."""
        workspace = Workspace(folder)
        if not workspace.has_log: return None
        log = ServingLog(workspace.serving_db)
        stable = log.deployment.get()["stable"] or ""
        log.close()
        if stable.startswith("model"): return stable
        return max((p.name for p in workspace.releases.glob("model-*")), default=None)

    def write(self, name: str, bodies: list) -> Path:
        """Bodies to send, one a line."""
        file = self.folder / f"{name}.jsonl"
        file.write_bytes(b"\n".join(b if isinstance(b, bytes) else json.dumps(b).encode() for b in bodies))
        return file


# Servers --------------------------------------------------------------------------------------------------------------

class Server:
    """A server in a process group of its own, on a core of its own, ready when it answers what it will be asked."""
    def __init__(
        self, command: list, path: str, bodies: Path, folder: Path, cores: set | None = SERVE, patience: float = 120,
        **environment,
    ):
        self.port, self.path, self.bodies = free_port(), path, bodies
        self.log = folder / f"server-{time.monotonic_ns()}.log"
        self.first = bodies.read_bytes().split(b"\n", 1)[0]
        mine = lambda word: str(word).replace("PORT", str(self.port))
        command = list(map(mine, command))
        environment = os.environ | QUIET | {k: mine(v) for k, v in environment.items()}
        started = time.perf_counter()
        pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=self.log.open("w"), stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=pin)
        try:
            while (said := self.ask()) is None:
                if self.process.poll() is not None or time.perf_counter() - started > patience:
                    raise RuntimeError(f"does not answer: {self.log.read_text()[-1000:]}")
                time.sleep(0.005)
        except BaseException: self.stop(); raise
        self.start_seconds, self.said = time.perf_counter() - started, said

    def ask(self) -> bytes | None:
        """The answer to the first request, once there is one."""
        address = f"http://127.0.0.1:{self.port}{self.path}"
        asked = urllib.request.Request(address, self.first, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer: return answer.read()
        except urllib.error.HTTPError as error:
            if error.code in (400, 422):
                raise RuntimeError(f"{self.path}: {error.code} {error.read()[:500]!r}") from None
        except OSError: pass

    def processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError): os.killpg(self.process.pid, signal.SIGTERM)
        try: self.process.wait(20)
        except subprocess.TimeoutExpired: pass
        with contextlib.suppress(ProcessLookupError): os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def ours(
    deployed: Deployed, workers: int = 1, path: str = "/v1/predict", bodies: Path | None = None,
    cores: set | None = SERVE,
):
    """`mlops serve` on the copy."""
    command = [*MLOPS, "serve", "--port", "PORT", "--workers", workers]
    bodies = bodies or deployed.write("requests", deployed.requests)
    server = Server(command, path, bodies, deployed.folder, cores,
                    MLOPS_WORKSPACE=deployed.workspace.root, MLOPS_SETTINGS=ROOT / "settings.ini")
    try: yield server
    finally: server.stop()


EMPTY = """
import sys, uvicorn
from fastapi import FastAPI
from mlops_lifecycle.core.problem.definition import personal_fields
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.core.serving.api import Prediction
app = FastAPI()
class Asked(problem.Request): model_config = {"strict": False}  # FastAPI hands over what it has parsed already
@app.post("/v1/predict")
async def predict(asked: Asked) -> Prediction:
    return Prediction(prediction_id="0" * 32, score=0.5, decision=1, threshold=0.5, model="empty", version="1",
                      arm="stable", review=False, warnings=[])
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""
LOADED = """
import skops.io
model = skops.io.load("model.skops", trusted=skops.io.get_untrusted_types(file="model.skops"))
"""
NAIVE = LOADED + """
import json, sys
import pandas as pd, uvicorn
from fastapi import FastAPI
from pydantic import create_model
Features = create_model("Features", **{n: (float, ...) for n in json.load(open("names.json"))})
app = FastAPI()
@app.post("/predict")
def predict(asked: Features):
    return {"score": float(model.predict_proba(pd.DataFrame([asked.model_dump()]).to_numpy())[0, 1])}
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""
NAIVE_ASKED = LOADED + """
import json, sys
import numpy as np, pandas as pd, uvicorn
from fastapi import FastAPI
from mlops_lifecycle.core.models.features import Encoder, columns_of
from mlops_lifecycle.core.models.release import calibrated
from mlops_lifecycle.core.problem.definition import personal_fields
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.transform import FEATURES
manifest = json.load(open("manifest.json"))
encoder = Encoder.from_dict(manifest["encoder"])
def by_key(lookup):  # the quick way
    table = pd.read_parquet(f"{lookup.name}.parquet").sort_values("known_at")
    return dict(list(table.groupby(list(lookup.key))))
histories = {lookup.name: by_key(lookup) for lookup in FEATURES.lookups}
app = FastAPI()
class Asked(problem.Request): model_config = {"strict": False}  # FastAPI hands over what it has parsed already
@app.post("/predict")
def predict(asked: Asked):
    departure = pd.Timestamp(asked.scheduled_departure)
    row = asked.model_dump() | {"scheduled_departure": departure.tz_convert("UTC"),
                                "scheduled_departure_local": departure.tz_localize(None)}
    decided = departure - pd.Timedelta("3h")
    for lookup in FEATURES.lookups:
        history = histories[lookup.name].get(tuple(row[name] for name in lookup.key))
        place = -1 if history is None else history.known_at.searchsorted(decided, side="right") - 1
        fresh = place >= 0 and (
            lookup.max_age is None or decided - history.known_at.iloc[place] <= pd.Timedelta(lookup.max_age))
        row |= history[list(lookup.values)].iloc[place].to_dict() if fresh else dict.fromkeys(lookup.values, np.nan)
    row = pd.DataFrame([row])
    features = pd.DataFrame(FEATURES.compute(columns_of(row)))
    score = model.predict_proba(encoder.encode({name: features[name].to_numpy() for name in features}))[0, 1]
    return {"score": float(calibrated(score, manifest.get("calibration")))}
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""
MLFLOW = LOADED + """
import json, mlflow.sklearn, numpy as np
from mlflow.models import infer_signature
asked = np.zeros((1, len(json.load(open("names.json")))))
mlflow.sklearn.save_model(
    model, "served", pyfunc_predict_fn="predict_proba", serialization_format="cloudpickle", pip_requirements=[],
    signature=infer_signature(asked))
"""
BENTO = """
import bentoml, numpy as np
@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Peer:
    def __init__(self):
        import skops.io
        self.model = skops.io.load("model.skops", trusted=skops.io.get_untrusted_types(file="model.skops"))
    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=10_000)
    def predict(self, rows: np.ndarray) -> np.ndarray: return self.model.predict_proba(rows)[:, 1]
"""
MLSERVER = """
import skops.io
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
class Peer(MLModel):
    async def load(self):
        self.model = skops.io.load("model.skops", trusted=skops.io.get_untrusted_types(file="model.skops"))
        return True
    async def predict(self, payload):
        said = self.model.predict_proba(NumpyCodec.decode_input(payload.inputs[0]))[:, 1]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("score", said)])
"""
PEERS = {"mlflow": "mlflow=={mlflow}", "bentoml": "bentoml==1.4.40", "mlserver": "mlserver==1.7.1"}


def peer(name: str) -> Path:
    """The programs of an environment with a peer beside our scikit-learn; made when it is not there."""
    home = ROOT / ".venv" / "peers" / name
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        version = importlib.metadata.version
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        same = [f"{package}=={version(package)}" for package in ("scikit-learn", "skops")]
        wanted = [PEERS[name].format(mlflow=version("mlflow")), *same]
        command = [home / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
            raise RuntimeError(f"cannot be installed on Python {sys.version.split()[0]}: {why}")
        (home / "ready").touch()
    return home / "bin"


def others(deployed: Deployed) -> dict:
    """How each other server is started: name -> function that gives a `Server`, or raises `RuntimeError` with why."""
    names, folder, rows = list(deployed.release.encoder.names), deployed.folder / "peers", deployed.matrix.tolist()
    folder.mkdir()
    (folder / "model.skops").write_bytes((deployed.workspace.releases / deployed.id / "model.skops").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(deployed.release.manifest))
    for lookup in FEATURES.lookups:  # what ours finds, as tables, names in the clear
        table = deployed.workspace.read(f"gold.lookup_{lookup.name}")
        table = within_reach(lookup, table, deployed.asked.decision_time)
        hidden = [name for name in lookup.key if name in personal_fields(problem.Request)]
        clear = table.assign(**{name: table[name].map(deployed.clear) for name in hidden})
        clear.to_parquet(folder / f"{lookup.name}.parquet")
    (folder / "names.json").write_text(json.dumps(names))
    (folder / "bento.py").write_text(BENTO)
    (folder / "runtime.py").write_text(MLSERVER)
    (folder / "model-settings.json").write_text(json.dumps({
        "name": "peer", "implementation": "runtime.Peer", "max_batch_size": 16, "max_batch_time": 0.002}))
    tensor = {"name": "rows", "shape": [1, len(names)], "datatype": "FP64"}
    bodies = {name: deployed.write(name, made) for name, made in {
        "requests": deployed.requests,
        "fields": [dict(zip(names, row)) for row in rows],
        "inputs": [{"inputs": [row]} for row in rows],
        "rows": [{"rows": [row]} for row in rows],
        "tensors": [{"inputs": [tensor | {"data": row}]} for row in rows],
    }.items()}

    def mlflow():
        programs = peer("mlflow")
        if not (folder / "served").exists():
            made = subprocess.run([programs / "python", "-c", MLFLOW], cwd=folder, capture_output=True, text=True,
                                  env=os.environ | QUIET | {"PYTHONPATH": str(ROOT)})
            if made.returncode:
                raise RuntimeError(f"the model cannot be saved: {made.stderr.strip().splitlines()[-1][:300]}")
        command = [programs / "mlflow", "models", "serve", "-m", "served", "--env-manager", "local",
                   "-h", "127.0.0.1", "-p", "PORT", "--workers", "1"]
        return Server(command, "/invocations", bodies["inputs"], folder, PYTHONPATH=ROOT,
                      PATH=f"{programs}:{os.environ['PATH']}", MLFLOW_ALLOW_PICKLE_DESERIALIZATION="true")

    def bentoml():
        command = [peer("bentoml") / "bentoml", "serve", "bento:Peer", "--host", "127.0.0.1", "--port", "PORT"]
        return Server(command, "/predict", bodies["rows"], folder, PYTHONPATH=ROOT, BENTOML_HOME=folder / "bentoml")

    def mlserver():
        settings = {"MLSERVER_HOST": "127.0.0.1", "MLSERVER_HTTP_PORT": "PORT", "MLSERVER_GRPC_PORT": free_port(),
                    "MLSERVER_METRICS_PORT": free_port(), "MLSERVER_PARALLEL_WORKERS": 0}
        return Server([peer("mlserver") / "mlserver", "start", "."], "/v2/models/peer/infer", bodies["tensors"], folder,
                      PYTHONPATH=ROOT, **settings)

    def python(code, sent):
        return lambda: Server([sys.executable, "-c", code, "PORT"], "/predict", bodies[sent], folder)
    return {
        "empty": lambda: Server([sys.executable, "-c", EMPTY, "PORT"], "/v1/predict", bodies["requests"], folder),
        "naive": python(NAIVE, "fields"),
        "naive, same question": python(NAIVE_ASKED, "requests"),
        "mlflow": mlflow,
        "BentoML": bentoml,
        "MLServer": mlserver,
    }


# Load -----------------------------------------------------------------------------------------------------------------

LUA = """
local bodies, n = {}, 0
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
function init(args)
  local headers = {["Content-Type"] = "application/json", ["Host"] = "127.0.0.1"}
  for i, body in ipairs(bodies) do bodies[i] = wrk.format("POST", nil, headers, body) end
end
function request() n = n % #bodies + 1; return bodies[n] end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"requests": %d, "seconds": %f, "wrong": %d, "p50": %f, "p99": %f}\\n',
           summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
           latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


class Load:
    """wrk in a process of its own."""
    def __init__(
        self, server: Server, connections: int = CONNECTIONS, seconds: float = SECONDS, cores: set | None = ASK,
    ):
        if not shutil.which("wrk"): raise SystemExit("this benchmark asks with wrk: sudo apt-get install -y wrk")
        script = server.log.parent / "ask.lua"
        if not script.exists(): script.write_text(LUA)
        pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script),
                   f"http://127.0.0.1:{server.port}{server.path}"]
        self.process = subprocess.Popen(command, env=os.environ | {"BODIES": str(server.bodies)}, preexec_fn=pin,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def result(self) -> dict:
        """requests a second, p50 and p99 in milliseconds, and the share of a core that asking took."""
        out = self.process.stdout.read(); why = self.process.stderr.read()
        _, status, used = os.wait4(self.process.pid, 0); self.process.returncode = status
        found = {"requests": 0, "wrong": why.decode()[-300:]}
        if out and not status: found = json.loads(out.splitlines()[-1])
        if found["wrong"] or not found["requests"]:
            raise SystemExit(f"{found['wrong']} of {found['requests']} requests were not answered")
        return {"rate": found["requests"] / found["seconds"], "p50": found["p50"], "p99": found["p99"],
                "core": (used.ru_utime + used.ru_stime) / found["seconds"]}


def load(server: Server, **options) -> dict: return Load(server, **options).result()


def middle(found: list[dict], name: str) -> float: return float(statistics.median(f[name] for f in found))


# Figures --------------------------------------------------------------------------------------------------------------

def peak(deployed: Deployed, rounds: int) -> None:
    """One row a request at full load: ours against the others, in turn."""
    with contextlib.ExitStack() as held:
        servers, missing = {"ours": held.enter_context(ours(deployed))}, {}
        for name, start in others(deployed).items():
            try: servers[name] = start(); held.callback(servers[name].stop)
            except RuntimeError as reason: missing[name] = str(reason).strip()[-300:]
        said = {name: json.loads(servers[name].said) for name in ("ours", "naive, same question")}
        mine, same = said["ours"], said["naive, same question"]
        if mine["model"] != deployed.release.name:
            raise SystemExit(f"{mine['model']} decided and not {deployed.release.name}: nothing is measured")
        if abs(mine["score"] - same["score"]) > 1e-9:
            raise SystemExit(f"the same question has two answers: {said}")
        for server in servers.values(): load(server, seconds=2)  # warm
        found = {name: [] for name in servers}
        for _ in range(rounds):
            for name, server in servers.items(): found[name].append(load(server))
        memory = max(p.memory_info().rss for p in servers["ours"].processes()) / 1e6
    rate, engine = {name: middle(f, "rate") for name, f in found.items()}, "scikit-learn"
    if deployed.release.trees: engine = "treelite"
    ratio = lambda name: statistics.median(a["rate"] / b["rate"] for a, b in zip(found["ours"], found[name]))
    say("requests/s, one worker, 16 connections", rate["ours"], "requests/s",
        model=f"{deployed.release.name} ({deployed.id}), {engine}",
        **{f"{name} p50 ms": middle(found[name], "p50") for name in ("ours", "empty")})
    for name, goal in GOALS.items():
        figure, which = f"requests/s, ours against {name}", {"which is": WHICH[name]} if name in WHICH else {}
        if name in missing: say(figure, None, "times", goal, why=missing[name])
        else: say(figure, ratio(name), "times", goal, **{"ours": rate["ours"], name: rate[name]}, **which)
    busiest = max((middle(f, "core"), name) for name, f in found.items())
    say("share of its core that asking took, at most", busiest[0], "cores", 0.9, more=False,
        asked=busiest[1], ours=middle(found["ours"], "core"))
    say("memory of a worker after the load", memory, "MB", 300, more=False)


READY = "handed ready features, looks nothing up, no log"
ASKED = "handed the request as ours is, looks up and computes the features with pandas, no log"
WHICH = {"naive": READY, "naive, same question": ASKED, "mlflow": READY, "BentoML": READY, "MLServer": READY}
GOALS = {"empty": 0.4, "naive": 10, "naive, same question": 10, "mlflow": 10, "BentoML": None, "MLServer": None}


OPEN_LOOP = r"""
import gc, json, os, select, socket, sys, time
port, path = int(sys.argv[1]), sys.argv[2]
rate, seconds, connections = float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
head = "POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
asked = [(head % (path, len(b))).encode() + b for b in open(sys.argv[6], "rb").read().splitlines()]
poll, sockets, free, due, got = select.epoll(), {}, [], {}, {}
for _ in range(connections):
    s = socket.create_connection(("127.0.0.1", port)); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sockets[s.fileno()] = s; free.append(s.fileno()); poll.register(s.fileno(), select.EPOLLIN)
total, sent, took, late = int(rate * seconds), 0, [], []
gc.disable(); start = time.perf_counter()
while len(took) < total:
    now = time.perf_counter()
    while free and sent < total and (when := start + sent / rate) <= now:
        fd = free.pop(0); sockets[fd].sendall(asked[sent % len(asked)])
        due[fd], got[fd] = when, b""; late.append(now - when); sent += 1
    for fd, _ in poll.poll(0):
        got[fd] += sockets[fd].recv(65536)
        top, end, body = got[fd].partition(b"\r\n\r\n")
        if not end: continue
        length = int(next(l for l in top.lower().split(b"\r\n") if l.startswith(b"content-length:")).split(b":")[1])
        if len(body) < length: continue
        assert top.startswith(b"HTTP/1.1 200"), top
        took.append(time.perf_counter() - due[fd]); free.append(fd)
took, late = sorted(took), sorted(late)
at = lambda values, share: values[min(len(values) - 1, int(share * len(values)))] * 1e3
print(json.dumps({"p50": at(took, .5), "p99": at(took, .99), "p999": at(took, .999), "late p99": at(late, .99),
                  "rate": total / (time.perf_counter() - start)}))
"""


def latency(deployed: Deployed, rounds: int) -> None:
    """At half of the peak, counted from when a request was due: ours, and the empty endpoint at half of its own."""
    with ours(deployed) as server:
        empty = others(deployed)["empty"]()
        try:
            servers, found = {"ours": server, "empty": empty}, {"ours": [], "empty": []}
            peaks = {name: max(load(s, seconds=2)["rate"] for _ in range(2)) for name, s in servers.items()}
            for _ in range(rounds):
                for name, s in servers.items():
                    command = [sys.executable, "-c", OPEN_LOOP,
                               s.port, s.path, peaks[name] / 2, 6, CONNECTIONS, s.bodies]
                    done = subprocess.run(list(map(str, command)), capture_output=True, text=True,
                                          preexec_fn=lambda: os.sched_setaffinity(0, ASK))
                    if done.returncode: raise SystemExit(done.stderr[-1000:])
                    found[name].append(json.loads(done.stdout))
        finally: empty.stop()
    ratio = {name: statistics.median(f["p99"] / f["p50"] for f in each) for name, each in found.items()}
    told = {f"{name} {p} ms": middle(each, p) for name, each in found.items() for p in ("p50", "p99", "late p99")}
    say("p99 against p50, at half of the peak", ratio["ours"], "times", 5, more=False, empty=ratio["empty"],
        **told, **{"requests/s": peaks["ours"] / 2})


def growth(deployed: Deployed, rounds: int) -> None:
    """The peak with more and more connections."""
    with ours(deployed) as server:
        load(server, seconds=1)
        found = {n: [] for n in (1, 16, 64, 256)}
        for _ in range(rounds):
            for n, each in found.items(): each.append(load(server, connections=n))
    for n, each in found.items():
        say(f"requests/s, {n} connections", middle(each, "rate"), "requests/s",
            **{f"{p} ms": middle(each, p) for p in ("p50", "p99")})


def batch(deployed: Deployed, rounds: int) -> None:
    """Rows a second in batches of one connection."""
    def write(n):
        twice, starts = deployed.requests * 2, range(0, len(deployed.requests), max(n, 50))
        return deployed.write(f"batch-{n}", [b'{"requests": [' + b", ".join(twice[i:i + n]) + b"]}" for i in starts])
    batches, found = {n: write(n) for n in (1, 10, 100, 1_000)}, {}
    with ours(deployed, path="/v1/predict/batch", bodies=batches[1]) as server:
        for _ in range(rounds):
            for n, bodies in batches.items():
                server.bodies = bodies
                found.setdefault(n, []).append(load(server, connections=1))
    for n, each in found.items():
        say(f"rows/s, batches of {n:,}, 1 connection", n * middle(each, "rate"), "rows/s",
            **{"p50 ms": middle(each, "p50")})


def start(deployed: Deployed, rounds: int) -> None:
    """From the command to the first answer of the model."""
    took = []
    for _ in range(max(rounds, 3)):
        with ours(deployed, cores=None) as server: took.append(server.start_seconds)
    say("start to first answer", float(statistics.median(took)), "s", 3, more=False, slowest=max(took))


def workers(deployed: Deployed, rounds: int) -> None:
    """Two workers against one, asked by two processes; all on the same cores."""
    with ours(deployed, cores=None) as one, ours(deployed, workers=2, cores=None) as two:
        found, memory = {"one": [], "two": []}, 0.0
        for _ in range(rounds + 1):  # the first is for warmth
            for name, server in (("one", one), ("two", two)):
                asking = [Load(server, connections=CONNECTIONS // 2, cores=None) for _ in range(2)]
                found[name].append({"rate": sum(a.result()["rate"] for a in asking)})
        memory = max(p.memory_info().rss for p in two.processes()) / 1e6
    alone, both = found["one"][1:], found["two"][1:]
    ratio = statistics.median(b["rate"] / a["rate"] for a, b in zip(alone, both))
    say("requests/s, two workers against one", ratio, "times",
        one=middle(alone, "rate"), two=middle(both, "rate"), cores=os.cpu_count(),
        **{"MB of the largest process": memory})


PREDICT_PROBA = """
import json, sys, time, numpy as np, skops.io
model = skops.io.load(sys.argv[1], trusted=skops.io.get_untrusted_types(file=sys.argv[1]))
X = np.load(sys.argv[2]); model.predict_proba(X[:100])
start = time.perf_counter(); model.predict_proba(X); print(json.dumps({"seconds": time.perf_counter() - start}))
"""


def score(deployed: Deployed, rounds: int) -> None:
    """`mlops score` as a command, from a Delta table to Parquet, against scikit-learn, started, on a ready matrix.

    The first figure counts everything, the start of Python included. The second leaves out what a file of a hundred
    rows takes as well: starting, loading the model, and reading what can be looked up. That is what the app holds, the
    last weeks: most of the year finds nothing there but the history of its flight, while the ready matrix holds all
    values.
    """
    from deltalake import write_deltalake
    tails = pd.Series(deployed.workspace.read("bronze.flights").tailnum.dropna().unique())
    clear = dict(zip(deployed.workspace.pseudonyms(tails), tails))
    rows = [json.loads(r) for r in requests_of(deployed.examples, problem.Request, clear)]
    # each column of its own type; a departure is text, for its offset
    year = to_arrow(pd.DataFrame(rows, columns=list(problem.Request.model_fields)))
    write_deltalake(deployed.folder / "year", year)
    write_deltalake(deployed.folder / "hundred", year[-100:])
    model, matrix = deployed.workspace.releases / deployed.id / "model.skops", deployed.folder / "year.npy"
    encoder = deployed.release.encoder
    np.save(matrix, encoder.encode({n: deployed.examples[n].to_numpy(object) for n in encoder.names}))
    here = {"OMP_NUM_THREADS": str(os.cpu_count()), "MLOPS_WORKSPACE": str(deployed.workspace.root)}
    ask = dict(cwd=ROOT, env=os.environ | QUIET | here, capture_output=True, text=True)
    found = {"ours": [], "sklearn": [], "start": []}
    for _ in range(rounds):
        took = {}
        for name in ("year", "hundred"):
            begun = time.perf_counter()
            command = [*MLOPS, "score", str(deployed.folder / name), str(deployed.folder / "scores.parquet")]
            done = subprocess.run(command, **ask)
            if done.returncode: raise SystemExit(done.stderr[-2000:])
            took[name] = time.perf_counter() - begun
        found["ours"].append(len(rows) / took["year"]); found["start"].append(took["hundred"])
        done = subprocess.run([sys.executable, "-c", PREDICT_PROBA, str(model), str(matrix)], check=True, **ask)
        found["sklearn"].append(len(rows) / json.loads(done.stdout)["seconds"])
    middling = {name: statistics.median(values) for name, values in found.items()}
    ratio = statistics.median(a / b for a, b in zip(found["ours"], found["sklearn"]))
    say("mlops score, rows/s against predict_proba on a ready frame", ratio, "times", 1.5,
        ours=middling["ours"], predict_proba=middling["sklearn"], rows=len(rows),
        **{"seconds of a hundred rows": middling["start"]})
    without = statistics.median(len(rows) / (len(rows) / a - c) / b for a, b, c in zip(*found.values()))
    say("the same, without the time that a hundred rows take", without, "times")


FIGURES = {f.__name__: f for f in (peak, latency, growth, batch, start, workers, score)}

if __name__ == "__main__":
    times, wanted = [int(a) for a in sys.argv[1:] if a.isdigit()], [a for a in sys.argv[1:] if not a.isdigit()]
    for name in wanted or FIGURES:
        with tempfile.TemporaryDirectory() as folder: FIGURES[name](Deployed(Path(folder)), times[0] if times else 3)
