"""A server that docker/vllm/serve.sh starts, as an operator would, also after it was lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.engines.test_vllm import ENVIRON, PYTHON, Play, play, pytestmark
from tests.tiny import Tiny

__all__ = ["play", "pytestmark"]
SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "vllm" / "serve.sh"
KEY = "a key of this test"


@pytest.fixture
def serve(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    """Starts a server at a port, and waits until it answers."""
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> subprocess.Popen[bytes]:
        own = {"VLLM_PYTHON": PYTHON, "VLLM_API_KEY": KEY, "PORT": str(port), "LORA_RANK": "16"}
        cpu = ["--dtype", "float32", "--enforce-eager", "--block-size", "32"]
        command = [str(SCRIPT), str(tiny.folder), "--max-model-len", "1024", *cpu]
        with (tmp_path / f"server-{len(started)}.log").open("wb") as log:
            server = subprocess.Popen(
                command,
                env={**os.environ, **ENVIRON, **own},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(server)
        until = time.monotonic() + 400
        while server.poll() is None and time.monotonic() < until:
            try:
                if urllib3.request("GET", f"http://127.0.0.1:{port}/health").status == 200:
                    return server
            except urllib3.exceptions.HTTPError:
                time.sleep(0.5)
        raise AssertionError((tmp_path / f"server-{len(started) - 1}.log").read_text()[-3000:])

    yield start
    for server in started:
        end(server)


def end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_is_started_again_gets_the_adapter_again(
    tiny: Tiny,
    play: Play,
    serve: Callable[[int], subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    port, gone = free_port(), free_port()
    server = serve(port)
    given = {"urls": f"http://127.0.0.1:{port}", "adapters": str(tmp_path / "adapters")}
    agent: Any = tiny.agent(sampler="vllm", sampler_options=given)
    try:
        assert {e.error for e in play(agent)} == {None}
        end(server)
        assert {e.stop_reason.value for e in play(agent)} == {"infrastructure"}
        serve(port)
        assert {e.error for e in play(agent)} == {None}
        agent.policy.publish(agent.learner)
        assert {e.error for e in play(agent)} == {None}
        # One of two is away: its episodes go on with the other, and so do new versions.
        lost = type(agent.policy._servers[0])(f"http://127.0.0.1:{gone}", KEY, agent.policy.options)
        agent.policy._servers.append(lost)
        assert {e.error for e in play(agent)} == {None} and lost.away
        agent.policy.publish(agent.learner)
        assert {e.error for e in play(agent)} == {None}
    finally:
        agent.policy.close()
