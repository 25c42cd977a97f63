"""The server for pages: nobody else's requests reach an application, and one thread calls it."""

from __future__ import annotations

import http.client
import io
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aem_gym.errors import ConfigError
from aem_gym.loopback import HOST, LARGEST_BODY, PORT, Guarded, LoopbackServer

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


class Echo:
    """Sends back what it got, and remembers who called."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.calls = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        self.threads.add(threading.get_ident())
        self.calls += 1
        if environ["PATH_INFO"] == "/fail":
            raise KeyError("<b>lost</b>")
        start_response("200 OK", [("Content-Type", "text/plain"), ("Cache-Control", "max-age=1")])
        yield environ["REQUEST_METHOD"].encode()
        yield environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def ask(app: WSGIApplication, **changes: Any) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of one request."""
    environ: dict[str, Any] = {"HTTP_HOST": "localhost"} | changes
    setup_testing_defaults(environ)
    started: list[Any] = []
    body = b"".join(Guarded(app)(environ, lambda *args: started.append(args)))  # type: ignore
    status, headers = started[-1][:2]
    return int(status.split()[0]), dict(headers), body.decode()


@contextmanager
def served(app: WSGIApplication, port: int | None = 0) -> Iterator[LoopbackServer]:
    server = LoopbackServer(app, port)
    runner = threading.Thread(target=server.run)
    runner.start()
    try:
        yield server
    finally:
        server.stop()
        runner.join()


def connected(server: LoopbackServer) -> socket.socket:
    """A connection on which nothing is said yet."""
    return socket.create_connection((HOST, server.server_port))


def request(server: LoopbackServer, method: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, server.server_port)
    connection.request(method, "/", body)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:9", "LocalHost"])
def test_our_names_are_answered(host: str) -> None:
    assert ask(Echo(), HTTP_HOST=host)[::2] == (200, "GET")


@given(st.text())
@example("127.0.0.1.example.com:8000")
@example("localhost.example.com")
@example("evil@localhost")
@example("localhost:8000\n")
@example("")
def test_other_names_are_not(host: str) -> None:
    if host.lower().split(":")[0] not in ("127.0.0.1", "localhost") or "\n" in host:
        echo = Echo()
        status, _, text = ask(echo, HTTP_HOST=host)
        assert status == 403 and "Open the address" in text and echo.calls == 0


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"REQUEST_METHOD": "PUT"}, 405),
        ({"REQUEST_METHOD": "OPTIONS"}, 405),
        ({"REQUEST_METHOD": "get"}, 405),
        ({"REQUEST_METHOD": "POST"}, 411),
        ({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "-1"}, 400),
        ({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "1e3"}, 400),
        ({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "\u0663"}, 400),
        ({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "9"}, 400),
        ({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(LARGEST_BODY + 1)}, 413),
        ({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "9" * 18}, 413),
        ({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "9" * 5000}, 400),
    ],
)
def test_requests_that_are_not_whole_and_small(changes: dict[str, str], status: int) -> None:
    echo = Echo()
    found, headers, _ = ask(echo, **changes, **{"wsgi.input": io.BytesIO(b"short")})
    assert (found, echo.calls) == (status, 0)
    assert ("Allow" in headers) == (status == 405)


def test_an_application_that_fails_is_a_status(caplog: pytest.LogCaptureFixture) -> None:
    status, headers, text = ask(Echo(), PATH_INFO="/fail")
    assert status == 500 and "lost" in text and "Traceback" not in text
    assert headers["Content-Type"].startswith("text/plain")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "GET /fail failed: KeyError" in caplog.text


def test_headers_that_an_application_sets_are_left() -> None:
    headers = ask(Echo())[1]
    assert headers["Cache-Control"] == "max-age=1"
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_one_thread_calls_the_application_whoever_is_connected() -> None:
    echo = Echo()
    with served(echo) as server, ThreadPoolExecutor(8) as people, connected(server):
        answers = list(people.map(lambda _: request(server, "GET"), range(40)))
    assert answers == [(200, b"GET")] * 40
    assert echo.calls == 40 and len(echo.threads) == 1


def test_bodies_come_through_and_large_ones_are_answered() -> None:
    with served(Echo()) as server:
        assert request(server, "POST", b"x" * 1000) == (200, b"POST" + b"x" * 1000)
        for size in (LARGEST_BODY + 1, 3_000_000):
            assert request(server, "POST", b"x" * size)[0] == 413
        assert request(server, "HEAD") == (200, b"")


@pytest.mark.parametrize(
    "sent", [b"\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"\x16\x03\x01", b"GET /\0"]
)
def test_what_is_no_request_does_no_harm(sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with served(Echo()) as server:
        with connected(server) as connection:
            connection.sendall(sent)
        assert request(server, "GET") == (200, b"GET")
    assert "Traceback" not in capfd.readouterr().err


def test_it_listens_on_the_loopback_address_only() -> None:
    with served(Echo()) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_a_port_that_is_taken() -> None:
    with served(Echo()) as server, pytest.raises(ConfigError, match="in use.*--port 0"):
        LoopbackServer(Echo(), server.server_port)
    with socket.socket() as other, pytest.MonkeyPatch.context() as patch:
        other.bind((HOST, 0))
        other.listen()
        patch.setattr("aem_gym.loopback.PORT", other.getsockname()[1])
        with served(Echo(), port=None) as server:
            assert server.server_port not in (PORT, other.getsockname()[1])
