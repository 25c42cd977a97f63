"""Serves a web application to the browsers of this machine, and to nobody else.

The server listens on the loopback address only. A web site elsewhere can still make a browser here
send requests; those under a name of that site (DNS rebinding) are refused by their `Host` header.
"""

from __future__ import annotations

import io
import logging
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from aem_gym.errors import ConfigError, describe

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8000
LARGEST_BODY = 64 * 1024
_READ_AT_MOST = 8 * 1024 * 1024
_SECONDS = 30
_OUR_NAMES = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)
_METHODS = ("GET", "HEAD", "POST")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Sent with every answer that does not set them itself."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response for a browser."""

    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


Ask = Callable[[], Answer]


class Guarded:
    """A WSGI application behind checks: what reaches it is a whole, small request to this machine.

    Everything else, and an application that fails, is answered with a status and a line of text.
    The application is called by `turn`, by default at once.
    """

    def __init__(self, app: WSGIApplication, turn: Callable[[Ask], Answer] | None = None) -> None:
        self._app, self._turn = app, turn or (lambda ask: ask())

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        answer = _refusal(environ) or self._turn(lambda: _ask(self._app, environ))
        given = {name.lower() for name, _ in answer.headers}
        headers = [(name, text) for name, text in _HEADERS.items() if name.lower() not in given]
        start_response(answer.status, [*answer.headers, *headers])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else answer.body]


def _ask(app: WSGIApplication, environ: WSGIEnvironment) -> Answer:
    """The application's whole answer, or that it failed."""
    started: list[tuple[str, list[tuple[str, str]]]] = []
    body: list[bytes] = []

    def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[..., None]:
        started.append((status, headers))
        return body.append

    method = environ["REQUEST_METHOD"]
    try:
        parts = app({**environ, "REQUEST_METHOD": "GET" if method == "HEAD" else method}, start)
        body.extend(parts)
        if close := getattr(parts, "close", None):
            close()
        status, headers = started[-1]
        return Answer(status, tuple(headers), b"".join(body))
    except Exception as error:
        logger.warning("%s %s failed: %s", method, environ.get("PATH_INFO", ""), describe(error))
        logger.debug("where it failed:", exc_info=True)
        return line("500 Internal Server Error", f"It failed: {describe(error)}")


def line(status: str, text: str, *headers: tuple[str, str]) -> Answer:
    """An answer of plain text."""
    kind = ("Content-Type", "text/plain; charset=utf-8")
    return Answer(status, (kind, *headers), f"{status}\n\n{text}\n".encode(errors="replace"))


def _refusal(environ: WSGIEnvironment) -> Answer | None:
    """The reason to refuse a request; None if there is none: its body has then been read."""
    host = environ.get("HTTP_HOST", "")
    if not _OUR_NAMES.fullmatch(host):
        said = f"Expected the Host {HOST} or localhost, got {host!r}."
        return line("403 Forbidden", f"{said} Open the address that was printed.")
    method = environ["REQUEST_METHOD"]
    if method not in _METHODS:
        allowed = ", ".join(_METHODS)
        said = f"Expected {allowed}, got {method}."
        return line("405 Method Not Allowed", said, ("Allow", allowed))
    return _read_body(environ) if method == "POST" else None


def _read_body(environ: WSGIEnvironment) -> Answer | None:
    """Put the whole body in place of the stream; returns the refusal of a bad one."""
    length = environ.get("CONTENT_LENGTH", "")
    if not length:
        return line("411 Length Required", "Expected a Content-Length.")
    if not re.fullmatch(r"[0-9]{1,18}", length):
        return line("400 Bad Request", f"Content-Length: expected a number, got {length!r}.")
    size, stream = int(length), environ["wsgi.input"]
    try:
        if size > LARGEST_BODY:
            # A browser that is still sending does not hear an answer, it sees a reset.
            left = min(size, _READ_AT_MOST)
            while left and (read := stream.read(min(left, LARGEST_BODY))):
                left -= len(read)
            said = f"Expected at most {LARGEST_BODY:,} bytes, got {size:,}."
            return line("413 Content Too Large", said)
        body = stream.read(size)
    except OSError:
        return line("408 Request Timeout", "The request came too slowly.")
    if len(body) < size:
        return line("400 Bad Request", f"Expected {size:,} bytes, got {len(body):,}.")
    environ["wsgi.input"] = io.BytesIO(body)
    return None


class LoopbackServer(ThreadingMixIn, WSGIServer):
    """Serves an application on the loopback address, behind `Guarded`.

    Connections have threads of their own (browsers open some and send nothing for a while); the
    application is called by one, that of `run`.

    Args:
        app: what is served.
        port: 0 for any free one; None for 8000, or any free one if that is taken.

    Raises:
        ConfigError: the port cannot be used.
    """

    daemon_threads = True

    def __init__(self, app: WSGIApplication, port: int | None = None) -> None:
        self._waiting: SimpleQueue[tuple[Ask, Future[Answer]] | None] = SimpleQueue()
        try:
            super().__init__((HOST, PORT if port is None else port), _Handler)
        except OSError as error:
            if port is not None:
                raise ConfigError(
                    f"port {port} of {HOST} cannot be used: {error.strerror}. Give another with "
                    "--port; --port 0 takes any free one"
                ) from error
            super().__init__((HOST, 0), _Handler)
        self.set_app(Guarded(app, self._in_turn))

    @property
    def url(self) -> str:
        """The address to open."""
        return f"http://{HOST}:{self.server_port}/"

    def run(self) -> None:
        """Answer requests until `stop`, or until it is interrupted."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        try:
            while waiting := self._waiting.get():
                ask, answer = waiting
                answer.set_result(ask())
        finally:
            self.shutdown()
            self.server_close()

    def stop(self) -> None:
        """Make `run` return. Any thread may call it."""
        self._waiting.put(None)

    def server_bind(self) -> None:
        """Bind, without looking up the machine's name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser hung up, or said nothing for a while: not worth a line."""
        logger.debug("a connection broke off", exc_info=True)

    def _in_turn(self, ask: Ask) -> Answer:
        """In a connection's thread: let `run` do it."""
        answer: Future[Answer] = Future()
        self._waiting.put((ask, answer))
        return answer.result()


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
