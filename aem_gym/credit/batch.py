"""The responses of one training step as tensors, reductions over them, and their figures."""

from __future__ import annotations

import math
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
    and values are in scaled units; log-probabilities and entropies are in nats
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
            raise _misfit(rows, tokens)
        for name in (*_PER_ROW, *_PER_TOKEN):
            value, shape = getattr(self, name), rows if name in _PER_ROW else tokens
            if value is not None and value.shape != shape:
                raise _wrong_shape(name, shape, value)
        if self.mask.dtype != torch.bool:
            raise ValueError(f"ResponseBatch.mask: expected torch.bool, got {self.mask.dtype}")

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens per response, (N,) long."""
        return self.mask.sum(-1)

    @cached_property
    def included(self) -> Tensor:
        """Rows that are not `excluded`, (N,) bool: those that enter return statistics."""
        every = torch.ones_like(self.lengths, dtype=torch.bool)
        return every if self.excluded is None else ~self.excluded

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


# Reductions over labelled rows, without a loop over groups ----------------------------------------


@dataclass(frozen=True)
class Segments:
    """Rows with equal ids, numbered 0..count-1."""

    index: Tensor  # (N,) long: the segment of each row
    count: int

    @staticmethod
    def of(ids: Tensor) -> Segments:
        """Number the distinct values of `ids` (N,)."""
        unique, index = torch.unique(ids, return_inverse=True)
        return Segments(index, int(unique.numel()))

    def sum(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Sum of `x` (N,) per segment, over the rows in `keep`. Shape (count,)."""
        x = x if keep is None else torch.where(keep, x, torch.zeros_like(x))
        return x.new_zeros(self.count).index_add_(0, self.index, x)

    def size(self, keep: Tensor | None = None) -> Tensor:
        """Number of rows per segment as long, (count,)."""
        ones = torch.ones_like(self.index) if keep is None else keep.long()
        return ones.new_zeros(self.count).index_add_(0, self.index, ones)

    def extremes(self, x: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(min, max) per segment, (count,) each; (inf, -inf) where no row is kept."""
        index = self.index if keep is None else self.index[keep]
        x = x if keep is None else x[keep]
        low = x.new_full((self.count,), math.inf).scatter_reduce_(0, index, x, "amin")
        high = x.new_full((self.count,), -math.inf).scatter_reduce_(0, index, x, "amax")
        return low, high

    def mean(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Mean per segment, (count,); 0 where no row is kept."""
        return self.sum(x, keep) / self.size(keep).clamp(min=1)

    def mean_std(self, x: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(mean, unbiased std) per segment; the std is exactly 0 where all rows are equal."""
        mean = self.mean(x, keep)
        square = self.sum((x - mean[self.index]).square(), keep)
        std = torch.sqrt(square / (self.size(keep) - 1).clamp(min=1))
        low, high = self.extremes(x, keep)
        return mean, torch.where(high > low, std, torch.zeros_like(std))


def pair_ids(first: Tensor, second: Tensor) -> Tensor:
    """One id per distinct pair, ordered by `first`, then `second`. Shape (N,)."""
    a, b = Segments.of(first), Segments.of(second)
    return a.index * max(1, b.count) + b.index


@dataclass(frozen=True)
class TurnGrid:
    """Trajectories laid out as (E, L): one line per trajectory, its turns in order.

    Rows come in any order; copies of a row (same trajectory and turn) share a cell.
    """

    line: Tensor  # (N,) long
    column: Tensor  # (N,) long: rank of the turn in its trajectory
    shape: tuple[int, int]

    @staticmethod
    def of(trajectory_ids: Tensor, turns: Tensor) -> TurnGrid:
        """Lay out rows with these trajectories and turns, (N,) long each."""
        lines = Segments.of(trajectory_ids)
        cells = Segments.of(pair_ids(trajectory_ids, turns))
        line_of_cell = cells.index.new_zeros(cells.count).scatter_(0, cells.index, lines.index)
        width = torch.bincount(line_of_cell, minlength=lines.count)
        start = width.cumsum(0) - width
        rank = torch.arange(cells.count, device=turns.device) - start[line_of_cell]
        longest = int(width.max()) if lines.count else 0
        return TurnGrid(lines.index, rank[cells.index], (lines.count, longest))

    def spread(self, x: Tensor) -> Tensor:
        """Rows (N,) to cells (E, L); 0 where a trajectory has ended."""
        grid: Tensor = x.new_zeros(self.shape)
        grid[self.line, self.column] = x
        return grid

    def gather(self, grid: Tensor) -> Tensor:
        """Cells (E, L) back to rows (N,)."""
        return grid[self.line, self.column]

    def discounted(self, x: Tensor, discount: float) -> Tensor:
        """sum_{k >= t} discount^(k-t) x_k along each trajectory, per row (N,)."""
        grid = self.spread(x)
        running = grid.new_zeros(self.shape[0])
        for column in range(self.shape[1] - 1, -1, -1):
            running = grid[:, column] + discount * running
            grid[:, column] = running
        return self.gather(grid)


# Figures -----------------------------------------------------------------------------------------


@torch.no_grad()
def credit_metrics(
    batch: ResponseBatch,
    alpha: Tensor,
    advantages: Tensor,
    success: Tensor | None = None,
    *,
    threshold: float = 0.1,
) -> dict[str, float]:
    """The metrics of credit of a step (docs/runs.md). One that does not exist is left out.

    `alpha` (N,) is the modulator's, `advantages` (N,) the base estimator's, before modulation;
    `success` (N,) bool tells whether a row's episode succeeded; `threshold` is AEM's, in nats.
    """
    keep = batch.counted
    if not bool(keep.any()):
        return {}
    alpha, entropy = alpha[keep], batch.response_entropy[keep]
    groups = Segments.of(batch.group_ids[keep])
    low, high = groups.extremes(entropy)
    base, lengths = advantages[keep].to(alpha.dtype), batch.lengths[keep].to(entropy.dtype)
    deviation = alpha - groups.mean(alpha)[groups.index]
    figures = {
        "alpha_mean": alpha.mean(),
        "alpha_min": alpha.min(),
        "alpha_max": alpha.max(),
        "share_below_threshold": ((high - low) < threshold).to(alpha.dtype).mean(),
        "response_entropy_mean": entropy.mean(),
        "response_entropy_range": (high - low).mean(),
        "share_negative_advantage": (base < 0).to(alpha.dtype).mean(),
        "cov_alpha_advantage": groups.mean(deviation * base).mean(),
        "response_length_mean": lengths.mean(),
        "corr_entropy_length": _correlation(entropy, lengths),
    }
    if success is not None:
        figures |= _by_outcome(batch, success.bool())
    found = {name: float(value) for name, value in figures.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _by_outcome(batch: ResponseBatch, success: Tensor) -> dict[str, Tensor]:
    """Success rate over episodes, and V for responses of either outcome (nan without any)."""
    v = (batch.surprisal - batch.entropy_sum).square()
    episodes = Segments.of(batch.trajectory_ids[batch.included])
    won = episodes.mean(success[batch.included].to(v.dtype))
    v_fail, v_success = (v[batch.counted & rows].mean() for rows in (~success, success))
    return {"success_rate": won.mean(), "v_fail": v_fail, "v_success": v_success}


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation; nan where one of the two does not vary."""
    if bool(x.max() == x.min()) or bool(y.max() == y.min()):
        return x.new_tensor(float("nan"))
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()


def _misfit(rows: torch.Size, tokens: torch.Size) -> ValueError:
    got = f"{tuple(rows)} and {tuple(tokens)}"
    return ValueError(f"ResponseBatch expects returns (N,) and mask (N, T), got {got}")


def _wrong_shape(name: str, shape: torch.Size, value: Tensor) -> ValueError:
    found = f"expected shape {tuple(shape)}, got {tuple(value.shape)}"
    return ValueError(f"ResponseBatch.{name}: {found}")
