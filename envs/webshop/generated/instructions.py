"""What people write who want an article, and the shorter wishes that are made from attributes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from aem_gym.envs.webshop.generated.article import Wish, shown
from aem_gym.envs.webshop.generated.kinds import Kind
from aem_gym.envs.webshop.generated.wording import spoken

_OPENINGS = (
    *("i am looking for", "i'm looking for", "im looking for", "i need", "i want", "find me"),
    *("i would like to buy", "i want to buy", "can you find me", "show me", "please get me"),
    *("looking for", "i am interested in", "i'm shopping for", "get me", "i need to find"),
)
_OPTION_PHRASES = {
    "Color": ("in {}", "in color {}", "in the color {}", "in {} color", "color {}"),
    "Size": ("in size {}", "size {}", "in the size {}", "that comes in {}"),
    "Flavor Name": ("in {} flavor", "flavor {}", "in the flavor {}"),
    "Scent": ("with {} scent", "with a scent of {}", "in {} scent"),
    "Style": ("in the style {}", "in {} style", "style {}"),
    "Capacity": ("with {}", "with a capacity of {}"),
    "Pattern Name": ("with a {} pattern", "in {} pattern"),
    "Item Package Quantity": ("as a {}", "sold as {}"),
    "Fit Type": ("for {}", "in the fit type {}"),
    "Special Size": ("in {} size", "special size {}"),
}
_REQUESTS = ("i'd like", "make sure to choose", "please pick", "i prefer", "choose")
_BARE = {"Flavor Name": "flavor", "Pattern Name": "pattern", "Item Package Quantity": ""}
_SPOKEN_AS_VOWEL = ("hdmi", "led", "8", "18")
_SPOKEN_AS_CONSONANT = ("unisex", "usb", "usda")
_FRONT = ("Color", "Scent", "Flavor Name")
"""Groups whose values may stand before the noun: navy blue loafers."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a wish names."""

    noun: str
    measure: str
    traits: tuple[str, ...]
    parts: tuple[str, ...]
    uses: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    """(name, value as shown)"""

    @property
    def many(self) -> bool:
        """Whether the noun is a plural."""
        head = self.noun.partition(" for ")[0]
        return head.endswith("s") and not head.endswith(("ss", "canvas"))


def human_wish(
    rng: random.Random,
    kind: Kind,
    noun: str,
    attributes: tuple[str, ...],
    options: Sequence[tuple[str, Sequence[str]]],
) -> Wish:
    """What a person asks for: one to three attributes and a value of most groups.

    Args:
        rng: draws.
        kind: of the article.
        noun: what the article's title calls it.
        attributes: of the article.
        options: groups and their values that may be asked for.
    """
    wanted = rng.sample(attributes, min(len(attributes), 1 + int(rng.random() * 2.6)))
    chosen = [(name, shown(rng.choice(values))) for name, values in options if values]
    chosen = [pair for pair in chosen if rng.random() < 0.8]
    rng.shuffle(chosen)
    asked = Asked(
        noun=noun.lower() if rng.random() < 0.35 else rng.choice(kind.wanted),
        measure=kind.measure,
        traits=tuple(spoken(name) for name in wanted if name in kind.traits),
        parts=tuple(name for name in wanted if name in kind.parts),
        uses=tuple(name for name in wanted if name in kind.uses),
        options=tuple(chosen),
    )
    text = rng.choice(_LAYOUTS)(rng, asked)
    return Wish(text, tuple(wanted), tuple(value for _, value in chosen))


def synthetic_wish(rng: random.Random, kind: Kind, query: str, attributes: tuple[str, ...]) -> Wish:
    """`Find me slip resistant men's loafers with rubber sole for daily wear`."""
    wanted = rng.sample(attributes, min(len(attributes), 1 + int(rng.random() * 3)))
    traits = [name for name in wanted if name in kind.traits]
    parts = [name for name in wanted if name in kind.parts]
    uses = [name for name in wanted if name in kind.uses]
    text = " ".join(["Find me", *([", ".join(traits)] if traits else []), query])
    text += f" with {', '.join(parts)}" if parts else ""
    text += f" for {', '.join(uses)}" if uses else ""
    return Wish(text, (*traits, *parts, *uses))


