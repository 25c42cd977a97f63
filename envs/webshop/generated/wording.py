"""Titles, bullet points and descriptions."""

from __future__ import annotations

import random
from functools import lru_cache

from aem_gym.envs.webshop.generated.features import FEATURES
from aem_gym.envs.webshop.generated.kinds import Kind

_SMALL = frozenset(("and", "for", "of", "to", "with", "in", "x"))
_CAPITALS = {"usb": "USB", "led": "LED", "tv": "TV", "hd": "HD", "gmo": "GMO", "usda": "USDA"}
_JOINTS = (", ", ", ", ", ", " | ", " - ")
_FEWEST, _MOST = 6, 20
_BULLETS = (
    "{title}: {note}",
    "{upper} - {note}",
    "\u3010{title}\u3011{sentence}.",
    "{title} \u2013 {sentence}. {about}",
)
_OPENINGS = (
    "Meet the {brand} {noun}.",
    "The {brand} {noun} at its best.",
    "{noun} by {brand}.",
    "Why {brand}? Because we sell what we use ourselves.",
    "",
)


def title(
    rng: random.Random, kind: Kind, brand: str, noun: str, attributes: tuple[str, ...], offer: str
) -> str:
    """A title of 6 to 20 words.

    Args:
        rng: draws.
        kind: of the article.
        brand: its maker.
        noun: what it is called.
        attributes: of which some are named.
        offer: the values of its options that the title is of; may be empty.
    """
    traits = [titled(spoken(trait)) for trait in attributes if trait in kind.traits]
    parts = [titled(part) for part in attributes if part in kind.parts]
    uses = [titled(use) for use in attributes if use in kind.uses]
    head = [noun]
    if traits and rng.random() < 0.6:
        head.insert(0, traits.pop())
    if rng.random() < 0.92:
        head.insert(0, brand)
    if parts and rng.random() < 0.4:
        head.append(f"with {parts.pop()}")
    if uses and rng.random() < 0.7:
        head.append(f"for {uses.pop()}")
    rest = [*traits, *parts, *rng.sample(kind.scraps, 1 + int(rng.random() * 2))]
    rng.shuffle(rest)
    pieces = [" ".join(head), *rest]
    pieces += [
        scrap for scrap in kind.scraps if scrap not in rest
    ]  # until the title is long enough
    kept = _long_enough(pieces, len(rest) + 1)
    text = rng.choice(_JOINTS).join(kept)
    if not offer or len(text.split()) + len(offer.split()) > _MOST:
        return text
    return f"{text} ({offer})" if rng.random() < 0.6 else f"{text}, {offer}"


def _long_enough(pieces: list[str], wanted: int) -> list[str]:
    """The first pieces: as many as wanted, but within the bounds of a title's length."""
    kept: list[str] = []
    length = 0
    for number, piece in enumerate(pieces):
        length += len(piece.split())
        if length > _MOST or (number >= wanted and length - len(piece.split()) >= _FEWEST):
            break
        kept.append(piece)
    return kept


def bullets(rng: random.Random, kind: Kind, attributes: tuple[str, ...]) -> tuple[str, ...]:
    """Three to six sentences about an article; some name its attributes."""
    style = rng.choice(_BULLETS)
    found = [_bullet(style, name, rng.choice(kind.about)) for name in attributes]
    others = [*kind.about, *(f"{scrap}." for scrap in kind.scraps)]
    count = 3 + int(rng.random() * 4)
    found = found[: min(count, 4)]
    found += rng.sample(others, count - len(found))
    rng.shuffle(found)
    return tuple(found)


def _bullet(style: str, attribute: str, about: str) -> str:
    note, said = FEATURES[attribute], spoken(attribute)
    return style.format(
        title=titled(said),
        upper=said.upper(),
        note=note,
        sentence=note[0].upper() + note[1:],
        about=about,
    )


def description(
    rng: random.Random, kind: Kind, brand: str, noun: str, attributes: tuple[str, ...]
) -> str:
    """One to four sentences."""
    sentences = [rng.choice(_OPENINGS).format(brand=brand, noun=noun)]
    sentences += rng.sample(kind.about, 1 + int(rng.random() * 2))
    if rng.random() < 0.5:
        named = [spoken(attribute) for attribute in attributes[:2]]
        sentences.append(f"Features: {' and '.join(named)}.")
    return " ".join(sentences).strip()


@lru_cache(maxsize=4096)
def spoken(attribute: str) -> str:
    """An attribute in words: `easy use` is said as `easy to use`."""
    first, _, rest = attribute.partition(" ")
    return f"{first} to {rest}" if first in ("easy", "ready") else attribute


@lru_cache(maxsize=8192)
def titled(phrase: str) -> str:
    """A phrase in the capitals of titles."""
    return " ".join(map(_capital, phrase.split(" ")))


def _capital(word: str) -> str:
    return word if word in _SMALL else _CAPITALS.get(word, word[:1].upper() + word[1:])
