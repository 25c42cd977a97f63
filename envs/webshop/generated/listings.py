"""The generated shop in the three official structures."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from aem_gym.envs.webshop.generated import easy, full
from aem_gym.envs.webshop.generated.article import Article, Wish
from aem_gym.errors import ConfigError

LEVELS = ("full", "easy")

_ARTICLES: dict[str, Callable[[random.Random], Iterator[Article]]] = {
    "full": full.articles,
    "easy": easy.articles,
}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@dataclass(frozen=True, slots=True)
class Listings:
    """What the official files hold."""

    items: list[dict[str, Any]]
    """`items_shuffle.json`: the articles."""
    attributes: dict[str, dict[str, Any]]
    """`items_ins_v2.json`: by id, attributes and the synthetic wish."""
    human: dict[str, list[dict[str, Any]]]
    """`items_human_ins.json`: by id, people's wishes."""


def make_listings(seed: int = 0, products: int = 1000, level: str = "full") -> Listings:
    """A shop; the same for the same arguments, on every machine.

    Args:
        seed: of everything.
        products: how many articles. The first of a larger shop are those of a smaller one.
        level: `full`, or `easy` for small models: few words, few kinds.

    Raises:
        ConfigError: an unknown level, or no article at all.
    """
    if level not in LEVELS:
        raise ConfigError(f"level: expected one of {', '.join(LEVELS)}, got {level!r}")
    if products < 1:
        raise ConfigError(f"products: expected 1 or more, got {products}")
    rng = random.Random(seed)
    shop = Listings([], {}, {})
    for article in islice(_ARTICLES[level](rng), products):
        make_id = _number if level == "easy" else _asin
        asin = make_id(rng, len(shop.items))
        while asin in shop.attributes:
            asin = make_id(rng, len(shop.items))
        shop.items.append(_row(article, asin))
        shop.attributes[asin] = _attributes(article)
        if article.human:
            shop.human[asin] = [_human(article, asin, wish) for wish in article.human]
    return shop


def _asin(rng: random.Random, made: int) -> str:
    return "B0" + "".join([rng.choice(_LETTERS) for _ in range(8)])


def _number(rng: random.Random, made: int) -> str:
    """An id of few digits: a small vocabulary has room for all of them, each a single token."""
    return f"B{rng.randrange(max(1000, 10 ** len(str(2 * made)))):09d}"


def _row(article: Article, asin: str) -> dict[str, Any]:
    options = {
        name: [{"value": value, "image": None} for value in values]
        for name, values in article.options.items()
    }
    return {
        "asin": asin,
        "name": article.title,
        "full_description": article.description,
        "small_description": list(article.bullets),
        "pricing": article.pricing,
        "images": [f"https://images.example/{asin}.jpg"],
        "category": article.category,
        "product_category": article.path,
        "query": article.query,
        "customization_options": options or None,
    }


def _attributes(article: Article) -> dict[str, Any]:
    entry: dict[str, Any] = {"attributes": list(article.attributes)}
    if article.synthetic:
        entry["instruction"] = article.synthetic.text
        entry["instruction_attributes"] = list(article.synthetic.attributes)
    return entry


def _human(article: Article, asin: str, wish: Wish) -> dict[str, Any]:
    return {
        "asin": asin,
        "instruction": wish.text,
        "attributes": list(article.attributes),
        "options": list(article.options),
        "instruction_attributes": list(wish.attributes),
        "instruction_options": list(wish.options),
    }
