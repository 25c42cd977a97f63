"""The shipped suite, played by agents: the expert wins, who does not know how scores 0."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aem_gym.agents.baselines import ExpertAgent, RandomAgent
from aem_gym.envs.swe.sandbox.base import SandboxEngine
from aem_gym.envs.swe.sources import open_source
from aem_gym.protocols import Agent, EpisodeStart, Response, TurnInput
from aem_gym.rollout.collector import Collector, CollectorSettings, RolloutRequest
from aem_gym.rollout.pool import EnvPool, EnvSpec
from aem_gym.types import Episode, PromptTemplate

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(1800)]
SPEC = EnvSpec("aem_gym/SWE-v0", {"max_turns": 12})
LIMITS = {"step_timeout": 900.0, "reset_timeout": 900.0}


class Idle:
    """Submits what it was given."""

    name = "idle"

    def begin(self, start: EpisodeStart) -> None: ...

    def act(self, situations: list[TurnInput]) -> list[Response]:
        return [Response("submit") for _ in situations]

    def end(self, slot: int) -> None: ...


@pytest.fixture(scope="module")
def pool(engine: SandboxEngine) -> Iterator[EnvPool]:
    with EnvPool(SPEC, **LIMITS) as made:
        yield made


def one_of_each_package() -> list[RolloutRequest]:
    entries = open_source("default").entries.values()
    first = {entry.repo: entry.task_id for entry in reversed(list(entries))}
    return [RolloutRequest(0, n, n, {"task_id": name}) for n, name in enumerate(first.values())]


def played(pool: EnvPool, agent: Agent, tickets: list[RolloutRequest]) -> list[Episode]:
    episodes = Collector(
        pool, agent, CollectorSettings(PromptTemplate(), max_concurrent_episodes=3)
    ).run(tickets)
    assert [e.task_id for e in episodes] == [(t.options or {})["task_id"] for t in tickets]
    assert [e.error for e in episodes] == [None] * len(tickets)
    return episodes


def test_the_expert_wins_in_every_package(pool: EnvPool) -> None:
    episodes = played(pool, ExpertAgent(), one_of_each_package())
    assert len(episodes) == 10 and all(e.won and e.terminated for e in episodes)
    assert all(len(e.turns) <= 5 for e in episodes)


@pytest.mark.parametrize("agent", [RandomAgent(), Idle()], ids=["random", "idle"])
def test_who_changes_nothing_scores_nothing(pool: EnvPool, agent: Agent) -> None:
    episodes = played(pool, agent, one_of_each_package()[:5])
    assert not any(e.won or e.reward for e in episodes)