def _plain(rng: random.Random, asked: Asked) -> str:
    """I need slip resistant loafers with rubber sole for daily wear, in size 8 and in navy."""
    named = _named(rng, asked, _list(asked.traits), asked.noun)
    text = f"{rng.choice(_OPENINGS)} {named}{_details(asked)}"
    return text + _ending(rng, asked.options)


def _that(rng: random.Random, asked: Asked) -> str:
    """I need loafers that are slip resistant and have rubber sole, in size 8."""
    be, have = ("are", "have") if asked.many else ("is", "has")
    claims = [f"{be} {_list(asked.traits)}"] if asked.traits else []
    claims += [f"{have} {_list(asked.parts)}"] if asked.parts else []
    text = f"{rng.choice(_OPENINGS)} {_named(rng, asked, '', asked.noun)}"
    text += f" that {' and '.join(claims)}" if claims else ""
    text += f" for {_list(asked.uses)}" if asked.uses else ""
    return text + _ending(rng, asked.options)


def _front(rng: random.Random, asked: Asked) -> str:
    """I need navy loafers that ..., size 8."""
    front = [value for name, value in asked.options if name in _FRONT]
    rest = tuple(pair for pair in asked.options if pair[0] not in _FRONT)
    before = " ".join([*front, *asked.traits[:1]])
    named = _named(rng, asked, before, asked.noun)
    be = "are" if asked.many else "is"
    text = f"{rng.choice(_OPENINGS)} {named}{_details(asked)}"
    text += f" that {be} {_list(asked.traits[1:])}" if asked.traits[1:] else ""
    return text + _ending(rng, rest)


def _sentences(rng: random.Random, asked: Asked) -> str:
    """I need loafers. they should be slip resistant and come with rubber sole. choose size 8."""
    they = "they" if asked.many else "it"
    claims = [f"be {_list(asked.traits)}"] if asked.traits else []
    claims += [f"come with {_list(asked.parts)}"] if asked.parts else []
    claims += [f"be good for {_list(asked.uses)}"] if asked.uses else []
    text = f"{rng.choice(_OPENINGS)} {_named(rng, asked, '', asked.noun)}."
    text += f" {they} {rng.choice(('should', 'must'))} {' and '.join(claims)}."
    wishes = [f"{_bare(name)} {value}".strip() for name, value in asked.options]
    return text + (f" {rng.choice(_REQUESTS)} {' and '.join(wishes)}." if wishes else "")


def _keywords(rng: random.Random, asked: Asked) -> str:
    """Loafers slip resistant, rubber sole, daily wear, size 8."""
    named = [*asked.traits, *asked.parts, *asked.uses]
    rng.shuffle(named)
    wishes = [f"{_bare(name)} {value}".strip() for name, value in asked.options]
    return f"{asked.noun} {', '.join([*named, *wishes])}"


_LAYOUTS = (_plain, _plain, _that, _that, _front, _front, _sentences, _keywords)


def _named(rng: random.Random, asked: Asked, before: str, noun: str) -> str:
    """The noun with what stands before it, and an article or a measure where one belongs."""
    phrase = f"{before} {noun}".strip()
    if asked.measure == "a" and not asked.many:
        return f"{_a_or_an(phrase)} {phrase}"
    draw = rng.random()
    if draw < 0.3 and asked.measure != "a":
        return f"a {asked.measure} {phrase}"
    return f"some {phrase}" if draw < 0.5 else phrase


def _a_or_an(phrase: str) -> str:
    """`a`, or `an` before a vowel, as it is spoken."""
    first = phrase.partition(" ")[0]
    if first in _SPOKEN_AS_VOWEL:
        return "an"
    return "an" if first[0] in "aeiou" and first not in _SPOKEN_AS_CONSONANT else "a"


def _details(asked: Asked) -> str:
    text = f" with {_list(asked.parts)}" if asked.parts else ""
    return text + (f" for {_list(asked.uses)}" if asked.uses else "")


def _ending(rng: random.Random, options: Sequence[tuple[str, str]]) -> str:
    if not options:
        return rng.choice(("", "", "."))
    said = [rng.choice(_OPTION_PHRASES[name]).format(value) for name, value in options]
    return rng.choice((", ", " ", ", ")) + rng.choice((" and ", ", ", ", and ")).join(said)


def _bare(name: str) -> str:
    """A group's name as people call it."""
    return _BARE.get(name, name.lower())


def _list(names: Sequence[str]) -> str:
    return " and ".join(names)
