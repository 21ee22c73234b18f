"""Climbs of a canary through the running app: `make bench`, or `python benchmarks/climbs.py [figure …]`, where a figure is one of
honest, verdict, twenty; all when none is named.

The app serves a copy of the settings' workspace with two workers, and past flights are played to it over HTTP in order of time
(`core.operations.traffic_replay`), under the clock of then: those of every third flight number, the last 2,000 before the first day,
which the new release scores in the shadow, and the days from then on. Each request has an Idempotency-Key and is sent once more where
nothing answered, or the server was at fault; outcomes are reported when they became known. Releases are approved, deployed and promoted
over HTTP, with a key. The controller is a process of its own on the same ledger and log, which looks at the end of each day and has
nobody to ask. The models are those of the recipe of 07, trained at the first of April and of June.

honest: June climbs against April from five days of the year. At each share the controller is killed (-9) in the middle of a look and
another one goes on, and one of the two workers is killed under load. Counted are requests that failed twice, and predictions that the
log holds more or less often than once.

verdict: the app, `mlops operate` and a release that has lost its categories work by the wall clock, on flights moved to today, under
steady load. Measured is the time from the ledger's entry of the roll back to the last answer by the release, as its callers saw it.

twenty: releases drawn by a seed, half of them honest (the recipe of 07, other months and seeds) and half with a fault
(`core.operations.fault_injection`), each against the model of April from a day that is drawn, too. Printed are how many of each were
promoted, rolled back or not told apart, and which share of the requests a fault answered until its verdict.

What is trained, and the year's requests, are kept in workspace/benchmarks/climbs.
Prints one JSON line a figure, and a table for people on standard error.
"""
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # arrays are small: threads only wait

import json
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import pandas as pd
import psutil
import sqlalchemy as sa

from quality import ROOT, Year, say
from serving import MLOPS, Deployed
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.models.features import within_reach
from mlops_lifecycle.core.models.release import write_release
from mlops_lifecycle.core.operations.fault_injection import ALLOW, FAULTS, faulty_release
from mlops_lifecycle.core.operations.traffic_replay import (
    Answer, Client, Outside, Remembering, Traffic, reactions_of, requests_of, running,
)
from mlops_lifecycle.core.serving.auth import make_key
from mlops_lifecycle.core.serving.ledger import Act, Ledger
from mlops_lifecycle.core.serving.store import ServingLog, predictions
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.plan import plan
from mlops_lifecycle.serving import APP
from mlops_lifecycle.train import estimators, search_space, train
from mlops_lifecycle.transform import FEATURES

HOME = ROOT / "workspace" / "benchmarks" / "climbs"
STABLE, BETTER = (4, 0), (6, 0)  # the month at whose first day a model was trained, and its seed
SHADOW, LONGEST, EVERY = 2_000, 31, 3  # requests before the first day; days at most; of so many flight numbers one is played
REACTIONS = reactions_of(plan.model_dump(mode="json"))
SERVE = ("from mlops_lifecycle.core.serving.server import run_server; from mlops_lifecycle.core.serving.workers import WorkerRange; "
         "run_server({app!r}, '127.0.0.1', {{port}}, WorkerRange(2, 2))")
CONTROLLER = """
import json, sys
from datetime import datetime
from mlops_lifecycle.core.operations.controller import Controller
from mlops_lifecycle.core.problem.costs import costs_of
from mlops_lifecycle.release_commands import project_with_ledger
with project_with_ledger() as project:
    limits, costs = project.settings.canary, costs_of(project.settings, project.problem.kind)
    controller = Controller(project.ledger, project.releases, project.problem, costs, limits)
    print("ready", flush=True)
    for line in sys.stdin:
        tick = controller.tick(datetime.fromisoformat(line.strip()))
        said = {"action": tick.action, "reason": tick.reason, "share": tick.share, "ended": tick.ended}
        found = {"finding": tick.verdict.finding, "guard": tick.verdict.guard} if tick.verdict else {}
        print(json.dumps(said | found), flush=True)
    controller.close()
"""


# What is deployed, and what is asked -----------------------------------------------------------------------------------------

@cache
def base() -> Path:
    """A workspace with the plan, the key of pseudonyms and the rule of a finished one, and beside it the year's requests."""
    folder = HOME / "base"
    if (folder / "made").exists(): return folder
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as aside:
        there = Deployed.finished(Path(aside))
        left = shutil.ignore_patterns("runs", "mlflow*", "serving.db*", "lake", "training", "model-*", "lock", "benchmarks")
        shutil.copytree(there, folder, ignore=left)
    whole, names = Year(str(folder)), Remembering(Workspace(folder).pseudonyms)
    whole.workspace.pseudonyms = names
    gold = whole.gold(whole.tables)
    examples = gold.examples[gold.examples[problem.target].notna()].sort_values("decision_time", kind="stable")
    examples.to_parquet(folder / "examples.parquet")
    for name, table in gold.lookups.items(): table.to_parquet(folder / f"lookup-{name}.parquet")
    (folder / "names.json").write_text(json.dumps(names.names))
    (folder / "made").touch()
    return folder


