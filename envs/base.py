"""TextEnv: the base that turns two methods into a full Gymnasium text environment.

Subclasses write `start` and `act`; the base keeps the contract: seeding, constant info keys, the
turn limit, text of any kind as an action, and rendering.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym

from aem_gym.errors import ConfigError
from aem_gym.spaces import TextSpace
from aem_gym.types import INFO_DEFAULTS, PromptTemplate, StepResult, Task

__all__ = ["INFO_DEFAULTS", "TextEnv"]


class TextEnv(gym.Env[str, str]):
    """A text environment. Observations and actions are `str`.

    Class attributes a subclass may set: `instructions` (tells an agent the goal's form and the
    action grammar), `recipes` (ways of showing the environment to an agent; the first is the
    default), `max_turns` (the default of the argument), `defaults` (settings of training runs,
    keys of `Config`, where the user sets none), `model_defaults` (the same by model, over
    `defaults`) and `tools` (`module:function` by the command that calls it: see
    `aem_gym.registry.env_tool`).
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}
    instructions: str = ""
    prompt_templates: ClassVar[Mapping[str, PromptTemplate]] = {"default": PromptTemplate()}
    max_turns: int = 50
    defaults: ClassVar[Mapping[str, Any]] = {}
    model_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    tools: ClassVar[Mapping[str, str]] = {}

    def __init__(self, *, max_turns: int | None = None, render_mode: str | None = None) -> None:
        max_turns = type(self).max_turns if max_turns is None else max_turns
        if max_turns < 1:
            raise ConfigError(f"max_turns: expected at least 1, got {max_turns}")
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"render_mode: expected None or 'ansi', got {render_mode!r}")
        self.observation_space = TextSpace()
        self.action_space = TextSpace(max_length=4096)
        self.max_turns = max_turns
        self.render_mode = render_mode
        self._task = Task(task_id="")
        self._last = StepResult(observation="")
        self._turn = 0
        self._over = True
        self._lines: list[str] = []

    # What a subclass writes -----------------------------------------------------------------

    @abstractmethod
    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        """Begin an episode; all randomness from `self.np_random`.

        `options` are those given to `reset` (`task_id` among them, where the user asks for one).
        """

    @abstractmethod
    def act(self, action: str) -> StepResult:
        """Answer one action. Any text may come; nonsense is answered, never raised upon."""

    # Optional: `def expert(self) -> tuple[str, str]`, the (thought, action) a competent agent
    # would give now. Environments with it can warm-start a policy.
    #
    # Optional: `def expect(self, seed, options)`, called when it is known that
    # `reset(seed=seed, options=options)` comes: what takes long can be begun in the background.

    # Gymnasium ------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode. The same seed and options give the same episode, byte for byte."""
        super().reset(seed=seed)
        self._task, self._last = self.start(options or {})
        self._turn, self._over = 0, False
        self._lines = [self._last.observation] if self.render_mode else []
        return self._last.observation, self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer `action`.

        Returns:
            observation, reward, terminated (the task is over), truncated (the turn limit, or a
            failure of what the environment runs on: `info["error"]`), info.

        Raises:
            gym.error.ResetNeeded: before `reset`, or after the episode has ended.
        """
        if self._over:
            raise gym.error.ResetNeeded("the episode is over: call reset() before step()")
        self._last = self.act(str(action))
        self._turn += 1
        failed = bool(self._last.error)
        truncated = not self._last.terminated and (failed or self._turn >= self.max_turns)
        self._over = self._last.terminated or truncated
        if self.render_mode:
            self._lines += [f"> {action}", self._last.observation]
        last = self._last
        return last.observation, float(last.reward), last.terminated, truncated, self._info()

    def render(self) -> str | None:
        """The episode so far as text, with `render_mode="ansi"`; None otherwise."""
        return "\n".join(self._lines) if self.render_mode else None

    def _info(self) -> dict[str, Any]:
        last = self._last
        return {
            **last.extra,
            **({"error": last.error} if last.error else {}),
            "task_id": self._task.task_id,
            "task_type": self._task.task_type,
            "goal": self._task.goal,
            "admissible_actions": list(last.admissible_actions),
            "action_valid": last.action_valid,
            "won": last.won,
            "submitted": last.submitted,
            "score": float(last.won) if last.score is None else float(last.score),
        }
