"""What a kind of article is made of: the words that its listings and wishes are put together from.

Word lists are written as one text, `one, another, a third`, so that a kind is read at a glance.
"""

from __future__ import annotations

from dataclasses import dataclass

LEVELS_JOINED_BY = " \u203a "


@dataclass(frozen=True, slots=True)
class Choice:
    """A group of options: an article offers some of the values."""

    name: str
    values: tuple[str, ...]
    least: int
    most: int
    sized: bool = False
    """Neighbours in the list are offered together, as sizes are; else any of them, in any order."""


@dataclass(frozen=True, slots=True)
class Kind:
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
    """What people call it who want one."""
    measure: str
    """Counts it: `a` (one chair), empty (coffee, loafers), or `pair of` and the like."""
    traits: tuple[str, ...]
    """Attributes that stand before the noun: slip resistant."""
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
    choices: tuple[Choice, ...]
    """At most so many groups of options."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """All that may be asked for."""
        return self.traits + self.parts + self.uses


def kind(
    category: str,
    path: str,
    *choices: Choice,
    queries: str,
    nouns: str,
    wanted: str,
    traits: str,
    parts: str,
    uses: str,
    scraps: str,
    about: str,
    prices: tuple[int, int],
    measure: str = "a",
) -> Kind:
    """A kind from its word lists; levels are parted by `/`, sentences by `. `."""
    return Kind(
        category=category,
        path=path.replace("/", LEVELS_JOINED_BY),
        queries=words(queries),
        nouns=words(nouns),
        wanted=words(wanted),
        measure=measure,
        traits=words(traits),
        parts=words(parts),
        uses=words(uses),
        scraps=words(scraps),
        about=tuple(f"{sentence.strip('. ')}." for sentence in about.split(". ")),
        prices=prices,
        choices=choices,
    )


def words(text: str) -> tuple[str, ...]:
    """The parts of `one, another, a third`."""
    return tuple(text.split(", ")) if text else ()
