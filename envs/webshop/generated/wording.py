"""Titles, bullet points and descriptions."""

from __future__ import annotations

import random
from functools import lru_cache

from aem_gym.envs.webshop.generated.features import FEATURES
from aem_gym.envs.webshop.generated.kinds import Kind

_SMALL = frozenset(("and", "for", "of", "to", "with", "in", "x"))
_CAPITALS = {
    "usb": "USB",
    "led": "LED",
    "tv": "TV",
    "hd": "HD",
    "gmo": "GMO",
    "usda": "USDA",
    "ram": "RAM",
    "ssd": "SSD",
}
_JOINTS = (", ", ", ", ", ", " | ", " - ")
_FEWEST, _MOST = 6, 20
_BULLETS = (
    "{title}: {note}",
    "{title}: {note}",
    "{upper} - {note}",
    "\u3010{title}\u3011{sentence}.",
    "{title} \u2013 {sentence}.",
)
_EXTRAS = ("Also: {}.", "What you get: {}.", "More to like: {}.", "{}.")
_OPENINGS = (
    "Meet the {noun} by {brand}.",
    "{brand} {noun}.",
    "About this item: {noun} by {brand}.",
    "At {brand} we only sell what we use ourselves.",
    "",
    "",
)
_CLAIMS = ("Features: {}.", "Loved for: {}.", "In short: {}.")
_SPOKEN = {"plug play": "plug and play", "ready eat": "ready to eat", "ready hang": "ready to hang"}


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
    scraps = rng.sample(kind.scraps, len(kind.scraps))
    count = 1 + int(rng.random() * 2)
    rest = [*traits, *parts, *scraps[:count]]
    rng.shuffle(rest)
    text = rng.choice(_JOINTS).join(_cut([" ".join(head), *rest], scraps[count:]))
    if not offer or _length([text, offer]) > _MOST:
        return text
    return f"{text} ({offer})" if rng.random() < 0.6 else f"{text}, {offer}"


def _cut(pieces: list[str], spare: list[str]) -> list[str]:
    """Pieces of a title, without the last ones or with spare ones, so that the length is right."""
    kept, spare = list(pieces), list(spare)
    while _length(kept) > _MOST:
        kept.pop()
    while _length(kept) < _FEWEST and spare:
        kept.append(spare.pop())
    return kept


def _length(pieces: list[str]) -> int:
    """In words."""
    return sum(len(piece.split()) for piece in pieces)


def bullets(rng: random.Random, kind: Kind, attributes: tuple[str, ...]) -> tuple[str, ...]:
    """Three to six sentences about an article; some name its attributes."""
    style = rng.choice(_BULLETS)
    count = 3 + int(rng.random() * 4)
    found = [_bullet(style, name) for name in attributes[:count]]
    others = [*kind.about, rng.choice(_EXTRAS).format(", ".join(rng.sample(kind.scraps, 2)))]
    found += rng.sample(others, min(len(others), max(count - len(found), 0)))
    rng.shuffle(found)
    return tuple(found)


def _bullet(style: str, attribute: str) -> str:
    note, said = FEATURES[attribute], spoken(attribute)
    sentence = note[0].upper() + note[1:]
    return style.format(title=titled(said), upper=said.upper(), note=note, sentence=sentence)


def description(
    rng: random.Random, kind: Kind, brand: str, noun: str, attributes: tuple[str, ...]
) -> str:
    """One to four sentences."""
    sentences = [rng.choice(_OPENINGS).format(brand=brand, noun=noun)]
    sentences += rng.sample(kind.about, 1 + int(rng.random() * 2))
    if rng.random() < 0.5:
        named = " and ".join([spoken(attribute) for attribute in attributes[:2]])
        sentences.append(rng.choice(_CLAIMS).format(named))
    return " ".join(sentences).strip()


@lru_cache(maxsize=4096)
def spoken(attribute: str) -> str:
    """An attribute in words: `easy use` is said as `easy to use`."""
    if attribute.startswith("easy "):
        return attribute.replace("easy ", "easy to ", 1)
    return _SPOKEN.get(attribute, attribute)


@lru_cache(maxsize=8192)
def titled(phrase: str) -> str:
    """A phrase in the capitals of titles."""
    return " ".join(map(_capital, phrase.split(" ")))


def _capital(word: str) -> str:
    return word if word in _SMALL else _CAPITALS.get(word, word[:1].upper() + word[1:])
