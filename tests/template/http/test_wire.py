"""Bytes on the wire, as no client library sends them: who asks is decided by the header block, and limits hold."""
import json
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, seed
from hypothesis import settings as examples
from hypothesis import strategies as st
from test_http import settings, trial
from under_load import Server

from mlops_lifecycle.core.problem.definition import example_of
from mlops_lifecycle.core.serving.auth import make_key
from mlops_lifecycle.core.serving.server import PatientProtocol, served
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.serving import create_app

BODY = json.dumps(example_of(problem.Request)).encode()
LIMIT, MOST = PatientProtocol.HEADER, 300 * 2**20  # bytes beside a body; bytes of memory that a worker may have


def request(method: bytes = b"POST", path: bytes = b"/v1/predict", body: bytes = BODY, *headers: bytes) -> bytes:
    """A plain request."""
    given = headers or (b"host: 127.0.0.1", b"content-type: application/json")
    lines = [method + b" " + path + b" HTTP/1.1", *given, b"content-length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(path: bytes, body: bytes, *trailers: bytes, host: bytes = b"127.0.0.1", extension: bytes = b"") -> bytes:
    """A request whose body comes as one chunk, with trailers behind it."""
    head = [b"POST " + path + b" HTTP/1.1", b"host: " + host, b"content-type: application/json", b"transfer-encoding: chunked"]
    chunk = b"%x%s\r\n%s\r\n0\r\n" % (len(body), extension, body)
    return b"\r\n".join(head) + b"\r\n\r\n" + chunk + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"


@contextmanager
def wire(port: int, patience: float = 20.0):
    """A connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection: yield connection


def received(connection: socket.socket) -> list[bytes]:
    """Each answer until the server closes."""
    found = b""
    try:
        while piece := connection.recv(65_536): found += piece
    except ConnectionResetError: pass  # it closed while we were still sending
    return found.split(b"HTTP/1.1 ")[1:]


def answered(port: int, content: bytes, size: int = 1 << 16) -> list[bytes]:
    """What comes back for bytes that are sent in pieces of a size."""
    with wire(port) as connection:
        try:
            for start in range(0, len(content), size): connection.sendall(content[start:start + size])
            connection.shutdown(socket.SHUT_WR)
        except OSError: pass  # it has closed
        return received(connection)


def status(answer: bytes) -> int: return int(answer[:3])


def answers(connection: socket.socket) -> list[int]:
    """The status of each."""
    return [status(answer) for answer in received(connection)]


def sent(port: int, content: bytes, size: int = 1 << 16) -> list[int]:
    """The status of each answer."""
    return [status(answer) for answer in answered(port, content, size)]


CLOSE = b"GET /v2/health/live HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with served(create_app(settings(), trial(tmp_path_factory.mktemp("wire")))) as (port, _): yield port


def test_the_header_block_alone_says_who_asks(port):
    """The admin's route is closed to another host's name, whatever comes behind the header."""
    deploy = json.dumps({"release": f"rule-{problem.rule.version}"}).encode()
    assert sent(port, chunked(b"/v1/admin/deploy", deploy, host=b"evil.example") + CLOSE)[0] == 401
    assert sent(port, chunked(b"/v1/admin/deploy", deploy, b"content-length: 5", host=b"evil.example"))[0] in (400, 401)
    for trailer in (b"host: 127.0.0.1", b"authorization: Bearer x", b"x-forwarded-for: 127.0.0.1"):
        assert sent(port, chunked(b"/v1/admin/deploy", deploy, trailer, host=b"evil.example") + CLOSE)[0] == 401, trailer
    assert sent(port, chunked(b"/v1/predict", BODY, b"content-type: text/plain", b"x-checksum: 1") + CLOSE) == [200, 200]


@pytest.mark.parametrize("header", [b"host", b"authorization", b"content-type", b"origin"])
def test_a_header_that_may_come_once_and_comes_twice_is_refused(port, header):
    twice = request(b"POST", b"/v1/predict", BODY, b"host: 127.0.0.1", b"content-type: application/json",
                    header + b": a", header.upper() + b": b")
    assert sent(port, twice) == [400]


@pytest.mark.parametrize("size", [1, 7, 1_000, 1 << 16])
def test_limits_hold_whatever_size_the_reads_have(port, size):
    def padded(n): return request(b"GET", b"/v2/health/live", b"", b"host: 127.0.0.1", b"x-padding: " + b"a" * n, b"connection: close")
    assert sent(port, padded(LIMIT - 2_000), size) == [200] and sent(port, padded(LIMIT + 5_000), size) == [431]
    many = [b"x-%d: %s" % (i, b"b" * 40) for i in range((LIMIT + 5_000) // 48)]
    assert sent(port, request(b"GET", b"/v2/health/live", b"", b"host: 127.0.0.1", *many), size) == [431]
    assert sent(port, chunked(b"/v1/predict", BODY, *many), size)[-1:] in ([431], [])
    assert sent(port, chunked(b"/v1/predict", BODY, extension=b";" + b"e" * (LIMIT + 5_000)), size)[-1:] in ([431], [])


def test_many_requests_in_one_read_are_all_answered(port):
    """No request is counted with its neighbours, and none is lost to the next one's header."""
    assert sent(port, request() * 200 + CLOSE) == [200] * 201
    too_long = b"GET / HTTP/1.1\r\nx: " + b"a" * (LIMIT + 5_000)
    assert sent(port, request() * 3 + too_long) == [200, 200, 200, 431]
    assert sent(port, request() * 3 + b"\x16\x03\x01 hello\r\n\r\n") == [200, 200, 200, 400]
    assert sent(port, request() * 3 + request(b"POST", b"/v1/predict", BODY, b"host: a", b"host: b")) == [200, 200, 200, 400]


@pytest.mark.parametrize("path", [b"/\xc3\xa9", b"//:x:y", b"http://[::1", b"CONNECT"])
@pytest.mark.parametrize("before", range(4))
def test_a_path_that_is_none_is_refused_and_what_came_before_it_is_answered(port, path, before):
    """One that the parser of paths does not read came after its request was counted, and took another's place."""
    bad = b"CONNECT x:99999999 HTTP/1.1\r\n\r\n" if path == b"CONNECT" else b"GET " + path + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    found = sent(port, request() * before + bad)
    assert found[:before] == [200] * before and found[before:] in ([400], [404]), found


def test_a_request_that_asks_for_another_protocol_is_answered_and_the_connection_closed(port):
    upgrade = request(b"GET", b"/v2/health/live", b"", b"host: 127.0.0.1", b"connection: upgrade", b"upgrade: h2c")
    with wire(port) as connection:  # and stays open
        connection.sendall(request() + upgrade + request())
        assert answers(connection) == [200, 200]


def test_head_works_where_get_does_and_a_wrong_method_is_told_which_are_allowed(port):
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for path in ("/v2/health/live", "/v1/model", "/metrics", "/docs", "/"):
            head, got = client.head(path), client.get(path)
            assert (head.status_code, head.content) == (200, b"") and got.content
            assert head.headers["content-type"] == got.headers["content-type"]
        for method, path, allowed in (("DELETE", "/v1/predict", "POST"), ("HEAD", "/v1/predict", "POST"), ("POST", "/v1/model", "GET")):
            refused = client.request(method, path)
            assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
            assert method == "HEAD" or refused.json()["detail"][0]["message"] == "method not allowed"


def test_small_chunks_are_a_body_and_no_header(port):
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY * 1)
    spaces = b"".join(b"1\r\n \r\n" for _ in range(30_000))
    head = b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    assert sent(port, head + spaces + pieces + b"0\r\n\r\n" + CLOSE) == [200, 200]


