"""One optimizer over one trainable agent: clipped policy updates from modulated advantages."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from aem_gym.credit.losses import kl_k3, value_loss
from aem_gym.credit.losses import LossOutput
from aem_gym.errors import SamplerMismatchError
from aem_gym.protocols import Scores, TrainableAgent
from aem_gym.seeding import generator
from aem_gym.training.assignment import Credit, estimator_defaults
from aem_gym.training.batching import TrainBatch
from aem_gym.training.config import Config
from aem_gym.training.policy_loss import LossSettings

FP32_TOLERANCE = 1e-3
"""Largest difference of sampler and learner log-probabilities in float32, in nats."""
BF16_TOLERANCE = 0.05
"""Mean difference in bfloat16, in nats."""


class Learner:
    """Updates a trainable agent.

    Args:
        agent: whose `parameters()` are trained.
        config: learning rate, clipping, batch sizes.
    """

    def __init__(self, agent: TrainableAgent, config: Config) -> None:
        self.agent, self.config = agent, config
        self.loss = LossSettings.of(config)
        defaults = estimator_defaults(config.estimator)
        self.needs_values = defaults.needs_values
        chosen = config.drop_equal_groups
        self.drops_equal_groups = defaults.filter_equal_groups if chosen is None else chosen
        self.parameters = list(agent.parameters().values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.lr, weight_decay=config.weight_decay
        )

    def learning_rate(self, step: int) -> float:
        """Of step `step` (from 0): a linear rise over the warm-up, then the schedule."""
        warm = min(1.0, (step + 1) / max(1, self.config.lr_warmup))
        rest = max(1, self.config.steps - self.config.lr_warmup)
        progress = min(1.0, max(0, step - self.config.lr_warmup) / rest)
        shape = {
            "constant": 1.0,
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        }[self.config.lr_schedule]
        return self.config.lr * warm * shape

    @torch.no_grad()
    def score(self, step: TrainBatch, *, reference: bool = False) -> Scores:
        """Scores of all responses of a step, without gradient, in the order of its batch."""
        parts = [
            self._score([step.rows[r] for r in rows], reference=reference)
            for rows in _chunks(list(range(len(step.rows))), self.config.micro_batch)
        ]
        width = step.batch.mask.shape[1]
        return Scores(
            torch.cat([_widen(p.logprobs, width) for p in parts]),
            torch.cat([_widen(p.entropies, width) for p in parts]),
            torch.cat([_widen(p.mask, width) for p in parts]),
            None if parts[0].values is None else torch.cat([_known(p.values) for p in parts]),
        )

    def check_sampler(self, step: TrainBatch) -> float:
        """Compare the sampler's log-probabilities with the learner's on a step's responses.

        Returns:
            The largest difference in nats (float32), or the mean (bfloat16).

        Raises:
            SamplerMismatchError: they are different policies, so every gradient would be wrong.
        """
        scores = self.score(step)
        mask = step.batch.mask
        difference = (scores.logprobs.cpu()[mask] - step.batch.logprobs[mask]).abs()
        exact = self.agent.exact_sampling
        seen = float(difference.max() if exact else difference.mean())
        limit = FP32_TOLERANCE if exact else BF16_TOLERANCE
        if not seen <= limit:
            kind = "largest" if exact else "mean"
            raise SamplerMismatchError(
                f"sampler and learner disagree on the log-probabilities of the same tokens: {kind} "
                f"difference {seen:.2g} nats, expected at most {limit:g}. Do they see the same "
                "weights, tokens and temperature? Try --dtype float32, and --lora-dropout 0"
            )
        return seen

    def update(self, step: TrainBatch, credit: Credit, number: int) -> dict[str, float]:
        """Train on one step's data; the figures of the update, averaged over its tokens.

        Args:
            step: episodes as training rows and tensors.
            credit: modulated advantages (and value targets) of its responses.
            number: the step's number, for the schedule and the order of rows.
        """
        rate = self.learning_rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        reference = self.score(step, reference=True).logprobs if self.loss.kl_coef else None
        old = self._old_logprobs(step)
        totals: dict[str, float] = defaultdict(float)
        norms: list[float] = []
        for epoch in range(self.config.epochs):
            order = generator(self.config.seed, "order", number, epoch)
            rows = order.permutation(len(step.rows)).tolist()
            for mini in self._mini_batches(rows):
                norms.append(self._update_once(step, credit, mini, old, reference, totals))
                self.agent.weights_changed()
        tokens = max(1.0, totals.pop("tokens"))
        figures = {name: total / tokens for name, total in totals.items()}
        figures |= {"grad_norm": sum(norms) / len(norms), "lr": rate, "updates": float(len(norms))}
        return figures

    def _old_logprobs(self, step: TrainBatch) -> Tensor:
        """(N, T) the sampler's own, or the learner's where the sampler's are not exact."""
        if self.agent.exact_sampling:
            return step.batch.logprobs
        return self.score(step).logprobs.cpu()

    def _mini_batches(self, rows: list[int]) -> Iterator[list[int]]:
        size = self.config.mini_batch or -(-len(rows) // self.config.updates_per_batch)
        yield from _chunks(rows, size)

    def _update_once(
        self,
        step: TrainBatch,
        credit: Credit,
        mini: list[int],
        old: Tensor,
        reference: Tensor | None,
        totals: dict[str, float],
    ) -> float:
        """One optimizer step on the training rows `mini`; the gradient norm before clipping."""
        responses = step.responses(mini)
        all_tokens = float(step.batch.mask[responses].sum())
        all_rows = float((step.batch.lengths[responses] > 0).sum())
        self.optimizer.zero_grad(set_to_none=True)
        # Rows of like length together: less padding, and the sum does not depend on the cut.
        mini = sorted(mini, key=lambda row: len(step.rows[row].ids))
        for micro in _chunks(mini, self.config.micro_batch):
            numbers = step.responses(micro)
            scores = self._score([step.rows[r] for r in micro])
            output, loss = self._loss(step, credit, numbers, scores, old, reference, totals)
            (loss(all_tokens, all_rows)).backward()
            for name, total in output.metrics.items():
                totals[name] += float(total)
            totals["tokens"] += float(scores.mask.sum())
        clip = self.config.grad_clip or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, clip))
        if math.isfinite(norm):
            self.optimizer.step()
        return norm

    def _loss(
        self,
        step: TrainBatch,
        credit: Credit,
        numbers: Tensor,
        scores: Scores,
        old: Tensor,
        reference: Tensor | None,
        totals: dict[str, float],
    ) -> tuple[LossOutput, Any]:
        """The loss of some responses, as a function of the mini-batch's totals."""
        device, width = scores.logprobs.device, scores.mask.shape[1]
        picked = [x[numbers, :width].to(device) for x in (old, credit.modulated.advantages)]
        output = self.loss.function(
            scores.logprobs, picked[0], picked[1], scores.mask, **self.loss.options
        )
        per_token = output.per_token
        if reference is not None:
            kl = kl_k3(scores.logprobs, reference[numbers.to(reference.device), :width])
            kl = kl.masked_fill(~scores.mask, 0)
            totals["kl_reference"] += float(kl.detach().sum())
            per_token = per_token + self.loss.kl_coef * kl
        totals["loss"] += float(per_token.detach().sum())
        value = None
        if scores.values is not None and credit.value_targets is not None:
            before = _known(step.batch.values)[numbers].to(device)
            value = value_loss(scores.values, before, credit.value_targets[numbers].to(device))

        def total(tokens: float, rows: float) -> Tensor:
            policy = self.loss.total(per_token, scores.mask, tokens, rows)
            return policy if value is None else policy + self.loss.value_coef * value.sum() / rows

        return output, total

    def _score(self, rows: Sequence[Any], *, reference: bool = False) -> Scores:
        return self.agent.score(rows, temperature=self.config.temperature, reference=reference)


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _widen(x: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1]))


def _known(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
