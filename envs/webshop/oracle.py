"""The oracle: buys something that earns the full reward, by the pages any customer sees.

It knows the worth of every article. It tries three queries (the goal's words, its attributes with
the target's query field, the target's title) until one lists an article that can earn the full
reward on the first page, and otherwise takes the one whose page is earliest.

With `care` below 1 it acts like people in a hurry: it opens any article, keeps one that does not
fit, forgets an option. A model that learns from such demonstrations can still improve.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import chain

from aem_gym.envs.webshop import pages
from aem_gym.envs.webshop.catalogue import Product
from aem_gym.envs.webshop.engine import Session
from aem_gym.envs.webshop.goals import ShopGoal
from aem_gym.envs.webshop.reward import Nouns, normalize_color, purchase_reward, same

_PRICE = re.compile(r",? and price lower than [\d.]+ dollars$")
_FILL = (
    "a an and any am are as at be by can could find for from get give has have help i i'd i'm im "
    "in into is it like looking lower made me my need of on one or pair please price search size "
    "color so some something that the there these this to want which who will with would you show "
    "buy should"
)
_FILLER = frozenset(_FILL.split())
_WORD = re.compile(r"[^\s,.;:?!\"()\[\]<>]+")
_ROUNDING = 1e-9


class ShopOracle:
    """Chooses the next action of a session.

    `care` (0 to 1) is how often it decides rightly where people in a hurry may not; `draws` decides
    where it does not.
    """

    def __init__(
        self,
        session: Session,
        nouns: Nouns,
        *,
        care: float = 1.0,
        draws: random.Random | None = None,
    ) -> None:
        self._session, self._nouns = session, nouns
        self._care, self._draws = care, draws or random.Random(0)
        self._decided: dict[tuple[str, str], bool] = {}
        self._known: dict[str, tuple[float, dict[str, str]]] = {}
        self._query: str | None = None

    def choose(self) -> tuple[str, str]:
        """(thought, action) for the page the session is on."""
        place = self._session.place
        if place == "search":
            self._query = self._query or self._best_query()
            return "what is asked for", f"search[{self._query}]"
        if place == "search_results":
            return self._from_results()
        if place == "item_page":
            return self._on_item()
        return "back to the article", f"click[{pages.PREVIOUS.lower()}]"

    def _from_results(self) -> tuple[str, str]:
        session = self._session
        place = self._first_fit(session.results, session.number)
        if place is None:
            return "nothing fits", f"click[{pages.BACK.lower()}]"
        page = place // pages.PER_PAGE + 1
        if page == session.number:
            # As it is shown, so that a model that learns from this only has to copy it.
            return "this one fits", f"click[{self._opens(place)}]"
        other = pages.NEXT if page > session.number else pages.PREVIOUS
        return "none of these fits", f"click[{other.lower()}]"

    def _opens(self, place: int) -> str:
        """The article to open, of a page on which the one at `place` fits."""
        results = self._session.results
        if self._careful("open", results[place]):
            return results[place]
        first = place - place % pages.PER_PAGE
        return self._draws.choice(results[first : first + pages.PER_PAGE])

    def _careful(self, what: str, about: str) -> bool:
        """Whether it decides rightly; drawn once for each decision."""
        if (what, about) not in self._decided:
            self._decided[what, about] = self._care >= 1 or self._draws.random() < self._care
        return self._decided[what, about]

    def _on_item(self) -> tuple[str, str]:
        session = self._session
        worth, wanted = self._worth(session.asin)
        if worth < self._reachable() and self._careful("look", session.asin):
            return "not what is asked for", f"click[{pages.PREVIOUS.lower()}]"
        for label, (kind, name) in session.page.clickables.items():
            value = session.page.values.get(label, label)
            chosen = session.options.get(name.lower())
            asked = kind == pages.OPTION and wanted.get(name) == value != chosen
            if asked and self._careful("choose", name):
                return "this is asked for", f"click[{label}]"
        return "all is chosen", f"click[{pages.BUY.lower()}]"

    # What is known ---------------------------------------------------------------------------

    def _first_fit(self, results: Sequence[str], page: int) -> int | None:
        """The place of the first article that fits; those on the present page come first."""
        start = (page - 1) * pages.PER_PAGE
        here = range(start, min(start + pages.PER_PAGE, len(results)))
        for place in chain(here, range(len(results))):
            if self._worth(results[place])[0] >= self._reachable():
                return place
        return None

    def _reachable(self) -> float:
        """The reward of the wanted article itself."""
        return self._worth(self._session.goal.asin)[0] - _ROUNDING

    def _worth(self, asin: str) -> tuple[float, dict[str, str]]:
        """(the reward an article can earn, the options to choose for it: group -> value)."""
        if asin not in self._known:
            session = self._session
            product, goal = session.catalogue.product(asin), session.goal
            wanted = best_options(product, goal)
            price = session.catalogue.price(asin)
            reward = purchase_reward(product, goal, price, list(wanted.values()), self._nouns)
            self._known[asin] = reward.total, wanted
        return self._known[asin]

    def _best_query(self) -> str:
        """The query that brings an article that fits to the earliest page."""
        catalogue, goal = self._session.catalogue, self._session.goal
        pages_of: dict[str, int] = {}
        for query in _queries(goal):
            place = self._first_fit(catalogue.search(query.split(" ")), 1)
            if place is not None:
                pages_of[query] = place // pages.PER_PAGE
                if place < pages.PER_PAGE:
                    break
        return min(pages_of, key=pages_of.__getitem__, default=_words(goal.title))


def best_options(product: Product, goal: ShopGoal) -> dict[str, str]:
    """The values to choose of an article's options so that they meet a goal: group -> value."""
    wanted: dict[str, str] = {}
    for asked in goal.options:
        named, value = asked if isinstance(asked, tuple) else (None, asked)
        fitting = [
            (name, shown)
            for name, values in product.options
            for shown in values
            if name not in wanted and same(normalize_color(shown), normalize_color(asked))
        ]
        if fitting:
            name, shown = min(fitting, key=lambda pair: (pair[1] != value, pair[0] != named))
            wanted[name] = shown
    return wanted


def _queries(goal: ShopGoal) -> Iterator[str]:
    """Queries to search for, the likeliest first."""
    text = _PRICE.sub("", goal.text)
    yield _words(text)
    yield _words(f"{' '.join(goal.attributes)} {goal.query}")
    yield _words(goal.title)


def _words(text: str) -> str:
    words = dict.fromkeys(word for word in _WORD.findall(text.lower()) if word not in _FILLER)
    return " ".join(words) or "item"
