"""The level `full`: listings as long and as various as a real shop's."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod

from aem_gym.envs.webshop.generated import wording
from aem_gym.envs.webshop.generated.article import Article, Wish, shown
from aem_gym.envs.webshop.generated.vocabulary import ArticleKind, OptionGroup, vocabulary
from aem_gym.envs.webshop.pages import BUTTON_NAMES

_TRAPS = ("features", "description", "reviews", "< prev", "next >", "buy now")
_CLASHES = 0.03
_UNPRICED, _RANGED = 0.03, 0.15
_ASKED_BY_PEOPLE, _ASKED_BY_RULE = 0.6, 0.48
_COMBINATIONS = 36
"""An article with more of them gets no synthetic wish: each combination is a goal."""
_CENTS = (".99", ".99", ".99", ".99", ".95", ".49", ".97", ".00", ".88")


def articles(rng: random.Random) -> Iterator[Article]:
    """Articles without end; each kind comes as often as the others."""
    while True:
        kinds = list(vocabulary().kinds)
        rng.shuffle(kinds)
        for kind in kinds:
            yield _article(rng, kind)


def _article(rng: random.Random, kind: ArticleKind) -> Article:
    brand, noun = rng.choice(vocabulary().brands), rng.choice(kind.nouns)
    query = rng.choice(kind.queries)
    attributes = _attributes(rng, kind)
    options = _options(rng, kind)
    offer = _offer(rng, options)
    human, synthetic = _wishes(rng, kind, noun, query, attributes, options)
    return Article(
        category=kind.category,
        path=kind.path,
        query=query,
        title=wording.title(rng, kind, brand, noun, attributes, offer),
        description=wording.description(rng, kind, brand, noun, attributes),
        bullets=wording.bullets(rng, kind, attributes),
        pricing=_pricing(rng, kind),
        options=options,
        attributes=attributes,
        synthetic=synthetic,
        human=human,
    )


def _attributes(rng: random.Random, kind: ArticleKind) -> tuple[str, ...]:
    """One to five."""
    found = rng.sample(kind.traits, min(len(kind.traits), 1 + int(rng.random() * 2.5)))
    found += rng.sample(kind.parts, min(len(kind.parts), int(rng.random() * 2.7)))
    if rng.random() < 0.5:
        found.append(rng.choice(kind.uses))
    return tuple(without_rivals(found)[:5])


def _options(rng: random.Random, kind: ArticleKind) -> dict[str, tuple[str, ...]]:
    """Groups of options; a few have values that clash, as they do in real listings."""
    options = {group.name: _values(rng, group) for group in kind.groups if rng.random() < 0.85}
    if options and rng.random() < _CLASHES:
        name = rng.choice(list(options))
        trap = rng.choice((*_TRAPS, *options[name]))
        options[name] = (*options[name], trap)
        options["Style Name"] = (options[name][0], trap)
    return options


def _values(rng: random.Random, group: OptionGroup) -> tuple[str, ...]:
    most = min(group.most, len(group.values))
    count = group.least + int(rng.random() * (most - group.least + 1))
    if not group.sized:
        return tuple(rng.sample(group.values, count))
    start = int(rng.random() * (len(group.values) - count + 1))
    return group.values[start : start + count]


def _offer(rng: random.Random, options: dict[str, tuple[str, ...]]) -> str:
    """The values that a title is of."""
    named = [wording.titled(rng.choice(values)) for values in options.values()]
    return ", ".join(named[:2]) if rng.random() < 0.45 else ""


def _wishes(
    rng: random.Random,
    kind: ArticleKind,
    noun: str,
    query: str,
    attributes: tuple[str, ...],
    options: dict[str, tuple[str, ...]],
) -> tuple[tuple[Wish, ...], Wish | None]:
    """(people's, the synthetic one). No wish is for a value that clashes."""
    uses = Counter(shown(value) for values in options.values() for value in values)
    clear = {
        name: tuple(v for v in values if uses[shown(v)] == 1 and shown(v) not in BUTTON_NAMES)
        for name, values in options.items()
    }
    human: tuple[Wish, ...] = ()
    if rng.random() < _ASKED_BY_PEOPLE:
        groups = list(clear.items())
        count = 1 + int(rng.random() * 3)
        human = tuple(wording.human_wish(rng, kind, noun, attributes, groups) for _ in range(count))
    few = prod(map(len, options.values())) <= _COMBINATIONS
    if not few or clear != options or rng.random() >= _ASKED_BY_RULE:
        return human, None
    return human, wording.synthetic_wish(rng, kind, query, attributes)


def _pricing(rng: random.Random, kind: ArticleKind) -> str:
    """`$19.99`, a range `$19.99$24.99`, or nothing."""
    points = _price_points(*kind.prices)
    draw = rng.random()
    if draw < _UNPRICED:
        return ""
    place = int(rng.random() * len(points))
    cents = rng.choice(_CENTS)
    tag = f"${points[place]}{cents}"
    if draw >= _UNPRICED + _RANGED or place + 1 == len(points):
        return tag
    upper = min(len(points) - 1, place + 1 + int(rng.random() * 5))
    return f"{tag}${points[upper]}{cents}"


def _price_points(lowest: int, highest: int) -> list[int]:
    """Whole dollars, each a tenth above the last: as many low prices as high ones."""
    points = [lowest]
    while points[-1] < highest:
        points.append(points[-1] + max(1, points[-1] // 10))
    return points


def without_rivals(attributes: Iterable[str]) -> list[str]:
    """The attributes without those that contradict an earlier one."""
    kept: list[str] = []
    for name in attributes:
        if not any(name in some and not some.isdisjoint(kept) for some in vocabulary().rivals):
            kept.append(name)
    return kept
