"""Servers of `aem-gym serve`, as the tests of OpenEnv start and ask them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PYTHON = os.environ.get("AEM_OPENENV_PYTHON", "")
MARKS = [
    pytest.mark.engines,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON, reason="needs OpenEnv: make test-engines"),
]
"""Of a module: `make test-engines` makes the environment that AEM_OPENENV_PYTHON names."""
ROOT = Path(__file__).parents[3]
TOKEN = "of-thirty-two-characters-or-more"
FAULTY, COUNTER = "tests.rollout.pool_envs:Faulty", "tests.rollout.pool_envs:Counter"
SMALL_ALFWORLD = ("alfworld", "--env-arg", "difficulty=small", "--allow", "difficulty")
EASY_WEBSHOP = ("webshop", "--env-arg", "difficulty=easy")
START_SECONDS = 180.0
"""OpenEnv imports a web interface, which takes its time on a busy machine."""


class Server:
    """`aem-gym serve ...` in the environment that has OpenEnv."""

    def __init__(self, log: Path, *args: str, port: int = 0, **environment: str) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [PYTHON, "-u", "-m", "aem_gym", "serve", *args, "--port", str(port)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def url(self) -> str:
        """Its address, once it answers."""
        until = time.monotonic() + START_SECONDS
        while " is served at " not in (text := self.log.read_text()):
            assert self.process.poll() is None and time.monotonic() < until, text
            time.sleep(0.05)
        return text.split(" is served at ")[1].split()[0]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)


Start = Callable[..., Server]


def http(
    url: str, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, bytes]:
    """Status and body of a raw request, with the headers as they are given."""
    host, _, port = url.removeprefix("http://").partition(":")
    host = "127.0.0.1" if host == "0.0.0.0" else host
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""])
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(head.encode() + body)
        answer = b""
        while more := line.recv(65536):
            answer += more
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
