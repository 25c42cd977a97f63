"""The parts of a run over several processes: each does its share, and knows what all have done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from aem_gym.concurrency import in_thread
from aem_gym.config import Config
from aem_gym.errors import ConfigError
from aem_gym.protocols import Learner, Scores
from aem_gym.rollout.collector import Collector, Follow, RolloutRequest
from aem_gym.runs import LOCK_NAME, Checkpoint, CheckpointStore, Claim, claim_output
from aem_gym.seeding import derive
from aem_gym.training.credit import Credit, TrainBatch
from aem_gym.training.distributed import World, bits_of
from aem_gym.training.records import Recorder
from aem_gym.training.update import Targets, Updater, widen
from aem_gym.types import Episode

APPEARS = 60.0
"""Seconds that a folder made by process 0 may take to be seen on another machine."""


class SharedCollector(Collector):
    """Runs a share of the episodes, and returns all of them."""

    def __init__(self, inner: Collector, world: World) -> None:
        # A group of its own, as batches may be collected while the learner works.
        self.inner, self.world, self.quiet = inner, world.sibling(), not world.leads
        self.pool, self.agent, self.settings = inner.pool, inner.agent, inner.settings
        self.description = inner.description

    async def collect(
        self,
        requests: Sequence[RolloutRequest],
        *,
        temperature: float = 1.0,
        follow: Follow = None,
    ) -> list[Episode]:
        """What follows is asked for once the episodes before it are there on all processes.

        So all of them ask for the same, in the same order.
        """
        requests, episodes = list(requests), list[Episode]()
        while len(episodes) < len(requests):
            begun = len(episodes)
            share = self.world.mine(requests[begun:])
            own = await self.inner.collect(share, temperature=temperature)
            episodes += await in_thread(partial(self.world.joined, own))
            if follow is not None:
                for place in range(begun, len(episodes)):
                    requests += follow(place, episodes[place])
        return episodes

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        self.inner.prefetch(self.world.mine(requests))


class _Idle(list[int]):
    """Training rows that are read because the others read, and count nothing."""


class SharedUpdater(Updater):
    """Reads a share of the micro-batches; scores, gradients and figures are those of all.

    Where the base model is spread over the processes (`shard_base`), all read equally often.
    """

    def __init__(
        self, learner: Learner, config: Config, world: World, *, exact: bool = True
    ) -> None:
        super().__init__(learner, config, exact=exact)
        self.world: World = world

    @torch.no_grad()
    def score(self, step: TrainBatch, *, reference: bool = False) -> Scores:
        rows = list(range(len(step.rows)))
        logprobs, entropies, values = self._all_scores(step, rows, reference=reference)
        return Scores(logprobs, entropies, step.batch.mask, values)

    def update(
        self, step: TrainBatch, credit: Credit, number: int, weights: Tensor | None = None
    ) -> dict[str, float]:
        if self.config.lora_dropout:  # else all would drop the same
            seed = derive(self.config.seed, "torch", number, self.world.rank)
            torch.manual_seed(seed % 2**63)
        return super().update(step, credit, number, weights)

    def _all_scores(
        self, step: TrainBatch, rows: list[int], *, reference: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities, entropies (N, T) and values (N,) of the responses of some rows."""
        own = []
        for micro in self._micro_batches(step, rows):
            scores = self._score(step, micro, reference=reference)
            if not isinstance(micro, _Idle):
                values = None if scores.values is None else scores.values.cpu()
                pair = (scores.logprobs.cpu(), scores.entropies.cpu())
                own.append((step.responses(micro), *pair, values))
        logprobs = torch.zeros(step.batch.mask.shape)
        entropies, values = torch.zeros_like(logprobs), None
        for part in self.world.gather(own):
            for numbers, of_logprobs, of_entropies, of_values in part:
                logprobs[numbers] = widen(of_logprobs, logprobs.shape[1])
                entropies[numbers] = widen(of_entropies, logprobs.shape[1])
                if of_values is not None:
                    values = torch.zeros(len(logprobs)) if values is None else values
                    values[numbers] = of_values
        return logprobs, entropies, values

    def _policy_logprobs(self, step: TrainBatch, rows: list[int]) -> Tensor:
        return self._all_scores(step, rows)[0][step.responses(rows)]

    def _loss(
        self, step: TrainBatch, targets: Targets, micro: list[int], tokens: float, rows: float
    ) -> tuple[Tensor, dict[str, float]]:
        loss, sums = super()._loss(step, targets, micro, tokens, rows)
        return (loss * 0.0, {}) if isinstance(micro, _Idle) else (loss, sums)

    def _micro_batches(self, step: TrainBatch, rows: list[int]) -> Iterator[list[int]]:
        """This process's share. Few rows are cut finer, unless the loss draws by the cut."""
        parts = list(super()._micro_batches(step, rows))
        if len(parts) < self.world.size and not self.loss.draws:
            size = -(-len(rows) // self.world.size)
            cuts = range(0, len(rows), size)
            finer = [rows[at : at + size] for at in cuts]
            parts = finer if len(finer) > len(parts) else parts
        own = list(self.world.mine(parts))
        if self.config.shard_base and len(own) * self.world.size < len(parts):
            own.append(_Idle(parts[0]))
        yield from own


class SharedStore(CheckpointStore):
    """Checkpoints that process 0 writes and all read."""

    def __init__(self, run: Path, keep: int, world: World) -> None:
        super().__init__(run, keep)
        self.world = world

    def recover(self) -> Checkpoint | None:
        found: Checkpoint | None = self.world.first(super().recover)
        return found

    def save(
        self, step: int, write: Callable[[Path], None], meta: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        if self.world.leads:
            return super().save(step, write, meta)
        return Checkpoint(step, self.path(step), dict(meta or {}), {})


class SilentRecorder(Recorder):
    """Writes nothing: process 0 does."""

    def __init__(self) -> None:
        self._files, self._loggers = {}, []

    def episodes(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Nothing."""

    def metrics(self, step: int, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def evaluation(self, step: int, figures: Mapping[str, Any]) -> None:
        """Nothing."""


def open_updater(learner: Learner, config: Config, world: World | None, *, exact: bool) -> Updater:
    """The updater of a run."""
    if world is None:
        return Updater(learner, config, exact=exact)
    return SharedUpdater(learner, config, world, exact=exact)


def claim_run(run: Path, config: Config, world: World | None) -> tuple[Claim, CheckpointStore]:
    """The folder of a run, claimed, and its checkpoints."""
    keep = config.keep_checkpoints
    if world is None:
        return claim_output(run, config.resume), CheckpointStore(run, keep)
    return claim_together(run, config.resume, world), SharedStore(run, keep, world)


def claim_together(run: Path, resume: bool, world: World) -> Claim:
    """The run's folder, claimed by process 0 for all.

    Raises:
        ConfigError: a process does not see the folder.
    """
    taken: list[Claim] = []

    def take() -> bool:
        taken.append(claim_output(run, resume))
        return taken[0].resuming

    resuming = world.first(take)
    if taken:
        return taken[0]
    until = time.monotonic() + APPEARS
    while not (run / LOCK_NAME).exists():
        if time.monotonic() > until:
            raise ConfigError(
                f"out: process {world.rank} does not see {run}, which process 0 has made. Give "
                "--out a folder that all machines share"
            )
        time.sleep(0.2)
    lock: IO[bytes] = (run / LOCK_NAME).open("rb")
    return Claim(run, resuming, lock)


def check_alike(learner: Learner, world: World) -> None:
    """Raise WorldError where the processes do not begin with the same weights."""
    model = getattr(learner, "model", None)
    if model is not None:
        world.check_same("weights of the base model", bits_of(list(model.parameters())))
    world.check_same("weights that train", bits_of(list(learner.parameters().values())))


def shard_base(learner: Learner, config: Config) -> None:
    """Spread the frozen base model over the processes. Raises ConfigError where that cannot be."""
    spread: Callable[[], None] | None = getattr(learner, "shard_base", None)
    if spread is None:
        raise ConfigError(
            f"shard_base: the learner {config.learner!r} has no method for it. Use --learner hf"
        )
    spread()