PARTS = [
    b"GET ", b"POST ", b"HEAD ", b"CONNECT ", b"x:99999", b"/\xc3\xa9", b"http://[::1",
    b"/v1/predict", b"/v1/admin/promote", b"/metrics", b"/v2/health/live", b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n", b"host: 127.0.0.1\r\n", b"host: evil.example\r\n", b"content-type: application/json\r\n",
    b"content-length: 5\r\n", b"content-length: 99999999999\r\n", b"content-length: -1\r\n", b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: gzip, chunked\r\n", b"expect: 100-continue\r\n", b"connection: upgrade\r\nupgrade: h2c\r\n",
    b"connection: close\r\n", b"upgrade: websocket\r\n", b"\r\n", b"\r\n\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"ffffffff\r\n",
    b"0;x=" + b"y" * 500 + b"\r\n", b"{}", BODY, b"\x00", b"\xff\xfe", b"a" * 3_000, b": ", b"\n"]


@st.composite
def messages(draw, key: bytes) -> bytes:
    """Parts of HTTP in any order, or good requests that were spoilt, or whole ones with a key where it must not count."""
    kind = draw(st.sampled_from(["parts", "spoilt", "trailers"]))
    if kind == "parts": return b"".join(draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=14)))
    if kind == "trailers":
        name, lines = b"authorization: Bearer " + key, [b"host: 127.0.0.1", b"content-length: 5", b"x-a: b", b"transfer-encoding: chunked"]
        path, body = draw(st.sampled_from([b"/v1/predict", b"/v1/admin/promote", b"/v1/model"])), draw(st.sampled_from([BODY, b"{}"]))
        extension = draw(st.sampled_from([b"", b";x=1", b";" + name]))
        return chunked(path, body, *draw(st.lists(st.sampled_from(lines), max_size=3)), name, extension=extension)
    content = bytearray(draw(st.sampled_from([request(), chunked(b"/v1/predict", BODY, b"host: 127.0.0.1"), request() * 3, CLOSE])))
    for at, change in draw(st.lists(st.tuples(st.integers(0, len(content)), CHANGES), min_size=1, max_size=6)):
        if isinstance(change, int): del content[at:at + change]
        else: content[at:at] = change
    return bytes(content)