@cache
def year() -> pd.DataFrame:
    """The requests of every third flight number, with their outcomes, in order of time."""
    rows = pd.read_parquet(base() / "examples.parquet")
    return rows[rows.flight % EVERY == 0].rename(columns={problem.target: "outcome"}).reset_index(drop=True)


@cache
def lookups() -> dict[str, pd.DataFrame]:
    return {one.name: pd.read_parquet(base() / f"lookup-{one.name}.parquet") for one in FEATURES.lookups}


@cache
def names() -> dict: return json.loads((base() / "names.json").read_text())


@cache
def model(month: int, seed: int) -> Path:
    """The release of a model of the recipe of 07, trained at the first of a month; made once, and kept."""
    folder = HOME / "models" / f"{month:02}-{seed}"
    if not (found := sorted(folder.glob("model-*"))):
        settings, as_of = load_settings(ROOT, environ={}), pd.Timestamp(2013, month, 1, tz="UTC")
        examples = pd.read_parquet(base() / "examples.parquet")
        known = examples[examples.decision_time < as_of]
        best = min(train(known, FEATURES, problem, settings, as_of, estimators, seed=seed, search_space=search_space),
                   key=lambda c: c.metrics["cost"])
        manifest = {
            "kind": "model", "name": best.name, "decides": problem.kind, "as_of": as_of.isoformat(), "problem": problem.name,
            "threshold": best.metrics["threshold"], "encoder": best.encoder.to_dict(), "calibration": best.calibration,
            "features": FEATURES.describe(), "seed": seed}
        found = [write_release(folder, manifest, {}, best.estimator)]
    return found[0]


# The product, its users, and its controller ----------------------------------------------------------------------------------

class Users(Client):
    """Callers who name each request, and send it once more where nothing answered or the server was at fault."""
    def __init__(self, port: int, key: str, connections: int = 8, patience: float = 60.0):  # until a killed worker was replaced
        super().__init__(port, connections, patience)
        self.key, self.named, self.again, self.failed = key, set[str](), 0, list[str]()

    def send(self, calls) -> list[Answer]:
        named = [self.name(*call) for call in calls]
        answers = super().send(named)
        once_more = [place for place, answer in enumerate(answers) if lost(answer)]
        anew = Client(self.port, 8, self.patience)  # on new connections: the old ones may have broken, too
        for place, answer in zip(once_more, anew.send([named[place] for place in once_more])): answers[place] = answer
        anew.pool.shutdown()
        self.again += len(once_more)
        self.failed += [f"{call[1]}: {answer}" for call, answer in zip(named, answers) if lost(answer)]
        return answers

    def name(self, method: str, path: str, body: bytes | None, headers: dict):
        """The call with a key, and where it is a request with a name of its own."""
        more = {"Authorization": f"Bearer {self.key}"}
        if path == "/v1/predict":
            more["Idempotency-Key"] = uuid5(NAMESPACE_URL, f"{headers} {body}").hex
            self.named.add(more["Idempotency-Key"])
        return method, path, body, more | headers

    def post(self, path: str, **body) -> dict:
        """What an operator asks for; ends where it is refused."""
        answer, = self.send([("POST", path, json.dumps(body).encode(), {})])
        if answer.status != 200: raise SystemExit(f"{path} {body}: {answer.status} {answer.content}")
        return answer.content


def lost(answer: Answer) -> bool: return answer.status == 0 or answer.status >= 500


class Controller:
    """A controller in a process of its own, and another one that is ready to take its place."""
    def __init__(self, environ: dict):
        self.environ, self.kills = os.environ | environ, 0
        self.first, self.second = self.start(), self.start()

    def start(self) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", CONTROLLER], cwd=ROOT, env=self.environ, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def look(self, clock: datetime, killed_after: float | None = None) -> dict:
        """What a look at a moment comes to; by the second one, where the first was killed so many seconds after it began."""
        if not self.begun(self.first, clock): raise SystemExit("the controller did not start")
        if killed_after is not None:
            time.sleep(killed_after)
            self.first.kill()
            rest = self.first.communicate()[0]
            self.kills += not rest  # else it was done before
            self.first, self.second = self.second, self.start()
            self.begun(self.first, clock)
        said = self.first.stdout.readline()
        if not said: raise SystemExit("the controller ended")
        return json.loads(said)

    def begun(self, process: subprocess.Popen, clock: datetime) -> bool:
        """Whether it is there, and was asked."""
        if not hasattr(process, "ready"): process.ready = process.stdout.readline() == "ready\n"
        process.stdin.write(f"{clock.isoformat()}\n"); process.stdin.flush()
        return process.ready

    def close(self) -> None:
        for process in (self.first, self.second): process.kill(); process.communicate()


