"""Sampling ahead: the next batches are played in a thread while the learner works.

Staleness is fixed, so that nothing depends on timing: batch n is sampled whole under the version
of `max_staleness` updates before it (under the first one while there are fewer). Its old
log-probabilities and entropies come from the learner's weights of that version, which are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aem_gym.config import Config
from aem_gym.errors import ConfigError
from aem_gym.protocols import Learner, TrainableAgent, VersionedPolicy
from aem_gym.rollout.collector import Collector
from aem_gym.training.collect import Collected, TicketOffice
from aem_gym.training.credit import Rewards


def open_source(
    config: Config, collector: Collector, rewards: Rewards, agent: TrainableAgent
) -> TicketOffice | Ahead:
    """Where the batches of a run come from.

    Raises:
        ConfigError: `max_staleness` with a sampler that keeps no versions.
    """
    office = TicketOffice(config, collector, rewards)
    if isinstance(agent.policy, VersionedPolicy):
        return Ahead(office, agent.policy, agent.learner, config.max_staleness)
    if config.max_staleness:
        raise no_versions(config)
    return office


def no_versions(config: Config) -> ConfigError:
    """What a run that wants to sample ahead is told where its sampler cannot."""
    return ConfigError(
        f"max_staleness {config.max_staleness}: the sampler {config.sampler!r} samples from the "
        "learner's present weights only. Use --sampler vllm, or --max-staleness 0"
    )


@dataclass(frozen=True, slots=True)
class InFlight:
    """The batches that are being sampled, for a checkpoint: a resumed run samples the same."""

    ages: list[int]
    """Per batch, by how many updates its version is older than the newest."""
    weights: dict[int, dict[str, Tensor]]
    """Per age above 0, the learner's weights of that version."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """One that is being played."""

    version: int
    rollouts: Future[Collected]


class Ahead:
    """Plays batches in a thread, at most `staleness` of them ahead of the learner.

    Args:
        office: which tasks.
        policy: samples.
        learner: whose weights the policy's versions are.
        staleness: updates between the version that samples a batch and the one it is learned by.
    """

    def __init__(
        self, office: TicketOffice, policy: VersionedPolicy, learner: Learner, staleness: int
    ) -> None:
        self.office, self.policy, self.learner = office, policy, learner
        self.staleness, self._taken = staleness, _Taken()
        self._queue = deque[_Batch]()
        self._due: list[int] = []
        """Versions of the first batches of a resumed run."""
        self._weights: dict[int, dict[str, Tensor]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="aem-gym-rollouts", daemon=True
        )
        self._thread.start()

    def collect(self, cursor: int, left: int = 0) -> Collected:
        """The next batch, once it is there; those after it are begun, `left` of them at most.

        `cursor` is where the first one starts. The others follow on one another.
        """
        if not self._queue:
            for version in self._due or [self.policy.version]:
                self._begin(cursor, self._queue[-1].rollouts if self._queue else None, version)
            self._due = []
        batch = self._queue.popleft()
        rollouts, before = batch.rollouts.result(), batch.rollouts
        while len(self._queue) < min(self.staleness, left):
            before = self._queue[-1].rollouts if self._queue else before
            self._begin(rollouts.cursor, before, self.policy.version)
        if not self._queue:
            self.policy.rest()
        self._taken = _Taken(batch.version, self.policy.version, rollouts.seconds)
        kept = {batch.version, *(each.version for each in self._queue)}
        self._weights = {v: weights for v, weights in self._weights.items() if v in kept}
        return rollouts

    def pause(self) -> None:
        """Wait until nothing is under way, and let the newest version sample what comes."""
        for batch in self._queue:
            batch.rollouts.exception()
        self.policy.pin(None)

    def close(self) -> None:
        """Drop what is under way."""
        done = asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop)
        with contextlib.suppress(TimeoutError):
            done.result(timeout=10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10.0)
        if not self._thread.is_alive():
            self._loop.close()

    @contextlib.contextmanager
    def weights(self) -> Iterator[None]:
        """The learner as of the version that sampled the batch taken last."""
        if self._taken.version == self._taken.newest:
            yield
            return
        now = self._copy()
        self._put(self._weights[self._taken.version])
        try:
            yield
        finally:
            self._put(now)

    def figures(self) -> dict[str, float]:
        """Which version sampled the batch taken last, and how old it was."""
        taken = self._taken
        return {
            "policy/version": float(taken.version),
            "policy/staleness": float(taken.newest - taken.version),
            "seconds/sampling": taken.seconds,
        }

    def in_flight(self) -> InFlight:
        """What is under way, to `restore`."""
        ages = [self.policy.version - batch.version for batch in self._queue]
        versions = {age: self.policy.version - age for age in ages if age}
        return InFlight(ages, {age: self._weights[v] for age, v in versions.items()})

    def restore(self, saved: InFlight) -> None:
        """Sample the first batches as they were begun before: under the versions of that time."""
        now, versions = self._copy(), dict[int, int]()
        for age, weights in sorted(saved.weights.items(), reverse=True):
            self._put(weights)
            versions[age] = self.policy.publish(self.learner)
            self._weights[versions[age]] = weights
        if saved.weights:
            self._put(now)
            self.policy.publish(self.learner)
        self._due = [versions.get(age, self.policy.version) for age in saved.ages]

    def _begin(self, cursor: int, before: Future[Collected] | None, version: int) -> None:
        if version not in self._weights and self.staleness:
            self._weights[version] = self._copy()
        play = self._play(cursor, before, version)
        self._queue.append(_Batch(version, asyncio.run_coroutine_threadsafe(play, self._loop)))

    async def _play(self, cursor: int, before: Future[Collected] | None, version: int) -> Collected:
        """One batch after the other: agent and environments are shared."""
        if before is not None:
            cursor = (await asyncio.wrap_future(before)).cursor
        self.policy.pin(version)
        return await self.office.collecting(cursor)

    def _copy(self) -> dict[str, Tensor]:
        return {n: each.detach().clone() for n, each in self.learner.parameters().items()}

    def _put(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, each in self.learner.parameters().items():
                each.copy_(weights[name])


@dataclass(frozen=True, slots=True)
class _Taken:
    """The batch that is being learned from."""

    version: int = 0
    newest: int = 0
    seconds: float = 0.0


async def _cancel_others() -> None:
    others: list[asyncio.Task[Any]] = [
        task for task in asyncio.all_tasks() if task is not asyncio.current_task()
    ]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
