"""Live environments by slot, in one process: every failure becomes data.

`EnvPool` uses one `LiveEnvs` directly, or one per worker process. It is the same code either
way, which is why the number of workers cannot change a result.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any, TypeVar

import gymnasium as gym

from aem_gym.errors import (
    AemGymError,
    ConfigError,
    EnvironmentFailure,
    EnvironmentTimeout,
    InfrastructureError,
    describe,
)
from aem_gym.registry import env_name, find_env
from aem_gym.types import INFO_DEFAULTS, PromptTemplate, StopReason

logger = logging.getLogger(__name__)
T = TypeVar("T")
TextGym = gym.Env[str, str]
Reset = tuple[int, dict[str, Any] | None]
"""Seed and options of a reset."""
CLOSE_SECONDS = 5.0
"""How long an environment may take to close before it is left alone."""
LARGEST_REWARD = 1e15
"""Rewards beyond are an environment's mistake: their squares do not fit into float32."""
PREFETCHED = 8
"""Most resets that the environments of one process prepare ahead: what they prepare is held in
memory."""


@dataclass(frozen=True, slots=True)
class EnvSpec:
    """An environment and its constructor arguments. Picklable."""

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
    """The declarations of an environment, read once; defaults where it declares nothing."""

    instructions: str = ""
    prompt_templates: Mapping[str, PromptTemplate] = field(
        default_factory=lambda: {"default": PromptTemplate()}
    )
    lexicon: tuple[str, ...] = ()
    max_turns: int | None = None
    has_expert: bool = False
    prefetches: bool = False
    """It has a method `prefetch`, and can prepare a reset before it comes."""
    waits: bool = False
    """Its calls wait for something else (a sandbox, a server), so they run in threads, beside each
    other. Any thread may call it, but one at a time."""
    task_types: tuple[str, ...] = ()
    """In the order in which results are shown."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """What scores depend on besides the arguments: sizes, limits, the source of the tasks."""


class LiveEnvs:
    """The environments of one process: made when a slot is first reset, then reused by it.

    `reset` and `step` never raise on account of the environment.
    """

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
        self._abandoned = Counter[int]()
        """How often the environment of a slot was given up because it hangs in a thread."""
        self._lock = threading.RLock()
        """Held where calls in several threads would meet."""

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
        with self._lock:
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
        def call() -> CheckedStep:
            return checked_reset(self._env(slot).reset(seed=seed, options=options))

        answer = self._guarded(slot, call, self.reset_timeout, f"reset(seed={seed})")
        if self._coming:
            self._prefetched_used(slot, (seed, options), answer)
        return answer

    def _prefetched_used(self, slot: int, begun: Reset, answer: CheckedStep) -> None:
        """Prepare another reset in place of one that has begun."""
        with self._lock:
            if begun in self._coming:
                place = self._coming.index(begun)
                del self._coming[place]
                self._prefetched -= place < self._prefetched
                if answer.error is None:
                    self._prefetch(slot)

    def step(self, slot: int, action: str) -> CheckedStep:
        def call() -> CheckedStep:
            if slot not in self._envs:
                raise _no_environment(slot)
            return checked_step(self._envs[slot].step(action))

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
            with contextlib.suppress(IndexError):  # another thread was faster
                self._close(self._condemned.pop())

    def _close(self, env: TextGym) -> None:
        if env is not self.spec.instance:
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
        env = self._envs.get(slot)
        return self._new_env(slot) if env is None else env

    def _new_env(self, slot: int) -> TextGym:
        with self._lock:
            times, spare, self._spare = self._abandoned[slot], self._spare, None
        env = spare or self.spec.make()
        with self._lock:
            if times != self._abandoned[slot]:
                self._condemned.append(env)
                raise EnvironmentTimeout("it was made too late")
            self._envs[slot] = env
        return env

    def _guarded(
        self, slot: int, call: Callable[[], CheckedStep], seconds: float | None, what: str
    ) -> CheckedStep:
        times = self._abandoned[slot]
        try:
            return bounded(call, seconds, what)
        except (Exception, SystemExit) as error:
            return self._failed(slot, error, times)

    def _failed(self, slot: int, error: BaseException, times: int) -> CheckedStep:
        if times != self._abandoned[slot]:  # nobody listens any more
            return CheckedStep.failed(error)
        logger.warning("%s, slot %d: %s", self.spec.env_id, slot, describe(error))
        logger.debug("where it failed:", exc_info=error)
        if slot in self._envs:
            self._condemned.append(self._envs.pop(slot))
        return CheckedStep.failed(error)

    def release(self, slot: int) -> None:
        """Close the environment of a slot that nobody needs any more."""
        with self._lock:
            env = self._envs.pop(slot, None)
        if env is not None:
            self._close(env)

    def abandon(self, slot: int, why: str) -> CheckedStep:
        """Give up an environment that hangs in a thread: the slot gets a new one.

        Its method `abandon`, where it has one, ends what it waits for.
        """
        with self._lock:
            env = self._envs.pop(slot, None)
            self._abandoned[slot] += 1
        error, total = EnvironmentTimeout(why), self._abandoned.total()
        form = "%s, slot %d: %s; abandoned in its thread (%d so far)"
        logger.warning(form, self.spec.env_id, slot, error, total)
        end = getattr(env.unwrapped, "abandon", None) if env is not None else None
        if callable(end):
            threading.Thread(target=end, name="aem-gym-abandon", daemon=True).start()
        return CheckedStep.failed(error)


def _no_environment(slot: int) -> EnvironmentFailure:
    lacks = "has no live environment (it failed before, or was never reset)"
    return EnvironmentFailure(f"slot {slot} {lacks}")


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
        waits=getattr(inner, "waits", False) is True,
        task_types=tuple(map(str, types)) if isinstance(types, list | tuple) else (),
        protocol=dict(protocol) if isinstance(protocol, Mapping) else {},
    )


# What an environment answered, checked and completed ---------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckedStep:
    """The answer to `reset` or `step`, or the reason why there is none.

    `info` always holds the keys of `INFO_DEFAULTS`. Where an environment does not report `won`,
    it is taken as won when it terminates with a positive reward.
    """

    observation: str
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    failure: StopReason = StopReason.ENV_ERROR
    """Whose failure `error` is, where there is one."""

    @staticmethod
    def failed(error: BaseException) -> CheckedStep:
        """The answer of an environment that gave none: the episode ends here."""
        info = copy.deepcopy(dict(INFO_DEFAULTS))
        message = describe(error)
        if type(error) is not EnvironmentFailure:
            message = f"EnvironmentFailure: {message}"
        infrastructure = isinstance(error, InfrastructureError)
        failure = StopReason.INFRASTRUCTURE if infrastructure else StopReason.ENV_ERROR
        return CheckedStep("", truncated=True, info=info, error=message, failure=failure)

    @staticmethod
    def lost(error: str, info: dict[str, Any]) -> CheckedStep:
        """The answer of an environment whose backend has failed (a server), as it says itself."""
        failure, message = StopReason.INFRASTRUCTURE, f"EnvironmentFailure: {error}"
        return CheckedStep("", truncated=True, info=info, error=message, failure=failure)


def checked_reset(answer: Any) -> CheckedStep:
    """Read what `env.reset` returned. Raises TypeError on anything but text and a dict."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(f"reset: expected (observation, info), got {_short(answer)}")
    observation, info = answer
    return CheckedStep(_text(observation), info=_info(info, won=False))


