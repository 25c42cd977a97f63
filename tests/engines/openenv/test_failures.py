"""What goes wrong in, around and with a server of `aem-gym serve`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aem_gym.agents.baselines import ExpertAgent, RandomAgent
from aem_gym.envs.openenv.env import OpenEnv
from aem_gym.errors import ConfigError, InfrastructureError
from aem_gym.rollout.collector import Collector, CollectorSettings, requests_for
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool
from aem_gym.types import StopReason
from tests.engines.openenv.servers import (
    MARKS,
    ROOT,
    SMALL_ALFWORLD,
    Server,
    Start,
    http,
    wait_for,
)

pytestmark = MARKS


def test_failures_of_an_environment_are_answers(openenv: dict[str, Server]) -> None:
    """Each reads as in this process, and the server goes on with the others."""
    url = openenv["faulty"].url()
    faults = ["raise", "exit", "number", "four", "nan", "info", "key", "none", "win", "pid", "huge"]
    faults += ["unpicklable"]
    spec = EnvSpec("tests.rollout.pool_envs:Faulty")
    with EnvPool(spec, workers=1) as here, EnvPool(EnvSpec(f"openenv:{url}")) as there:
        for slot, fault in enumerate(faults):
            for action in (fault, "again"):
                answers = []
                for pool in (here, there):
                    if action == fault:
                        assert pool.reset([(slot, 3, None)])[0].observation == "seed3"
                    answers.append(pool.step([(slot, action)])[0])
                one, other = answers
                assert (one.error, one.failure) == (other.error, other.failure), action
                assert (one.reward, one.terminated) == (other.reward, other.terminated)
                assert fault == "pid" or one.observation == other.observation
                if one.terminated:
                    break
        for fault in ("hang", "die"):  # its worker is killed, and another takes its place
            assert there.reset([(0, 1, None)])[0].error is None
            assert there.step([(0, fault)])[0].failure is StopReason.ENV_ERROR
        assert there.reset([(0, 4, None)])[0].observation == "seed4"


def test_a_session_that_is_idle_is_closed_and_opened_again(openenv: dict[str, Server]) -> None:
    with closing(OpenEnv(url=openenv["faulty"].url())) as env:
        assert env.reset(seed=1)[0] == "seed1"
        time.sleep(4)
        with pytest.raises(InfrastructureError, match="nothing came for 2 s"):
            env.step("word")
        assert env.reset(seed=2)[0] == "seed2" and env.step("word")[0] == "word"


def test_a_message_that_is_too_large_ends_its_session_only(openenv: dict[str, Server]) -> None:
    url = openenv["alfworld"].url()
    with closing(OpenEnv(url=url)) as env, closing(OpenEnv(url=url)) as other:
        env.reset(seed=1)
        other.reset(seed=1)
        with pytest.raises(InfrastructureError, match="1009|too big"):
            env.step("x" * 70_000)
        assert other.step("look")[4]["action_valid"]
        assert env.reset(seed=1)[1]["task_id"] == other.reset(seed=1)[1]["task_id"]
    host = {"Host": url.removeprefix("http://")}
    assert http(url, "POST", "/reset", host, b"x" * 70_000)[0] == 413


def test_arguments_that_clients_may_not_set_are_refused(openenv: dict[str, Server]) -> None:
    url = openenv["webshop"].url()
    with pytest.raises(ConfigError, match="argument that clients may set.*--allow difficulty"):
        OpenEnv(url=url, difficulty="full")
    with pytest.raises(ConfigError, match="unknown split 'nowhere'"):
        OpenEnv(url=url, split="nowhere")


VANISHING = """
import sys, time
from aem_gym.envs.openenv.env import OpenEnv
held = [OpenEnv(url=sys.argv[1]) for _ in range(8)]
for env in held:
    env.reset(seed=1)
print("held", flush=True)
time.sleep(600)
"""


def eight_more(url: str) -> bool:
    """Whether there are eight free sessions, and no ninth."""
    held: list[OpenEnv] = []
    try:
        while len(held) < 9:
            held.append(OpenEnv(url=url))
    except InfrastructureError as error:
        assert "--sessions" in str(error)
    finally:
        for env in held:
            env.close()
    return len(held) == 8


def test_sessions_are_free_when_a_client_vanishes(openenv: dict[str, Server]) -> None:
    url = openenv["counter"].url()
    assert wait_for(lambda: eight_more(url))
    command = [sys.executable, "-c", VANISHING, url]
    client = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout is not None and client.stdout.readline() == "held\n"
        with pytest.raises(InfrastructureError, match="--sessions"):
            OpenEnv(url=url)
    finally:
        client.kill()
        client.wait()
    assert wait_for(lambda: eight_more(url))


class Killer:
    """An agent that ends a server at its third turn."""

    name = "killer"

    def __init__(self, server: Server) -> None:
        self.server, self.inner = server, RandomAgent()

    def begin(self, start: Any) -> None:
        self.inner.begin(start)

    def act(self, inputs: Any) -> Any:
        if inputs[0].turn == 2 and self.server.process.poll() is None:
            self.server.end(signal.SIGKILL)
        return self.inner.act(inputs)

    def end(self, slot: int) -> None:
        self.inner.end(slot)


def test_a_server_that_is_killed_is_infrastructure_and_may_come_back(start_openenv: Start) -> None:
    server = start_openenv(*SMALL_ALFWORLD)
    url = server.url()
    with EnvPool(EnvSpec(f"openenv:{url}", {"connect_timeout": 3.0})) as pool:
        template = next(iter(pool.describe().prompt_templates.values()))
        requests = requests_for(range(8), 1, "t")
        lost = Collector(pool, Killer(server), CollectorSettings(template)).run(requests)
        assert {e.stop_reason for e in lost} == {StopReason.INFRASTRUCTURE}
        assert all(len(e.turns) == 3 and e.error for e in lost)
        down = Collector(pool, ExpertAgent(), CollectorSettings(template)).run(requests)
        assert {e.stop_reason for e in down} == {StopReason.INFRASTRUCTURE}
        assert all("no OpenEnv server can be reached" in str(e.error) for e in down)
        again = start_openenv(*SMALL_ALFWORLD, port=int(url.rpartition(":")[2]))
        assert again.url() == url
        back = Collector(pool, ExpertAgent(), CollectorSettings(template)).run(requests)
        assert {e.stop_reason for e in back} == {StopReason.WON}
    with pytest.raises(InfrastructureError, match="cannot be reached|can be reached"):
        OpenEnv(url="http://127.0.0.1:9", connect_timeout=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_with_all_it_started(start_openenv: Start, number: int) -> None:
    server = start_openenv(*SMALL_ALFWORLD, "--workers", "2")
    env = OpenEnv(url=server.url())
    env.reset(seed=1)
    children = children_of(server.process.pid)
    assert len(children) >= 2
    assert server.end(number) == 0 and server.log.read_text().endswith("stopped\n")
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    with pytest.raises(InfrastructureError):
        env.step("look")
    env.close()


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]
