"""The environments behind a server: a pool for each set of arguments, a slot for each session.

It knows nothing of OpenEnv. Pools bring what a run has: checked answers, time limits, worker
processes, threads for what waits; a failure is in the answer and ends its own episode.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from aem_gym.concurrency import Turns
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.openenv_protocol import ServedEnv, settable
from aem_gym.registry import env_factory
from aem_gym.rollout.envs import CheckedStep, EnvSpec
from aem_gym.rollout.pool import EnvPool, env_parameters

ALWAYS_SETTABLE = ("split", "max_turns")
"""Arguments that clients may set where the environment has them: runs use two splits."""
MOST_POOLS = 16
"""Most sets of arguments that clients may ask for, as each is held in memory."""


@dataclass(frozen=True, slots=True)
class ServedSettings:
    """What is served, and how."""

    env: str
    env_args: Mapping[str, Any] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    """Further arguments that clients may set."""
    workers: int = 0
    """Processes that hold the environments, for each set of arguments; 0: this one."""
    step_timeout: float | None = 60.0
    reset_timeout: float | None = 120.0


@dataclass(slots=True)
class Seat:
    """A session's place in a pool."""

    pool: EnvPool
    slot: int


class EnvHost:
    """Makes pools as they are asked for. Its coroutines belong to one event loop.

    Environments that neither wait nor live in workers are called in the thread that calls `work`,
    one after the other: time limits work in the main thread only, and an event loop that
    answers nobody for a while loses its clients.

    Raises:
        UnknownNameError: the environment has no such argument.
        ConfigError: it cannot be made.
    """

    def __init__(self, settings: ServedSettings) -> None:
        self.settings = settings
        names, takes_any = env_parameters(settings.env)
        for key in (*settings.env_args, *settings.allowed):
            if key not in names and not takes_any:
                raise UnknownNameError(f"argument of {settings.env}:", key, names)
        wanted = (*(name for name in ALWAYS_SETTABLE if name in names), *settings.allowed)
        self.arguments = tuple(dict.fromkeys(wanted))
        self._pools: dict[str, EnvPool] = {"{}": self._make({})}
        self._making = asyncio.Lock()
        self._turns = Turns()
        self._slots = itertools.count()
        self._free: list[int] = []
        self._leaving: set[asyncio.Task[None]] = set()

    async def pool(self, args: Mapping[str, Any]) -> EnvPool:
        """The pool for arguments of a client, over the server's own.

        Raises:
            ConfigError: an argument that clients may not set, a value that the environment refuses,
                or too many different ones.
        """
        for name in args:
            if name not in self.arguments:
                hint = f"The server can allow it: aem-gym serve ... --allow {name}"
                raise UnknownNameError("argument that clients may set:", name, self.arguments, hint)
        key = json.dumps(args, sort_keys=True)
        async with self._making:
            if key not in self._pools:
                if len(self._pools) >= MOST_POOLS:
                    raise ConfigError(
                        f"expected at most {MOST_POOLS} different sets of arguments, got another: "
                        f"{key}. Start a second server for it"
                    )
                self._pools[key] = await self._turns.call(lambda: self._make(args))
            return self._pools[key]

    def _make(self, args: Mapping[str, Any]) -> EnvPool:
        settings = self.settings
        return EnvPool(
            EnvSpec(settings.env, {**settings.env_args, **args}),
            workers=settings.workers,
            step_timeout=settings.step_timeout,
            reset_timeout=settings.reset_timeout,
        )

    def describe(self, pool: EnvPool) -> ServedEnv:
        """What clients are told about the environments of a pool."""
        about, factory = pool.describe(), env_factory(self.settings.env)
        by_model = getattr(factory, "model_defaults", {}).items()
        return ServedEnv(
            env=self.settings.env,
            instructions=about.instructions,
            prompt_templates=dict(about.prompt_templates),
            lexicon=about.lexicon,
            max_turns=about.max_turns,
            has_expert=about.has_expert,
            task_types=about.task_types,
            protocol=dict(about.protocol),
            arguments=self.arguments,
            defaults=settable(getattr(factory, "defaults", {}), self.arguments),
            model_defaults={name: settable(v, self.arguments) for name, v in by_model},
        )

    async def reset(self, seat: Seat, seed: int, options: dict[str, Any] | None) -> CheckedStep:
        """Begin an episode."""
        pool, slot = seat.pool, seat.slot
        if pool.concurrent:
            return await pool.reset_one(slot, seed, options)
        return await self._turns.call(lambda: pool.reset([(slot, seed, options)])[0])

    async def step(self, seat: Seat, action: str) -> CheckedStep:
        """Act."""
        pool, slot = seat.pool, seat.slot
        if pool.concurrent:
            return await pool.step_one(slot, action)
        return await self._turns.call(lambda: pool.step([(slot, action)])[0])

    async def ask_expert(self, seat: Seat) -> tuple[str, str] | None:
        """(thought, action) of the expert; None without one, or if it fails (which is logged)."""
        pool, slot = seat.pool, seat.slot
        if pool.concurrent:
            return await pool.ask_expert_one(slot)
        return await self._turns.call(lambda: pool.ask_expert(slot))

    def work(self) -> None:
        """Call environments, until `stop`."""
        self._turns.work()

    def stop(self) -> None:
        """Make `work` return. Any thread may call it."""
        self._turns.stop()

    def seat(self, pool: EnvPool) -> Seat:
        """A place for a session."""
        return Seat(pool, self._free.pop() if self._free else next(self._slots))

    def leave(self, seat: Seat) -> None:
        """Close the environment of a place in the background, and then give the place away."""
        task = asyncio.get_running_loop().create_task(self._leave(seat))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, seat: Seat) -> None:
        if seat.pool.concurrent:
            await seat.pool.release_one(seat.slot)
        else:
            await self._turns.call(lambda: seat.pool.release(seat.slot))
        self._free.append(seat.slot)

    def close(self) -> None:
        """Close every environment."""
        for pool in self._pools.values():
            pool.close()


def plain(value: Any) -> Any:
    """A value as JSON can hold it; what it cannot is written as text."""
    return json.loads(json.dumps(value, default=_as_plain, skipkeys=True))


def _as_plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy
        return value.tolist()
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return asdict(value)
    return list(value) if isinstance(value, set | frozenset) else str(value)
