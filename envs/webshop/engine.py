"""The shop: a session that searches, looks around, chooses and buys, by the official rules.

With `strict` everything is as in the original, also what is plainly a mistake there. Otherwise
search words that open back doors (`<r>`, `<c>`, `<q>`, `<a>`) do nothing, options whose names are
not clear are called `group: value`, every chosen option is shown as chosen, and no word of a search
is taken for the name of a page.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aem_gym.envs.webshop import pages
from aem_gym.envs.webshop.catalogue import Catalogue, Product
from aem_gym.envs.webshop.goals import ShopGoal
from aem_gym.envs.webshop.reward import Nouns, PurchaseReward, purchase_reward
from aem_gym.envs.webshop.search.text import tokens

BASE = "http://127.0.0.1:3000"
_ACTION = re.compile(r"(.+)\[(.+)\]")
_BACK_DOORS = ("<r>", "<a>", "<c>", "<q>")
_PAGE_NAMES = ("search_results", "item_page", "item_sub_page", "done")
_SUB_PAGES = {name.lower(): name for name in pages.SUB_PAGES}
_RANDOM_RESULTS = 50
_MOST_TERMS = 1024


class OriginalFails(TypeError):
    """The original's server fails here. The page stays, and what was already noted stays noted."""


@dataclass(frozen=True, slots=True)
class ActionResult:
    reward: float = 0.0
    done: bool = False
    valid: bool = True
    """Whether it did anything."""


