"""A response without an action: the environment answers it, and nothing happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import pytest

import aem_gym  # noqa: F401  (registers the environments)
from aem_gym.text_env import TextEnv
from aem_gym.types import REPLY, StepResult, Task


class Counter(TextEnv):
    """Pays for each action, and calls each second one invalid."""

    max_turns = 4

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        self.done = 0
        return Task("one"), StepResult("go", admissible_actions=["add"])

    def act(self, action: str) -> StepResult:
        self.done += 1
        text = f"{self.done} after {action}"
        return StepResult(
            text, reward=1.0, admissible_actions=["add"], action_valid=self.done % 2 == 0
        )


def test_it_takes_a_turn_and_changes_nothing() -> None:
    env = Counter()
    env.reset(seed=0)
    assert env.step("add")[4]["action_valid"] is False
    observation, reward, terminated, truncated, info = env.step(f"{REPLY}OK.")
    assert (observation, reward, terminated, truncated) == ("OK.", 0.0, False, False)
    assert info["action_valid"] and info["admissible_actions"] == ["add"] and env.done == 1
    assert env.step("add")[0] == "2 after add"
    assert env.step(REPLY)[3], "the limit of turns holds for them as well"
    with pytest.raises(gym.error.ResetNeeded):
        env.step(f"{REPLY}OK.")


@pytest.mark.parametrize("env_id", ["aem_gym/ALFWorld-v0", "aem_gym/WebShop-v0"])
def test_a_thought_changes_nothing_in_an_environment_of_ours(env_id: str) -> None:
    """The same actions with and without thoughts between them give the same observations."""
    env = gym.make(env_id)
    seen = []
    for thinks in (False, True):
        observation, info = env.reset(seed=3)
        said = [observation]
        for number in range(4):
            if thinks:
                thought, reward, *_, between = env.step(f"{REPLY}OK.")
                assert (thought, reward) == ("OK.", 0.0)
                assert between["admissible_actions"] == info["admissible_actions"]
            action = sorted(info["admissible_actions"])[number]
            observation, *_, info = env.step(action)
            said.append(observation)
        seen.append(said)
    assert seen[0] == seen[1]
    env.close()
