"""The guard in front of served environments: who is let in, how much, and how long in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.integrations.openenv_guard import Guard, Message, is_loopback

TOKEN = "a-token-of-some-length"
RIGHT = (b"authorization", b"Bearer " + TOKEN.encode())
HERE = (b"host", b"127.0.0.1:8000")
PATHS = ("/ws", "/reset", "/docs", "/openapi.json", "/web", "/health", "/any/other")
Header = tuple[bytes, bytes]


class Inner:
    """What is guarded: reads all that comes, and says how it was called."""

    def __init__(self) -> None:
        self.seen: list[Message] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while True:
            self.seen.append(await receive())
            last = self.seen[-1]
            if last["type"] == "http.request":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": last["body"]})
                return
            if last["type"] == "websocket.disconnect":
                return


def ask(
    kind: str,
    headers: Sequence[Header],
    messages: Sequence[Message],
    *,
    token: str | None = None,
    path: str = "/ws",
    extensions: bool = True,
) -> tuple[Inner, list[Message]]:
    """What the guarded application saw, and what was sent back."""
    inner, sent, left = Inner(), list[Message](), list(messages)

    async def receive() -> Message:
        if left:
            return left.pop(0)
        await asyncio.sleep(60)
        raise AssertionError("nothing more comes")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": list(headers)}
    if extensions:
        scope["extensions"] = {"websocket.http.response": {}}
    guard = Guard(inner, token=token, idle_seconds=0.05, largest_body=10)
    asyncio.run(guard(scope, receive, send))
    return inner, sent


def body(data: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_every_path_wants_the_token(kind: str, path: str) -> None:
    wrong: list[list[Header]] = [
        [],
        [HERE],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", TOKEN.encode())],
        [(b"authorization", b"Basic " + TOKEN.encode())],
        [(b"authorization", RIGHT[1] + b"x")],
        [(b"authorization", RIGHT[1][:-1])],
        [RIGHT, (b"authorization", b"Bearer other")],
        [(b"cookie", b"token=" + TOKEN.encode())],
    ]
    for headers in wrong:
        inner, sent = ask(kind, headers, [body(b"x")], token=TOKEN, path=path)
        assert not inner.seen and sent[0]["status"] == 401
        inner, sent = ask(kind, headers, [body(b"x")], token=TOKEN, path=path, extensions=False)
        assert not inner.seen
        assert sent[0].get("status") == 401 or sent[0]["type"] == "websocket.close"
    inner, sent = ask("http", [RIGHT], [body(b"x")], token=TOKEN, path=path)
    assert inner.seen and sent[0]["status"] == 200


@given(st.binary(max_size=40))
def test_no_other_token_is_let_in(other: bytes) -> None:
    if other.strip() != TOKEN.encode():
        headers = [(b"authorization", b"Bearer " + other)]
        inner, _ = ask("http", headers, [body(b"x")], token=TOKEN)
        assert not inner.seen


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ([HERE], True),
        ([(b"host", b"localhost:8000")], True),
        ([(b"host", b"[::1]:8000")], True),
        ([HERE, (b"origin", b"http://127.0.0.1:8000")], True),
        ([], False),
        ([HERE, HERE], False),
        ([(b"host", b"evil.example")], False),
        ([(b"host", b"127.0.0.1.evil.example:8000")], False),
        ([HERE, (b"origin", b"https://evil.example")], False),
        ([HERE, (b"origin", b"http://127.0.0.1:3000")], False),
        ([HERE, (b"origin", b"null")], False),
        ([HERE, (b"origin", b"http://[bad")], False),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_without_a_token_no_web_site_gets_in(
    kind: str, headers: list[Header], allowed: bool
) -> None:
    messages = [body(b"x"), {"type": "websocket.disconnect"}]
    inner, sent = ask(kind, headers, messages)
    assert bool(inner.seen) == allowed
    assert allowed or sent[0]["status"] == 403


def test_a_body_is_passed_on_whole_or_refused() -> None:
    inner, sent = ask("http", [HERE], [body(b"12345", True), body(b"67890")])
    assert inner.seen == [body(b"1234567890")] and sent[0]["status"] == 200
    inner, sent = ask("http", [HERE], [body(b"12345", True), body(b"678901", True)])
    assert not inner.seen and sent[0]["status"] == 413


def test_a_silent_session_is_closed() -> None:
    connect, word = {"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}
    inner, sent = ask("websocket", [HERE], [connect, word])
    assert [m["type"] for m in inner.seen[:2]] == ["websocket.connect", "websocket.receive"]
    assert inner.seen[2]["type"] == "websocket.disconnect"
    assert sent == [{"type": "websocket.close", "code": 1001, "reason": "nothing came for 0.05 s"}]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