@contextmanager
def product(releases: list[Path], rows: pd.DataFrame, moved: pd.Timedelta | None = None):
    """The app at work on a copy, with the first release as the stable one: its users, its log, and the environment of all processes.

    It works by the clock of the rows, or where they were moved, by the wall's.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, output = Path(folder) / "workspace", open(Path(folder) / "app.log", "wb")
        shutil.copytree(base(), root, ignore=shutil.ignore_patterns("*.parquet", "names.json"))
        for release in releases: shutil.copytree(release, root / "releases" / release.name)
        log, rule = ServingLog(root / "serving.db"), f"rule-{problem.rule.version}"
        ledger, key = Ledger(log), make_key(log, "benchmark", ("predict", "feedback", "admin"))
        ledger.register(rule, Act("12_release"), Act("automatic"))
        ledger.deploy(rule, Act("13_deploy"))
        for lookup in FEATURES.lookups:
            table = lookups()[lookup.name]
            if moved is not None: table = table.assign(known_at=table.known_at + moved)
            log.lookups.put(lookup, within_reach(lookup, table, rows.decision_time))
        environ = {"MLOPS_WORKSPACE": str(root), "MLOPS_SETTINGS": str(ROOT / "settings.ini"), "OMP_NUM_THREADS": "1",
                   "MLOPS_RELEASE__ALLOW": ", ".join(ALLOW)}
        with running(SERVE.format(app=APP), output, environ=environ | ({} if moved is not None else {"MLOPS_REPLAY": "1"})) as port:
            users = Users(port, key)
            deploy(users, releases[0].name)
            users.post("/v1/admin/promote", force=True, reason="it served before")
            yield users, log, environ
        log.close(); output.close()


def deploy(users: Users, id: str) -> None:
    """Approve a release and put it beside what serves."""
    users.post("/v1/admin/approve", release=id, reason="read the card")
    users.post("/v1/admin/deploy", release=id)


def workers() -> list[psutil.Process]:
    """The processes that answer."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just been killed
            if one.is_running() and "spawn_main" in " ".join(one.cmdline()): found.append(one)
    return found


# Climbs ----------------------------------------------------------------------------------------------------------------------

@dataclass
class Climbed:
    """How a climb through the app ended."""
    looks: list[dict] = field(default_factory=list)  # of `Controller.look`, each with its day
    asked: int = 0       # requests of the climb
    answered: int = 0    # of these, by the new release
    again: int = 0       # requests that were sent once more
    failed: list[str] = field(default_factory=list)  # what failed then, too
    kills: tuple[int, int] = 0, 0  # of controllers in the middle of a look, and of workers
    stored_otherwise: int = 0      # predictions that are not in the log exactly once
    seconds: float = 0.0

    @property
    def end(self) -> str:
        """promote, roll back, or not told apart: for that alone it was rolled back, or the days were over."""
        last = self.looks[-1]
        alike = last["action"] == "roll back" and last["finding"] == "not told apart" and not last["guard"]
        return "not told apart" if alike or not last["ended"] else last["action"]

    @property
    def days(self) -> int: return self.looks[-1]["day"]

    def shares(self) -> str:
        """The first day at each share."""
        first = {look["share"]: look["day"] for look in reversed(self.looks)}
        return ", ".join(f"{share:g} % from day {day}" for share, day in sorted(first.items()))


