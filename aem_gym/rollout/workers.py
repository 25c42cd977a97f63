"""A worker process that holds live environments, and the parent's handle on it.

One message goes to the worker per call of the pool (a list of requests), one answer comes back per
request as soon as it is there, so the parent knows which request hangs. Processes are spawned: the
parent has torch loaded, and a fork of that deadlocks.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import gymnasium as gym

from aem_gym.errors import describe
from aem_gym.rollout.envs import CLOSE_SECONDS, EnvSpec, LiveEnvs

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """The settings of a worker. Picklable."""

    spec: EnvSpec
    registered: Any
    """Gymnasium's own spec of the id, so that ids registered only in the parent are known."""
    step_timeout: float | None
    reset_timeout: float | None


def serve(connection: Connection, settings: WorkerSettings) -> None:
    """The main function of a worker: answer requests until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes us
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun signals the groups of its processes
        os.setpgid(0, 0)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    registered = settings.registered
    if isinstance(registered.entry_point, str):
        with contextlib.suppress(Exception, SystemExit):
            # It may register its ids itself, and would complain were they known before.
            # What is wrong with it is said when the environment is made.
            importlib.import_module(registered.entry_point.partition(":")[0])
    if registered.id not in gym.registry:
        gym.registry[registered.id] = registered
    live = LiveEnvs(
        settings.spec,
        step_timeout=settings.step_timeout,
        reset_timeout=settings.reset_timeout,
    )
    try:
        while True:
            for answer in _answers(live, *connection.recv()):
                _send(connection, answer)
            live.sweep()
    except (EOFError, OSError):
        pass  # the pipe is closed: the pool was closed, or the parent is gone
    finally:
        live.close()


def _answers(live: LiveEnvs, method: str, requests: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    try:
        for request in requests:
            yield getattr(live, method)(*request)
    except Exception as error:
        # Only `describe` raises, and not every exception survives pickling: its text does.
        yield RuntimeError(describe(error))


def _send(connection: Connection, answer: Any) -> None:
    try:
        data = pickle.dumps(answer)
    except Exception:
        data = pickle.dumps(replace(answer, info=_picklable(answer.info)))
    connection.send_bytes(data)


def _picklable(info: dict[str, Any]) -> dict[str, Any]:
    """`info` without what cannot leave the process (open handles and the like)."""
    kept = {}
    for key, value in info.items():
        try:
            pickle.dumps(value)
        except Exception:
            logger.warning("info[%r] cannot be pickled and stays in its worker", key)
        else:
            kept[key] = value
    return kept


def _die_with_parent() -> None:
    """End this process when the parent is gone, even while an environment hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        time.sleep(2 * CLOSE_SECONDS)  # the main thread sees the closed pipe and closes properly
        os._exit(1)


class Worker:
    """The parent's handle on one worker process, which is started when first needed."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.busy = threading.Lock()
        """Held while answers are due."""
        self._process: Any = None
        self._connection: Connection | None = None

    def start(self) -> bool:
        """Start the process unless it runs. Returns whether it is a new one."""
        if self._process is not None and self._process.is_alive():
            return False
        self.kill()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, self.settings), name="aem-gym-envs", daemon=True
        )
        self._process.start()
        theirs.close()  # else the pipe would never report the worker's death
        return True

    @property
    def connection(self) -> Connection:
        """The parent's end of the pipe."""
        assert self._connection is not None, "start() comes first"
        return self._connection

    def send(self, method: str, requests: Sequence[tuple[Any, ...]]) -> None:
        """Hand over requests: for each the arguments of a method of `LiveEnvs`.

        A worker that died meanwhile is noticed when its answers are due.
        """
        self.start()
        try:
            self.connection.send((method, list(requests)))
        except OSError:
            logger.debug("the worker died before it got its requests")

    def receive(self) -> Any:
        """The next answer. Raises EOFError or OSError if the worker has died."""
        return pickle.loads(self.connection.recv_bytes())

    def exit_code(self) -> int | None:
        """How the process ended (negative: by that signal); None while it lives."""
        if self._process is None:
            return None
        self._process.join(1.0)
        code: int | None = self._process.exitcode
        return code

    def kill(self) -> None:
        """End the process now; its environments are lost."""
        if self._process is not None:
            self._process.kill()
        self.close(grace=1.0)

    def hang_up(self) -> None:
        """Close the pipe, upon which the process closes its environments and ends."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self, grace: float = 2 * CLOSE_SECONDS) -> None:
        """Hang up and wait for the process to end; kill it after `grace` seconds."""
        self.hang_up()
        if self._process is not None:
            self._process.join(grace)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process.close()
            self._process = None
