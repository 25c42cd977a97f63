"""The responses of one training step as tensors: what estimators and modulators read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_PER_ROW = (
    "returns",
    "step_rewards",
    "penalties",
    "group_ids",
    "trajectory_ids",
    "turns",
    "anchor_ids",
    "values",
    "excluded",
)
_PER_TOKEN = ("mask", "logprobs", "entropies")


@dataclass(frozen=True)
class ResponseBatch:
    """N responses of one training step, one row each, in any order; T = the longest response.

    A response is everything the agent generates in one turn: the action of the theory. Rewards
    and values are in the scaled unit of the recipe; log-probabilities and entropies are in nats
    under the sampling policy at the sampling temperature. Whatever lies outside `mask` is ignored.

    Raises:
        ValueError: a tensor's shape does not fit the others.
    """

    returns: Tensor
    """(N,) return of the row's episode, the same on each of its rows."""
    step_rewards: Tensor
    """(N,) reward of that turn."""
    penalties: Tensor
    """(N,) <= 0: invalid-action penalty of that row."""
    group_ids: Tensor
    """(N,) long: the task instance whose rollouts are compared."""
    trajectory_ids: Tensor
    """(N,) long: the episode, unique over groups."""
    turns: Tensor
    """(N,) long: position in the episode."""
    anchor_ids: Tensor
    """(N,) long: equal iff the raw observation is equal (GiGPO)."""
    mask: Tensor
    """(N, T) bool: the response's tokens, right padded."""
    logprobs: Tensor
    """(N, T) log-probability of each sampled token."""
    entropies: Tensor
    """(N, T) exact full-vocabulary entropy at each token."""
    values: Tensor | None = None
    """(N,) value of the state before the response (PPO), in scaled return."""
    excluded: Tensor | None = None
    """(N,) bool: copies made for divisibility and dropped groups, left out of all statistics."""

    def __post_init__(self) -> None:
        rows, tokens = self.returns.shape, self.mask.shape
        if len(rows) != 1 or len(tokens) != 2 or tokens[0] != rows[0]:
            raise ValueError(
                "ResponseBatch expects returns (N,) and mask (N, T), "
                f"got {tuple(rows)} and {tuple(tokens)}"
            )
        for names, shape in ((_PER_ROW, rows), (_PER_TOKEN, tokens)):
            for name in names:
                value: Tensor | None = getattr(self, name)
                if value is not None and value.shape != shape:
                    raise ValueError(
                        f"ResponseBatch.{name}: expected shape {tuple(shape)}, "
                        f"got {tuple(value.shape)}"
                    )
        if self.mask.dtype != torch.bool:
            raise ValueError(f"ResponseBatch.mask: expected torch.bool, got {self.mask.dtype}")

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens per response, (N,) long."""
        return self.mask.sum(-1)

    @cached_property
    def included(self) -> Tensor:
        """Rows that are not `excluded`, (N,) bool: those that enter return statistics."""
        return (
            torch.ones_like(self.lengths, dtype=torch.bool)
            if self.excluded is None
            else (~self.excluded)
        )

    @cached_property
    def counted(self) -> Tensor:
        """Included rows with at least one token, (N,) bool: those that enter entropy statistics."""
        return self.included & (self.lengths > 0)

    @cached_property
    def entropy_sum(self) -> Tensor:
        """Sum of a response's token entropies (N,): estimates the response entropy H_resp."""
        return self.entropies.masked_fill(~self.mask, 0).sum(-1)

    @cached_property
    def response_entropy(self) -> Tensor:
        """Hbar: mean token entropy of each response in nats, (N,); 0 where it has no tokens."""
        return self.entropy_sum / self.lengths.clamp(min=1)

    @cached_property
    def surprisal(self) -> Tensor:
        """S = -log pi(response), (N,) nats; 0 where it has no tokens."""
        return -self.logprobs.masked_fill(~self.mask, 0).sum(-1)
