"""Episodes side by side: environments in threads, policies behind a server, calls that hang."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from aem_gym.concurrency import in_thread, run_async
from aem_gym.errors import InfrastructureError
from aem_gym.protocols import Generation, GenerationRequest, Response, TurnInput
from aem_gym.rollout.collector import Collector, CollectorSettings, RolloutRequest, requests_for
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool
from aem_gym.types import Episode, PromptTemplate, StopReason
from tests.rollout.pool_envs import Waiting
from tests.rollout.test_collector import Scripted
from tests.tiny import ENV, Tiny

WAITING = EnvSpec("pool-test/Waiting-v0")
SETTINGS = CollectorSettings(PromptTemplate())


@pytest.fixture
def company(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let so many environments wait for one another."""
    monkeypatch.setattr(Waiting, "abandoned", [])

    def size(count: int) -> None:
        monkeypatch.setattr(Waiting, "company", threading.Barrier(count))

    yield size


def run(spec: EnvSpec, requests: Sequence[RolloutRequest], **limits: Any) -> list[Episode]:
    agent = Scripted(lambda key, turn: f"{key}:{turn.turn}")
    with EnvPool(spec, **limits) as pool:
        return Collector(pool, agent, SETTINGS).run(requests)


def test_environments_that_wait_do_so_together(company: Callable[[int], None]) -> None:
    """Each step ends only when all eight are in it; the episodes are those of one after another."""
    requests = requests_for(range(8), 1, "t")
    company(8)
    together = run(WAITING, requests)
    company(1)
    assert [e.error for e in together] == [None] * 8
    assert together == [run(WAITING, [request])[0] for request in requests]


@pytest.mark.parametrize("where", ["start", "act"])
def test_an_environment_that_hangs_in_a_thread_is_abandoned(
    company: Callable[[int], None], where: str
) -> None:
    """Its episode ends, what it waits for is ended, its slot is used again, others go on."""
    spec = EnvSpec("pool-test/Waiting-v0", {"hang_at": 1, "hang_in": where})
    limits = {"step_timeout": 0.5, "reset_timeout": 0.5}
    settings = CollectorSettings(PromptTemplate(), max_concurrent_episodes=2)
    with EnvPool(spec, **limits) as pool:
        agent = Scripted(lambda key, turn: "go")
        episodes = Collector(pool, agent, settings).run(requests_for(range(4), 1, "t"))
        assert ["EnvironmentTimeout" in str(e.error) for e in episodes] == [
            False,
            True,
            False,
            False,
        ]
        assert episodes[1].stop_reason is StopReason.ENV_ERROR
        assert [e.won for e in episodes] == [True, False, True, True]
        for _ in range(100):
            if Waiting.abandoned:
                break
            time.sleep(0.05)
        assert Waiting.abandoned == [1]


class Delayed:
    """A policy behind a server that answers in any order: the tiny one, one prompt at a time."""

    exact = True

    def __init__(self, inner: Any) -> None:
        self.inner, self.lock = inner, threading.Lock()
        self.rng = np.random.default_rng(5)

    async def sample(self, request: GenerationRequest) -> Generation:
        await asyncio.sleep(float(self.rng.exponential(0.01)))
        generation: Generation = self.inner.generate([request])[0]
        return generation

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize("context", ["transcript", "window"])
@pytest.mark.parametrize("most", [0, 3])
def test_a_policy_behind_a_server_samples_the_same_tokens(
    tiny: Tiny, context: str, most: int
) -> None:
    requests = requests_for(range(4), 2, "t")
    settings = CollectorSettings(tiny.template, context, 6, max_concurrent_episodes=most)
    agent: Any = tiny.agent(context=context)
    with EnvPool(ENV) as pool:
        together = Collector(pool, agent, settings).run(requests)
        agent.policy = Delayed(agent.policy)
        ended: list[Episode] = []
        apart = Collector(pool, agent, settings).run(requests, on_end=ended.append)
    assert len(ended) == len(apart) == len(together)
    for one, other in zip(together, apart, strict=True):
        assert (one.stop_reason, len(one.turns)) == (other.stop_reason, len(other.turns))
        for first, second in zip(one.turns, other.turns, strict=True):
            assert first.prompt_ids == second.prompt_ids
            assert first.response_ids == second.response_ids
            assert np.allclose(first.logprobs, second.logprobs, rtol=0, atol=1e-5)
            assert np.allclose(first.entropies, second.entropies, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("gone"), StopReason.AGENT_ERROR),
        (InfrastructureError("gone"), StopReason.INFRASTRUCTURE),
    ],
)
def test_a_server_that_fails_ends_the_episode_it_was_asked_about(
    error: Exception, reason: StopReason
) -> None:
    class Failing(Scripted):
        policy = Delayed(mock.Mock(spec=("publish", "release", "close")))

        async def respond(self, turn: TurnInput) -> Response:
            if self.keys[turn.slot] == 1:
                raise error
            return self.act([turn])[0]

    requests = [RolloutRequest(seed, 0, seed) for seed in range(3)]
    with EnvPool(EnvSpec("pool-test/Counter-v0")) as pool:
        agent = Failing(lambda key, turn: "go")
        episodes = Collector(pool, agent, SETTINGS).run(requests)
    assert [e.error is None for e in episodes] == [True, False, True]
    assert str(episodes[1].error).startswith("AgentFailure: ") and "gone" in str(episodes[1].error)
    assert episodes[1].stop_reason is reason


def test_a_notebook_runs_episodes_too() -> None:
    """There an event loop runs already in this thread."""
    requests = requests_for(range(3), 1, "t")
    spec = EnvSpec("pool-test/Counter-v0")

    async def cell() -> list[Episode]:
        return run(spec, requests)

    assert asyncio.run(cell()) == run(spec, requests)


def test_a_call_that_hangs_does_not_keep_the_process(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import time\nfrom aem_gym.concurrency import in_thread, run_async\n"
        "try:\n    run_async(in_thread(lambda: time.sleep(600), 0.1))\n"
        "except TimeoutError:\n    print('abandoned')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "abandoned"


def test_a_call_in_a_thread_gives_its_error() -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        run_async(in_thread(fail))
    assert run_async(in_thread(threading.current_thread)) is not threading.current_thread()
