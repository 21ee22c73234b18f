"""Servers that are treated badly, and ledgers kept outside of them.

For test_serving_faults.py, and for benchmarks/faults.py, which asks more often.
"""
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from helpers import MLOPS, ROOT, environment, free_port
from slots import put_in_slots

from mlops_lifecycle.core.serving.store import ServingLog, feedback, keys, ledger, predictions
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.problem.definition import example_of
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.plan import plan
from mlops_lifecycle.core.serving.predictor import trial_workspace

BODY, REACTION = json.dumps(example_of(problem.Request)).encode(), plan.reactions[0].name


class Server:
    """`mlops serve` in a process group of its own; `before` is a command that ends by starting it."""
    def __init__(self, workspace: Path, workers: int = 1, before: Sequence = (), **more):
        self.port, self.log = free_port(), workspace / f"server-{time.monotonic_ns()}.log"
        command = [*before, *MLOPS, "serve", "--port", self.port, "--workers", workers]
        self.process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, start_new_session=True,
            env=environment(MLOPS_WORKSPACE=workspace, OMP_NUM_THREADS=1, **more),
            stdout=self.log.open("w"), stderr=subprocess.STDOUT)
        until = time.monotonic() + 120
        while not self.ready():
            alive = self.process.poll() is None and time.monotonic() < until
            assert alive, f"the server did not start: {self.log.read_text()[-3000:]}"
            time.sleep(0.05)

    def ready(self) -> bool:
        with suppress(OSError, HTTPException): return Caller(self.port).send("GET", "/v2/health/ready")[0] == 200
        return False

    def workers(self) -> list[psutil.Process]:
        """The processes that answer; beside them stands one that only counts what processes share."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def kill(self) -> None:
        """kill -9, all at once."""
        with suppress(ProcessLookupError): os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:  # exit code
        """SIGTERM, and wait."""
        self.process.terminate()
        try: return self.process.wait(60)
        finally: self.kill()


class Caller:
    """One client on one connection, opened again when it breaks."""
    def __init__(self, port: int): self.port, self.connection, self.headers = port, None, None  # of the last answer

    def send(self, method: str, path: str, body: bytes | None = None, **headers) -> tuple[int, dict]:
        if self.connection is None: self.connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            self.connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
            answer = self.connection.getresponse()
            self.headers = answer.headers
            return answer.status, json.loads(answer.read() or b"null")
        except (OSError, HTTPException): self.connection.close(); self.connection = None; raise


class Ledger:
    """Callers that ask and react without a pause, and write down what was acknowledged: ids, and reactions to them."""
    def __init__(self, port: int, callers: int = 8):
        self.port, self.predictions, self.reactions, self.refused, self.stopped = port, [], [], [], threading.Event()
        self.threads = [threading.Thread(target=self.call, args=(n,), daemon=True) for n in range(callers)]
        for thread in self.threads: thread.start()

    def call(self, number: int) -> None:
        caller = Caller(self.port)
        while not self.stopped.is_set():
            try:
                status, told = caller.send("POST", "/v1/predict", BODY)
                if status != 200: self.refused.append((status, told)); time.sleep(0.01); continue
                self.predictions.append(told["prediction_id"])
                if number % 2: continue
                reaction = json.dumps({"prediction_id": told["prediction_id"], "reaction": REACTION}).encode()
                status, _ = caller.send("POST", "/v1/feedback", reaction)
                if status == 200: self.reactions.append(told["prediction_id"])
            except (OSError, HTTPException, ValueError): time.sleep(0.01)

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads: thread.join()


def missing(url, ledger: Ledger) -> dict[str, list]:
    """What was acknowledged and is not stored, and what is stored twice."""
    log = ServingLog(url)
    predictions, feedback = log.frames(); log.close()
    return {"predictions lost": sorted(set(ledger.predictions) - set(predictions["id"])),
            "reactions lost": sorted(set(ledger.reactions) - set(feedback["prediction_id"])),
            "stored twice": predictions["id"][predictions["id"].duplicated()].tolist()}


def killed_under_load(
    folder: Path, database: str = "", seconds: tuple[float, float] = (0.3, 1.2), seed: int | None = None,
) -> Ledger:
    """Four workers under load: first one of them is killed, then all and their parent. Nothing of the ledger is missing."""
    draw = random.Random(seed)
    trial_workspace(folder, problem, plan.model_dump(mode="json"))
    more = {"MLOPS_DATABASE": database} if database else {}
    if database: deploy_into(database, folder)
    server = Server(folder, workers=4, **more)
    ledger = Ledger(server.port)
    try:
        time.sleep(draw.uniform(*seconds))
        draw.choice(server.workers()).kill()
        time.sleep(draw.uniform(*seconds))
        server.kill()
    finally: server.kill(); ledger.stop()
    ended = server.process.returncode
    assert ended == -signal.SIGKILL, f"it had ended before it could be killed: {ended}"
    lost = missing(database or Workspace(folder).serving_db, ledger)
    assert not any(lost.values()), lost
    few = f"too little load to prove anything: {len(ledger.predictions)} predictions, refused: {ledger.refused[:3]}"
    assert len(ledger.predictions) > 20 and ledger.reactions, few
    again = Server(folder, workers=1, **more)  # what is left can be served from
    try: assert Caller(again.port).send("POST", "/v1/predict", BODY)[0] == 200
    finally: assert again.stop() in (0, -signal.SIGTERM)
    return ledger


def deploy_into(database: str, folder: Path) -> None:
    """The rule into the stable slot of another database, with no predictions, keys and deployments from before."""
    log = ServingLog(database)
    tables = feedback, predictions, keys, ledger
    log.database.write(lambda connection: [connection.execute(table.delete()) for table in tables])
    put_in_slots(log, stable=f"rule-{problem.rule.version}"); log.close()


class Database(str):
    """The URL of a database server that can go away, and come back where it was."""
    start = stop = None


def new_database(server: str, name: str) -> str:
    """The URL of a new database of a server."""
    import psycopg
    from psycopg import sql
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as link:
        link.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return f"{server.rpartition('/')[0]}/{quote(name, safe='')}"


@contextmanager
def postgresql():
    """A PostgreSQL of its own on loopback, in a folder that is thrown away, run by the user postgres where we are root."""
    installed = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), reverse=True)
    found = shutil.which("initdb") or next(iter(installed), None)
    assert found, "this test needs PostgreSQL: sudo apt-get install -y postgresql"
    programs, folder, port = Path(found).resolve().parent, Path(tempfile.mkdtemp(prefix="mlops-pg-")), free_port()
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_postgres: shutil.chown(folder, "postgres")
    run = lambda *words: subprocess.run([*as_postgres, *map(str, words)], check=True, capture_output=True, cwd="/")
    try:
        run(programs / "initdb", "-D", folder / "data", "-U", "mlops", "--auth=trust", "-E", "UTF8", "--no-sync")
        database = Database(f"postgresql+psycopg://mlops@127.0.0.1:{port}/postgres")
        control = programs / "pg_ctl", "-D", folder / "data"
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        database.start = lambda: run(*control, "-l", folder / "log", "-w", "-o", options, "start")
        database.stop = lambda: run(*control, "-m", "immediate", "stop")
        database.start()
        try: yield database
        finally: database.stop()
    finally: shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held_up(pid: int, milliseconds: int):
    """Every fdatasync and fsync of a process, and of its threads, takes so much longer, as long as the block lasts."""
    assert shutil.which("strace"), "this test needs strace: sudo apt-get install -y strace"
    delay = f"inject=fdatasync,fsync:delay_exit={milliseconds * 1000}"
    command = ["strace", "-f", "-q", "-o", os.devnull, "-e", delay, "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    time.sleep(0.5)
    assert tracer.poll() is None, tracer.stderr.read().decode()
    try: yield
    finally: tracer.terminate(); tracer.wait()


SMALL = """mount -t tmpfs -o size="$1" none "$2" && cp -a "$3/." "$2" && shift 3 && exec "$@" """


class SmallDisk:
    """A file system of a few megabytes that only one server sees: in a name space of its own, which needs no root."""
    def __init__(self, folder: Path, content: Path, size: str = "4m"):
        if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount a file system of their own")
        folder.mkdir()
        self.folder, self.server = folder, None
        self.before = ["unshare", "-Urm", "sh", "-c", SMALL, "sh", size, folder, content]

    def serve(self) -> Server:
        self.server = Server(self.folder, before=self.before)
        return self.server

    @property
    def inside(self) -> Path:
        """The folder as the server sees it."""
        return Path(f"/proc/{self.server.process.pid}/root{self.folder}")

    def fill(self) -> None:
        """Write until nothing more goes in."""
        with (self.inside / "ballast").open("ab", buffering=0) as ballast:
            with pytest.raises(OSError, match="No space left"):
                while True: ballast.write(bytes(512))

    def empty(self) -> None: (self.inside / "ballast").unlink()


def open_but_idle(port: int) -> socket.socket:
    """A connection on which nothing was said yet."""
    return socket.create_connection(("127.0.0.1", port), timeout=30)
