"""Vectorised reductions over labelled rows ("segments"): no Python loop over groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
        inf = float("inf")
        low_of = x if keep is None else x.masked_fill(~keep, inf)
        high_of = x if keep is None else x.masked_fill(~keep, -inf)
        low = x.new_full((self.count,), inf).scatter_reduce_(0, self.index, low_of, "amin")
        high = x.new_full((self.count,), -inf).scatter_reduce_(0, self.index, high_of, "amax")
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
