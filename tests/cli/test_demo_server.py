"""What the demo's server does with those who are not the page: other names, slow and many connections."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimo_codec.cli import demo_server
from mimo_codec.cli.demo_server import HOST, example_file, make_server, page_root, served_files


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server that waits for half a second at most."""
    for name in demo_server.GRAPHS:
        (tmp_path / name).write_bytes(bytes(5_000_000))
    monkeypatch.setattr(demo_server, "SECONDS", 0.5)
    monkeypatch.setattr(demo_server._Handler, "timeout", 0.5)
    monkeypatch.setattr(demo_server, "MAX_CONNECTIONS", 4)
    with make_server(served_files(page_root(), tmp_path), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def status(port: int, host: str | None, path: str = "/") -> int:
    """Of the answer to a request that asks for a page of `host`."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    return connection.getresponse().status


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "localhost", "127.0.0.1", "localhost:9000"])
def test_names_of_this_machine(port: int, host: str) -> None:
    assert status(port, host.format(port)) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{}", "localhost.evil.example", "127.0.0.1.evil.example:{}", "", None],
)
def test_names_of_others_get_nothing(port: int, host: str | None) -> None:
    assert status(port, None if host is None else host.format(port), "/graphs/encoder.onnx") == 421


def ends_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(2**16):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def test_silent_connections_end(port: int) -> None:
    with socket.create_connection((HOST, port)) as connection:
        assert ends_within(connection, 5)


def test_requests_that_trickle_end(port: int) -> None:
    """A byte now and then is never silent for long."""
    with socket.create_connection((HOST, port)) as connection:
        start = time.monotonic()
        try:
            for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except ConnectionError:
            pass
        assert time.monotonic() - start < 4 and ends_within(connection, 5)


def test_answers_that_nobody_reads_end(port: int) -> None:
    before = threading.active_count()
    with socket.create_connection((HOST, port)) as connection:
        connection.sendall(b"GET /graphs/encoder.onnx HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.2)
        assert threading.active_count() > before
        end = time.monotonic() + 10
        while threading.active_count() > before and time.monotonic() < end:
            time.sleep(0.05)
        assert threading.active_count() == before


def test_many_connections_leave_room_afterwards(port: int) -> None:
    crowd = [socket.create_connection((HOST, port)) for _ in range(20)]
    assert sum(ends_within(connection, 0.2) for connection in crowd) >= 16
    time.sleep(1)
    assert status(port, "localhost") == 200
    for connection in crowd:
        connection.close()


def test_the_example_is_served(port: int) -> None:
    assert example_file().is_file() and status(port, "localhost", "/example.wav") == 200


@pytest.mark.parametrize(
    "request_line", [b"", b"GET / HT", b"GET / HTTP/1.0\r\nHo", b"HEAD / HTTP/1.0\r\nHost: localhost\r\n\r\n"]
)
def test_connections_that_break_leave_nothing_on_the_terminal(
    port: int, request_line: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection((HOST, port)) as connection:
        connection.sendall(request_line)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not closed
    time.sleep(0.2)
    assert status(port, "localhost") == 200
    assert capfd.readouterr().err == ""
