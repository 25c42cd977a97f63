"""The level `easy`: few words, for a tiny language model that is trained from scratch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import msgspec

from aem_gym.envs.webshop.generated.article import Article, Wish
from aem_gym.envs.webshop.generated.vocabulary import read_data


@dataclass(frozen=True, slots=True)
class EasyKind:
    """A kind of article, in `easy.json`."""

    category: str
    levels: tuple[str, ...]
    noun: str
    features: tuple[str, ...]
    materials: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    """Options by their name."""
    prices: tuple[int, int]
    """Lowest and highest in whole dollars."""


@cache
def easy_kinds() -> tuple[EasyKind, ...]:
    """The kinds, read on the first call."""
    return msgspec.convert(read_data("easy.json"), tuple[EasyKind, ...])


def articles(rng: random.Random) -> Iterator[Article]:
    """Articles without end; each kind comes as often as the others."""
    while True:
        kinds = list(easy_kinds())
        rng.shuffle(kinds)
        for kind in kinds:
            yield _article(rng, kind)


def _article(rng: random.Random, kind: EasyKind) -> Article:
    feature, other = rng.sample(kind.features, 2)
    material = rng.choice(kind.materials)
    options = {name: _values(rng, name, values) for name, values in kind.groups.items()}
    lowest, highest = kind.prices
    price = lowest + int(rng.random() * (highest - lowest + 1))
    return Article(
        category=kind.category,
        path=" \u203a ".join(kind.levels),
        query=kind.noun,
        title=f"{feature} {material} {kind.noun}",
        description=f"{material} {kind.noun}, {feature} and {other}.",
        bullets=(f"{other} {kind.noun}", f"made of {material}")[: 1 + int(rng.random() * 2)],
        pricing=f"${price}.00",
        options=options,
        attributes=(feature, other, material),
        synthetic=Wish(f"{feature} {kind.noun}", (feature,)),
        human=_human(rng, kind.noun, feature, material, options),
    )


def _values(rng: random.Random, name: str, values: tuple[str, ...]) -> tuple[str, ...]:
    """Two to four, in the order of the list."""
    count = min(len(values), 2 + int(rng.random() * 3))
    chosen = rng.sample(values, count)
    return tuple(value for value in values if value in chosen)


def _human(
    rng: random.Random, noun: str, feature: str, material: str, options: dict[str, tuple[str, ...]]
) -> tuple[Wish, ...]:
    """Two or three that differ."""
    wishes: dict[str, Wish] = {}
    count = 2 + int(rng.random() * 2)
    while len(wishes) < count:
        wish = _wish(rng, noun, feature, material, options)
        wishes[wish.text] = wish
    return tuple(wishes.values())


def _wish(
    rng: random.Random, noun: str, feature: str, material: str, options: dict[str, tuple[str, ...]]
) -> Wish:
    chosen = [(name, rng.choice(values)) for name, values in options.items()]
    said = "".join(f", {name}: {value}" for name, value in chosen)
    values = tuple(value for _, value in chosen)
    draw = rng.random()
    if draw < 0.5:
        return Wish(f"{feature} {noun}{said}", (feature,), values)
    if draw < 0.8:
        return Wish(f"{feature} {material} {noun}{said}", (feature, material), values)
    return Wish(f"{material} {noun}{said}", (material,), values)
