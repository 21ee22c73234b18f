"""Whether anything is lost or doubled when collecting or serving is killed: `make bench`, or
`python benchmarks/faults.py [kills] [part…]`, where a part is sources or serving.

For each kind of source that changes, a real one is changed and collected again and again, and every second collecting is
killed, in turn at a random moment and at a random step. After each kill the next run must hold each change once, and the
state that follows from them must be the source's. Four workers that serve under load are killed as well, first one of them
and then all: whatever a ledger outside of them says was acknowledged must be in the log once, in SQLite and in
PostgreSQL. Prints one JSON line a figure, and a table for people on standard error.
"""
import contextlib
import json
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS / "project"), str(TESTS / "template" / "support")]

from kinds import Api, Brokers, Debezium, Log, Nights, Postgres, PostgresTable, Server, Slot, Stream, Table
from under_load import killed_under_load, postgresql

KINDS = {
    "a table in SQLite": lambda folder, here, n: Table(folder),
    "a table in PostgreSQL": lambda folder, here, n: PostgresTable(folder, here["postgres"]),
    "PostgreSQL's log": lambda folder, here, n: Slot(folder, here["postgres"], group=f"faults_{n}"),
    "Debezium in files": lambda folder, here, n: Debezium(folder),
    "a stream": lambda folder, here, n: Stream(folder, here["brokers"], topic=f"faults_{n}"),
    "a rotated log": lambda folder, here, n: Log(folder),
    "an API": lambda folder, here, n: Api(folder, here["server"]),
}
TOGETHER = 10  # kills of one source, before a new one is begun


def survived(make, here: dict, kills: int) -> tuple[int, int]:
    """How many kills in the middle lost and doubled nothing, and how many nights were done before they could be killed."""
    good = late = 0
    for n in range(0, kills, TOGETHER):
        few = min(TOGETHER, kills - n)
        with tempfile.TemporaryDirectory() as folder:
            try: late += Nights(make(Path(folder), here, n), seed=n).run(few).count(0); good += few
            except AssertionError as error: print(f"seed {n}: {error}", file=sys.stderr)
    return good, late


def say(figure: str, good: int, kills: int, against: dict) -> None:
    """One figure, for programs."""
    said = {"figure": figure, "value": good, "unit": "kills", "goal": kills, "holds": good == kills, "against": against}
    print(json.dumps(said), flush=True)


def serving(kills: int) -> None:
    """Kill four workers under load, count, print."""
    with postgresql() as url:
        for name, database in {"SQLite": "", "PostgreSQL": url}.items():
            good, predictions, reactions = 0, 0, 0
            for n in range(kills):
                with tempfile.TemporaryDirectory() as folder:
                    try: ledger = killed_under_load(Path(folder) / "w", database, seed=n)
                    except AssertionError as error: print(f"seed {n}: {error}", file=sys.stderr); continue
                good += 1; predictions += len(ledger.predictions); reactions += len(ledger.reactions)
            found = {"predictions acknowledged": predictions, "reactions acknowledged": reactions}
            say(f"kills under load that lost and doubled nothing acknowledged: {name}", good, kills, found)
            print(f"four workers, {name:10} {good:4} of {kills} kills lost and doubled nothing"
                  f" of {predictions:,} predictions and {reactions:,} reactions", file=sys.stderr)


def sources(kills: int) -> None:
    """Kill each kind of source, count, print."""
    with contextlib.ExitStack() as held:
        servers = {"postgres": Postgres(), "brokers": Brokers(), "server": Server()}
        here = {name: held.enter_context(server) for name, server in servers.items()}
        for name, make in KINDS.items():
            good, late = survived(make, here, kills)
            say(f"kills that lost and doubled nothing: {name}", good, kills, {"done before they could be killed": late})
            print(f"{name:24} {good:4} of {kills} kills lost and doubled nothing; {late} more came too late", file=sys.stderr)


if __name__ == "__main__":
    given = [int(a) for a in sys.argv[1:] if a.isdigit()]
    for part, kills in ((sources, 50), (serving, 30)):
        if part.__name__ in sys.argv or len(sys.argv) == 1 + len(given): part(given[0] if given else kills)
