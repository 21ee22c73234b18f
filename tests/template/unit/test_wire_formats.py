"""Kind 3: wire formats in full. Messages of a real Debezium engine (`support/debezium`), and some made from the formats' specifications."""
import base64
import gzip
import json
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers import ROOT
from kinds import Debezium

from mlops_lifecycle.core.data.change_capture import changes_of_files, event_table, events_of_change, latest
from mlops_lifecycle.core.data.readers import Column, SourceError, as_text, read_file
from mlops_lifecycle.core.data.streams import events_of_message
from mlops_lifecycle.core.data.wire_formats import decoded

RECORDED = ROOT / "tests" / "template" / "support" / "debezium"
DAY = pd.Timestamp("2024-03-01T09:00Z")
LOANS = SimpleNamespace(kind="stream", where="", topic="loans", key=("loan",), event_time="", known_at="", table="", secret="")


def recorded(name: str) -> list[dict]:
    with gzip.open(RECORDED / f"{name}.jsonl.gz", "rt") as file: return [json.loads(line) for line in file]


def events_of(messages: list[dict], source=LOANS) -> list[list[dict]]:
    """Of each message, as if all of them stood in one partition."""
    binary = lambda text: None if text is None else text.encode()
    return [events_of_message(source, f"loans:0:{n}", n, DAY, binary(m["key"]), binary(m["value"])) for n, m in enumerate(messages)]


def cells_of(events: list[dict]) -> dict: return json.loads(events[0]["row"])


EXACT = {
    "loan": "9007199254740993", "reader": "007", "fine": "12345.60", "ratio": "0.1000000000000000055", "price": "0.1", "weight": "0.1",
    "days_late": "3", "returned": "true", "due": "2024-03-01", "opens": "09:00:00.123456", "opens_ms": "09:00:00.123",
    "opens_tz": "08:00:00Z", "lent": "2024-03-01T09:00:00.123456Z", "lent_ms": "2024-03-01T09:00:00.123Z",
    "lent_tz": "2024-03-01T09:00:00.123456Z", "code": "123e4567-e89b-12d3-a456-426614174000", "mood": "happy",
    "note": '{"lat": 40.70, "n": 3, "l": [1, 2.5, null]}', "extra": '{"n": 9007199254740993, "lat": 40.70}', "photo": "00ff10",
    "tags": '["new", "a,b", null]', "marks": "[1, 2, null]", "flags": "10000000001", "flag": "true", "spell": "93784000000",
    "amount": "12.34", "place": '{"x": 1.5, "y": 2.0, "wkb": "0101000000000000000000f83f0000000000000040", "srid": null}',
    "address": "10.0.0.1", "long": "x" * 3000, "longs": f"[{', '.join(str(10**12 + i) for i in range(1, 601))}]",
    "big": "123456789012345678901234567890", "fines": "[1.50, null]", "dues": '["2024-03-01"]', "days": "[2024-03-01,2024-03-05)"}
BY_SETTING = {  # what a setting of the engine loses, or says in other words
    "schemas_precise_adaptive": {},
    "schemas_precise_isostring": {},
    "unwrapped_rewrite": {"__deleted": "false", "__op": "r"},
    "schemas_string_nanoseconds": {"fines": '["1.50", null]', "spell": "P0Y0M1DT2H3M4S"},
    "schemas_double_connect": {
        "fine": "12345.6", "ratio": "0.1", "big": "1.2345678901234568E29", "fines": "[1.5, null]", "photo": "AP8Q",
        "opens": "09:00:00.123", "lent": "2024-03-01T09:00:00.123Z"},
}


@pytest.mark.parametrize("what", BY_SETTING)
def test_every_type_is_decoded_by_the_schema_of_its_message(what):
    """Kind 3: decimals, dates, times of three units, UUIDs, enums, bits, bytes, nested objects and arrays with every digit."""
    first = events_of(recorded(what))[0]
    cells = cells_of(first)
    cells.pop("__lsn", None)
    assert cells == EXACT | BY_SETTING[what]
    assert first[0]["key"] == '["9007199254740993"]'


