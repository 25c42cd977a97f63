"""Environments that keep one waiting, and a policy behind a vLLM server.

Lockstep is the same agent on the same server, asked about all live episodes together once every
environment has answered, as the collector asks a policy in this process. Its environments step
beside each other, too: the barrier of each turn is the only difference.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aem_gym.protocols import Agent, EpisodeStart, Response, TurnInput
from aem_gym.rollout.collector import Collector, CollectorSettings, requests_for
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool
from aem_gym.text_env import TextEnv
from aem_gym.types import Episode, PromptTemplate, StepResult, Task
from benchmarks.rollout import policy

FAST, SLOW, SHARE = (0.010, 0.060), 0.300, 0.1
"""Seconds of a step: drawn between the first two, and one in ten the third."""
NEW_TOKENS = 2
"""Most of a response: on a CPU, each token takes the server as long as a fast step."""
LIVE = 16
"""Most episodes at once. The others wait for a slot."""
TURNS = 12


class SlowEnv(TextEnv):
    """Rooms that lead nowhere. How long each step takes follows from the seed."""

    waits = True
    prompt_templates = {
        "compact": PromptTemplate(
            name="compact", first="{observation}", later="{observation}", response_format="short"
        )
    }
    max_turns = TURNS

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        return Task(str(self.np_random_seed)), self._shown()

    def act(self, action: str) -> StepResult:
        return self._shown()

    def _shown(self) -> StepResult:
        slow, seconds = self.np_random.random() < SHARE, self.np_random.uniform(*FAST)
        time.sleep(SLOW if slow else seconds)
        place = ("cabinet", "drawer", "shelf")[int(self.np_random.integers(3))]
        return StepResult(f"On the {place} {self.np_random.integers(1, 9)}, you see nothing.")


@dataclass
class Lockstep:
    """The same agent without what lets it be asked about each episode by itself."""

    inner: Agent
    name: str = "lockstep"

    def begin(self, start: EpisodeStart) -> None:
        self.inner.begin(start)

    def act(self, inputs: Sequence[TurnInput]) -> list[Response]:
        return self.inner.act(inputs)

    def end(self, slot: int) -> None:
        self.inner.end(slot)


def measure(
    model: Path, python: str, *, episodes: int, rounds: int, folder: Path
) -> dict[str, float]:
    """Seconds of the same episodes both ways, in turn. RuntimeError if their tokens differ."""
    template = SlowEnv.prompt_templates["compact"]
    root = Path(__file__).resolve().parents[2]
    environ = {"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": str(root)}
    options = {"python": python, "env": environ, "log": str(folder / "server.log")}
    agent: Any = policy.load(
        model, template, sampler="vllm", sampler_options=options, max_new_tokens=NEW_TOKENS
    )
    settings = CollectorSettings(template, max_concurrent_episodes=LIVE)
    seconds: dict[str, list[float]] = {"asynchronous": [], "lockstep": []}
    try:
        with EnvPool(EnvSpec.of(SlowEnv)) as pool:
            sides = {"asynchronous": Collector(pool, agent, settings)}
            sides["lockstep"] = Collector(pool, Lockstep(agent), settings)
            for number in range(-1, rounds):  # the first one starts the server, and does not count
                requests, made = requests_for(range(episodes), 1, "slow", number), []
                for name in sorted(sides, reverse=bool(number % 2)):
                    # Under a new version no side finds the prompts that the other has had read.
                    agent.policy.publish(agent.learner)
                    clock = time.perf_counter()
                    made.append(sides[name].run(requests))
                    if number >= 0:
                        seconds[name].append(time.perf_counter() - clock)
                check_same(*made)
    finally:
        agent.policy.close()
    pairs = zip(seconds["lockstep"], seconds["asynchronous"], strict=True)
    return {
        "slow_env_ratio": statistics.median(a / b for a, b in pairs),
        "slow_env_seconds": statistics.median(seconds["asynchronous"]),
        "slow_env_lockstep_seconds": statistics.median(seconds["lockstep"]),
    }


def check_same(first: Sequence[Episode], second: Sequence[Episode]) -> None:
    """Raise RuntimeError if episodes failed, or differ in a token or an observation."""
    for one, other in zip(first, second, strict=True):
        if one.error or other.error:
            raise RuntimeError(f"expected episodes without errors, got {one.error or other.error}")
        if _said(one) != _said(other):
            raise RuntimeError(f"expected the same episodes both ways, seed {one.seed} has others")


def _said(episode: Episode) -> list[tuple[Any, ...]]:
    """All but log-probabilities, whose last digit depends on what was computed together."""
    return [(turn.observation, turn.response, turn.response_ids) for turn in episode.turns]
