"""Opens imported shops: nothing is read before it is asked for, and processes share the pages.

A full catalogue has millions of synthetic goals. Only two things about a goal cannot be made
from its article again: its price limit, which was drawn, and its place in the official order. These
are kept in mapped arrays; the goal itself is made when it is asked for.
"""

from __future__ import annotations

import math
import os
import random
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np

from aem_gym.envs.webshop import layout
from aem_gym.envs.webshop.catalogue import Product
from aem_gym.envs.webshop.dataset import ShopDataError, unpack
from aem_gym.envs.webshop.goals import NO_LIMIT, ShopGoal, human_goals, synthetic_goals
from aem_gym.envs.webshop.layout import ShopManifest, read_manifest, verify
from aem_gym.envs.webshop.reward import Nouns
from aem_gym.envs.webshop.search.index import LIMIT, SearchIndex
from aem_gym.envs.webshop.search.mapped import MappedStrings, open_array

HUMAN, SYNTHETIC = "human", "synthetic"
MOST_GOALS = 100_000_000
"""More goals than this are not numbered: their order alone would take hundreds of megabytes."""
GOAL_ARRAYS = ("positions", "limits", "weights", "firsts", "order")
_PRODUCTS, _TITLES = 2048, 8192
"""How many are kept in memory; a product takes a few kilobytes."""
_MAPPED = 1 << 40
"""As much as SQLite maps: pages are then shared by all processes."""


class ShopDatabase:
    """The finished database, read-only. Each process, also a forked one, opens a connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connections: dict[int, sqlite3.Connection] = {}

    def __reduce__(self) -> tuple[type[ShopDatabase], tuple[Path]]:
        return ShopDatabase, (self._path,)

    def one(self, query: str, *values: str | int) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._open().execute(query, values).fetchone()
        return row

    def all(self, query: str, *values: str | int) -> Iterable[tuple[Any, ...]]:
        return self._open().execute(query, values)

    def _open(self) -> sqlite3.Connection:
        # SQLite forbids to use, or to close, a connection that was opened before a fork.
        connection = self._connections.get(os.getpid())
        if connection is None:
            # Threads may share it: SQLite itself lets only one of them in at a time.
            address = f"{self._path.resolve().as_uri()}?mode=ro&immutable=1"
            connection = sqlite3.connect(address, uri=True, check_same_thread=False)
            connection.execute(f"PRAGMA mmap_size = {_MAPPED}")
            self._connections[os.getpid()] = connection
        return connection


class StoredCatalogue:
    """An imported shop's catalogue on disk. Open it with `open_stored`, which checks the folder.

    It can be pickled, and used after a fork and in threads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = ShopDatabase(folder / layout.ARTICLES)
        self._asins = MappedStrings.open(folder, layout.ASINS)
        self._index = SearchIndex.open(folder / layout.INDEX)
        self._read = lru_cache(_PRODUCTS)(self._find)

    def __reduce__(self) -> tuple[type[StoredCatalogue], tuple[Path]]:
        return StoredCatalogue, (self.folder,)

    def __len__(self) -> int:
        return len(self._asins)

    def product(self, asin: str) -> Product:
        return self._read(asin)

    def product_at(self, position: int) -> Product:
        """The article at a position of the catalogue."""
        return self._read(self._asins[position])

    def price(self, asin: str) -> float:
        row = self.database.one("SELECT price FROM articles WHERE asin = ?", asin)
        if row is None:
            raise KeyError(asin)
        price: float = row[0]
        return price

    def search(self, words: Sequence[str]) -> list[str]:
        return [self._asins[position] for position in self._index.search(words, LIMIT)]

    def every(self) -> Sequence[str]:
        return self._asins

    def in_category(self, category: str) -> Sequence[str]:
        return self._where("category", category)

    def in_query(self, query: str) -> Sequence[str]:
        return self._where("query", query)

    def _where(self, column: str, value: str) -> Sequence[str]:
        found = self.database.all(
            f"SELECT position FROM articles WHERE {column} = ? ORDER BY position", value
        )
        return _SomeAsins(self._asins, array("i", (position for (position,) in found)))

    def _find(self, asin: str) -> Product:
        row = self.database.one(
            "SELECT body FROM bodies WHERE position = "
            "(SELECT position FROM articles WHERE asin = ?)",
            asin,
        )
        if row is None:
            raise KeyError(asin)
        return unpack(row[0])