@pytest.mark.parametrize("what", [*BY_SETTING, "plain_string_microseconds", "plain_precise_adaptive", "unwrapped_tombstone"])
def test_a_recorded_stream_ends_in_the_state_of_the_table(what):
    """Kind 3: with and without schemas and envelopes; long values that are not sent again, tombstones, and what changes no row."""
    found = events_of(recorded(what))
    assert not [one for events in found for one in events if one["op"] == "unreadable"]
    kept = [one for events in found for one in events]
    state, aside = latest(event_table(kept), {c: Column("text", "any") for c in ("loan", "reader", "days_late", "long", "longs")}, "loans")
    state = state.set_index("loan")
    assert not aside
    ended = {"9007199254740993", "20", "5"} if what.startswith("unwrapped") else {"5"}  # these do not pass on a truncation
    assert set(state.index[~state.deleted]) == ended and set(state.index) == {"9007199254740993", "2", "20", "3", "4", "5"}
    moved = state.loc["9007199254740993"]
    assert (moved.reader, moved.days_late, moved.long, moved.longs) == ("077", "4", EXACT["long"], EXACT["longs"])
    assert state.loc[["3", "4", "2"]].reader.tolist() == ["013", "014", "012"]  # not the placeholders of the delete
    assert sum(not events for events in found) == sum("loans" not in m["topic"] for m in recorded(what)) > 10


@pytest.mark.parametrize("what", [what for what in BY_SETTING if what.startswith("schemas")])
def test_after_a_compaction_the_last_message_of_each_key_is_enough(what):
    """Kind 3: only tombstones are left of what was deleted."""
    messages = [m for m in recorded(what) if m["topic"].endswith("loans")]
    last = {m["key"]: n for n, m in enumerate(messages)}
    compacted = [m for n, m in enumerate(messages) if last[m["key"]] == n and m["key"]]
    kept = [one for events in events_of(compacted) for one in events]
    assert {one["key"] for one in kept if one["op"] == "delete"} == {'["2"]', '["3"]', '["4"]'}
    state, _ = latest(event_table(kept), {"loan": Column("integer", "number"), "reader": Column("text", "who")}, "loans")
    assert {row.loan: row.reader for row in state[~state.deleted].itertuples()} == {9007199254740993: "077", 20: "012", 5: "015"}


@pytest.mark.parametrize("what", ["schemas_precise_adaptive", "plain_string_microseconds"])
def test_recorded_values_in_a_file_are_read_and_what_changes_no_row_is_counted(what, tmp_path):
    """Kind 3: through the whole of collect; a null of a tombstone stands for no row either."""
    project, messages = Debezium(tmp_path), recorded(what)
    lines = [m["value"] or "null" for m in messages]
    (tmp_path / "out" / "loans.jsonl").write_text("\n".join(lines) + "\n")
    load = project.nightly().verdict["loads"]["loans"]
    changes = [m for m in messages if m["topic"].endswith("loans") and m["value"]]
    assert (load["rows"], load["set_aside"], load["passed_over"]) == (len(changes), 0, len(messages) - len(changes))
    assert project.state() == {5: ("015", None)}


@pytest.mark.parametrize("what, column, type", [
    ("plain_string_microseconds", "lent", "time"), ("plain_precise_adaptive", "fine", "number"), ("unwrapped_tombstone", "lent_ms", "time"),
    ("schemas_precise_adaptive", "opens", "time"), ("schemas_string_nanoseconds", "code", "integer")])
def test_a_declared_column_that_never_fits_refuses_a_change_log(what, column, type):
    """Kind 3: without its schema a number of microseconds is no time, and bytes are no decimal; neither is guessed."""
    events = event_table(one for found in events_of(recorded(what)) for one in found)
    with pytest.raises(SourceError, match=f'column "{column}" of table "loans" must be {type}, no cell is'):
        latest(events, {"loan": Column("integer", "number"), column: Column(type, "wrong on purpose")}, "loans")


def struct(**fields) -> dict: return {"type": "struct", "fields": [{"field": name} | kind for name, kind in fields.items()]}


KEY = struct(id={"type": "int32"})