CHANGES = st.integers(1, 40) | st.sampled_from(PARTS) | st.binary(min_size=1, max_size=1)  # so many bytes less, or these more


def fuzz(seconds: float, first: int, server: Server, key: bytes) -> Counter:
    """Send seeded noise for a while.

    Every connection is answered or closed in time, the worker stays small, the next request is served, and nothing but
    the probe, which is open to everybody, answers well to messages that name no key in their header.
    """
    good = request(b"POST", b"/v1/predict", BODY, b"host: 127.0.0.1", b"content-type: application/json", b"authorization: Bearer " + key)
    process, counts, end = psutil.Process(server.process.pid), Counter(), time.monotonic() + seconds
    noise = st.lists(messages(key), min_size=1, max_size=3).map(b"".join)

    def one(content: bytes, size: int) -> None:
        started = time.monotonic()
        try: found = answered(server.port, content, size if len(content) < 5_000 else 1 << 16)
        except TimeoutError: raise AssertionError("neither answered nor closed") from None
        assert time.monotonic() - started < PatientProtocol.PATIENCE + 3
        assert not [answer for answer in found if status(answer) >= 500]
        well = [answer for answer in found if 200 <= status(answer) < 300]
        assert all(b"\r\ncontent-length: 13\r\n" in answer for answer in well), well  # of {"live":true}
        counts.update(connections=1, answers=len(found), alive=sum(status(answer) == 200 for answer in found))

    while time.monotonic() < end:
        rules = examples(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        seed(first)(rules(given(noise, st.sampled_from([1 << 16, 1 << 16, 50, 3]))(one)))()
        assert sent(server.port, good + CLOSE) == [200, 200]
        assert process.memory_info().rss < MOST, f"{process.memory_info().rss:,} bytes after {counts}"
        first += 1
        counts.update(good=1)
    return counts


@contextmanager
def with_key(root: Path):
    """A server of its own that asks for keys, and one."""
    workspace = trial(root)
    log = ServingLog(workspace.serving_db)
    key = make_key(log, "the fuzzer", ["predict", "admin"]).encode()
    log.close()
    server = Server(workspace.root)
    try: yield server, key
    finally: server.kill()


def test_noise_on_the_wire_is_answered_or_closed_and_the_next_request_is_served(tmp_path):
    """For a minute; `python tests/template/http/test_wire.py 3600` takes an hour, with another seed."""
    with with_key(tmp_path) as (server, key):
        counts = fuzz(60, 0, server, key)
        assert counts["connections"] > 100 and counts["good"] > 2 and counts["alive"]
        with wire(server.port) as flood:  # trailers without an end
            flood.sendall(chunked(b"/v1/predict", BODY)[:-2])
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for number in range(4_000): flood.sendall(b"x-%d: %s\r\n" % (number, b"t" * 8_000))
        assert psutil.Process(server.process.pid).memory_info().rss < MOST
        assert sent(server.port, CLOSE) == [200]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, with_key(Path(folder)) as (server, key):
        print(dict(fuzz(float(sys.argv[1]), int(time.time()), server, key)))