def climb(old: Path, new: Path, start: pd.Timestamp, draw: random.Random, kill: bool = False) -> Climbed:
    """Let a release climb against another one from a day on."""
    time_of, began, found = year().decision_time, time.monotonic(), Climbed()
    first = max(int((time_of < start).sum()) - SHADOW, 0)
    rows = year()[first:int((time_of < start + pd.Timedelta(days=LONGEST)).sum())].reset_index(drop=True)
    with product([old, new], rows) as (users, log, environ):
        controller, hit = Controller(environ), set[tuple[str, float]]()
        outside, share = Outside(users, requests_of(rows, problem.Request, names()), REACTIONS), 0.0
        def ask(part: pd.DataFrame) -> pd.DataFrame:
            if kill and share > 0 and ("worker", share) not in hit and len(there := workers()) > 1:
                hit.add(("worker", share))
                threading.Timer(draw.uniform(0, 0.2), draw.choice(there).kill).start()
            return outside.ask(part)
        traffic = Traffic(rows, ask, outside.tell)
        try:
            for clock in traffic.days():
                if clock < start: continue
                if clock == start: deploy(users, new.name)
                after = draw.uniform(0.05, 0.5) if kill and ("controller", share) not in hit else None
                hit.add(("controller", share))
                look = controller.look(clock.to_pydatetime(), after)
                found.looks.append(look | {"day": (clock - start).days})
                share = log.deployment.get()["share"]
                if look["ended"]: break
        finally: controller.close()
        of_climb = traffic.decisions[traffic.rows.decision_time[:traffic.at] >= start]
        found.asked, found.answered = len(of_climb), int((of_climb.arm == "canary").sum())
        found.again, found.failed = users.again, users.failed
        found.kills = controller.kills, sum(what == "worker" for what, _ in hit)
        with log.database.read() as connection: stored = list(connection.execute(sa.select(predictions.c.id)).scalars())
        found.stored_otherwise = len(set(stored) ^ {*outside.ids.values()}) + abs(len(stored) - len(users.named))
    found.seconds = time.monotonic() - began
    return found


# Figures ---------------------------------------------------------------------------------------------------------------------

def honest(count: int = 5) -> None:
    old, new = model(*STABLE), model(*BETTER)
    found = []
    for number, start in enumerate(pd.date_range("2013-06-08", "2013-10-31", periods=count, tz="UTC").floor("D")):
        found.append(one := climb(old, new, start, random.Random(number), kill=True))
        print(f"{start:%d %B}: {one.end} on day {one.days}, {one.shares()}; {one.looks[-1]['reason']}; {one.asked} requests, "
              f"{one.again} sent again, failed {one.failed}, killed {one.kills}, {one.seconds:.0f} s", file=sys.stderr, flush=True)
    ends = Counter(one.end for one in found)
    say(f"June against April, {count} climbs through the app: promoted", ends["promote"], f"of {count}", None, "higher", dict(ends))
    say("days until the verdict, median", float(pd.Series([one.days for one in found]).median()), "days", None, "lower",
        {"requests of a climb": float(pd.Series([one.asked for one in found]).median()),
         "share answered by the new release": sum(one.answered for one in found) / sum(one.asked for one in found)})
    kills = [sum(number) for number in zip(*(one.kills for one in found))]
    say("failed requests over these climbs, after one retry", sum(len(one.failed) for one in found), "requests", 0, "lower",
        {"requests": sum(one.asked for one in found), "sent again": sum(one.again for one in found),
         "controllers killed in the middle of a look": kills[0], "workers killed": kills[1]})
    say("predictions that the log does not hold exactly once", sum(one.stored_otherwise for one in found), "predictions", 0)


def without_categories(release: Path) -> Path:
    """The release, as if it had been trained where each category but the first was unknown."""
    manifest = json.loads((release / "manifest.json").read_text())
    kept = {name: value for name, value in manifest.items() if name not in ("id", "quick")}
    known = {name: values[:1] for name, values in manifest["encoder"]["categories"].items()}
    encoder = manifest["encoder"] | {"categories": known}
    return write_release(HOME / "faults", kept | {"encoder": encoder}, {}, (release / "model.skops").read_bytes())


class Load:
    """Callers who ask without a pause, and note when they were answered, and under which id."""
    def __init__(self, users: Users, bodies: list[bytes], callers: int = 4):
        self.users, self.bodies, self.answers, self.stopped = users, bodies, list[tuple[float, str]](), threading.Event()
        self.threads = [threading.Thread(target=self.call, args=(7 * one,), daemon=True) for one in range(callers)]
        for thread in self.threads: thread.start()

    def call(self, place: int) -> None:
        client = Client(self.users.port, 1, self.users.patience)
        while not self.stopped.is_set():
            place = (place + 1) % len(self.bodies)
            answer, = client.send([("POST", "/v1/predict", self.bodies[place], {"Authorization": f"Bearer {self.users.key}"})])
            if answer.status == 200: self.answers.append((time.time(), answer.content["prediction_id"]))

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads: thread.join()


