"""Record what Debezium's engine writes about one small table of a library, once for each of its settings.

`README.md` beside it says how it is called. A line of a recording is {"topic", "key", "value"}: key and value as the
engine wrote them, text or null.
"""
import gzip
import json
import os
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine

SQL = [
    "create type mood as enum ('sad', 'ok', 'happy')",
    """create table loans ( loan bigint primary key, reader text not null, fine numeric(10,2), ratio numeric, price double
        precision, weight real, days_late integer, returned boolean, due date, opens time(6), opens_ms time(3), opens_tz
        timetz, lent timestamp(6), lent_ms timestamp(3), lent_tz timestamptz, code uuid, mood mood, note json, extra jsonb,
        photo bytea, tags text[], marks integer[], flags bit(11), flag bit(1), spell interval, amount money, place point,
        address inet, long text, longs bigint[], big numeric(30,0), fines numeric(6,2)[], dues date[], days daterange)""",
    "alter table loans alter column long set storage external",
    "alter table loans alter column longs set storage external",
    "alter table loans alter column photo set storage external",
    "alter table loans replica identity default",
]
ROW1 = """insert into loans values (9007199254740993, '007', 12345.60, 0.1000000000000000055, 0.1, 0.1, 3, true, '2024-03-01',
    '09:00:00.123456', '09:00:00.123', '09:00:00+01', '2024-03-01 09:00:00.123456', '2024-03-01 09:00:00.123', '2024-03-01
    10:00:00.123456+01', '123e4567-e89b-12d3-a456-426614174000', 'happy', '{"lat": 40.70, "n": 3, "l": [1, 2.5, null]}',
    '{"lat": 40.70, "n": 9007199254740993}', '\\x00ff10', array['new', 'a,b', null], array[1,2,null], b'10000000001',
    b'1', '1 day 02:03:04', 12.34, point(1.5, 2), '10.0.0.1', repeat('x', 3000), array(select 1000000000000 + i from
    generate_series(1, 600) i), 123456789012345678901234567890, array[1.50, null], array['2024-03-01'::date],
    '[2024-03-01,2024-03-05)')"""
ROW2 = "insert into loans (loan, reader) values (2, '012')"
ROW3 = """insert into loans (loan, reader, fine, ratio, due, lent, lent_tz, photo) values (3, '013', -0.01, -1e-3, '1969-12-31',
    '1969-12-31 23:59:59.999999', '1900-01-01 00:00:00+00', repeat('y', 3000)::bytea)"""
LATER = [
    "update loans set days_late = 4 where loan = 9007199254740993",   # the long values are not sent again
    "update loans set fine = 'NaN' where loan = 2",
    "update loans set loan = 20 where loan = 2",
    "delete from loans where loan = 3",
    "select pg_logical_emit_message(true, 'desk', 'hello')",
    "alter table loans add column branch text",
    "insert into loans (loan, reader, branch) values (4, '014', 'north')",
    "alter table loans replica identity full",
    "update loans set reader = '077' where loan = 9007199254740993",
    "delete from loans where loan = 4",
    "truncate loans",
    "insert into loans (loan, reader, branch) values (5, '015', 'south')",
]
USUAL = {
    "name": "library",
    "topic.prefix": "library",
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
    "offset.flush.interval.ms": "1000",
    "plugin.name": "pgoutput",
    "table.include.list": "public.loans",
    "skipped.operations": "none",
    "tombstones.on.delete": "true",
    "heartbeat.interval.ms": "700",
    "provide.transaction.metadata": "true",
    "snapshot.mode": "initial",
}
_PLAIN = {"key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false"}
SETTINGS = {
    "schemas_precise_adaptive": {},
    "schemas_double_connect": {
        "decimal.handling.mode": "double",
        "time.precision.mode": "connect",
        "binary.handling.mode": "base64",
    },
    "schemas_string_nanoseconds": {
        "decimal.handling.mode": "string",
        "time.precision.mode": "nanoseconds",
        "binary.handling.mode": "hex",
        "hstore.handling.mode": "json",
        "interval.handling.mode": "string",
    },
    "schemas_precise_isostring": {"time.precision.mode": "isostring"},
    "plain_string_microseconds": {
        **_PLAIN,
        "decimal.handling.mode": "string",
        "time.precision.mode": "adaptive_time_microseconds",
    },
    "plain_precise_adaptive": {**_PLAIN},
    "unwrapped_rewrite": {
        "transforms": "unwrap",
        "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
        "transforms.unwrap.delete.tombstone.handling.mode": "rewrite",
        "transforms.unwrap.add.fields": "op,lsn",
    },
    "unwrapped_tombstone": {
        **_PLAIN,
        "transforms": "unwrap",
        "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
    },
}


class Kept(BasePythonChangeHandler):
    """Keeps what the engine writes."""
    def __init__(self): self.found = []

    def handleJsonBatch(self, records):
        text = lambda value: None if value is None else str(value)
        self.found += [{"topic": str(r.destination()), "key": text(r.key()), "value": text(r.value())} for r in records]


def record(url: str, what: str) -> None:
    """Make the table anew, let the engine follow it, change it, and write down what came."""
    link, server, kept = psycopg.connect(url, autocommit=True), urlsplit(url), Kept()
    for sql in [*SQL, ROW1, ROW2]: link.execute(sql)
    where = {"database.hostname": server.hostname, "database.port": server.port, "database.user": server.username,
             "database.password": server.password or "x", "database.dbname": server.path[1:], "slot.name": "library",
             "publication.name": "library"}
    engine = DebeziumJsonEngine(properties=USUAL | where | SETTINGS[what], handler=kept, jvm_opts=["-Xmx512m"])
    threading.Thread(target=engine.run, daemon=True).start()
    while sum("loans" in one["topic"] for one in kept.found) < 2: time.sleep(0.5)  # the snapshot
    time.sleep(1.5)
    for sql in [ROW3, *LATER]:
        link.execute(sql)
        time.sleep(0.05)
    time.sleep(5)
    engine.close()
    with gzip.open(Path(__file__).with_name(f"{what}.jsonl.gz"), "wt") as out:
        out.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in kept.found)
    os._exit(0)  # Java's threads would wait


if __name__ == "__main__": record(*sys.argv[1:])
