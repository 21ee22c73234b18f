"""Whether anything is lost or doubled when collecting is killed: `make bench`, or `python benchmarks/faults.py [kills]`.

For each kind of source that changes, a real one is changed and collected again and again, and every second collecting is
killed, in turn at a random moment and at a random step. After each kill the next run must hold each change once, and the
state that follows from them must be the source's. Prints one JSON line a figure, and a table for people on standard error.
"""
import contextlib
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from kinds import Api, Brokers, Debezium, Log, Nights, Postgres, PostgresTable, Server, Slot, Stream, Table

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
    """How many kills lost and doubled nothing, and how many came before the work was done."""
    good = early = 0
    for n in range(0, kills, TOGETHER):
        few = min(TOGETHER, kills - n)
        with tempfile.TemporaryDirectory() as folder:
            try: early += Nights(make(Path(folder), here, n), seed=n).run(few); good += few
            except AssertionError as error: print(f"seed {n}: {error}", file=sys.stderr)
    return good, early


def main(kills: int) -> None:
    """Kill, count, print."""
    with contextlib.ExitStack() as held:
        here = {"postgres": held.enter_context(Postgres()), "brokers": held.enter_context(Brokers()), "server": held.enter_context(Server())}
        for name, make in KINDS.items():
            good, early = survived(make, here, kills)
            figure = {"figure": f"kills that lost and doubled nothing: {name}", "value": good, "unit": "kills", "goal": kills, "holds": good == kills}
            print(json.dumps(figure | {"against": {"killed before the work was done": early}}), flush=True)
            print(f"{name:24} {good:4} of {kills} kills lost and doubled nothing; {early} came before the work was done", file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
