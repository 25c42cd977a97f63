"""An episode played with random admissible actions, to check an environment by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import data_equivalence

from aem_gym.seeding import generator

TextGym = gym.Env[str, str]
Found = tuple[str, str] | None
"""What a rule saw, and how to mend it; None if it is kept."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What `reset` (reward 0, no flags) or `step` returned, and the action that led here."""

    observation: Any
    reward: Any = 0.0
    terminated: Any = False
    truncated: Any = False
    info: Any = field(default_factory=dict)
    action: str | None = None


def short(value: Any) -> str:
    """A value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _choose(env: TextGym, moment: Moment, seed: int, turn: int) -> str:
    """An admissible action; where none is listed, a sample of the action space."""
    draws = generator("check_text_env", seed, turn)
    actions = moment.info.get("admissible_actions") if isinstance(moment.info, dict) else None
    if isinstance(actions, list | tuple) and actions:
        return str(actions[int(draws.integers(len(actions)))])
    env.action_space.seed(int(draws.integers(2**31)))
    return env.action_space.sample()


def play(
    env: TextGym, seed: int, steps: int, options: dict[str, Any] | None = None
) -> Iterator[Moment]:
    """An episode with random actions, up to its end or to `steps` actions."""
    observation, info = env.reset(seed=seed, options=options)
    moment = Moment(observation, info=info)
    yield moment
    for turn in range(steps):
        action = _choose(env, moment, seed, turn)
        moment = Moment(*env.step(action), action=action)
        yield moment
        if moment.terminated or moment.truncated:
            return


def same(one: Sequence[Moment], two: Sequence[Moment]) -> Found:
    """None if both episodes are the same, else where they part."""
    for turn, (a, b) in enumerate(zip(one, two, strict=False)):
        for name in ("action", "observation", "reward", "terminated", "truncated", "info"):
            left, right = getattr(a, name), getattr(b, name)
            if not data_equivalence(left, right, exact=True):
                seen = f"after {turn} actions, {name} was {short(left)} and then {short(right)}"
                return seen, "draw only from self.np_random, and start afresh in reset"
    if len(one) != len(two):
        return f"one episode took {len(one) - 1} actions, then {len(two) - 1}", "see determinism"
    return None
