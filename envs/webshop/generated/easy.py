"""The level `easy`: few words, for a tiny language model that is trained from scratch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from aem_gym.envs.webshop.generated.article import Article, Wish
from aem_gym.envs.webshop.generated.kinds import LEVELS_JOINED_BY, words


@dataclass(frozen=True, slots=True)
class _Kind:
    category: str
    levels: tuple[str, ...]
    noun: str
    features: tuple[str, ...]
    materials: tuple[str, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    prices: tuple[int, int]


_COLOR = ("color", words("red, blue, green, black, white, pink, brown, yellow"))
_SIZE = ("size", words("small, medium, large"))
_BED = ("size", words("twin, full, queen, king"))
_TASTE = ("flavor", words("vanilla, honey, apple, cherry, ginger"))
_WEAR = ("soft, warm, light weight, quick dry", "cotton, wool, fleece, denim")
_WOOD = ("modern, rustic, foldable, heavy duty", "oak, pine, steel, bamboo")
_FOOD = ("organic, sugar free, gluten free, fat free", "oat, almond, rice, corn")
_CARE = ("mild, scent free, fast acting, travel size", "coconut, aloe, clay")


def _kind(
    path: str,
    noun: str,
    lists: tuple[str, str],
    prices: tuple[int, int],
    *groups: tuple[str, tuple[str, ...]],
) -> _Kind:
    category, *levels = path.split("/")
    features, materials = map(words, lists)
    return _Kind(category, tuple(levels), noun, features, materials, groups, prices)


KINDS = (
    _kind("fashion/clothing/tops/shirts", "shirt", _WEAR, (8, 40), _COLOR, _SIZE),
    _kind("fashion/clothing/tops/jackets", "jacket", _WEAR, (20, 80), _COLOR, _SIZE),
    _kind("fashion/clothing/feet/socks", "socks", _WEAR, (4, 18), _COLOR, _SIZE),
    _kind("garden/home/seats/chairs", "chair", _WOOD, (25, 120), _COLOR),
    _kind("garden/home/tables/desks", "desk", _WOOD, (40, 180), _COLOR, _SIZE),
    _kind("garden/home/beds/blankets", "blanket", _WEAR, (15, 60), _COLOR, _BED),
    _kind("grocery/food/snacks/cookies", "cookies", _FOOD, (3, 20), _TASTE, _SIZE),
    _kind("grocery/food/snacks/bars", "bars", _FOOD, (4, 28), _TASTE),
    _kind(
        "electronics/devices/sound/headphones",
        "headphones",
        ("wireless, noise free, water proof, fast charge", "metal, rubber, leather"),
        (15, 150),
        _COLOR,
    ),
    _kind(
        "electronics/devices/phones/cases",
        "case",
        ("slim, shock proof, water proof, heavy duty", "leather, rubber, metal"),
        (5, 30),
        _COLOR,
        _SIZE,
    ),
    _kind(
        "beauty/care/hair/shampoo",
        "shampoo",
        _CARE,
        (5, 25),
        _SIZE,
    ),
    _kind(
        "beauty/care/skin/cream",
        "cream",
        _CARE,
        (6, 35),
        _SIZE,
    ),
)


def articles(rng: random.Random) -> Iterator[Article]:
    """Articles without end; each kind comes as often as the others."""
    while True:
        kinds = list(KINDS)
        rng.shuffle(kinds)
        for kind in kinds:
            yield _article(rng, kind)


def _article(rng: random.Random, kind: _Kind) -> Article:
    feature, other = rng.sample(kind.features, 2)
    material = rng.choice(kind.materials)
    options = {name: _values(rng, name, values) for name, values in kind.groups}
    lowest, highest = kind.prices
    price = lowest + int(rng.random() * (highest - lowest + 1))
    return Article(
        category=kind.category,
        path=LEVELS_JOINED_BY.join(kind.levels),
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
