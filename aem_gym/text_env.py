"""TextEnv: the base that turns two methods into a full Gymnasium text environment.

Subclasses write `start` and `act`; the base keeps the contract: seeding, constant info keys, the
turn limit, text of any kind as an action, and rendering.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import gymnasium as gym

from aem_gym.errors import BrokenEnvironmentError, ConfigError
from aem_gym.spaces import TextSpace
from aem_gym.types import INFO_DEFAULTS, REPLY, PromptTemplate, StepResult, Task

__all__ = ["INFO_DEFAULTS", "TextEnv"]

_SIGNATURES = {
    "start": "def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]",
    "act": "def act(self, action: str) -> StepResult",
}


class TextEnv(gym.Env[str, str]):
    """A text environment. Observations and actions are `str`.

    Class attributes a subclass may set: `instructions` (tells an agent the goal's form and the
    action grammar), `prompt_templates` (ways of showing the environment to an agent, the default
    first), `max_turns` (the default of the argument), `defaults` (settings of training runs,
    keys of `Config`, where the user sets none), `model_defaults` (the same by model, over
    `defaults`), `tools` (`module:function` by the command that calls it: see
    `aem_gym.registry.env_tool`) and `waits` (its calls wait for a sandbox or a server: then many
    environments are called at once, each in a thread; a method `abandon`, if there is one, is
    called where a call hangs, to end what it waits for).
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}
    instructions: str = ""
    prompt_templates: ClassVar[Mapping[str, PromptTemplate]] = {"default": PromptTemplate()}
    max_turns: int = 50
    defaults: ClassVar[Mapping[str, Any]] = {}
    model_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    tools: ClassVar[Mapping[str, str]] = {}
    waits: ClassVar[bool] = False

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Refuse a class that lacks `start` or `act`: `gym.Env` is no ABC, which would do so."""
        missing = [name for name in _SIGNATURES if _is_abstract(getattr(cls, name))]
        if missing:
            raise BrokenEnvironmentError(
                f"{cls.__name__} ({_place(cls)}): expected the "
                f"method{'s' * (len(missing) > 1)} {' and '.join(missing)}; "
                f"write: {'; '.join(_SIGNATURES[name] for name in missing)}"
            )
        return super().__new__(cls)

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

        `options` are those given to `reset`, with `task_id` where the user chose a task.
        """

    @abstractmethod
    def act(self, action: str) -> StepResult:
        """Answer one action. It may be any text; nonsense is answered and never raises."""

    # Optional: `def expert(self) -> tuple[str, str]`, the (thought, action) a competent agent
    # would give now. Environments with it can warm-start a policy.
    #
    # Optional: `def prefetch(self, seed, options)`, called when it is known that
    # `reset(seed=seed, options=options)` comes: what takes long can be begun in the background.

    def reply(self, action: str) -> StepResult:
        """Answer a response without an action (`types.REPLY`): by default it only takes a turn."""
        text = action.removeprefix(REPLY)
        return replace(self._last, observation=text, reward=0.0, action_valid=True)

    # Gymnasium ------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode. The same seed and options give the same episode, byte for byte."""
        super().reset(seed=seed)
        begun: Any = self.start(options or {})
        pair = isinstance(begun, tuple) and len(begun) == 2
        if not (pair and isinstance(begun[0], Task) and isinstance(begun[1], StepResult)):
            raise _wrong_return(self, "start", begun)
        self._task, self._last = begun
        self._turn, self._over = 0, False
        self._lines = [self._last.observation] if self.render_mode else []
        return self._last.observation, self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer `action`: observation, reward, terminated (the task is over), truncated, info.

        Truncated means the turn limit, or what the environment runs on has failed (info["error"]).
        Raises ResetNeeded where no episode is under way, BrokenEnvironmentError on a wrong `act`.
        """
        if self._over:
            raise gym.error.ResetNeeded("the episode is over: call reset() before step()")
        last: Any = (self.reply if str(action).startswith(REPLY) else self.act)(str(action))
        if not isinstance(last, StepResult):
            raise _wrong_return(self, "act", last)
        self._last = last
        self._turn += 1
        truncated = not last.terminated and (bool(last.error) or self._turn >= self.max_turns)
        self._over = last.terminated or truncated
        if self.render_mode:
            self._lines += [f"> {action}", last.observation]
        return last.observation, float(last.reward), last.terminated, truncated, self._info()

    def render(self) -> str | None:
        """The episode so far as text, with `render_mode="ansi"`; None otherwise."""
        return "\n".join(self._lines) if self.render_mode else None

    def _info(self) -> dict[str, Any]:
        last, task = self._last, self._task
        return {
            **last.extra,
            **({"error": last.error} if last.error else {}),
            **{name: getattr(task, name) for name in ("task_id", "task_type", "goal")},
            "admissible_actions": list(last.admissible_actions),
            **{name: getattr(last, name) for name in ("action_valid", "won", "submitted")},
            "score": float(last.won) if last.score is None else float(last.score),
        }


def _is_abstract(method: Any) -> bool:
    return bool(getattr(method, "__isabstractmethod__", False))


def _place(cls: type) -> str:
    """`file, line N` of a class; its module where the source cannot be read."""
    try:
        return f"{inspect.getsourcefile(cls)}, line {inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return cls.__module__


_STEP = "StepResult(observation, ...)"
_RETURNS = {
    "start": ("(Task, StepResult)", f"return Task(task_id, goal=...), {_STEP}"),
    "act": ("a StepResult", f"return {_STEP}"),
}
"""What a method is expected to return, and how to do so."""


def _wrong_return(env: TextEnv, method: str, got: Any) -> Exception:
    """The error for a method that returned something else, with the method's file and line."""
    wanted, fix = _RETURNS[method]
    code = getattr(inspect.unwrap(getattr(type(env), method)), "__code__", None)
    place = f"{code.co_filename}, line {code.co_firstlineno}" if code else type(env).__module__
    shown = repr(got) if len(repr(got)) <= 60 else f"{repr(got)[:57]}..."
    return BrokenEnvironmentError(
        f"{type(env).__name__}.{method}: expected {wanted}, got {type(got).__name__} {shown} "
        f"({place}): {fix}"
    )
