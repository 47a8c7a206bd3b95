"""The server of a model against large, slow and endless requests, each over a real connection."""

import contextlib
import json
import threading
import time

import psutil
import pytest
from support import wait_for
from support_server import LimitedServer, patches, save_mean_model

from mammo_mlflow.workflows.serve import end_server

HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
HALVES = (
    b"",
    b"POST /invocations HTTP/1.1\r\nHo",
    HEAD + b"Content-Length: 1000\r\n\r\n{",
    HEAD + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"inp',
)
MB = 10**6


@pytest.fixture(scope="module")
def model(system, tmp_path_factory):
    return save_mean_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model):
    with LimitedServer(model, max_body_mb=8, arrival=2) as running:
        yield running


def answer_of(connection):
    """All that the server says until it closes the connection; what it resets has said nothing."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server):
    with server.open(HEAD + b"Content-Length: 8000001\r\n\r\n") as one:
        said = answer_of(one)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"expected a body of at most 8,000,000 bytes, found more" in said


def test_a_body_of_unknown_length_is_refused_as_it_passes_the_limit(server):
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    with server.open(HEAD + b"Transfer-Encoding: chunked\r\n\r\n") as one:
        said, grown = server.memory_of(lambda: send_for_ever(one, chunk))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert grown < 64 * MB


def send_for_ever(connection, chunk):
    with contextlib.suppress(OSError):
        for _ in range(100):
            connection.sendall(chunk)
    return answer_of(connection)


def test_an_ordinary_client_sees_why_a_large_body_is_refused(server):
    (status, text), grown = server.memory_of(lambda: server.post(b"1" * 105 * MB))
    assert (status, json.loads(text)["error_code"]) == (413, "REQUEST_ENTITY_TOO_LARGE")
    assert grown < 64 * MB


LARGEST = {  # made when they are asked for: to make all takes seconds
    "patches": (200, lambda: patches(980)),
    "empty lists": (400, lambda: b'{"inputs":[' + b"[]," * 2_600_000 + b"[]]}"),
    "empty lists in a row": (400, lambda: b'{"inputs":[[' + b"[]," * 2_600_000 + b"[]]]}"),
    "deep lists": (400, lambda: b'{"inputs":[' + (b"[" * 900 + b"]" * 900 + b",") * 4_400 + b"[]]}"),
    "objects": (400, lambda: b'{"inputs":[' + b"{}," * 2_600_000 + b"{}]}"),
    "names": (400, lambda: b"{" + b",".join(b'"%x":1' % number for number in range(790_000)) + b"}"),
    "words": (400, lambda: b'{"inputs":[' + b'"ab",' * 1_500_000 + b'"ab"]}'),
    "digits": (400, lambda: b'{"inputs":[' + b"1" * 7_900_000 + b"]}"),
    "a float for each few bytes": (400, lambda: b'{"inputs":[[' + b"1e9," * 1_900_000 + b"1]]}"),
}


@pytest.mark.parametrize("kind", LARGEST)
def test_the_largest_bodies_take_little_memory(server, kind):
    wanted, make = LARGEST[kind]
    body = make()
    assert 7.5 * MB < len(body) <= 8 * MB
    (status, text), grown = server.memory_of(lambda: server.post(body))
    assert status == wanted
    assert wanted == 200 or len(json.loads(text)["message"]) <= 400
    assert grown < 12 * len(body)


def test_half_open_requests_are_closed_and_hinder_nobody(server):
    open_before = server.connections()
    with contextlib.ExitStack() as stack:
        half = [stack.enter_context(server.open(HALVES[number % 4])) for number in range(300)]
        began = time.monotonic()
        status, _ = server.post(patches(3))
        assert (status, time.monotonic() - began < 2) == (200, True)
        for one in half[1::4]:
            with contextlib.suppress(OSError):
                time.sleep(0.02)
                one.send(b"x")  # slowly is not enough
        wait_for(lambda: server.connections() <= open_before, 15)
        assert answer_of(half[2]).startswith(b"HTTP/1.1 408 ")


def test_a_second_request_has_to_arrive_too(server):
    with server.open(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\nGET /pi") as one:
        began = time.monotonic()
        assert answer_of(one).startswith(b"HTTP/1.1 200 OK")
        assert 1 < time.monotonic() - began < 10


def test_who_reads_no_answer_is_cut_off(server):
    before = psutil.Process(server.process.pid).memory_info().rss
    with server.open() as one, pytest.raises(OSError, match=r"reset|[Bb]roken"):
        while True:
            one.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
    assert psutil.Process(server.process.pid).memory_info().rss - before < 64 * MB


def test_other_pages_answer(server):
    for path, wanted in (("/ping", b"200"), ("/health", b"200"), ("/version", b"200"), ("/nothing", b"404")):
        with server.open(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()) as one:
            assert answer_of(one).split()[1] == wanted


def test_bodies_that_are_held_are_limited_together(model):
    begun = HEAD + b"Content-Length: 1000000\r\n\r\n" + b" " * 950_000
    with LimitedServer(model, max_body_mb=1, arrival=20) as server, contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(server.open(begun))
        wait_for(lambda: answer_of(stack.enter_context(server.open(begun))).startswith(b"HTTP/1.1 503 "), 10)
        assert server.post(patches(1))[0] == 200


def ask(server):
    with contextlib.suppress(OSError):
        server.post(patches(1))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", ["told to end", "the command is gone"])
def test_it_ends_within_seconds_while_a_request_is_at_work(model, workers, how):
    with LimitedServer(model, workers=workers, seconds=60) as server:
        asking = threading.Thread(target=ask, args=[server], daemon=True)
        asking.start()
        family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
        time.sleep(0.5)
        assert asking.is_alive()
        if how == "told to end":
            began = time.monotonic()
            end_server(server.process)
            assert time.monotonic() - began < 10
        else:
            server.process.stdin.close()
            server.process.wait(5)
        psutil.wait_procs(family, 5)
        assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
