"""Opens imported shops: nothing is read before it is asked for, and processes share the pages."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import overload

from aem_gym.envs.webshop.nouns import Nouns
from aem_gym.envs.webshop.official import unpack
from aem_gym.envs.webshop.products import Product
from aem_gym.envs.webshop.search.index import LIMIT, SearchIndex
from aem_gym.envs.webshop.search.strings import Strings
from aem_gym.envs.webshop.store import database, layout
from aem_gym.envs.webshop.store.goals import HUMAN, StoredGoals
from aem_gym.envs.webshop.store.manifest import Manifest, read_manifest, verify
from aem_gym.envs.webshop.store.titles import StoredNouns

_REMEMBERED = 2048
"""Articles; a few kilobytes each."""


class StoredCatalogue:
    """A catalogue on disk. Open it with `open_stored`, which checks the folder.

    It can be pickled, and used after a fork and in threads.

    Args:
        folder: of an imported shop.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = database.Database(folder / layout.ARTICLES)
        self._asins = Strings.open(folder, layout.ASINS)
        self._index = SearchIndex.open(folder / layout.INDEX)
        self._read = lru_cache(_REMEMBERED)(self._find)

    def __reduce__(self) -> tuple[type[StoredCatalogue], tuple[Path]]:
        return StoredCatalogue, (self.folder,)

    def __len__(self) -> int:
        return len(self._asins)

    def product(self, asin: str) -> Product:
        """The article with an id. Raises KeyError."""
        return self._read(asin)

    def product_at(self, position: int) -> Product:
        """The article at a position of the catalogue."""
        return self._read(self._asins[position])

    def price(self, asin: str) -> float:
        """What it costs; a range's one hidden price. Raises KeyError."""
        row = self.database.one("SELECT price FROM articles WHERE asin = ?", asin)
        if row is None:
            raise KeyError(asin)
        price: float = row[0]
        return price

    def search(self, words: Sequence[str]) -> list[str]:
        """Ids of the best articles for some words, best first, at most 50."""
        return [self._asins[position] for position in self._index.search(words, LIMIT)]

    def every(self) -> Sequence[str]:
        """All ids, in the order of the catalogue."""
        return self._asins

    def in_category(self, category: str) -> Sequence[str]:
        """Ids of a whole category, in the order of the catalogue."""
        return self._where("category", category)

    def in_query(self, query: str) -> Sequence[str]:
        """Ids of all that were found by a query when the catalogue was made."""
        return self._where("query", query)

    def _where(self, column: str, value: str) -> Sequence[str]:
        found = self.database.all(
            f"SELECT position FROM articles WHERE {column} = ? ORDER BY position", value
        )
        return _Some(self._asins, array("i", (position for (position,) in found)))

    def _find(self, asin: str) -> Product:
        row = self.database.one(
            "SELECT body FROM bodies WHERE position = "
            "(SELECT position FROM articles WHERE asin = ?)",
            asin,
        )
        if row is None:
            raise KeyError(asin)
        return unpack(row[0])


class _Some(Sequence[str]):
    """The ids at some positions; each is read when it is looked at."""

    def __init__(self, asins: Strings, positions: Sequence[int]) -> None:
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


@dataclass(frozen=True, slots=True)
class StoredShop:
    """An imported shop, open."""

    catalogue: StoredCatalogue
    goals: StoredGoals
    """In the official order."""
    nouns: Nouns
    manifest: Manifest


def open_stored(folder: Path, goals: str = HUMAN, *, check: bool = False) -> StoredShop:
    """Open an imported shop.

    Args:
        folder: where `aem-gym data webshop import` has put it.
        goals: `human` or `synthetic`.
        check: compare every file with its hash first, which reads all of them.

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