def seconds_after(old: Path, bad: Path, then: pd.Timestamp, after: float = 3.0) -> tuple[float, int]:
    """Seconds from the roll back of a release to its last answer, and how many it gave; flights of then are asked about today."""
    moved = pd.Timestamp.now(tz="UTC").floor("s") - then
    rows = year()[year().decision_time.between(then - pd.Timedelta("2h"), then + pd.Timedelta("10min"))].reset_index(drop=True)
    rows = rows.assign(**{name: rows[name] + moved for name in rows if isinstance(rows[name].dtype, pd.DatetimeTZDtype)})
    with product([old, bad], rows, moved) as (users, log, environ):
        load = Load(users, requests_of(rows, problem.Request, names()))
        users.post("/v1/admin/approve", release=bad.name, reason="read the card")
        users.post("/v1/admin/deploy", release=bad.name, share=0.5, reason="half of them")
        looked = subprocess.run([*MLOPS, "operate", "--pause", "0.2"], cwd=ROOT, env=os.environ | environ, capture_output=True,
                                text=True, timeout=120)
        time.sleep(after)
        load.stop()
        entry, of_bad = Ledger(log).entries()[-1], sa.select(predictions.c.id).where(predictions.c.release == bad.name)
        if entry.event != "roll back": raise SystemExit(f"it was not rolled back: {looked.stdout[-2000:]}{looked.stderr[-2000:]}")
        with log.database.read() as connection: ids = set(connection.execute(of_bad).scalars())
        answered = [at for at, id in load.answers if id in ids]
        return max(answered) - entry.at / 1e6, len(answered)


def verdict(rounds: int = 5) -> None:
    old, bad = model(*STABLE), without_categories(model(*BETTER))
    days = pd.date_range("2013-07-10T16:00Z", periods=rounds)
    seconds, answers = zip(*(seconds_after(old, bad, then) for then in days))
    say("verdict to the last answer by the release that was rejected, longest", max(seconds), "s", 2, "lower",
        {"median": float(pd.Series(seconds).median()), "rounds": rounds, "answers by it before, least": min(answers)})


@dataclass
class Drawn:
    """A release that is to climb, and from when."""
    what: str     # "honest", or the name of its fault
    folder: Path
    start: pd.Timestamp


def with_fault(release: Path, fault: str, before: pd.DataFrame) -> Path:
    """A release with a fault, in a folder of its own."""
    aside = HOME / "faults" / release.name
    if not aside.exists(): shutil.copytree(release, aside)
    return faulty_release(aside, fault, before)


def drawn(count: int, seed: int) -> list[Drawn]:
    """Half of them honest, half with a fault; each fault at least once, where there are enough."""
    draw, days = random.Random(seed), pd.date_range("2013-06-08", "2013-10-31", tz="UTC")
    recipes = [(month, seed) for month in (4, 6) for seed in (0, 1, 2) if (month, seed) != STABLE]
    faults = [*draw.sample([*FAULTS], k=min(count // 2, len(FAULTS))), *draw.choices([*FAULTS], k=max(count // 2 - len(FAULTS), 0))]
    found = [Drawn("honest", model(*draw.choice(recipes)), draw.choice(days)) for _ in range(count - len(faults))]
    for fault in faults:
        start, of = draw.choice(days), model(*draw.choice(recipes))
        last = year()[year().decision_time < start][-SHADOW:]
        found.append(Drawn(fault, with_fault(of, fault, last[list(problem.Request.model_fields)]), start))
    return draw.sample(found, k=count)


def twenty(count: int = 20, seed: int = 17) -> None:
    began, ends, exposed = time.monotonic(), Counter(), {}
    for number, one in enumerate(drawn(count, seed)):
        climbed = climb(model(*STABLE), one.folder, one.start, random.Random(number))
        kind = "honest" if one.what == "honest" else "fault"
        ends[f"{kind}: {climbed.end}"] += 1
        if kind == "fault": exposed[f"{one.what} from {one.start:%d %B}"] = climbed.answered / max(climbed.asked, 1)
        print(f"{one.what} from {one.start:%d %B}: {climbed.end} on day {climbed.days} at {climbed.looks[-1]['share']:g} %, "
              f"{climbed.looks[-1]['reason']}; {climbed.seconds:.0f} s", file=sys.stderr, flush=True)
    say(f"{count} releases over HTTP only: faults that were promoted", ends["fault: promote"], "of them", 0, "lower", dict(ends))
    say("share of the requests that a fault answered until its verdict, largest", max(exposed.values()), "of 1", None, "lower", exposed)
    say(f"wall time of these {count} climbs", (time.monotonic() - began) / 60, "min", 15)


FIGURES = {one.__name__: one for one in (honest, verdict, twenty)}

if __name__ == "__main__":
    for figure in sys.argv[1:] or FIGURES:
        if figure not in FIGURES: raise SystemExit(f"no figure is called {figure}: there are {', '.join(FIGURES)}")
        FIGURES[figure]()
