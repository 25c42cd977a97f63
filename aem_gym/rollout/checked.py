"""What an environment answered, checked and completed; and a time limit for its calls."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

from aem_gym.errors import EnvironmentFailure, EnvironmentTimeout, describe, well_formed
from aem_gym.types import INFO_DEFAULTS, StopReason

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CheckedStep:
    """What came back from `reset` or `step`, or why nothing did.

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
        return CheckedStep("", truncated=True, info=info, error=message)


def checked_reset(answer: Any) -> CheckedStep:
    """Read what `env.reset` returned. Raises TypeError on anything but text and a dict."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(f"reset: expected (observation, info), got {_short(answer)}")
    observation, info = answer
    return CheckedStep(_text(observation), info=_info(info, won=False))


def checked_step(answer: Any) -> CheckedStep:
    """Read what `env.step` returned. Raises TypeError or ValueError on a broken contract."""
    if not isinstance(answer, tuple) or len(answer) != 5:
        raise TypeError(
            "step: expected (observation, reward, terminated, truncated, info), "
            f"got {_short(answer)}"
        )
    observation, reward, terminated, truncated, info = answer
    value = float(reward)
    if not math.isfinite(value):
        raise ValueError(f"step: expected a finite reward, got {value}")
    filled = _info(info, won=bool(terminated) and value > 0)
    error = filled.get("error") if truncated and not terminated else None
    if error and isinstance(error, str):
        # What the environment runs on has failed (a container, a server), and it says so.
        failure, message = StopReason.INFRASTRUCTURE, f"EnvironmentFailure: {error}"
        return CheckedStep("", truncated=True, info=filled, error=message, failure=failure)
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
        if value is not None:
            filled[key] = _coerced(key, value, default)
        elif key == "won":
            filled[key] = won
        elif key == "score":
            filled[key] = float(filled["won"])
        else:
            filled[key] = copy.copy(default)
    return filled


def _coerced(key: str, value: Any, default: Any) -> Any:
    try:
        if isinstance(default, list):
            if isinstance(value, str):
                raise TypeError("a str is not a list")
            return [well_formed(str(item)) for item in value]
        return well_formed(str(value)) if isinstance(default, str) else type(default)(value)
    except (TypeError, ValueError) as error:
        wanted = type(default).__name__
        raise TypeError(f"info[{key!r}]: expected {wanted}, got {_short(value)}") from error


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:80]}{'...' if len(text) > 80 else ''}"


class _Expired(BaseException):
    """Raised inside the bounded call. Not an `Exception`: `except Exception` must not eat it."""


class _Alarm:
    """SIGALRM after `seconds`, and again every second should the call swallow it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.armed = False

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
    """The result of `call()`, which may take at most `seconds` (None: no limit).

    The limit acts between Python bytecodes: it ends a sleep or an endless loop, not a hang inside
    C code. Outside the main thread, and without POSIX signals, there is no limit at all; worker
    processes (`EnvPool(workers=1)`) bound every case.

    Raises:
        EnvironmentTimeout: the call took longer; `what` names it in the message.
    """
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
