"""Articles, how they are read from official rows, and how a session finds them.

Reading follows the official `load_products` (WebShop at 64fa2a5): what it makes of missing prices,
options and attributes decides what is printed and what is paid, so it is kept to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

from aem_gym.envs.webshop.search.index import LIMIT, SearchIndex

DEFAULT_PRICE = 100.0
NO_ATTRIBUTES = ("DUMMY_ATTR",)
_NUMBER = re.compile(r"[^\d.]")
_LONGEST_ASIN = 10


class BadRow(ValueError):
    """A row that cannot be read; says which field and what it held."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """The wish of a person, or of the attribute file."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """One article. Two are equal only if they are the same object."""

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    prices: tuple[float, ...]
    """One, or the two ends of a range."""
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(name, values) in order, lower case, repeated values as they are."""
    attributes: tuple[str, ...] = NO_ATTRIBUTES
    category: str = ""
    product_category: str = ""
    query: str = ""
    synthetic: Instruction | None = None
    human: tuple[Instruction, ...] = field(default=(), repr=False)

    @property
    def price_tag(self) -> str:
        """The price as printed: `$19.99`, or `$5.0 to $7.5`."""
        return " to ".join(f"${price}" for price in self.prices)


def is_listed(asin: Any) -> bool:
    """Whether a row with this id is put on sale at all."""
    return isinstance(asin, str) and asin != "nan" and len(asin) <= _LONGEST_ASIN


def parse_product(
    row: Mapping[str, Any],
    attributes: Mapping[str, Any] | None = None,
    human: Sequence[Mapping[str, Any]] = (),
) -> Product:
    """A product from an official row of `items_shuffle*.json`.

    `attributes` is its entry of `items_ins_v2*.json`, if there is one; `human` are its entries of
    `items_human_ins.json`.

    Raises:
        BadRow: a field is missing or of another kind.
    """
    bullets = _field(row, "small_description", (list, str))
    entry = attributes or {}
    found = entry.get("attributes")
    return Product(
        asin=_field(row, "asin", (str,)),
        title=_field(row, "name", (str,)),
        description=_field(row, "full_description", (str,)),
        bullets=tuple(map(str, bullets)) if isinstance(bullets, list) else (bullets,),
        prices=parse_prices(row.get("pricing")),
        options=_options(row.get("customization_options")),
        attributes=NO_ATTRIBUTES if found is None else tuple(map(str, found)),
        category=str(row.get("category", "")),
        product_category=str(row.get("product_category", "")),
        query=str(row.get("query", "")).lower().strip(),
        synthetic=_synthetic(entry),
        human=tuple(_human(each) for each in human),
    )


def parse_prices(pricing: Any) -> tuple[float, ...]:
    """`$5.99`, `$5.99$7.49`, or nothing, as the official loader reads them. Raises BadRow."""
    if not pricing:
        return (DEFAULT_PRICE,)
    try:
        found = tuple(float(Decimal(_NUMBER.sub("", part))) for part in str(pricing).split("$")[1:])
    except InvalidOperation as error:
        raise BadRow(f"pricing: expected prices like '$19.99', got {pricing!r}") from error
    if not found:
        raise BadRow(f"pricing: expected prices like '$19.99', got {pricing!r}")
    return found[:2]


def document(product: Product) -> str:
    """The text that the search looks at.

    Raises:
        BadRow: the product has no bullet point (the official engine fails there, too).
    """
    if not product.bullets:
        raise BadRow("small_description: expected at least one bullet point, got none")
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options)
    return f"{product.title} {product.description} {product.bullets[0]} {options}".lower()


def _field(row: Mapping[str, Any], name: str, kinds: tuple[type, ...]) -> Any:
    value = row.get(name)
    if not isinstance(value, kinds):
        expected = " or ".join("text" if kind is str else "a list" for kind in kinds)
        raise BadRow(f"{name}: expected {expected}, got {value!r}")
    return value


def _options(found: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not found:
        return ()
    if not isinstance(found, Mapping):
        raise BadRow(f"customization_options: expected names with lists, got {found!r}")
    options: dict[str, tuple[str, ...]] = {}  # of names that differ in case the last one's values
    for name, values in found.items():
        if values is None:
            continue
        try:
            shown = tuple(v["value"].strip().replace("/", " | ").lower() for v in values)
        except (TypeError, KeyError, AttributeError) as error:
            raise BadRow(
                f"customization_options: {name!r} expected a list of values, got {values!r}"
            ) from error
        options[str(name).lower()] = shown
    return tuple(options.items())


def _synthetic(entry: Mapping[str, Any]) -> Instruction | None:
    text = entry.get("instruction")
    if text is None:
        return None
    return Instruction(str(text), tuple(map(str, entry.get("instruction_attributes") or ())))


def _human(entry: Mapping[str, Any]) -> Instruction:
    return Instruction(
        _field(entry, "instruction", (str,)),
        tuple(map(str, entry.get("instruction_attributes") or ())),
        tuple(map(str, entry.get("instruction_options") or ())),
    )


# Catalogues -----------------------------------------------------------------------------------


class Catalogue(Protocol):
    """The part of a catalogue that a session needs."""

    def __len__(self) -> int: ...

    def product(self, asin: str) -> Product:
        """The article with an id. Raises KeyError."""

    def price(self, asin: str) -> float:
        """The price of an article; of a range, the one that was drawn. Raises KeyError."""

    def search(self, words: Sequence[str]) -> Sequence[str]:
        """Ids of the best articles for some words, best first, at most 50."""

    def every(self) -> Sequence[str]:
        """All ids, in the order of the catalogue."""

    def in_category(self, category: str) -> Sequence[str]:
        """Ids of a whole category, in the order of the catalogue."""

    def in_query(self, query: str) -> Sequence[str]:
        """Ids of the articles with this `query` field, in the order of the catalogue."""


class MemoryCatalogue:
    """A catalogue that is wholly in memory. `prices` are by id."""

    def __init__(self, products: Sequence[Product], prices: dict[str, float]) -> None:
        self.products = tuple(products)
        self._asins = [product.asin for product in self.products]
        self._by_asin = {product.asin: product for product in self.products}
        self._prices = prices
        self._index = SearchIndex.build(map(document, self.products), self._asins)

    def __len__(self) -> int:
        return len(self.products)

    def product(self, asin: str) -> Product:
        return self._by_asin[asin]

    def price(self, asin: str) -> float:
        return self._prices[asin]

    def search(self, words: Sequence[str]) -> list[str]:
        return [self._asins[position] for position in self._index.search(words, LIMIT)]

    def every(self) -> list[str]:
        return self._asins

    def in_category(self, category: str) -> list[str]:
        return [product.asin for product in self.products if product.category == category]

    def in_query(self, query: str) -> list[str]:
        return [product.asin for product in self.products if product.query == query]
