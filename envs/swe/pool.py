"""Sandboxes that are prepared before they are needed, and removed in the background."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache

from aem_gym.envs.swe.sandbox.base import Limits, Sandbox, SandboxEngine, SandboxError, SandboxSpec
from aem_gym.envs.swe.sandbox.engines import open_engine
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.workspace import Workspace, prepare

_ALIVE = 10.0
"""Seconds for a waiting sandbox to show that it still answers."""
_THREADS = 2
"""How many sandboxes are made or removed at a time."""
_MAKING = threading.Lock()
"""Held while a shared pool is looked up: two threads would make one each."""


@dataclass(frozen=True, slots=True)
class PreparedSandbox:
    """A sandbox with a task's repository laid out and the agent's shell started."""

    sandbox: Sandbox
    workspace: Workspace


class SandboxPool:
    """Prepares sandboxes for the tasks that come next. Safe to use from several threads.

    At most `size` wait at a time; the one that has waited longest is removed first.
    """

    def __init__(self, engine: SandboxEngine, *, size: int = 16) -> None:
        self.engine, self._size = engine, size
        self._lock = threading.Lock()
        self._waiting: deque[tuple[tuple[SweTask, Limits], Future[PreparedSandbox]]] = deque()
        self._threads = ThreadPoolExecutor(_THREADS, "sandbox")

    def prefetch(self, task: SweTask, limits: Limits | None = None) -> None:
        """Prepare a sandbox for a task in the background. Returns at once; raises nothing."""
        key, old = (task, limits or Limits()), None
        with self._lock, contextlib.suppress(RuntimeError):  # closed
            self._waiting.append((key, self._threads.submit(self.make, task, limits)))
            old = self._waiting.popleft() if len(self._waiting) > self._size else None
        if old:
            self._discard(old[1])

    def take(self, task: SweTask, limits: Limits | None = None) -> PreparedSandbox:
        """A prepared sandbox for a task: a waiting one, or one made now. Raises SandboxError."""
        while (waiting := self._next((task, limits or Limits()))) is not None:
            # One that failed in the background, or died while it waited, is made again here.
            with contextlib.suppress(SandboxError):
                ready = waiting.result()
                try:
                    if ready.sandbox.run(":", _ALIVE).exit_code == 0:
                        return ready
                except SandboxError:
                    pass
                self.release(ready.sandbox)
        return self.make(task, limits)

    def wait(self) -> None:
        """Return when every prefetched sandbox is prepared, or has failed."""
        with self._lock:
            waiting = [future for _, future in self._waiting]
        wait(waiting)

    def make(self, task: SweTask, limits: Limits | None = None) -> PreparedSandbox:
        """Prepare a sandbox now. Raises SandboxError; the message says what to do."""
        spec = SandboxSpec(self.engine.image(task.image), limits or Limits())
        sandbox = self.engine.start(spec)
        try:
            workspace = prepare(sandbox, task)
            sandbox.run(":", _ALIVE)  # starts the shell
            return PreparedSandbox(sandbox, workspace)
        except BaseException:
            sandbox.close()
            raise

    def release(self, sandbox: Sandbox) -> None:
        """Remove a sandbox in the background. Raises nothing."""
        try:
            self._threads.submit(sandbox.close)
        except RuntimeError:  # closed
            sandbox.close()

    def lend(self, sandbox: Sandbox, owner: object) -> Callable[[], None]:
        """What releases a sandbox. If `owner` is collected before, the sandbox is removed too."""
        dropped = weakref.finalize(owner, _close_dropped, os.getpid(), sandbox)
        dropped.atexit = False  # the engine removes what is open then

        def release() -> None:
            if dropped.detach():
                self.release(sandbox)

        return release

    def close(self) -> None:
        """Remove what waits, and end. May be called twice; raises nothing."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        for _, future in waiting:
            self._discard(future)
        self._threads.shutdown(wait=True)

    def _next(self, key: tuple[SweTask, Limits]) -> Future[PreparedSandbox] | None:
        with self._lock:
            for place, (other, future) in enumerate(self._waiting):
                if other == key:
                    del self._waiting[place]
                    return future
        return None

    def _release_result(self, future: Future[PreparedSandbox]) -> None:
        if not future.cancelled() and future.exception() is None:
            self.release(future.result().sandbox)

    def _discard(self, future: Future[PreparedSandbox]) -> None:
        if not future.cancel():
            future.add_done_callback(self._release_result)


def _close_dropped(process: int, sandbox: Sandbox) -> None:
    """Close a sandbox in a new thread: this one is collecting garbage, and may hold any lock.

    A forked process collects copies of its parent's objects.
    """
    if os.getpid() == process:
        _thread.start_new_thread(_close_quietly, (sandbox,))


def _close_quietly(sandbox: Sandbox) -> None:
    with contextlib.suppress(Exception):
        sandbox.close()


def shared_pool(engine: str = "auto") -> SandboxPool:
    """The pool of this process for an engine; made when first asked for, closed at exit.

    May be called from any thread: all get the same pool.
    """
    with _MAKING:
        return _shared(engine, os.getpid())


@lru_cache(maxsize=8)
def _shared(name: str, process: int) -> SandboxPool:
    """`process` keeps a forked process from sharing the connections of its parent."""
    pool = SandboxPool(open_engine(name))
    atexit.register(_close_in, process, pool)
    return pool


def _close_in(process: int, pool: SandboxPool) -> None:
    if os.getpid() == process:
        pool.close()
        pool.engine.close()
