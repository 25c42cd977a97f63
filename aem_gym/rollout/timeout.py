"""A time limit for a call in this process, where the platform has one to give."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from aem_gym.errors import EnvironmentTimeout

T = TypeVar("T")


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
