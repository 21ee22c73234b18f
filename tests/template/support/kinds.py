"""Each kind of source that changes, as a real thing that a test can change: files, databases, a log.
And the collecting of it in a process that can be killed.

`make test` kills a few times, `benchmarks/faults.py` many times; both use what stands here.
"""
import json
import logging.handlers
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qsl, urlsplit

import pandas as pd

from mlops_lifecycle.collect import acknowledge, collect, cursors_of, log_in_bronze, write_bronze
from mlops_lifecycle.core.data.change_capture import latest
from mlops_lifecycle.core.data.hooks import CollectHooks
from mlops_lifecycle.core.data.readers import Column
from mlops_lifecycle.core.pipeline.stage_run import StageRun
from mlops_lifecycle.core.pipeline.versions import open_workspace
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace

COLUMNS = {"loans": {
    "loan": Column("integer", "number of the loan"), "reader": Column("text", "number of the reader"),
    "days_late": Column("integer", "after the due date", "days")}}
START = pd.Timestamp("2024-03-01T09:00Z")


def nightly(folder: Path, columns: dict = COLUMNS, kinds: dict = MappingProxyType({})) -> StageRun:
    """What the notebook's run cell does, for the project in a folder."""
    settings = load_settings(folder, environ={})
    workspace = open_workspace(folder / "workspace")
    with StageRun("collect", settings=settings, workspace=workspace) as run:
        far = dict(cursors=cursors_of(workspace, settings.source), before=log_in_bronze(workspace, settings.source))
        write_bronze(run, collect(settings.source, folder, CollectHooks(COLUMNS=columns, KINDS=kinds), run.log(), **far))
    acknowledge(settings.source, folder, workspace)
    return run


class Project:
    """A folder with settings of one source, called loans."""
    kind, more, kinds = "database", "", {}

    def __init__(self, folder: Path, where: str):
        self.folder, self.workspace, self.rounds = folder, Workspace(folder / "workspace"), 0
        clock, source = "[clock]\nas_of = 2030-01-01T00:00Z\n", f"[source.loans]\nkind = {self.kind}\nwhere = {where}\n"
        (folder / "settings.ini").write_text(f"[project]\nname = library\n{clock}{source}key = loan\n{self.more}")

    def nightly(self) -> StageRun: return nightly(self.folder, kinds=self.kinds)

    @property
    def events(self) -> pd.DataFrame: return self.workspace.read("bronze.loans")

    def state(self, columns: dict = COLUMNS["loans"]) -> dict:
        """What silver would say: {loan: (reader, days late)} of all that are not deleted."""
        table, aside = latest(self.events, columns, "loans")
        assert not aside
        rows = table[~table.deleted].itertuples()
        return {row.loan: (row.reader, None if pd.isna(row.days_late) else int(row.days_late)) for row in rows}

    def verify(self) -> None:
        """Bronze holds each change once, and the state is the source's."""
        truth, events = self.truth(), self.events
        assert events.event_id.is_unique and not events.duplicated(["key", "op", "position", "row"]).any()
        assert self.state() == truth


class Table(Project):
    """A table with a time of change, in SQLite."""
    more = "table = loans\ncursor = changed\n"

    def __init__(self, folder: Path):
        super().__init__(folder, "sqlite:///library.db")
        self.link = sqlite3.connect(folder / "library.db")
        self.run("create table loans (loan bigint primary key, reader text, days_late integer, changed text)")

    def run(self, sql: str, rows: list = ()):
        with self.link: self.link.executemany(sql, rows) if rows else self.link.execute(sql)

    def rows(self, sql: str) -> list: return self.link.execute(sql).fetchall()

    def change(self) -> None:
        """Ten loans come, some of the earlier ones change."""
        now = str((START + pd.Timedelta(self.rounds, unit="h")).tz_localize(None))
        new = [(self.rounds * 10 + i, f"{i:03d}", None, now) for i in range(10)]
        self.run("insert into loans values (?, ?, ?, ?)", new)
        self.run(f"update loans set days_late = {self.rounds}, changed = '{now}' where loan % 7 = {self.rounds % 7}")
        self.rounds += 1

    def truth(self) -> dict:
        rows = self.rows("select loan, reader, days_late from loans")
        return {loan: (reader, late) for loan, reader, late in rows}


