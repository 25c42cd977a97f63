"""Live environments by slot, in one process: every failure becomes data.

`EnvPool` uses one `LiveEnvs` directly, or one per worker process. It is the same code either
way, which is why the number of workers cannot change a result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym

from aem_gym.errors import AemGymError, ConfigError, EnvironmentFailure, describe
from aem_gym.registry import env_name, find_env
from aem_gym.rollout.checked import CheckedStep, bounded, checked_reset, checked_step
from aem_gym.types import PromptTemplate

logger = logging.getLogger(__name__)
TextGym = gym.Env[str, str]
Reset = tuple[int, dict[str, Any] | None]
"""Seed and options of a reset."""
CLOSE_SECONDS = 5.0
"""How long an environment may take to close before it is left alone."""
PREFETCHED = 8
"""Most resets that the environments of one process prepare ahead: what they prepare is held in
memory."""


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """Which environment, with which constructor arguments. Picklable."""

    env_id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    instance: TextGym | None = None
    """An environment that exists already; whoever made it closes it."""

    @staticmethod
    def of(env: Any, kwargs: Mapping[str, Any] | None = None) -> EnvSpec:
        """From an id, an environment class, or an environment."""
        if isinstance(env, gym.Env):
            name = env.spec.id if env.spec is not None else type(env).__name__
            return EnvSpec(name, {}, env)
        return EnvSpec(env_name(env), kwargs or {})

    def make(self) -> TextGym:
        """A new environment.

        Raises:
            UnknownNameError: there is no such id; lists those that exist.
            ConfigError: it cannot be made so, or it does not speak text.
        """
        if self.instance is not None:
            return self.instance
        # Looking for entry points reads the disk: only where the id is not known already.
        env_id = self.env_id if self.env_id in gym.registry else find_env(self.env_id)
        try:
            env: TextGym = gym.make(env_id, disable_env_checker=True, **self.kwargs)
        except AemGymError:
            raise
        except Exception as error:
            raise ConfigError(
                f"environment {self.env_id!r} cannot be made with {dict(self.kwargs)}: "
                f"{describe(error)}"
            ) from error
        for role in ("observation_space", "action_space"):
            space = getattr(env, role, None)
            if space is not None and not isinstance(space.sample(), str):
                raise ConfigError(
                    f"environment {self.env_id!r}: expected a text {role}, got {space}. Wrap it "
                    "so that observations and actions are str (gymnasium.spaces.Text or "
                    "aem_gym.spaces.TextSpace)."
                )
        return env


@dataclass(frozen=True, slots=True)
class EnvDescription:
    """What an environment declares, read once; defaults where it declares nothing."""

    instructions: str = ""
    prompt_templates: Mapping[str, PromptTemplate] = field(
        default_factory=lambda: {"default": PromptTemplate()}
    )
    lexicon: tuple[str, ...] = ()
    max_turns: int | None = None
    has_expert: bool = False
    prefetches: bool = False
    """It has a method `prefetch`, and can prepare a reset before it comes."""
    task_types: tuple[str, ...] = ()
    """In the order in which results are shown."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """What scores depend on besides the arguments: sizes, limits, the source of the tasks."""


class LiveEnvs:
    """The environments of one process: made when a slot is first reset, then reused by it."""

    def __init__(
        self, spec: EnvSpec, *, step_timeout: float | None, reset_timeout: float | None
    ) -> None:
        self.spec, self.step_timeout, self.reset_timeout = spec, step_timeout, reset_timeout
        self._envs: dict[int, TextGym] = {}
        self._spare: TextGym | None = None
        self._condemned: list[TextGym] = []
        self._about: EnvDescription | None = None
        self._coming: list[Reset] = []
        self._prefetched = 0
        """How many of the resets to come are being prepared."""

    def describe(self) -> EnvDescription:
        """Make one environment, ask it, and keep it for the first slot.

        Raises:
            ConfigError: it cannot be made.
        """
        if self._about is None:
            self._spare = self._spare or self.spec.make()
            self._about = _description(self._spare)
        return self._about

    def prefetch(self, slot: int, coming: Sequence[Reset]) -> None:
        """Prepare the resets that come next in this process, a few at a time.

        Args:
            slot: any slot of this process; its environment prepares them all.
            coming: (seed, options) in the order of the resets.
        """
        if list(coming) != self._coming:
            self._coming, self._prefetched = list(coming), 0
        self._prefetch(slot)

    def _prefetch(self, slot: int) -> None:
        if not self._coming or not self.describe().prefetches:
            return
        for seed, options in self._coming[self._prefetched : PREFETCHED]:
            self._prefetched += 1
            try:
                inner: Any = self._env(slot).unwrapped
                call = getattr(inner, "prefetch", None) or inner.expect
                bounded(partial(call, seed, options), self.step_timeout, "prefetch")
            except (Exception, SystemExit) as error:  # the reset itself will raise it
                logger.debug("%s, slot %d: prefetch: %s", self.spec.env_id, slot, describe(error))

    def reset(self, slot: int, seed: int, options: dict[str, Any] | None) -> CheckedStep:
        """Start an episode in `slot`. Never raises on account of the environment."""

        def call() -> CheckedStep:
            return checked_reset(self._env(slot).reset(seed=seed, options=options))

        answer = self._guarded(slot, call, self.reset_timeout, f"reset(seed={seed})")
        if (seed, options) in self._coming:
            place = self._coming.index((seed, options))
            del self._coming[place]
            self._prefetched -= place < self._prefetched
            if answer.error is None:
                self._prefetch(slot)
        return answer

    def step(self, slot: int, action: str) -> CheckedStep:
        """Act in `slot`. Never raises on account of the environment."""

        def call() -> CheckedStep:
            env = self._envs.get(slot)
            if env is None:
                raise EnvironmentFailure(
                    f"slot {slot} has no live environment (it failed before, or was never reset)"
                )
            return checked_step(env.step(action))

        return self._guarded(slot, call, self.step_timeout, "step")

    def ask_expert(self, slot: int) -> tuple[str, str] | None:
        """(thought, action) of the expert in `slot`; None without one or if it fails (logged)."""
        env = self._envs.get(slot)
        expert = getattr(env.unwrapped, "expert", None) if env is not None else None
        if not callable(expert):
            return None
        try:
            answer = bounded(expert, self.step_timeout, "expert")
            thought, action = answer
            if isinstance(thought, str) and isinstance(action, str):
                return thought, action
            raise TypeError(f"expected (thought, action), two str, got {answer!r}")
        except (Exception, SystemExit) as error:
            logger.warning("the expert of %s failed: %s", self.spec.env_id, describe(error))
            return None

    def sweep(self) -> None:
        """Close the environments that failed. Apart from `step`: closing may take its time."""
        while self._condemned:
            env = self._condemned.pop()
            if env is self.spec.instance:
                continue
            try:
                bounded(env.close, CLOSE_SECONDS, "close")
            except (Exception, SystemExit) as error:
                logger.warning("closing %s failed: %s", self.spec.env_id, describe(error))

    def close(self) -> None:
        """Close every environment."""
        self._condemned += self._envs.values()
        self._envs.clear()
        if self._spare is not None:
            self._condemned.append(self._spare)
            self._spare = None
        self.sweep()

    def _env(self, slot: int) -> TextGym:
        if slot not in self._envs:
            env, self._spare = self._spare or self.spec.make(), None
            self._envs[slot] = env
        return self._envs[slot]

    def _guarded(
        self, slot: int, call: Callable[[], CheckedStep], seconds: float | None, what: str
    ) -> CheckedStep:
        try:
            return bounded(call, seconds, what)
        except (Exception, SystemExit) as error:
            logger.warning("%s, slot %d: %s", self.spec.env_id, slot, describe(error))
            logger.debug("where it failed:", exc_info=True)
            if slot in self._envs:
                self._condemned.append(self._envs.pop(slot))
            return CheckedStep.failed(error)


def _description(env: TextGym) -> EnvDescription:
    inner: Any = env.unwrapped
    instructions = getattr(inner, "instructions", "")
    # `recipes` is the attribute's old name. A game may well have other things called so.
    templates = getattr(inner, "prompt_templates", None) or getattr(inner, "recipes", None)
    ours = {str(k): r for k, r in templates.items()} if isinstance(templates, Mapping) else {}
    ours = {name: recipe for name, recipe in ours.items() if isinstance(recipe, PromptTemplate)}
    turns = getattr(inner, "max_turns", None)
    if not isinstance(turns, int):
        turns = env.spec.max_episode_steps if env.spec is not None else None
    lexicon = getattr(inner, "lexicon", ())
    if isinstance(lexicon, set | frozenset):
        lexicon = sorted(lexicon)
    types = getattr(inner, "task_types", ())
    protocol = getattr(inner, "protocol", None)
    return EnvDescription(
        instructions=instructions if isinstance(instructions, str) else "",
        prompt_templates=ours or {"default": PromptTemplate()},
        lexicon=tuple(map(str, lexicon)) if isinstance(lexicon, list | tuple) else (),
        max_turns=turns,
        has_expert=callable(getattr(inner, "expert", None)),
        # `expect` is the method's old name.
        prefetches=callable(getattr(inner, "prefetch", None) or getattr(inner, "expect", None)),
        task_types=tuple(map(str, types)) if isinstance(types, list | tuple) else (),
        protocol=dict(protocol) if isinstance(protocol, Mapping) else {},
    )
