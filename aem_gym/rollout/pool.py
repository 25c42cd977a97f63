"""EnvPool: many episodes at once, stepping only those that are live.

In one process by default, so that a debugger works; `workers=N` spreads the slots over N
processes. An environment that fails or hangs ends its own episode and nothing else.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import gymnasium as gym

from aem_gym.concurrency import in_thread
from aem_gym.config import Config
from aem_gym.errors import ConfigError, EnvironmentFailure
from aem_gym.registry import env_factory, find_env
from aem_gym.rollout.envs import (
    CLOSE_SECONDS,
    CheckedStep,
    EnvDescription,
    EnvSpec,
    LiveEnvs,
    Reset,
)
from aem_gym.rollout.workers import Worker, WorkerSettings

__all__ = ["EnvDescription", "EnvPool", "EnvSpec", "CheckedStep"]

logger = logging.getLogger(__name__)
GRACE_SECONDS = 3.0
"""How much later than the environment's own limit the parent gives up on a worker."""
START_SECONDS = 60.0
"""How long a new worker process may take before its first environment is made."""


class EnvPool:
    """Environments of one kind, by slot. A context manager.

    A slot is an integer of the caller's choice; its environment is made at its first reset and
    reused. Results do not depend on `workers`. `reset` and `step` give one `CheckedStep` per
    request, in their order; a failure is in its `error`.

    Args:
        spec: which environment.
        workers: processes that hold the environments; 0 keeps them in this one.
        step_timeout: seconds that one step (or one expert answer) may take; None: no limit.
        reset_timeout: seconds that one reset may take, the making of the environment included.

    In this process the limits work between Python bytecodes, in the main thread, on POSIX. A hang
    inside C code, a call from another thread, or Windows needs `workers` of at least 1, where the
    worker that hangs is killed; the other episodes it holds fail too. An environment that `waits`
    (for a sandbox, a server) is called in threads by `reset_one` and `step_one`, and abandoned
    when it hangs.

    Raises:
        ConfigError: the environment cannot be made at all.
    """

    def __init__(
        self,
        spec: EnvSpec,
        *,
        workers: int = 0,
        step_timeout: float | None = 60.0,
        reset_timeout: float | None = 120.0,
    ) -> None:
        if workers < 0:
            raise ConfigError(f"workers: expected 0 (this process) or more, got {workers}")
        self._limits = {"reset": reset_timeout}
        self._limits |= dict.fromkeys(("step", "ask_expert", "prefetch"), step_timeout)
        self._limits["release"] = CLOSE_SECONDS
        self._workers: list[Worker] = []
        self._local: LiveEnvs | None = None
        if spec.instance is None:
            spec = replace(spec, env_id=find_env(spec.env_id))
        if workers == 0:
            self._local = LiveEnvs(spec, step_timeout=step_timeout, reset_timeout=reset_timeout)
            self._description = self._local.describe()
        else:
            settings = WorkerSettings(spec, gym.spec(spec.env_id), step_timeout, reset_timeout)
            _check_picklable(settings)
            self._workers = [Worker(settings) for _ in range(workers)]
            self._description = self._describe_remotely()

    @property
    def processes(self) -> int:
        """In how many processes the environments live: slot n in number n modulo this."""
        return max(1, len(self._workers))

    @property
    def concurrent(self) -> bool:
        """Whether calls of several slots go on beside each other: in workers, or in threads."""
        return self._local is None or self._description.waits

    def describe(self) -> EnvDescription:
        """The environment's declarations (read once, when the pool was made)."""
        return self._description

    def reset(self, starts: Sequence[tuple[int, int, dict[str, Any] | None]]) -> list[CheckedStep]:
        """Start episodes, given (slot, seed, options) of each; the slots are distinct."""
        return [_checked(answer) for answer in self._call("reset", starts)]

    async def reset_one(self, slot: int, seed: int, options: dict[str, Any] | None) -> CheckedStep:
        """Start one episode while others go on; calls of one slot follow one another."""
        return _checked(await self._call_one("reset", slot, seed, options))

    async def step_one(self, slot: int, action: str) -> CheckedStep:
        """Act in one episode while others go on."""
        return _checked(await self._call_one("step", slot, action))

    def prefetch(self, coming: Sequence[Reset]) -> None:
        """Let environments prepare what comes next: reset n in process n modulo `processes`."""
        if self._description.prefetches:
            every = self.processes
            self._call("prefetch", [(p, list(coming[p::every])) for p in range(every)])

    def step(self, actions: Sequence[tuple[int, str]]) -> list[CheckedStep]:
        """Act, given (slot, action) of each; slots are distinct, and others stay as they are."""
        return [_checked(answer) for answer in self._call("step", actions)]

    def release(self, slot: int) -> None:
        """Close the environment of a slot; its next reset makes a new one."""
        self._call("release", [(slot,)])

    async def release_one(self, slot: int) -> None:
        """`release` while others go on."""
        await self._call_one("release", slot)

    def ask_expert(self, slot: int) -> tuple[str, str] | None:
        """(thought, action) of the environment's expert for the state that `slot` is in.

        None where there is no expert, and where it fails (which is logged): the episode itself
        goes on, with whatever the caller does instead.
        """
        return _advice(self._call("ask_expert", [(slot,)])[0])

    async def ask_expert_one(self, slot: int) -> tuple[str, str] | None:
        """`ask_expert` of one slot while others go on."""
        return _advice(await self._call_one("ask_expert", slot))

    def close(self) -> None:
        """Close all environments and end all workers. May be called twice."""
        if self._local is not None:
            self._local.close()
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, requests: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`LiveEnvs.<method>(*request)` for every request, wherever its slot lives."""
        slots = [request[0] for request in requests]
        if len(set(slots)) != len(slots):
            raise ValueError(f"{method}: expected distinct slots, got {slots}")
        if self._local is None:
            return self._call_workers(method, requests)
        try:
            return [getattr(self._local, method)(*request) for request in requests]
        finally:
            self._local.sweep()

    def _call_workers(self, method: str, requests: Sequence[tuple[Any, ...]]) -> list[Any]:
        with contextlib.ExitStack() as busy:  # a worker does one thing at a time
            for number in sorted({slot % self.processes for slot, *_ in requests}):
                busy.enter_context(self._workers[number].busy)
            return _Round(self._workers, method, requests, self._limits[method]).run()

    async def _call_one(self, method: str, slot: int, *args: Any) -> Any:
        """One call that others need not wait for: in a thread where it waits for something else."""
        if self._local is not None and not self._description.waits:
            return self._call(method, [(slot, *args)])[0]
        return await self._call_in_thread(method, slot, *args)

    async def _call_in_thread(self, method: str, slot: int, *args: Any) -> Any:
        call = partial(self._call, method, [(slot, *args)])
        if self._local is None:  # a worker has limits of its own
            return (await in_thread(call))[0]
        limit = self._limits[method]
        try:
            return (await in_thread(call, limit))[0]
        except TimeoutError:
            return self._local.abandon(slot, f"{method} took longer than {limit:g} s")

    def _describe_remotely(self) -> EnvDescription:
        for worker in self._workers:
            worker.start()
        first = self._workers[0]
        try:
            first.send("describe", [()])
            answer = first.receive()
        except (EOFError, OSError):
            answer = RuntimeError(f"the worker process died (exit code {first.exit_code()})")
        except BaseException:
            self.close()
            raise
        if not isinstance(answer, EnvDescription):
            self.close()
            raise ConfigError(f"in a worker process: {answer}")
        return answer


def open_pool(config: Config, split: str, extra: Mapping[str, Any] | None = None) -> EnvPool:
    """The environments of a run for the tasks of `split`. Close them when done.

    Args:
        config: settled.
        split: passed to the environment where its constructor takes one.
        extra: further arguments of the environment, over `env_args`.

    Raises:
        ConfigError: the environment cannot be made so, or `max_turns` is above a limit of its own
            that it does not let anybody change.
    """
    kwargs = env_kwargs(config, split) | dict(extra or {})
    pool = EnvPool(
        EnvSpec(config.env, kwargs),
        workers=config.workers,
        step_timeout=config.step_timeout,
        reset_timeout=config.reset_timeout,
    )
    own = pool.describe().max_turns
    if config.max_turns is not None and own is not None and own < config.max_turns:
        pool.close()
        raise ConfigError(
            f"max_turns: {config.max_turns} is above the limit of {config.env}, {own}, which it "
            "does not take as an argument. Give at most that, or leave max_turns out"
        )
    return pool


def env_parameters(env: str) -> tuple[list[str], bool]:
    """Names of the arguments `gym.make(env, ...)` takes, and whether it takes any other.

    A constructor that takes `**kwargs` is expected to hand them on to the one it overrides.
    """
    factory = env_factory(env)
    makers = [factory]
    if isinstance(factory, type):  # `TextEnv.__new__` would hide the signature of `__init__`
        bases = [base for base in factory.__mro__ if base is not object]
        makers = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
    names = {"render_mode", "max_episode_steps"}
    open_ended: list[bool] = []
    for maker in makers:
        try:
            parameters = list(inspect.signature(maker).parameters.values())
        except (TypeError, ValueError):
            return sorted(names), True
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names |= {p.name for p in parameters if p.kind in kinds and p.name != "self"}
        open_ended.append(any(p.kind is p.VAR_KEYWORD for p in parameters))
        if not open_ended[-1]:
            break
    return sorted(names), open_ended[:1] == [True]


def env_kwargs(config: Config, split: str) -> dict[str, Any]:
    """The arguments of `gym.make(config.env, ...)` for the tasks of `split`.

    `split` and `max_turns` are passed only where the constructor names such an argument; `split`
    never over one that `env_args` holds.
    """
    kwargs = dict(config.env_args)
    names = env_parameters(config.env)[0]
    if "split" in names:
        kwargs.setdefault("split", split)
    if config.max_turns is not None and "max_turns" in names:
        kwargs["max_turns"] = config.max_turns
    return kwargs


class _Round:
    """One call spread over the workers: who owes which answers, and until when."""

    def __init__(
        self,
        workers: Sequence[Worker],
        method: str,
        requests: Sequence[tuple[Any, ...]],
        limit: float | None,
    ) -> None:
        self.workers, self.method, self.requests, self.limit = workers, method, requests, limit
        self.answers: list[Any] = [None] * len(requests)
        self.due: dict[Worker, list[int]] = {}
        self.deadline: dict[Worker, float] = {}
        for index, request in enumerate(requests):
            self.due.setdefault(workers[request[0] % len(workers)], []).append(index)

    def run(self) -> list[Any]:
        try:
            self._dispatch()
            while self.due:
                self._gather()
        except BaseException:  # Ctrl-C: answers still under way would confuse the next call
            for worker in self.due:
                worker.kill()
            raise
        return self.answers

    def _dispatch(self) -> None:
        for worker, indices in self.due.items():
            fresh = worker.start()
            self._extend(worker, START_SECONDS if fresh else 0.0)
            worker.send(self.method, [self.requests[i] for i in indices])

    def _gather(self) -> None:
        waiting = {worker.connection: worker for worker in self.due}
        for connection in wait(list(waiting), self._patience()):
            self._receive(waiting[cast(Connection, connection)])
        now = time.monotonic()
        for worker in [w for w in self.due if now > self.deadline[w]]:
            self._give_up(worker, f"{self.method} hung for more than {self.limit:g} s")

    def _extend(self, worker: Worker, extra: float = 0.0) -> None:
        limit = float("inf") if self.limit is None else self.limit
        self.deadline[worker] = time.monotonic() + limit + GRACE_SECONDS + extra

    def _patience(self) -> float | None:
        first = min(self.deadline[worker] for worker in self.due)
        return None if first == float("inf") else max(first - time.monotonic(), 0.0)

    def _receive(self, worker: Worker) -> None:
        try:
            answer = worker.receive()
        except (EOFError, OSError):
            self._give_up(worker, f"its worker process died (exit code {worker.exit_code()})")
            return
        except Exception as error:
            answer = CheckedStep.failed(error)  # an info value that cannot be unpickled here
        self.answers[self.due[worker].pop(0)] = answer
        self._extend(worker)
        if not self.due[worker]:
            del self.due[worker]

    def _give_up(self, worker: Worker, reason: str) -> None:
        logger.warning("%s: %s; its other episodes are lost", self.method, reason)
        worker.kill()
        for index in self.due.pop(worker):
            self.answers[index] = CheckedStep.failed(EnvironmentFailure(reason))


def _advice(answer: Any) -> tuple[str, str] | None:
    return None if isinstance(answer, CheckedStep) else cast(tuple[str, str] | None, answer)


def _checked(answer: Any) -> CheckedStep:
    known = isinstance(answer, CheckedStep)
    return answer if known else CheckedStep.failed(RuntimeError(str(answer)))


def _check_picklable(settings: WorkerSettings) -> None:
    try:
        pickle.dumps(settings)
    except Exception as error:
        raise ConfigError(
            f"environment {settings.spec.env_id!r} cannot be sent to worker processes: {error}. "
            "Register it with an importable entry point (module:Class) and plain arguments, or "
            "use workers=0."
        ) from error
