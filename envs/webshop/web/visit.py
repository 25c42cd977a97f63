"""An episode that a person plays, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from aem_gym.envs.webshop.engine import Session


@dataclass(frozen=True, slots=True)
class Step:
    """What was sent, and what came of it."""

    action: str
    valid: bool
    reward: float
    thought: str = ""
    """Of the expert, if it was its step."""


class Visit:
    """The environment, and what has happened in its present episode.

    Args:
        env: as `gym.make` gave it; its `unwrapped` has a `session`.
        seed: the first task.
    """

    def __init__(self, env: gym.Env[str, str], seed: int) -> None:
        self._env = env
        self._inner: Any = env.unwrapped
        self._episode = 0
        self.begin(seed)

    @property
    def session(self) -> Session:
        """The shop's side of it."""
        session: Session = self._inner.session
        return session

    @property
    def max_turns(self) -> int:
        """The turn limit."""
        return int(self._inner.max_turns)

    @property
    def has_expert(self) -> bool:
        """Whether the environment can say what a competent agent would do."""
        return callable(getattr(self._inner, "expert", None))

    @property
    def state(self) -> str:
        """A name that changes with every step: tells whether a page is up to date."""
        return f"{self._episode}.{len(self.steps)}"

    def begin(self, seed: int) -> None:
        """Start a task."""
        self.observation, self.info = self._env.reset(seed=seed)
        self.seed, self.over = seed, False
        self.steps: list[Step] = []
        self._episode += 1

    def act(self, action: str, thought: str = "") -> None:
        """Take a turn, unless there are none left."""
        if self.over:
            return
        self.observation, reward, terminated, truncated, self.info = self._env.step(action)
        self.over = terminated or truncated
        self.steps.append(Step(action, self.info["action_valid"], float(reward), thought))

    def let_expert_act(self) -> None:
        """Take the turn that the expert would take."""
        if not self.over:
            thought, action = self._inner.expert()
            self.act(action, thought)
