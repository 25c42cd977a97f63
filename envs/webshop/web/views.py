"""What stands on a page of the shop, sorted into the parts that a person looks for."""

from __future__ import annotations

from dataclasses import dataclass

from aem_gym.envs.webshop import pages
from aem_gym.envs.webshop.engine import Session
from aem_gym.envs.webshop.pages import BUTTON, LINK, OPTION, TEXT


@dataclass(frozen=True, slots=True)
class Click:
    """Something to click."""

    label: str
    action: str
    """What an agent sends instead."""
    marked: bool = False
    """A chosen option, or an article that was looked at."""


@dataclass(frozen=True, slots=True)
class Card:
    """An article among results."""

    click: Click
    asin: str
    price: str


@dataclass(frozen=True, slots=True)
class Choice:
    """An option, and the values to choose from."""

    name: str
    values: tuple[Click, ...]


@dataclass(frozen=True, slots=True)
class View:
    """A page; what it does not have is empty."""

    place: str
    """`search`, `search_results`, `item_page`, `item_sub_page` or `done`."""
    heading: str = ""
    ways: tuple[Click, ...] = ()
    """Back, and the pages before and after this one."""
    cards: tuple[Card, ...] = ()
    choices: tuple[Choice, ...] = ()
    texts: tuple[str, ...] = ()
    """An article's price and rating, or the text of a page of details."""
    details: tuple[Click, ...] = ()
    """Pages with more about an article."""
    buy: Click | None = None


def view(session: Session) -> View:
    """The page that a session is at."""
    nodes = session.page.nodes
    if session.place in ("search", "done"):
        return View(session.place)
    body = nodes[2:]  # behind the instruction, which is shown anyway
    buttons = {text: _click(text) for kind, text in body if kind == BUTTON}
    ways = tuple(
        buttons[name] for name in (pages.BACK, pages.PREVIOUS, pages.NEXT) if name in buttons
    )
    if session.place == "search_results":
        return View("search_results", _texts(body)[0], ways, _cards(session))
    title = session.catalogue.product(session.asin).title
    if session.place == "item_sub_page":
        return View("item_sub_page", f"{_sub_page(session)}: {title}", ways, texts=_texts(body))
    return View(
        "item_page",
        title,
        ways,
        choices=_choices(session),
        texts=_texts(body)[-2:],
        details=tuple(buttons[name] for name in pages.SUB_PAGES if name in buttons),
        buy=buttons[pages.BUY],
    )


def _click(label: str, marked: bool = False) -> Click:
    return Click(label, f"click[{label.lower()}]", marked)


def _texts(nodes: tuple[pages.Node, ...]) -> tuple[str, ...]:
    return tuple(text.strip() for kind, text in nodes if kind == TEXT)


def _cards(session: Session) -> tuple[Card, ...]:
    """The articles: a link each, then its title (unless that is empty) and its price."""
    nodes = session.page.nodes
    starts = [place for place, (kind, _) in enumerate(nodes) if kind == LINK]
    cards = []
    for start, end in zip(starts, [*starts, len(nodes)][1:], strict=True):
        asin, texts = nodes[start][1], _texts(nodes[start:end])
        title = texts[0] if len(texts) > 1 else asin
        click = Click(title, f"click[{asin.lower()}]", asin in session.visited)
        cards.append(Card(click, asin, texts[-1]))
    return tuple(cards)


def _choices(session: Session) -> tuple[Choice, ...]:
    """The options: a text each, then its values. An option without values is not shown."""
    found: dict[str, list[Click]] = {}
    name = ""
    for kind, text in session.page.nodes:
        if kind != OPTION:
            name = text if kind == TEXT else ""
        else:
            value = session.page.values.get(text, text)
            chosen = session.options.get(name.lower()) == value
            found.setdefault(name, []).append(_click(text, chosen))
    return tuple(Choice(name, tuple(values)) for name, values in found.items())


def _sub_page(session: Session) -> str:
    """Which page of details this is; only its address says so."""
    ends = {name: f"/{name}/{session.options}" for name in pages.SUB_PAGES}
    return next((name for name, end in ends.items() if session.url.endswith(end)), "Details")