def checked_step(answer: Any) -> CheckedStep:
    """Read what `env.step` returned. Raises TypeError or ValueError on a broken contract."""
    if not isinstance(answer, tuple) or len(answer) != 5:
        wanted = "(observation, reward, terminated, truncated, info)"
        raise TypeError(f"step: expected {wanted}, got {_short(answer)}")
    observation, reward, terminated, truncated, info = answer
    value = float(reward)
    if not abs(value) <= LARGEST_REWARD:
        raise ValueError(f"step: expected a finite reward (|r| <= 1e15), got {value}")
    filled = _info(info, won=bool(terminated) and value > 0)
    error = filled.get("error") if truncated and not terminated else None
    if error and isinstance(error, str):
        return CheckedStep.lost(error, filled)
    return CheckedStep(_text(observation), value, bool(terminated), bool(truncated), filled)


def _text(observation: Any) -> str:
    if not isinstance(observation, str):
        raise TypeError(f"expected a str observation, got {_short(observation)}")
    return well_formed(str(observation))


def _info(info: Any, *, won: bool) -> dict[str, Any]:
    """`info` with every key of the contract, in its type; `won` is used where it has none."""
    if not isinstance(info, Mapping):
        raise TypeError(f"expected info to be a dict, got {_short(info)}")
    filled: dict[str, Any] = dict(info)
    for key, default in INFO_DEFAULTS.items():
        value = filled.get(key)
        filled[key] = (
            _coerced(key, value, default) if value is not None else _absent(key, won, filled)
        )
    return filled