def test_a_key_with_a_schema_names_a_row_and_its_tombstone_ends_it():
    """Kind 3: key and value of Kafka Connect's JSON, then a tombstone; of a table that Debezium does not know."""
    source = SimpleNamespace(**vars(LOANS) | {"key": ("id",)})
    key = json.dumps({"schema": KEY, "payload": {"id": 1}})
    fee = {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "2"}}
    value = json.dumps({"schema": struct(id={"type": "int32"}, fee=fee), "payload": {"id": 1, "fee": "EtaA"}})
    columns = {"id": Column("integer", "number"), "fee": Column("number", "to be paid")}
    for end in (None, json.dumps({"schema": None, "payload": None})):
        events = [one for found in events_of([{"key": key, "value": value}, {"key": key, "value": end}], source) for one in found]
        one, _ = latest(event_table(events[:1]), columns, "loans")
        assert one[["id", "fee", "deleted"]].values.tolist() == [[1, 12345.6, False]]
        assert latest(event_table(events), columns, "loans")[0].deleted.tolist() == [True]


def connect(name: str, kind: str = "int64", **parameters) -> dict: return {"type": kind, "name": name, "parameters": parameters}


SPECIFIED = [  # a schema of the formats' specifications, a value as JSON has it, and what it means
    (connect("org.apache.kafka.connect.data.Decimal", "bytes", scale="0"), base64.b64encode(b"\x80").decode(), "-128"),
    (connect("org.apache.kafka.connect.data.Decimal", "bytes", scale="3"), base64.b64encode(b"\x00\xff").decode(), "0.255"),
    (connect("org.apache.kafka.connect.data.Decimal", "bytes", scale="-2"), base64.b64encode(b"\x05").decode(), "500"),
    (connect("io.debezium.time.Timestamp"), "-1", "1969-12-31T23:59:59.999Z"),
    (connect("io.debezium.time.NanoTimestamp"), "1709283600000000001", "2024-03-01T09:00:00.000000001Z"),
    (connect("io.debezium.time.MicroTime"), "86399999999", "23:59:59.999999"),
    (connect("io.debezium.time.Year", "int32"), "2024", "2024"), (connect("io.debezium.data.EnumSet", "string"), "a,b", "a,b"),
    ({"type": "map", "keys": {"type": "string"}, "values": {"type": "bytes"}}, {"a": "AP8Q"}, '{"a": "00ff10"}'),
    ({"type": "map", "keys": {"type": "int32"}, "values": {"type": "bytes"}}, [["7", "AP8Q"]], '[["7", "00ff10"]]'),
]


@pytest.mark.parametrize("schema, value, wanted", SPECIFIED)
def test_types_that_the_engine_did_not_write(schema, value, wanted):
    """Kind 3."""
    assert as_text(decoded(value, schema)) == wanted


@pytest.mark.parametrize("schema, value", [
    (connect("org.apache.kafka.connect.data.Decimal", "bytes", scale="2"), "no base 64!"),
    (connect("org.apache.kafka.connect.data.Decimal", "bytes"), "EtaA"), (connect("io.debezium.time.Date", "int32"), "2024-03-01"),
    (connect("io.debezium.time.MicroTimestamp"), "9223372036825200000"), (connect("io.debezium.time.Time", "int32"), "-1"),
    (connect("io.debezium.time.Timestamp"), 1.5), (connect("io.debezium.time.Timestamp"), True),
    (connect("io.debezium.data.VariableScaleDecimal", "struct"), "EtaA"), ({"type": "struct", "fields": []}, "text"),
    ({"type": "array", "items": {"type": "bytes"}}, [["x"]])])
def test_what_cannot_be_decoded_is_set_aside_with_its_column(schema, value):
    """Kind 3: never guessed; the messages beside it are read."""
    wrapped = {"schema": struct(loan={"type": "int32"}, fee=schema), "payload": {"loan": 1, "fee": value}}
    one, = events_of([{"key": None, "value": json.dumps(wrapped)}])[0]
    assert one["op"] == "unreadable" and '"fee" cannot be decoded as' in json.loads(one["row"])["reason"]


