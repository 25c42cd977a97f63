"""OpenEnv servers of others, used as our environments."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aem_gym.envs.openenv.env import OpenEnv
from aem_gym.errors import ConfigError
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool
from aem_gym.types import StopReason
from tests.engines.openenv.servers import (
    MARKS,
    PYTHON,
    START_SECONDS,
    wait_for,
)

pytestmark = MARKS


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = [PYTHON, str(Path(__file__).with_name("echo.py")), str(port)]
    process = subprocess.Popen(program)

    def answers() -> bool:
        assert process.poll() is None
        with closing(socket.socket()) as line:
            return line.connect_ex(("127.0.0.1", port)) == 0

    assert wait_for(answers, START_SECONDS)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


def test_another_environment_that_speaks_text_can_be_used(echo: str) -> None:
    """The text that an action needs is found, and the only one of an observation."""
    with EnvPool(EnvSpec(f"openenv:{echo}", {"max_turns": 3})) as pool:
        assert pool.describe().max_turns == 3 and not pool.describe().has_expert
        assert pool.reset([(0, 7, None)])[0].observation == "say it, 7"
        assert pool.step([(0, "hello")])[0].observation == "hello (calm)"
        won = pool.step([(0, "please")])[0]
        assert (won.reward, won.terminated, won.info["won"]) == (1.0, True, True)
        pool.reset([(0, 8, None)])
        failed = pool.step([(0, "fail")])[0]
        assert failed.failure is StopReason.ENV_ERROR and "failed on purpose" in str(failed.error)
    with closing(OpenEnv(url=echo, action_key="message", observation_key="echo")) as env:
        assert env.reset(seed=1)[0] == "say it, 1"


def test_another_environment_says_what_is_missing(echo: str) -> None:
    with pytest.raises(ConfigError, match="takes no arguments.*leave out split"):
        OpenEnv(url=echo, split="train")
    with closing(OpenEnv(url=echo, observation_key="length")) as env:
        env_pool = EnvPool(EnvSpec(f"openenv:{echo}", {"observation_key": "length"}))
        with env_pool as pool:
            assert "observation_key" in str(pool.reset([(0, 1, None)])[0].error)
        assert env.max_turns == 50