def _absent(key: str, won: bool, filled: Mapping[str, Any]) -> Any:
    """What stands for a key that `info` lacks; `filled` has all that come before it."""
    other = float(filled["won"]) if key == "score" else copy.copy(INFO_DEFAULTS[key])
    return won if key == "won" else other


def _coerced(key: str, value: Any, default: Any) -> Any:
    try:
        if isinstance(default, str):
            return well_formed(str(value))
        if isinstance(default, list) and not isinstance(value, str):
            return [well_formed(str(item)) for item in value]
        found = type(default)(value)
        if value != value or not math.isfinite(found):  # NaN would count as won; raises on a list
            raise ValueError("NaN or inf")
        return found
    except (TypeError, ValueError) as error:
        wanted = type(default).__name__
        raise TypeError(f"info[{key!r}]: expected {wanted}, got {_short(value)}") from error


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:80]}{'...' if len(text) > 80 else ''}"


def well_formed(text: str) -> str:
    """`text` with lone surrogates, which no file can hold, replaced by `?`."""
    return text.encode(errors="replace").decode()


# A time limit for a call -------------------------------------------------------------------------


class _Expired(BaseException):
    """Raised inside the bounded call. Not an `Exception`: `except Exception` must not eat it."""


@dataclass
class _Alarm:
    """SIGALRM after `seconds`, and again every second should the call swallow it."""

    seconds: float
    armed: bool = False

    def start(self) -> None:
        self.began = time.monotonic()
        self.handler = signal.signal(signal.SIGALRM, self._ring)
        self.armed = True
        self.outer = signal.setitimer(signal.ITIMER_REAL, self.seconds, 1.0)

    def stop(self) -> None:
        """Put back the handler and the timer that were there before (pytest-timeout's, say)."""
        self.armed = False
        left, interval = self.outer
        if left:
            left = max(left - (time.monotonic() - self.began), 1e-3)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, self.handler)
        signal.setitimer(signal.ITIMER_REAL, left, interval)

    def _ring(self, signum: int, frame: FrameType | None) -> None:
        if self.armed:
            raise _Expired


def can_interrupt() -> bool:
    """Whether a call can be bounded here: POSIX signals, and in the main thread."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


def bounded(call: Callable[[], T], seconds: float | None, what: str) -> T:
    """The result of `call()`, or EnvironmentTimeout (about `what`) after `seconds`; None: none."""
    if seconds is None or not can_interrupt():
        return call()
    alarm = _Alarm(seconds)
    alarm.start()
    try:
        return call()
    except _Expired:
        raise EnvironmentTimeout(f"{what} took longer than {seconds:g} s") from None
    finally:
        try:
            alarm.stop()
        except _Expired:  # the alarm rang between the end of the call and `armed = False`
            alarm.stop()
