"""Goals that are made when they are asked for.

A full catalogue has millions of synthetic goals. What cannot be made anew from an article is only
what was drawn, its price limit, and the goal's place in the official order. These are kept in
mapped arrays: a goal costs nothing until it is wanted, and processes share what there is.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from aem_gym.envs.webshop.goalmaking import SHUFFLE_SEED, human_goals, synthetic_goals
from aem_gym.envs.webshop.goals import NO_LIMIT, Goal
from aem_gym.envs.webshop.official import ShopDataError
from aem_gym.envs.webshop.products import Product
from aem_gym.envs.webshop.search.postings import Numbering
from aem_gym.envs.webshop.search.strings import open_array

HUMAN, SYNTHETIC = "human", "synthetic"
_MOST = 100_000_000
"""More goals than this are not put in order: the order alone would take hundreds of megabytes."""
_ARRAYS = ("positions", "limits", "weights", "firsts", "order")


class GoalDraws:
    """Draws what goals need, article by article in the order of the catalogue.

    Args:
        kind: `HUMAN` or `SYNTHETIC`.
        rng: as the draws of prices have left it.
    """

    def __init__(self, kind: str, rng: random.Random) -> None:
        self._kind, self._rng = kind, rng
        self._positions, self._limits, self._counts = array("i"), array("d"), array("q")
        self._attributes: list[tuple[int, ...]] = []
        self._numbers = Numbering()
        self._uses: Counter[int] = Counter()

    def add(self, position: int, product: Product, price: float) -> None:
        """Draw for an article's goals, if it has any."""
        prices = {product.asin: price}
        if self._kind == HUMAN:
            for goal in human_goals([product], prices, self._rng):
                self._keep(position, goal.price_upper, 1)
            return
        # Without options there is one goal, whose limit holds for all combinations of options.
        for goal in synthetic_goals([replace(product, options=())], prices, self._rng):
            count = min(math.prod(len(values) for _, values in _choices(product)), _MOST + 1)
            if count:
                self._keep(position, goal.price_upper, count)
                numbers = tuple(map(self._numbers.__getitem__, goal.attributes))
                self._attributes.append(numbers)
                for number in numbers:
                    self._uses[number] += count

    def _keep(self, position: int, limit: float, count: int) -> None:
        self._positions.append(position)
        self._limits.append(limit)
        self._counts.append(count)

    def save(self, folder: Path) -> int:
        """Write the arrays into a folder; the number of goals."""
        firsts = np.zeros(len(self._counts) + 1, np.int64)
        np.cumsum(self._counts, out=firsts[1:])
        total = int(firsts[-1])
        weights = [sum(1 / self._uses[a] for a in some) / len(some) for some in self._attributes]
        arrays: dict[str, NDArray[Any]] = {
            "positions": np.array(self._positions, np.int32),
            "limits": np.array(self._limits, np.float64),
            "weights": np.array(weights) if weights else np.ones(len(self._counts)),
            "firsts": firsts,
            "order": _official_order(total if total <= _MOST else 0),
        }
        for name in _ARRAYS:
            np.save(folder / f"{self._kind}.{name}.npy", arrays[name])
        return total


class StoredGoals(Sequence[Goal]):
    """The goals of one kind, in the official order.

    Args:
        folder: with the arrays.
        kind: `HUMAN` or `SYNTHETIC`.
        product_at: the article at a position.

    Raises:
        ShopDataError: there are more of them than are put in order.
    """

    def __init__(self, folder: Path, kind: str, product_at: Callable[[int], Product]) -> None:
        self._kind, self._product_at = kind, product_at
        arrays = [open_array(folder / f"{kind}.{name}.npy") for name in _ARRAYS]
        self._positions, self._limits, self._weights, self._firsts, self._order = arrays
        if len(self._order) < self._firsts[-1]:
            raise ShopDataError(
                f"{folder}: expected at most {_MOST:,} {kind} goals, got {self._firsts[-1]:,}. "
                f"Use goals={HUMAN}, or import fewer articles: aem-gym data webshop import DIR "
                "--num-products N"
            )

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Goal: ...
    @overload
    def __getitem__(self, index: slice) -> list[Goal]: ...
    def __getitem__(self, index: int | slice) -> Goal | list[Goal]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = int(self._order[range(len(self))[index]])
        row = int(np.searchsorted(self._firsts, number, side="right")) - 1
        position = self._positions[row]
        product = self._product_at(int(position))
        if self._kind == HUMAN:
            goal = _human(product, row - int(np.searchsorted(self._positions, position)))
        else:
            goal = _synthetic(product, number - int(self._firsts[row]))
        limit = float(self._limits[row])
        clause = "" if limit == NO_LIMIT else f", and price lower than {limit:.2f} dollars"
        weight = float(self._weights[row])
        return replace(goal, text=goal.text + clause, price_upper=limit, weight=weight)


def _human(product: Product, number: int) -> Goal:
    """One of the goals that people have with an article, without its price limit."""
    return human_goals([product], _beyond(product), random.Random(0))[number]


def _synthetic(product: Product, number: int) -> Goal:
    """The goal of one combination of an article's options, without its price limit."""
    chosen: list[tuple[str, tuple[str, ...]]] = []
    for name, values in reversed(_choices(product)):  # the last option changes first
        number, value = divmod(number, len(values))
        chosen.append((name, (values[value],)))
    only = replace(product, options=tuple(chosen))
    return synthetic_goals([only], _beyond(product), random.Random(0))[0]


def _beyond(product: Product) -> dict[str, float]:
    """A price above all limits: then none is drawn, and the text has no clause."""
    return {product.asin: math.inf}


def _choices(product: Product) -> list[tuple[str, tuple[str, ...]]]:
    """Options in the order in which synthetic goals combine them."""
    return sorted(dict(product.options).items())


def _official_order(count: int) -> NDArray[np.int32]:
    """The numbers of so many goals as the original shuffles them."""
    order = array("i", range(count))
    random.Random(SHUFFLE_SEED).shuffle(order)
    return np.array(order, np.int32)
