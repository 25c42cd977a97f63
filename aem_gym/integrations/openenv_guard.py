"""What stands in front of a served environment: who may ask, how much, and how long in silence.

An ASGI application around another one, which sees every HTTP request and every WebSocket first,
those for documentation pages included.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

BODY_SECONDS = 30.0
"""How long the body of an HTTP request may take to arrive."""
_PORT = re.compile(r":[0-9]{1,5}$")
_UNAUTHORIZED, _FORBIDDEN, _SLOW, _LARGE = 401, 403, 408, 413


class Guard:
    """Passes on what is allowed, and answers the rest itself.

    Args:
        app: what is guarded.
        token: every request has to bring it, as `Authorization: Bearer TOKEN`. None: only programs
            of this machine may ask, which the socket sees to; what a web site makes a browser
            here send is refused by its `Host` and `Origin`.
        idle_seconds: a WebSocket that sends nothing for so long while it is its turn is closed.
        largest_body: most bytes of an HTTP request's body; those of WebSocket messages are limited
            by the server.
    """

    def __init__(
        self, app: App, *, token: str | None, idle_seconds: float, largest_body: int
    ) -> None:
        self._app, self._idle, self._largest = app, idle_seconds, largest_body
        self._token = None if token is None else _digest(token.encode())

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif refusal := self._refusal(scope["headers"]):
            await _refuse(scope, send, *refusal)
        elif scope["type"] == "websocket":
            await self._app(scope, self._awake(receive, send), send)
        else:
            body = await self._body(receive)
            if isinstance(body, bytes):
                await self._app(scope, _replay(body, receive), send)
            else:
                await _refuse(scope, send, *body)

    def _refusal(self, headers: Headers) -> tuple[int, str] | None:
        """Status and reason, where these headers are not allowed."""
        if self._token is None:
            return _from_a_web_site(headers)
        given = _values(headers, b"authorization")
        kind, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        # Of digests, so that the time says nothing about the token's length either.
        same = hmac.compare_digest(_digest(token.strip()), self._token)
        if same and kind.lower() == b"bearer":
            return None
        return _UNAUTHORIZED, "expected the header Authorization: Bearer TOKEN, with this server's"

    def _awake(self, receive: Receive, send: Send) -> Receive:
        """`receive` of a WebSocket, which hangs up where nothing comes for too long."""

        async def awake() -> Message:
            try:
                return await asyncio.wait_for(receive(), self._idle)
            except TimeoutError:
                reason = f"nothing came for {self._idle:g} s"
                await send({"type": "websocket.close", "code": 1001, "reason": reason})
                return {"type": "websocket.disconnect", "code": 1001, "reason": reason}

        return awake

    async def _body(self, receive: Receive) -> bytes | tuple[int, str]:
        """The whole body of a request, or why it is refused."""
        body: bytes = b""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    body += bytes(message.get("body", b""))
                    if len(body) > self._largest:
                        return _LARGE, f"expected at most {self._largest:,} bytes"
                    if not message.get("more_body", False):
                        return body
        except TimeoutError:
            return _SLOW, f"expected the whole request within {BODY_SECONDS:g} s"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, which no other can reach."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _from_a_web_site(headers: Headers) -> tuple[int, str] | None:
    """The refusal of what a browser sends for a page that is not this server's own."""
    hosts, origins = _values(headers, b"host"), _values(headers, b"origin")
    host = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
    if not is_loopback(host.rpartition(":")[0] if _PORT.search(host) else host):
        return _FORBIDDEN, f"expected a Host of this machine (127.0.0.1, localhost), got {host!r}"
    for origin in origins:
        page = origin.decode("latin-1")
        if page.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return _FORBIDDEN, f"a page of {page!r} may not use this server"
    return None


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` of a request whose body has been read; then it waits for its end, as before."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


async def _refuse(scope: MutableMapping[str, Any], send: Send, status: int, reason: str) -> None:
    """Answer with a status and a line of text; a WebSocket is refused before it is opened."""
    kind = "http.response"
    if scope["type"] == "websocket":
        kind = "websocket.http.response"
        if kind not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
            return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == _UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": f"{reason}\n".encode(errors="replace")})