class Session:
    """One customer's visit.

    `name` is part of the page addresses. `show_attributes`: articles have a page of their
    attributes. `strict`: see the module. `rng` is for the back door to random articles, in `strict`
    sessions.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        goal: ShopGoal,
        nouns: Nouns,
        *,
        name: str = "0",
        show_attributes: bool = False,
        strict: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self.catalogue, self.goal, self._nouns, self._name = catalogue, goal, nouns, name
        self._show_attributes, self._strict = show_attributes, strict
        self._rng = rng or random.Random(0)
        self._searched: list[str] = []
        self._kept: Sequence[str] = ()
        self.purchase: PurchaseReward | None = None
        """The reward of the last purchase."""
        self._start()

    # What is seen --------------------------------------------------------------------------

    def text(self) -> str:
        """The page in the official `text` mode."""
        return self.page.text

    def text_rich(self) -> str:
        """The page in the official `text_rich` mode."""
        return pages.text_rich(self.page, self._is_chosen, self.visited)

    def available_actions(self) -> dict[str, bool | list[str]]:
        """The possible actions, in the official form."""
        return {
            "has_search_bar": self.page.has_search_bar,
            "clickables": list(self.page.clickables),
        }

    # What is done --------------------------------------------------------------------------

    def step(self, action: str) -> ActionResult:
        """Answer `search[...]` or `click[...]`; other text does nothing. Raises OriginalFails."""
        match = _ACTION.match(action)
        if not match:
            return ActionResult(valid=False)
        verb, argument = match[1], match[2].lower()
        if verb == "search":
            return self._search(argument.split(" "))
        if verb == "click" and argument in self.page.clickables and argument != "search":
            return self._click(argument)
        return ActionResult(valid=False)

    def _search(self, words: list[str]) -> ActionResult:
        if words[0] in _BACK_DOORS and not self._strict:
            return ActionResult(valid=False)
        self._show_results(words, 1)
        return ActionResult()

    def _click(self, name: str) -> ActionResult:
        """As the original: by the name first, whatever it was that was clicked."""
        if name == pages.BUY.lower():
            return self._buy()
        place = _page_name(self.url) if self._strict else self.place
        if name == pages.BACK.lower():
            self._start()
        elif name == pages.NEXT.lower() and place == "search_results":
            self._show_results(self.keywords, self.number + 1)
        elif name == pages.PREVIOUS.lower() and place == "search_results":
            self._show_results(self.keywords, self.number - 1)
        elif name == pages.PREVIOUS.lower() and place == "item_page":
            self._show_results(self.keywords, self.number)
        elif name in _SUB_PAGES:
            self._show_details(_SUB_PAGES[name])
        else:
            self._show_item(name)
        return ActionResult()

    # Pages ---------------------------------------------------------------------------------

    def _start(self) -> None:
        self.keywords: list[str] = []
        self.number, self.asin = 0, ""
        self.results: Sequence[str] = ()
        self.visited: set[str] = set()
        self.options: dict[str, str] = {}
        self._chosen: dict[str, str] = {}  # the same, by the names under which they are shown
        self.place = "search"
        self.url = f"{BASE}/{self._name}"
        self.page = pages.search_page(self.goal.text)

    def _show_results(self, words: list[str], number: int) -> None:
        self.keywords, self.number = words, number
        self.asin, self.options, self._chosen = "", {}, {}
        found = self.results = self._found(words)
        self.place = "search_results"
        shown = found[(number - 1) * pages.PER_PAGE : number * pages.PER_PAGE]
        products = [self.catalogue.product(asin) for asin in shown]
        self.url = f"{BASE}/search_results/{self._name}/{'+'.join(words)}/{number}"
        self.page = pages.results_page(self.goal.text, number, len(found), products)

    def _found(self, words: list[str]) -> Sequence[str]:
        if self._strict and words[0] in _BACK_DOORS:
            return _BACK_DOOR[words[0]](self, words[1:])
        if self._strict and len(set(tokens(" ".join(words)))) > _MOST_TERMS:
            raise OriginalFails(f"the original takes no search for more than {_MOST_TERMS} terms")
        if words != self._searched:  # paging and going back ask for the same again
            self._searched, self._kept = words, self.catalogue.search(words)
        return self._kept

    def _show_item(self, clicked: str) -> None:
        kind, name = self.page.clickables[clicked]
        if kind == pages.LINK:
            self.asin = clicked.upper() if self._strict else name
            self.visited.add(self.asin)
        elif kind == pages.OPTION:
            self.options[name.lower()] = self.page.values.get(clicked, clicked)
            self._chosen[name.lower()] = clicked
        product = self._product()
        self.place = "item_page"
        self.url = (
            f"{BASE}/item_page/{self._name}/{self.asin}/{'+'.join(self.keywords)}/{self.number}/"
            f"{json.dumps(self.options)}"
        )
        self.page = pages.item_page(self.goal.text, product, self._show_attributes, self._strict)

    def _show_details(self, name: str) -> None:
        product = self._product()
        self.place = "item_sub_page"
        self.url = (
            f"{BASE}/item_sub_page/{self._name}/{self.asin}/{'+'.join(self.keywords)}/"
            f"{self.number}/{name}/{self.options}"
        )
        self.page = pages.sub_page(self.goal.text, product, name)

    def _buy(self) -> ActionResult:
        product, price = self._product(), self.catalogue.price(self.asin)
        chosen = list(self.options.values())
        self.purchase = purchase_reward(product, self.goal, price, chosen, self._nouns)
        self.place = "done"
        self.url = f"{BASE}/done/{self._name}/{self.asin}/{self.options}"
        self.page = pages.done_page(self.asin, self.options, self.purchase.total)
        return ActionResult(self.purchase.total, done=True)

    def _product(self) -> Product:
        try:
            return self.catalogue.product(self.asin)
        except KeyError as error:  # its id has small letters, or an earlier failure has lost it
            raise OriginalFails(f"the original knows no article {self.asin!r}") from error

    def _is_chosen(self, shown: str) -> bool:
        """Whether an option is marked as clicked.

        The original looks for its value in double quotes in the address of the page: values with
        quotation marks, or of other than ASCII letters, are never found there.
        """
        return f'"{shown}"' in self.url if self._strict else shown in self._chosen.values()

    # Back doors of the original --------------------------------------------------------------

    def _random(self, _words: list[str]) -> Sequence[str]:
        every = list(self.catalogue.every())
        return self._rng.sample(every, min(_RANDOM_RESULTS, len(every)))

    def _category(self, words: list[str]) -> Sequence[str]:
        if not words:
            raise OriginalFails("the original fails on a search for <c> alone")
        return self.catalogue.in_category(words[0].strip())

    def _query(self, words: list[str]) -> Sequence[str]:
        return self.catalogue.in_query(" ".join(words).strip())

    def _attribute(self, words: list[str]) -> Sequence[str]:
        raise OriginalFails("the original fails on searches that begin with <a>")


_BACK_DOOR: dict[str, Callable[[Session, list[str]], Sequence[str]]] = {
    "<r>": Session._random,
    "<c>": Session._category,
    "<q>": Session._query,
    "<a>": Session._attribute,
}


def _page_name(url: str) -> str:
    """The page of an address; the original looks for the words anywhere in it."""
    return next((name for name in _PAGE_NAMES if name in url), "")
