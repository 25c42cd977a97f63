"""Many small random choices from one named stream, cheaply."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

from aem_gym.seeding import generator

T = TypeVar("T")
_BLOCK = 256


class Draws:
    """Choices from the stream named by `path` (see `aem_gym.seeding.derive`).

    NumPy's calls cost microseconds each; this takes uniform numbers in blocks.
    """

    def __init__(self, *path: int | str) -> None:
        self._generator = generator(*path)
        self._block: list[float] = []

    def uniform(self) -> float:
        if not self._block:
            self._block = self._generator.random(_BLOCK).tolist()
        return self._block.pop()

    def below(self, n: int) -> int:
        return int(self.uniform() * n)

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One of the items, in proportion to the weights (not all zero)."""
        bounds = list(accumulate(weights))
        return items[min(bisect(bounds, self.uniform() * bounds[-1]), len(items) - 1)]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items, in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(min(count, len(pool)))]
