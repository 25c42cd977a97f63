"""Word lists of the generated shops, read from the JSON files beside this module.

`words.json` has makers, groups of options and what is said about attributes, `kinds.json` the kinds
of articles, `phrases.json` how listings and instructions are worded. All makers are invented. No
option value has a color word inside another word (`tan` in `standard`): the official reward takes
it for that color, and a wish for that value could not be met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class OptionGroup:
    """A group of options: an article offers `least` to `most` of the values."""

    name: str
    values: tuple[str, ...]
    least: int
    most: int
    sized: bool = False
    """Neighbors in the list are offered together, as sizes are; else any of them, in any order."""


@dataclass(frozen=True, slots=True)
class ArticleKind:
    """A kind of article."""

    category: str
    """One of the five official ones."""
    path: str
    """Levels of the shop's tree."""
    queries: tuple[str, ...]
    """What buyers typed to find it; in plural, it names the kind in wishes from attributes."""
    nouns: tuple[str, ...]
    """What titles call it."""
    wanted: tuple[str, ...]
    """What people who want one call it."""
    traits: tuple[str, ...]
    """Attributes that come before the noun: slip resistant."""
    parts: tuple[str, ...]
    """Attributes that come after `with`: rubber sole."""
    uses: tuple[str, ...]
    """Attributes that come after `for`: living room."""
    scraps: tuple[str, ...]
    """Bits of titles that nobody asks for: 30 hours playtime."""
    about: tuple[str, ...]
    """Sentences of descriptions and bullet points."""
    prices: tuple[int, int]
    """Lowest and highest in whole dollars."""
    groups: tuple[OptionGroup, ...]
    measure: str = "a"
    """Counts it: `a` (one chair), empty (coffee, loafers), or `pair of` and the like."""


@dataclass(frozen=True, slots=True)
class Phrases:
    """Templates and exceptions of wording. `bullets` to `claims` are `str.format` templates."""

    capitals: Mapping[str, str]
    """Words that titles write in an own way."""
    small: frozenset[str]
    """Words that titles do not capitalize."""
    spoken: Mapping[str, str]
    """Attributes that people say in other words."""
    joints: tuple[str, ...]
    bullets: tuple[str, ...]
    extras: tuple[str, ...]
    openings: tuple[str, ...]
    claims: tuple[str, ...]
    wish_openings: tuple[str, ...]
    option_phrases: Mapping[str, tuple[str, ...]]
    """By the group's name."""
    requests: tuple[str, ...]
    bare: Mapping[str, str]
    """What people call a group, where it is not its name in lower case."""
    spoken_as_vowel: frozenset[str]
    spoken_as_consonant: frozenset[str]
    front: frozenset[str]
    """Groups whose values may come before the noun: navy blue loafers."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All word lists of the level `full`."""

    brands: tuple[str, ...]
    features: Mapping[str, str]
    """Attribute -> what is said about it, after a colon."""
    rivals: tuple[frozenset[str], ...]
    """Sets of attributes of which an article has one at most."""
    kinds: tuple[ArticleKind, ...]
    phrases: Phrases


@cache
def vocabulary() -> Vocabulary:
    """The word lists, read on the first call."""
    words, kinds = read_data("words.json"), read_data("kinds.json")
    groups = words.pop("groups")
    for kind in kinds:
        kind["groups"] = [groups[g] if isinstance(g, str) else g for g in kind["groups"]]
    found = words | {"kinds": kinds, "phrases": read_data("phrases.json")}
    return msgspec.convert(found, Vocabulary)


def read_data(name: str) -> Any:
    """A JSON file of this folder."""
    return msgspec.json.decode(Path(__file__).with_name(name).read_bytes())
