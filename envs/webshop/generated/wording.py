"""Titles, bullet points, descriptions, and what people write who want an article."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from aem_gym.envs.webshop.generated.article import Wish, shown
from aem_gym.envs.webshop.generated.vocabulary import ArticleKind, vocabulary

_FEWEST, _MOST = 6, 20


def title(
    rng: random.Random,
    kind: ArticleKind,
    brand: str,
    noun: str,
    attributes: tuple[str, ...],
    offer: str,
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
    text = rng.choice(vocabulary().phrases.joints).join(
        _cut([" ".join(head), *rest], scraps[count:])
    )
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


def bullets(rng: random.Random, kind: ArticleKind, attributes: tuple[str, ...]) -> tuple[str, ...]:
    """Three to six sentences about an article; some name its attributes."""
    style = rng.choice(vocabulary().phrases.bullets)
    count = 3 + int(rng.random() * 4)
    found = [_bullet(style, name) for name in attributes[:count]]
    others = [
        *kind.about,
        rng.choice(vocabulary().phrases.extras).format(", ".join(rng.sample(kind.scraps, 2))),
    ]
    found += rng.sample(others, min(len(others), max(count - len(found), 0)))
    rng.shuffle(found)
    return tuple(found)


def _bullet(style: str, attribute: str) -> str:
    note, said = vocabulary().features[attribute], spoken(attribute)
    sentence = note[0].upper() + note[1:]
    return style.format(title=titled(said), upper=said.upper(), note=note, sentence=sentence)


def description(
    rng: random.Random, kind: ArticleKind, brand: str, noun: str, attributes: tuple[str, ...]
) -> str:
    """One to four sentences."""
    sentences = [rng.choice(vocabulary().phrases.openings).format(brand=brand, noun=noun)]
    sentences += rng.sample(kind.about, 1 + int(rng.random() * 2))
    if rng.random() < 0.5:
        named = " and ".join([spoken(attribute) for attribute in attributes[:2]])
        sentences.append(rng.choice(vocabulary().phrases.claims).format(named))
    return " ".join(sentences).strip()


@lru_cache(maxsize=4096)
def spoken(attribute: str) -> str:
    """An attribute in words: `easy use` is said as `easy to use`."""
    if attribute.startswith("easy "):
        return attribute.replace("easy ", "easy to ", 1)
    return vocabulary().phrases.spoken.get(attribute, attribute)


@lru_cache(maxsize=8192)
def titled(phrase: str) -> str:
    """A phrase in the capitals of titles."""
    return " ".join(map(_capital, phrase.split(" ")))


def _capital(word: str) -> str:
    phrases = vocabulary().phrases
    if word in phrases.small:
        return word
    return phrases.capitals.get(word, word[:1].upper() + word[1:])


# Wishes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WishParts:
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
    kind: ArticleKind,
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
    asked = WishParts(
        noun=noun.lower() if rng.random() < 0.35 else rng.choice(kind.wanted),
        measure=kind.measure,
        traits=tuple(spoken(name) for name in wanted if name in kind.traits),
        parts=tuple(name for name in wanted if name in kind.parts),
        uses=tuple(name for name in wanted if name in kind.uses),
        options=tuple(chosen),
    )
    text = rng.choice(_LAYOUTS)(rng, asked)
    return Wish(text, tuple(wanted), tuple(value for _, value in chosen))


def synthetic_wish(
    rng: random.Random, kind: ArticleKind, query: str, attributes: tuple[str, ...]
) -> Wish:
    """`Find me slip resistant men's loafers with rubber sole for daily wear`."""
    wanted = rng.sample(attributes, min(len(attributes), 1 + int(rng.random() * 3)))
    traits = [name for name in wanted if name in kind.traits]
    parts = [name for name in wanted if name in kind.parts]
    uses = [name for name in wanted if name in kind.uses]
    text = " ".join(["Find me", *([", ".join(traits)] if traits else []), query])
    text += f" with {', '.join(parts)}" if parts else ""
    text += f" for {', '.join(uses)}" if uses else ""
    return Wish(text, (*traits, *parts, *uses))


def _plain(rng: random.Random, asked: WishParts) -> str:
    """I need slip resistant loafers with rubber sole for daily wear, in size 8 and in navy."""
    named = _named(rng, asked, _list(asked.traits), asked.noun)
    text = f"{rng.choice(vocabulary().phrases.wish_openings)} {named}{_details(asked)}"
    return text + _ending(rng, asked.options)


def _that(rng: random.Random, asked: WishParts) -> str:
    """I need loafers that are slip resistant and have rubber sole, in size 8."""
    be, have = ("are", "have") if asked.many else ("is", "has")
    claims = [f"{be} {_list(asked.traits)}"] if asked.traits else []
    claims += [f"{have} {_list(asked.parts)}"] if asked.parts else []
    text = f"{rng.choice(vocabulary().phrases.wish_openings)} {_named(rng, asked, '', asked.noun)}"
    text += f" that {' and '.join(claims)}" if claims else ""
    text += f" for {_list(asked.uses)}" if asked.uses else ""
    return text + _ending(rng, asked.options)


def _front(rng: random.Random, asked: WishParts) -> str:
    """I need navy loafers that ..., size 8."""
    front = [value for name, value in asked.options if name in vocabulary().phrases.front]
    rest = tuple(pair for pair in asked.options if pair[0] not in vocabulary().phrases.front)
    before = " ".join([*front, *asked.traits[:1]])
    named = _named(rng, asked, before, asked.noun)
    be = "are" if asked.many else "is"
    text = f"{rng.choice(vocabulary().phrases.wish_openings)} {named}{_details(asked)}"
    text += f" that {be} {_list(asked.traits[1:])}" if asked.traits[1:] else ""
    return text + _ending(rng, rest)


def _sentences(rng: random.Random, asked: WishParts) -> str:
    """I need loafers. they should be slip resistant and come with rubber sole. choose size 8."""
    they = "they" if asked.many else "it"
    claims = [f"be {_list(asked.traits)}"] if asked.traits else []
    claims += [f"come with {_list(asked.parts)}"] if asked.parts else []
    claims += [f"be good for {_list(asked.uses)}"] if asked.uses else []
    text = f"{rng.choice(vocabulary().phrases.wish_openings)} {_named(rng, asked, '', asked.noun)}."
    text += f" {they} {rng.choice(('should', 'must'))} {' and '.join(claims)}."
    wishes = [f"{_bare(name)} {value}".strip() for name, value in asked.options]
    return text + (
        f" {rng.choice(vocabulary().phrases.requests)} {' and '.join(wishes)}." if wishes else ""
    )


def _keywords(rng: random.Random, asked: WishParts) -> str:
    """Loafers slip resistant, rubber sole, daily wear, size 8."""
    named = [*asked.traits, *asked.parts, *asked.uses]
    rng.shuffle(named)
    wishes = [f"{_bare(name)} {value}".strip() for name, value in asked.options]
    return f"{asked.noun} {', '.join([*named, *wishes])}"


_LAYOUTS = (_plain, _plain, _that, _that, _front, _front, _sentences, _keywords)


def _named(rng: random.Random, asked: WishParts, before: str, noun: str) -> str:
    """The noun with the words before it, and an article or a measure where one belongs."""
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
    if first in vocabulary().phrases.spoken_as_vowel:
        return "an"
    return (
        "an"
        if first[0] in "aeiou" and first not in vocabulary().phrases.spoken_as_consonant
        else "a"
    )


def _details(asked: WishParts) -> str:
    text = f" with {_list(asked.parts)}" if asked.parts else ""
    return text + (f" for {_list(asked.uses)}" if asked.uses else "")


def _ending(rng: random.Random, options: Sequence[tuple[str, str]]) -> str:
    if not options:
        return rng.choice(("", "", "."))
    said = [
        rng.choice(vocabulary().phrases.option_phrases[name]).format(value)
        for name, value in options
    ]
    return rng.choice((", ", " ", ", ")) + rng.choice((" and ", ", ", ", and ")).join(said)


def _bare(name: str) -> str:
    """A group's name as people call it."""
    return vocabulary().phrases.bare.get(name, name.lower())


def _list(names: Sequence[str]) -> str:
    return " and ".join(names)