NOTICES = {  # made from Debezium's documentation: MySQL's schema changes, a notification
    "a schema change": {"source": {"file": "bin.3", "pos": 4}, "ts_ms": 1, "databaseName": "library", "schemaName": None,
                        "ddl": "alter table loans", "tableChanges": []},
    "a heartbeat": {"ts_ms": 1},
    "the end of a transaction": {"status": "END", "id": "7", "ts_ms": 1, "event_count": 1, "data_collections": []},
}


@pytest.mark.parametrize("what", NOTICES)
def test_a_message_that_changes_no_row_gives_no_event(what):
    """Kind 3."""
    schema = {"type": "struct", "name": "io.debezium.connector.mysql.SchemaChangeValue", "fields": []}
    wrapped = {"schema": schema, "payload": NOTICES[what]}
    key = json.dumps({"serverName": "library"})
    assert events_of([{"key": key, "value": json.dumps(NOTICES[what])}, {"key": key, "value": json.dumps(wrapped)}]) == [[], []]


def test_a_message_in_another_format_is_set_aside_and_says_so():
    """Kind 3: Avro behind a schema registry, MongoDB's text of a row, an unknown operation, text."""
    change = {"op": "c", "before": None, "after": '{"_id": 1}', "source": {"table": "loans"}, "ts_ms": 1}
    values = [b"\0\0\0\0\7loan", json.dumps(change).encode(), json.dumps(change | {"op": "x"}).encode(), b"loan", b"[1]", b'"text"']
    reasons = ["Avro or Protobuf", "a row is no JSON object", "op must be c, u, d, r, t", "", "no JSON object", "no JSON object"]
    for value, reason in zip(values, reasons):
        one, = events_of_message(LOANS, "loans:0:1", 1, DAY, b"1", value)
        assert one["op"] == "unreadable" and reason in json.loads(one["row"])["reason"]


def server(commit: str, change: str | None, serial: int | None = 1) -> dict:
    return {"connector": "sqlserver", "db": "library", "schema": "dbo", "table": "loans", "ts_ms": 1709283600000,
            "change_lsn": change, "commit_lsn": commit, "event_serial_no": serial}


def oracle(scn: str, commit: str | None, rs_id: str | None, ssn: int = 0) -> dict:
    return {"connector": "oracle", "db": "ORCL", "schema": "LIBRARY", "table": "loans", "ts_ms": 1709283600000, "scn": scn,
            "commit_scn": commit, "lcr_position": None, "rs_id": rs_id, "ssn": ssn}


def mongo(second: int, number: int) -> dict:
    return {"connector": "mongodb", "db": "library", "rs": "rs0", "collection": "loans", "ts_ms": 1000 * second, "ord": number}


PLACES = {  # made from the connectors' documentation: four places in the order of the log, the middle two of one transaction
    "SQL Server": [server("00000027:00000758:0005", None, None), server("00000028:00000a00:0002", "00000027:00000900:0001"),
                   server("00000028:00000a00:0002", "00000027:00000900:0003"), server("00000028:00000a00:0010", "00000027:00000800:0001")],
    "Oracle": [oracle("500", None, None), oracle("510", "600", " 0x0001.3f4d.0010 "), oracle("510", "600", " 0x0001.3f4d.01a4 "),
               oracle("505", "601", " 0x0001.3f00.0010 ")],
    "MongoDB": [mongo(1709283600, 7), mongo(1709283601, 1), mongo(1709283601, 1), mongo(1709283601, 2)]}