class Postgres:
    """A PostgreSQL of its own on loopback, as the user postgres where we are root."""
    def __init__(self):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        program = found[-1] if found else Path(shutil.which("initdb") or "no PostgreSQL: make database installs it")
        self.bin, self.user = program.parent, "postgres" if os.getuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        if self.user: shutil.chown(self.folder, self.user)
        with socket.create_server(("127.0.0.1", 0)) as one: self.port = one.getsockname()[1]
        self.call("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8")
        options = " ".join(f"-c {name}={value}" for name, value in self.settings().items())
        address = f"-p {self.port} -k {self.folder}"
        self.call("pg_ctl", "-w", "-l", self.folder / "log", "-o", f"{address} {options}", "start")
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def settings(self) -> dict:
        """What it is started with, as far as its version knows it: an older one takes any plugin."""
        asked = [self.bin / "postgres", "--describe-config"]
        done = subprocess.run(asked, user=self.user, cwd=self.folder, check=True, capture_output=True, text=True)
        wanted = {"listen_addresses": "127.0.0.1", "fsync": "off", "wal_level": "logical",
                  "max_replication_slots": 80, "output_plugin_libraries": "wal2json"}
        return {name: value for name, value in wanted.items() if f"{name}\t" in done.stdout}

    def call(self, program: str, *arguments) -> None:
        command = [self.bin / program, "-D", self.folder / "data", *map(str, arguments)]
        subprocess.run(command, user=self.user, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

    def __enter__(self): return self

    def __exit__(self, *_):
        self.call("pg_ctl", "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder)


class PostgresTable(Table):
    """The same table in PostgreSQL."""
    def __init__(self, folder: Path, server: Postgres):
        import psycopg
        Project.__init__(self, folder, server.url)
        self.link = psycopg.connect(server.url, autocommit=True)
        self.run("drop table if exists loans")
        self.run("create table loans (loan bigint primary key, reader text, days_late integer, changed timestamp)")

    def run(self, sql: str, rows: list = ()):
        with self.link.cursor() as cursor:
            cursor.executemany(sql.replace("?", "%s"), rows) if rows else cursor.execute(sql)


class Slot(PostgresTable):
    """The table's changes from PostgreSQL's own log."""
    kind = "changes"

    def __init__(self, folder: Path, server: Postgres, group: str = "library"):
        self.more = f"table = loans\n{f'group = {group}' if group else ''}\n"
        super().__init__(folder, server)
        self.group, self.made = group, 0

    def change(self) -> None:
        """Loans come, change, move to another number and go; the log says each of it."""
        n = self.rounds * 10
        self.run("insert into loans values (?, ?, null, now())", [(n + i, f"{i:03d}") for i in range(10)])
        self.run(f"update loans set days_late = {self.rounds} where loan % 7 = {self.rounds % 7}")
        self.run(f"update loans set loan = loan + 1000000 where loan = {n + 1}")
        self.run(f"delete from loans where loan = {n + 2}")
        self.rounds += 1


class Debezium(Project):
    """Debezium's envelopes in files that grow and are renamed; some come late, some twice."""
    kind = "changes"

    def __init__(self, folder: Path):
        super().__init__(folder, "out/loans.jsonl*")
        (folder / "out").mkdir()
        self.table, self.lsn, self.late, self.sent = {}, 100, [], 0

    def envelope(self, op: str, loan: int, after: dict | None) -> str:
        self.lsn += 8
        before = {"loan": loan} if after is None else None
        moment = 1709283600000 + self.lsn
        told = {"op": op, "before": before, "after": after, "ts_ms": moment}
        return json.dumps({"payload": told | {"source": {"lsn": self.lsn, "ts_ms": moment}}}) + "\n"

    def change(self) -> None:
        n, lines = self.rounds * 10, self.late
        for loan in range(n, n + 10):
            self.table[loan] = (f"{loan:03d}", None)
            lines.append(self.envelope("c", loan, {"loan": loan, "reader": f"{loan:03d}", "days_late": None}))
        held = []
        for loan in [loan for loan in self.table if loan % 7 == self.rounds % 7]:
            reader, _ = self.table[loan]
            held.append(self.envelope("u", loan, {"loan": loan, "reader": reader, "days_late": self.rounds}))
            self.table[loan] = (reader, self.rounds)
        del self.table[n + 3]
        lines.append(self.envelope("d", n + 3, None))
        self.late = held[::2]  # come in the next round, behind newer ones
        lines += held[1::2] + lines[-1:]
        with open(self.folder / "out" / "loans.jsonl", "a") as file: file.writelines(lines)
        if self.rounds % 3 == 2:
            out = self.folder / "out"
            (out / "loans.jsonl").rename(out / f"loans.jsonl.{self.rounds}")
        self.rounds += 1

    def truth(self) -> dict:
        if self.late:  # nothing is held back when it is asked
            with open(self.folder / "out" / "loans.jsonl", "a") as file: file.writelines(self.late)
            self.late = []
            self.nightly()
        return self.table


BROKERS = """
import sys
from confluent_kafka import Producer
producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
broker, = producer.list_topics(timeout=10).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""


class Brokers:
    """A cluster that speaks Kafka's protocol, in a process of its own."""
    def __init__(self):
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen([sys.executable, "-c", BROKERS], **pipes)
        self.address = self.process.stdout.readline().strip()

    def __enter__(self): return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(10)


class Stream(Project):
    """A topic with four partitions; the same loan always goes to the same one."""
    kind = "stream"

    def __init__(self, folder: Path, brokers: Brokers, topic: str):
        from confluent_kafka import Producer
        self.more, self.topic = f"topic = {topic}\ngroup = library\n", topic
        super().__init__(folder, brokers.address)
        self.table, self.producer, self.sent = {}, Producer({"bootstrap.servers": brokers.address, "log_level": 0}), 0

    def send(self, loan: int, row: dict | None):
        self.producer.produce(self.topic, key=str(loan), value=None if row is None else json.dumps(row))
        self.sent += 1

    def change(self) -> None:
        n = self.rounds * 10
        for loan in range(n, n + 10): self.table[loan] = (f"{loan:03d}", None)
        for loan in [loan for loan in self.table if loan % 7 == self.rounds % 7]:
            self.table[loan] = (f"{loan:03d}", self.rounds)
        for loan, (reader, late) in self.table.items(): self.send(loan, {"reader": reader, "days_late": late})
        del self.table[n + 3]
        self.send(n + 3, None)
        assert self.producer.flush(20) == 0
        self.rounds += 1

    def truth(self) -> dict:
        assert len(self.events) == self.sent  # each message once
        return self.table

    def verify(self) -> None:
        truth = self.truth()
        assert self.events.event_id.is_unique and self.state() == truth


class Log(Project):
    """The log of a real process, rotated by size while it writes."""
    kind = "log"

    def __init__(self, folder: Path):
        super().__init__(folder, "log/desk.jsonl*")
        (folder / "log").mkdir()
        path = folder / "log" / "desk.jsonl"
        self.handler = logging.handlers.RotatingFileHandler(path, maxBytes=2_000, backupCount=1_000)
        self.table = {}

    def change(self) -> None:
        for loan in range(self.rounds * 40, self.rounds * 40 + 40):
            self.table[loan] = (f"{loan:03d}", loan % 5)
            line = json.dumps({"loan": loan, "reader": f"{loan:03d}", "days_late": loan % 5})
            self.handler.emit(logging.makeLogRecord({"msg": line}))
        self.rounds += 1

    def truth(self) -> dict:
        assert len(self.events) == len(self.table)
        return self.table


class Server(ThreadingHTTPServer):
    """A web server on loopback that pages, fails and stalls as it is told; `seen` says when it was asked for what."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.seen, self.faults, self.robots, self.rows = [], [], (200, "User-agent: *\nDisallow: /private\n"), []
        self.home = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_): pass  # a client that was killed

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, query = urlsplit(self.path).path, dict(parse_qsl(urlsplit(self.path).query))
        self.server.seen.append((time.monotonic(), self.path))
        if path == "/robots.txt": return self.give(*self.server.robots, "text/plain")
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "stall": time.sleep(1.5); return self.give(200, "{}")
        if fault == "cut": return self.give(200, '{"items": [', extra={"Content-Length": "9999"})
        if fault == "cut in pieces":  # a length nobody stated: one piece of it, and no last one
            self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
            self.wfile.write(b"16\r\nloan,reader,days_late\n\r\n"); self.close_connection = True
            return None
        if fault:
            code, later = fault if isinstance(fault, tuple) else (fault, "0")
            return self.give(code, "not now", "text/plain", {"Retry-After": later})
        if path.endswith(".csv"):
            lines = (f"{r['loan']},{r['reader']},{r['days_late']}\n" for r in self.server.rows)
            return self.give(200, "loan,reader,days_late\n" + "".join(lines), "text/csv")
        size, page = int(query.get("size", 7)), int(query.get("page", 1))
        rows = [row for row in self.server.rows if row["changed"] >= int(query.get("since", 0))]
        more, some = page * size < len(rows), rows[(page - 1) * size:page * size]
        onward = f"{path}?page={page + 1}&size={size}&since={query.get('since', 0)}"
        if path == "/loans":
            onward = self.server.home + onward if more else None
            return self.give(200, json.dumps({"total": len(rows), "items": some, "next": onward}))
        if path == "/linked":
            link = f'<{self.server.home}/linked{onward[7:]}>; rel="next"'
            return self.give(200, json.dumps(some), extra={"Link": link} if more else {})
        late = lambda row: "" if row["days_late"] is None else row["days_late"]
        cells = (f"<tr><td>{row['loan']}</td><td>{row['reader']}</td><td>{late(row)}</td></tr>" for row in some)
        header = "<tr><th>loan</th><th>reader</th><th>days_late</th></tr>"
        link = f'<a rel="next" href="{onward}">next</a>' if more else ""
        self.give(200, f"<table>{header}{''.join(cells)}</table>{link}", "text/html")

    def give(self, code: int, text: str, kind: str = "application/json", extra: dict | None = None):
        self.send_response(code)
        headers = {"Content-Type": kind, "Content-Length": str(len(text.encode()))} | (extra or {})
        for name, value in headers.items(): self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())
        self.close_connection = "Content-Length" in (extra or {})

    def log_message(self, *_): pass


class Api(Project):
    """An API with a cursor, on a server that fails now and then."""
    kind = "api"

    def __init__(self, folder: Path, server: Server, more: str = ""):
        self.more, self.server = f"cursor = changed\ncursor_parameter = since\nrate = 500\ntimeout = 1\n{more}", server
        server.rows = []
        super().__init__(folder, f"{server.home}/loans")

    def change(self) -> None:
        for row in self.server.rows:
            if row["loan"] % 7 == self.rounds % 7: row |= {"days_late": self.rounds, "changed": self.rounds}
        self.server.rows += [{"loan": self.rounds * 10 + i, "reader": f"{i:03d}", "days_late": None,
                              "changed": self.rounds} for i in range(10)]
        self.server.faults = [429, None, 503] if self.rounds % 2 else []
        self.rounds += 1

    def truth(self) -> dict: return {row["loan"]: (row["reader"], row["days_late"]) for row in self.server.rows}


STEPS = ("workspace.py", "run.py", "collect.py")  # between whose calls and returns a process may be killed


def one_night(folder: Path, say, kill_at: int) -> None:
    """One night's collecting, in a process of its own; it kills itself at one of its steps, or says how many it has."""
    steps = 0
    def step(frame, what, _):
        nonlocal steps
        if what in ("call", "return") and frame.f_code.co_filename.endswith(STEPS):
            steps += 1
            if steps == kill_at: os.kill(os.getpid(), signal.SIGKILL)
    say.send("begun")
    sys.setprofile(step)
    nightly(folder)
    sys.setprofile(None)
    say.send(steps)


PRELOADED = ["mlops_lifecycle.collect", "mlops_lifecycle.core.pipeline.stage_run", "deltalake", "pyarrow.dataset", "sqlalchemy",
             "psycopg", "confluent_kafka", "dlt.sources.helpers.rest_client"]  # imported once, forked many times


class Nights:
    """Collect in processes of their own, and kill some of them: at a random moment, or at a random step."""
    def __init__(self, project: Project, seed: int):
        self.project, self.random, self.seconds, self.steps = project, random.Random(seed), [], []
        self.server = multiprocessing.get_context("forkserver")
        self.server.set_forkserver_preload(PRELOADED)

    def night(self, kill: str = "") -> int:
        """The exit code; a killed process has minus nine."""
        ours, theirs = self.server.Pipe(duplex=False)
        kill_at = self.random.randint(1, max(self.steps)) if kill == "step" else 0
        process = self.server.Process(target=one_night, args=(self.project.folder, theirs, kill_at))
        process.start(); theirs.close(); ours.recv()
        began = time.perf_counter()
        if kill == "moment" and not ours.poll(self.random.uniform(0, max(self.seconds))):
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        if not kill and process.exitcode == 0:
            self.seconds.append(time.perf_counter() - began); self.steps.append(ours.recv())
        return process.exitcode

    def run(self, kills: int) -> list[int]:
        """Whole nights and killed ones in turn, until so many were killed in the middle; the next run makes it good.

        The exit codes of the nights that were to be killed: some are done before the blow falls and do not count.
        """
        self.project.change()
        assert self.night() == 0
        codes = []
        while codes.count(-signal.SIGKILL) < kills:
            assert len(codes) < 10 * kills, f"nearly every night is done before it can be killed: {codes}"
            self.project.change()
            codes.append(code := self.night(kill="moment" if len(codes) % 2 else "step"))
            assert code in (0, -signal.SIGKILL), code
            assert self.project.events.event_id.is_unique  # whatever is published is whole
            if self.random.random() < 0.5: self.project.change()
            assert self.night() == 0
            self.project.verify()
        return codes
