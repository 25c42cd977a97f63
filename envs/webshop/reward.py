"""The reward of a purchase: the official `get_reward`, part by part.

Whether two articles are of one kind depends on the nouns of their titles. The official engine asks
spaCy for them. Where its answers are stored they are used; otherwise all words but a few count,
which gives the same type reward for nearly all pairs of articles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rapidfuzz import fuzz, utils

from aem_gym.envs.webshop.catalogue import Product
from aem_gym.envs.webshop.goals import ShopGoal

_SAME = 85.5
"""From this token-set ratio on two phrases mean the same: more than 85, in whole percent."""
_LATIN_1 = dict.fromkeys(range(0x80, 0x100))
_COLORS = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown "
    "burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee "
    "cognac copper coral cranberry cream crystal dark denim eggplant elephant espresso fuchsia "
    "gold granite grape graphite grass gray green grey heather indigo ivory ivy khaki lavender "
    "lemon "
    "leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom "
    "mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal "
    "rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal "
    "tiger turquoise violet walnut wheat white wine yellow"
)
COLORS = tuple(_COLORS.split())
"""In the official order; the first one found anywhere in a word replaces it."""


@dataclass(frozen=True, slots=True)
class PurchaseReward:
    """A purchase's worth and its parts; shares are 0 to 1."""

    total: float
    r_type: float
    r_att: float
    w_att: float
    query_match: bool
    category_match: bool
    title_score: float
    r_option: float | None
    """None where no option is asked for."""
    w_option: float
    r_price: bool
    w_price: float

    def info(self) -> dict[str, Any]:
        """The parts under the official names."""
        parts: dict[str, Any] = {
            "r_type": self.r_type,
            "r_att": self.r_att,
            "w_att": self.w_att,
            "query_match": self.query_match,
            "category_match": self.category_match,
            "title_score": self.title_score,
        }
        if self.r_option is not None:
            parts |= {"r_option": self.r_option, "w_option": self.w_option}
        return parts | {"r_price": self.r_price, "w_price": self.w_price}


def purchase_reward(
    product: Product, goal: ShopGoal, price: float, chosen: Sequence[str], nouns: Nouns
) -> PurchaseReward:
    """The worth of a purchase. `price` is as drawn for a range; `chosen` are the clicked values."""
    query_match = product.query == goal.query
    category_match = _shared(product.product_category, goal.product_category) >= 2
    score = title_score(nouns(product.title), nouns(goal.title))
    r_type = 1.0 if query_match or category_match or score > 0.2 else 0.5
    if score < 0.1:
        r_type = 0.1 if score else 0.0
    attributes = sum(_has(product, attribute) for attribute in goal.attributes)
    options = _options_met(chosen, goal.options)
    r_price = price <= goal.price_upper
    parts = len(goal.attributes) + len(goal.options) + 1
    return PurchaseReward(
        total=(attributes + options + r_price) / parts * r_type,
        r_type=r_type,
        r_att=attributes / len(goal.attributes) if goal.attributes else 0.0,
        w_att=len(goal.attributes) / parts,
        query_match=query_match,
        category_match=category_match,
        title_score=score,
        r_option=options / len(goal.options) if goal.options else None,
        w_option=len(goal.options) / parts,
        r_price=r_price,
        w_price=1 / parts,
    )


def title_score(bought: Iterable[str], wanted: Sequence[str]) -> float:
    """Share of the wanted nouns (repeated ones counted) among the bought ones; 0.2 without any."""
    return len(set(bought) & set(wanted)) / len(wanted) if wanted else 0.2


def normalize_color(phrase: Any) -> Any:
    """The first known color in a phrase, else the phrase.

    A pair of name and value (a synthetic goal) is looked through element by element, as the
    official engine does.
    """
    return next((color for color in COLORS if color in phrase), phrase)


def _shared(one: str, other: str) -> int:
    """The number of levels that two category paths have in common."""
    return len(_levels(one) & _levels(other))


@lru_cache(maxsize=4096)
def _levels(path: str) -> frozenset[str]:
    return frozenset(level.strip() for level in path.split("\u203a"))


def _has(product: Product, attribute: str) -> bool:
    return any(same(own, attribute) for own in product.attributes) or (
        attribute in product.title.lower()
        or attribute in " ".join(product.bullets).lower()
        or attribute in product.description.lower()
    )


def _options_met(chosen: Sequence[str], wanted: Sequence[Any]) -> int:
    values = [normalize_color(value) for value in chosen]
    return sum(any(same(value, goal) for value in values) for goal in map(normalize_color, wanted))


def same(one: str, other: Any) -> bool:
    """Whether two phrases mean the same; a pair is compared as it is printed."""
    return fuzz.token_set_ratio(_plain(one), _plain(str(other))) >= _SAME


@lru_cache(maxsize=16384)
def _plain(phrase: str) -> str:
    """A phrase as the original compares it: it drops the letters of Latin-1, and only those."""
    return utils.default_process(phrase.translate(_LATIN_1))


# Nouns ----------------------------------------------------------------------------------------


_NO_NOUNS = (
    "a an and are as at be but by for from if in into is it its no not of off on or our so that "
    "the their then there these they this to up was we will with you your all any each every more "
    "most "
    "new non extra very super ultra real free easy long short high low soft hard thick thin wide"
)
NO_NOUNS = frozenset(_NO_NOUNS.split())
_WORD = re.compile(r"[^\W_]+")


class Nouns:
    """Nouns by title, in lower case; repeated ones as often as they occur."""

    def __init__(self, known: Mapping[str, Sequence[str]] | None = None) -> None:
        self._known = dict(known or {})

    @property
    def mode(self) -> str:
        """`spacy` where answers of spaCy are stored, else `words`."""
        return "spacy" if self._known else "words"

    def __call__(self, title: str) -> Sequence[str]:
        known = self._known.get(title)
        return _words(title) if known is None else known


@lru_cache(maxsize=8192)
def _words(title: str) -> tuple[str, ...]:
    words = _WORD.findall(title.lower())
    return tuple(word for word in words if word not in NO_NOUNS and not word.isdigit())
