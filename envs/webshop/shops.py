"""Shops: articles, goals and nouns together, made once and shared by all environments of a process.

A shop is either generated, or read from a folder: official files, or what
`aem-gym data webshop import` made of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from aem_gym.envs.webshop.catalogue import Catalogue, MemoryCatalogue
from aem_gym.envs.webshop.goalmaking import human_goals, official_order, synthetic_goals
from aem_gym.envs.webshop.goals import Goal
from aem_gym.envs.webshop.nouns import Nouns
from aem_gym.envs.webshop.official import draw_prices
from aem_gym.envs.webshop.products import Product, parse_product

GOAL_TYPES = ("human", "synthetic")
LEVELS = ("full", "easy")
_SMALL = 2000
_WORD = re.compile(r"[^\W_]+")
SIZES = {"full": 1000, "easy": 300}
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
        ShopDataError: there is no such folder; files are missing or damaged.
    """
    raise NotImplementedError