class _SomeAsins(Sequence[str]):
    """The ids at some positions; each is read when it is looked at."""

    def __init__(self, asins: MappedStrings, positions: Sequence[int]) -> None:
        self._asins, self._positions = asins, positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._asins[position] for position in self._positions[index]]
        return self._asins[self._positions[index]]


class StoredNouns(Nouns):
    """Nouns by title, from a database; of titles that are not there, all words but a few."""

    def __init__(self, database: ShopDatabase) -> None:
        super().__init__()
        self._database = database
        self._stored = lru_cache(_TITLES)(self._find)

    @property
    def mode(self) -> str:
        """`spacy`: the stored nouns are those that spaCy found."""
        return "spacy"

    def __call__(self, title: str) -> Sequence[str]:
        known = self._stored(title)
        return super().__call__(title) if known is None else known

    def _find(self, title: str) -> Sequence[str] | None:
        row = self._database.one("SELECT nouns FROM nouns WHERE title = ?", title)
        return None if row is None else msgspec.msgpack.decode(row[0], type=list[str])


class StoredGoals(Sequence[ShopGoal]):
    """The goals of one kind (`HUMAN` or `SYNTHETIC`), in the official order.

    `product_at` gives the article at a position.

    Raises:
        ShopDataError: there are too many of them to be numbered.
    """

    def __init__(self, folder: Path, kind: str, product_at: Callable[[int], Product]) -> None:
        self._kind, self._product_at = kind, product_at
        arrays = [open_array(folder / f"{kind}.{name}.npy") for name in GOAL_ARRAYS]
        self._positions, self._limits, self._weights, self._firsts, self._order = arrays
        if len(self._order) < self._firsts[-1]:
            raise ShopDataError(
                f"{folder}: expected at most {MOST_GOALS:,} {kind} goals, "
                f"got {self._firsts[-1]:,}. Use goals={HUMAN}, or import fewer articles: "
                "aem-gym data webshop import DIR --num-products N"
            )

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> ShopGoal: ...
    @overload
    def __getitem__(self, index: slice) -> list[ShopGoal]: ...
    def __getitem__(self, index: int | slice) -> ShopGoal | list[ShopGoal]:
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


def _human(product: Product, number: int) -> ShopGoal:
    """One of the goals that people have with an article, without its price limit."""
    return human_goals([product], _beyond(product), random.Random(0))[number]


def _synthetic(product: Product, number: int) -> ShopGoal:
    """The goal of one combination of an article's options, without its price limit."""
    chosen: list[tuple[str, tuple[str, ...]]] = []
    for name, values in reversed(choices(product)):  # the last option changes first
        number, value = divmod(number, len(values))
        chosen.append((name, (values[value],)))
    only = replace(product, options=tuple(chosen))
    return synthetic_goals([only], _beyond(product), random.Random(0))[0]


def _beyond(product: Product) -> dict[str, float]:
    """A price above all limits: then none is drawn, and the text has no clause."""
    return {product.asin: math.inf}


def choices(product: Product) -> list[tuple[str, tuple[str, ...]]]:
    """Options in the order in which synthetic goals combine them."""
    return sorted(dict(product.options).items())


@dataclass(frozen=True, slots=True)
class StoredShop:
    catalogue: StoredCatalogue
    goals: StoredGoals
    """In the official order."""
    nouns: Nouns
    manifest: ShopManifest


def open_stored(folder: Path, goals: str = HUMAN, *, check: bool = False) -> StoredShop:
    """Open a shop from the folder where `aem-gym data webshop import` has put it.

    `goals` is `human` or `synthetic`. With `check` every file is compared with its hash first.

    Raises:
        ShopDataError: it is not whole; or there are more goals than can be numbered.
    """
    manifest = read_manifest(folder)
    if check:
        verify(folder, manifest, lambda _: None)
    catalogue = StoredCatalogue(folder)
    nouns = Nouns() if manifest.plan.nouns == layout.WORDS else StoredNouns(catalogue.database)
    wanted = StoredGoals(folder / layout.GOALS, goals, catalogue.product_at)
    return StoredShop(catalogue, wanted, nouns, manifest)
