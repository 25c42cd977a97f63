"""Shops: articles, goals and nouns together, made once and shared by all environments of a process.

A shop is either generated, or read from a folder: official files, or what
`aem-gym data webshop import` made of them.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from aem_gym.envs.webshop.catalogue import Catalogue, MemoryCatalogue
from aem_gym.envs.webshop.goalmaking import human_goals, official_order, synthetic_goals
from aem_gym.envs.webshop.goals import Goal
from aem_gym.envs.webshop.nouns import Nouns
from aem_gym.envs.webshop.official import MEND, ShopDataError, draw_prices, load_products
from aem_gym.envs.webshop.products import Product, parse_product

GOAL_TYPES = ("human", "synthetic")
LEVELS = ("full", "easy")
_SMALL = 2000
_LARGE = 500_000_000
"""Bytes of articles; the official 1,000 have 4.5 million."""
_WORD = re.compile(r"[^\W_]+")
SIZES = {"full": 1000, "easy": 480}
"""Articles of a generated shop, unless said otherwise."""


@dataclass(frozen=True)
class Shop:
    """What a session needs besides the number of a goal."""

    catalogue: Catalogue
    goals: Sequence[Goal]
    """In the official order."""
    nouns: Nouns
    source: str
    """Where the articles come from, for protocols."""

    def lexicon(self) -> tuple[str, ...]:
        """Ids, options, attributes and words of titles; empty where the shop is large."""
        if not isinstance(self.catalogue, MemoryCatalogue) or len(self.catalogue) > _SMALL:
            return ()
        names: set[str] = set()
        for product in self.catalogue.products:
            names.add(product.asin)
            names.update(value for _, values in product.options for value in values)
            names.update(_WORD.findall(product.title.lower()))
            names.update(word for name in product.attributes for word in _WORD.findall(name))
        return tuple(sorted(names))


@lru_cache(maxsize=8)
def generated_shop(level: str, products: int, seed: int, goals: str) -> Shop:
    """A shop with articles of our own.

    Args:
        level: one of `LEVELS`.
        products: how many.
        seed: of articles, hidden prices and price limits.
        goals: one of `GOAL_TYPES`.
    """
    from aem_gym.envs.webshop.generated.listings import make_listings

    listings = make_listings(seed, products, level)
    stock = [
        parse_product(
            row, listings.attributes.get(row["asin"]), listings.human.get(row["asin"], ())
        )
        for row in listings.items
    ]
    return _shop(stock, seed, goals, f"generated ({level}, seed {seed})", Nouns())


def _shop(stock: Sequence[Product], seed: int, goals: str, source: str, nouns: Nouns) -> Shop:
    rng = random.Random(seed)
    prices = draw_prices(stock, rng)
    make = human_goals if goals == "human" else synthetic_goals
    wanted = official_order(make(stock, prices, rng))
    return Shop(MemoryCatalogue(stock, prices), wanted, nouns, source)


def open_shop(data_dir: str | None, num_products: int | None, seed: int, goals: str) -> Shop:
    """A shop with official articles.

    Args:
        data_dir: a folder with the official files, or with an imported shop; default
            `$WEBSHOP_DATA`.
        num_products: only the first so many rows.
        seed: of hidden prices and price limits.
        goals: one of `GOAL_TYPES`.

    Raises:
        ShopDataError: there is no such folder; files are missing or damaged; an imported shop has
            another size or seed.
    """
    from aem_gym.envs.webshop.store import layout
    from aem_gym.envs.webshop.store.report import VARIABLE

    named = data_dir or os.environ.get(VARIABLE)
    if not named:
        raise ShopDataError(
            f"data_dir: expected a folder, got none, and {VARIABLE} is not set either. {MEND}"
        )
    folder = Path(named).expanduser().absolute()
    if (folder / layout.MANIFEST).exists() or layout.is_partial(folder):
        return _imported_shop(folder, num_products, seed, goals)
    return _official_shop(folder, num_products, seed, goals)


@lru_cache(maxsize=4)
def _official_shop(folder: Path, num_products: int | None, seed: int, goals: str) -> Shop:
    """Official files, read into memory."""
    from aem_gym.envs.webshop.store.sources import find_sources

    files = find_sources(folder, num_products)
    size = files.items.stat().st_size
    if size > _LARGE:
        raise ShopDataError(
            f"{files.items}: {size / 1e9:.1f} GB are too much for memory. Import it once: "
            f"aem-gym data webshop import {folder}"
        )
    stock = load_products(files.items, files.attributes, files.human, num_products=files.rows)
    return _shop(stock.products, seed, goals, str(folder), Nouns())


@lru_cache(maxsize=4)
def _imported_shop(folder: Path, num_products: int | None, seed: int, goals: str) -> Shop:
    """A shop on disk, whose pages processes share."""
    from aem_gym.envs.webshop.store.stored import open_stored

    stored = open_stored(folder, goals)
    for name, asked, has in (
        ("num_products", num_products, stored.manifest.products),
        ("catalogue_seed", seed, stored.manifest.plan.seed),
    ):
        if asked is not None and asked != has:
            raise ShopDataError(
                f"{name}: expected {has}, which {folder} was imported with, got {asked}. Import "
                "again into another folder: aem-gym data webshop import --help"
            )
    return Shop(stored.catalogue, stored.goals, stored.nouns, str(folder))
