"""Behaviour cloning: supervised training on demonstrations, before RL.

The recipe for a model from scratch (matrices by Muon, the rest by AdamW, a share of the observation
tokens learned too) was measured; docs/learning.md has the figures.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from aem_gym.errors import NotLearningError
from aem_gym.protocols import Learner
from aem_gym.seeding import generator
from aem_gym.types import IMITATE, PROMPT, LabelledRow

logger = logging.getLogger(__name__)

MAX_BAD = 3
"""Batches in a row that may be left out because they are NaN or inf."""


@dataclass(frozen=True, slots=True)
class CloningSettings:
    """Settings of cloning. The defaults are for a model trained from scratch."""

    steps: int = 500
    batch: int = 32
    muon_lr: float = 0.02
    """Of weight matrices; 0: AdamW trains them too (right for LoRA)."""
    adamw_lr: float = 4e-3
    """Of everything else."""
    warmup: int = 40
    observation_share: float = 0.2
    """Share of the prompt's tokens that are learned: a model from scratch must learn to read."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0: no limit."""
    seed: int = 0


def clone(
    learner: Learner,
    rows: Sequence[LabelledRow],
    settings: CloningSettings,
    progress: Callable[[float], None] = lambda loss: None,
) -> float:
    """Train `learner` to give the responses of `rows`; the mean loss (nats) of the last 20 steps.

    The learning rates rise over `warmup` steps and fall linearly to 0. A batch whose loss or
    gradient is NaN or inf is left out.

    Raises:
        NotLearningError: so were several batches in a row, or the weights have become NaN or inf.
    """
    optimizers = _optimizers(learner.parameters(), settings)
    initial = [[group["lr"] for group in o.param_groups] for o in optimizers]
    parameters = list(learner.parameters().values())
    losses: list[float] = []
    batches = _batches(rows, settings)
    bad = 0
    for step in range(settings.steps):
        scale = min((step + 1) / max(1, settings.warmup), 1 - step / settings.steps)
        for optimizer, rates in zip(optimizers, initial, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            optimizer.zero_grad(set_to_none=True)
        numbers, (ids, positions) = next(batches)
        loss = -learner.logprobs_at(ids, positions).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        limit = settings.grad_clip or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        if math.isfinite(norm + float(loss.detach())):
            for optimizer in optimizers:
                optimizer.step()
            losses.append(float(loss.detach()))
            bad = 0
        else:
            bad += 1
            _leave_out(step, numbers, loss, norm, bad)
        progress(losses[-1] if losses else float("nan"))
    check_weights(learner, "cloning")
    return float(np.mean(losses[-20:])) if losses else float("nan")


def check_weights(learner: Learner, what: str) -> None:
    """Raise NotLearningError where weights that train are NaN or inf."""
    damaged = [n for n, p in learner.parameters().items() if not bool(torch.isfinite(p).all())]
    if damaged:
        raise NotLearningError(
            f"{what}: {len(damaged)} weights hold NaN or inf ({damaged[0]}, ...), so nothing is "
            "kept. Lower the learning rates: warmstart_options.muon_lr and adamw_lr"
        )


def _leave_out(step: int, numbers: Sequence[int], loss: Tensor, norm: float, bad: int) -> None:
    """Say that a batch was left out. Raises NotLearningError after MAX_BAD in a row."""
    what = f"the loss ({float(loss.detach())})"
    if math.isfinite(float(loss.detach())):
        what = f"the gradient ({norm})"
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    text = f"cloning step {step + 1}: {what} of the batch of rows {shown} is not finite"
    logger.warning("%s (bad_cloning:nan, %d of %d in a row): left out", text, bad, MAX_BAD)
    if bad >= MAX_BAD:
        raise NotLearningError(
            f"{text}, the last of {bad} such batches (bad_cloning:nan). Nothing was kept. Lower "
            "the learning rates (warmstart_options.muon_lr, adamw_lr), or look for what the "
            "learner does with these rows"
        )


def _optimizers(
    named: Mapping[str, Parameter], settings: CloningSettings
) -> list[torch.optim.Optimizer]:
    matrices = [
        p
        for name, p in named.items()
        if settings.muon_lr and p.ndim == 2 and "embed" not in name and "lm_head" not in name
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in named.values() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=settings.muon_lr, weight_decay=0.0))
    if rest:
        optimizers.append(
            torch.optim.AdamW(rest, lr=settings.adamw_lr, weight_decay=0.0, betas=(0.9, 0.98))
        )
    return optimizers


def _batches(
    rows: Sequence[LabelledRow], settings: CloningSettings
) -> Iterator[tuple[list[int], tuple[Tensor, Tensor]]]:
    """Endless numbers of rows with (ids (B, L), positions to learn (B, L)).

    Rows of like length lie together.
    """
    draws = generator(settings.seed, "cloning")
    lengths = np.array([len(row.ids) for row in rows])
    epoch = 0
    while True:
        epoch += 1
        # Noise on the lengths, so that the buckets are mixed differently in each epoch.
        order = np.argsort(lengths + draws.uniform(0, 16, len(rows)), kind="stable")
        size = min(settings.batch, len(rows))
        if spare := len(rows) % size:  # any of them: cut off the end, the longest never came
            left_out = draws.choice(len(rows), spare, replace=False)
            order = order[~np.isin(order, left_out)]
        starts = np.arange(0, len(order) - size + 1, size)
        for start in draws.permutation(starts):
            numbers = order[start : start + size].tolist()
            yield numbers, _tensors([rows[i] for i in numbers], settings, draws)


def _tensors(
    rows: Sequence[LabelledRow], settings: CloningSettings, draws: np.random.Generator
) -> tuple[Tensor, Tensor]:
    longest = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    learn = np.zeros((len(rows), longest), dtype=bool)
    for i, row in enumerate(rows):
        length = len(row.ids)
        ids[i, :length] = row.ids
        labels = np.frombuffer(row.labels, dtype=np.uint8)
        learn[i, :length] = labels == IMITATE
        if settings.observation_share:
            read = (labels == PROMPT) & (draws.random(length) < settings.observation_share)
            learn[i, :length] |= read
    learn[:, 0] = False  # nothing comes before the first token
    return torch.from_numpy(ids), torch.from_numpy(learn)