@pytest.mark.parametrize("arrival", [[0, 1, 2, 3], [3, 0, 1, 2], [0, 1, 2, 3, 2, 3]])
@pytest.mark.parametrize("what", PLACES)
def test_changes_of_other_databases_are_read_from_files_in_the_order_of_their_log(what, arrival, tmp_path):
    """Kind 3: a row is read by a copy, changed twice in a transaction, A to B to A, and in a later one, which began before it."""
    lines = []
    for op, reader, place in zip("ruuu", "BABC", PLACES[what]):
        row = {"loan": 1, "reader": reader}
        after = json.dumps(row | {"_id": {"$oid": "596e"}}) if what == "MongoDB" else row
        lines.append(json.dumps({"op": op, "before": None, "after": after, "source": place, "ts_ms": 1709283600500}))
    (tmp_path / "loans.jsonl").write_text("\n".join(lines[n] for n in arrival) + "\n")
    source = SimpleNamespace(**vars(LOANS) | {"where": "loans.jsonl", "table": "loans"})
    events = pd.concat([batch.events for batch in changes_of_files("loans", source, tmp_path, {})])
    assert not (events.op == "unreadable").any() and set(events.event_id.value_counts()) <= ({1} if len(arrival) == 4 else {1, 2})
    ordered, _ = latest(events, {"loan": Column("integer", "number"), "reader": Column("text", "who")}, "loans")
    assert ordered[["loan", "reader", "deleted"]].values.tolist() == [[1, "C", False]]
    before = events[events.row.str.contains('"[AB]"')]
    two, _ = latest(before, {"loan": Column("integer", "number"), "reader": Column("text", "who")}, "loans")
    assert two.reader.tolist() == ["B"]


def test_a_document_is_named_by_the_key_of_its_message_and_an_update_without_it_is_set_aside():
    """Kind 3: MongoDB's connector sends no row before a deletion; without the whole document an update is not guessed."""
    source, key = SimpleNamespace(**vars(LOANS) | {"key": ("_id",)}), json.dumps({"id": '{"$oid": "596e275826f08b2730779e1f"}'})
    values = [{"op": "c", "after": '{"_id": {"$oid": "596e275826f08b2730779e1f"}, "reader": "007"}'},
              {"op": "u", "after": None, "updateDescription": {"updatedFields": '{"reader": "8"}'}}, {"op": "d", "after": None}]
    sent = [json.dumps(value | {"source": mongo(1709283600, n), "ts_ms": 1709283600500}) for n, value in enumerate(values)] + [None]
    events = [one for found in events_of([{"key": key, "value": value} for value in sent], source) for one in found]
    assert [one["op"] for one in events] == ["insert", "unreadable", "delete", "delete"]
    assert {one["key"] for one in events} == {'["596e275826f08b2730779e1f"]', None} and "whole documents" in events[1]["row"]


def test_a_key_that_changes_in_an_update_ends_the_old_row_and_another_table_is_passed_over():
    """Kind 3: the settings' key need not be the table's own, and a file may hold the changes of several tables."""
    place = {"lsn": 7, "ts_ms": 1, "schema": "public", "table": "loans"}
    change = {"op": "u", "before": {"loan": 1, "reader": "A"}, "after": {"loan": 2, "reader": "A"}, "source": place, "ts_ms": 1}
    assert [(one["op"], one["key"]) for one in events_of_change(LOANS, change)] == [("delete", '["1"]'), ("insert", '["2"]')]
    for table, count in (("loans", 2), ("public.loans", 2), ("desk.loans", 0), ("readers", 0)):
        assert len(events_of_change(SimpleNamespace(**vars(LOANS) | {"table": table}), change)) == count


def test_nested_json_keeps_its_numbers_and_digits(tmp_path):
    """Kind 3: in a text column of JSON lines, not to be told from texts otherwise."""
    nested = '{"lat": 40.70, "n": 3, "l": [1, 2.5, null], "t": "3", "b": true, "big": 12345678901234567.890, "e": 1E2}'
    lines = [f'{{"loan": {n}, "place": {place}}}\n' for n, place in enumerate([nested, f"[{nested}]", '"3"'])]
    (tmp_path / "loans.jsonl").write_text("".join(lines))
    rows, misfits = read_file(tmp_path / "loans.jsonl")
    assert rows["place"].to_pylist() == [nested, f"[{nested}]", "3"] and not misfits
    deep = "[" * 600 + "]" * 600  # deeper than can be written again
    (tmp_path / "loans.jsonl").write_text(f'{{"loan": 1, "place": "3"}}\n{{"loan": 2, "place": {deep}}}\n')
    assert [misfit["row"] for misfit in read_file(tmp_path / "loans.jsonl")[1]] in ([], [2])
