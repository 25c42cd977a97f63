"""The content of the web page: the visit, the shop's page, and the receipt at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from aem_gym.envs.webshop import pages
from aem_gym.envs.webshop.engine import Session
from aem_gym.envs.webshop.goals import NO_LIMIT, ShopGoal
from aem_gym.envs.webshop.pages import BUTTON, LINK, OPTION, TEXT
from aem_gym.envs.webshop.reward import PurchaseReward


@dataclass(frozen=True, slots=True)
class SentAction:
    action: str
    valid: bool
    reward: float
    thought: str = ""
    """The expert's, if the expert acted."""


class Visit:
    """The environment, as `gym.make` gave it, and the steps of its present episode."""

    def __init__(self, env: gym.Env[str, str], seed: int) -> None:
        self._env = env
        self._inner: Any = env.unwrapped
        self._episode = 0
        self.begin(seed)

    @property
    def session(self) -> Session:
        session: Session = self._inner.session
        return session

    @property
    def max_turns(self) -> int:
        return int(self._inner.max_turns)

    @property
    def has_expert(self) -> bool:
        """Whether the environment can say what a competent agent would do."""
        return callable(getattr(self._inner, "expert", None))

    @property
    def state(self) -> str:
        """A name that changes with every step, by which an outdated page is recognized."""
        return f"{self._episode}.{len(self.steps)}"

    def begin(self, seed: int) -> None:
        self.observation, self.info = self._env.reset(seed=seed)
        self.seed, self.over = seed, False
        self.steps: list[SentAction] = []
        self._episode += 1

    def act(self, action: str, thought: str = "") -> None:
        """Take a turn, unless there are none left."""
        if self.over:
            return
        self.observation, reward, terminated, truncated, self.info = self._env.step(action)
        self.over = terminated or truncated
        self.steps.append(SentAction(action, self.info["action_valid"], float(reward), thought))

    def let_expert_act(self) -> None:
        """Take the turn that the expert would take."""
        if not self.over:
            thought, action = self._inner.expert()
            self.act(action, thought)


# Pages ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Click:
    label: str
    action: str
    """What an agent sends instead."""
    marked: bool = False
    """A chosen option, or an article that was opened."""


@dataclass(frozen=True, slots=True)
class ResultCard:
    click: Click
    asin: str
    price: str


@dataclass(frozen=True, slots=True)
class OptionView:
    """An option, and the values to choose from."""

    name: str
    values: tuple[Click, ...]


@dataclass(frozen=True, slots=True)
class PageView:
    """A page; what it does not have is empty."""

    place: str
    """`search`, `search_results`, `item_page`, `item_sub_page` or `done`."""
    heading: str = ""
    ways: tuple[Click, ...] = ()
    """Back, and the pages before and after this one."""
    cards: tuple[ResultCard, ...] = ()
    choices: tuple[OptionView, ...] = ()
    texts: tuple[str, ...] = ()
    """An article's price and rating, or the text of a page of details."""
    details: tuple[Click, ...] = ()
    """Pages with more about an article."""
    buy: Click | None = None


def view(session: Session) -> PageView:
    """The page that a session is at."""
    nodes = session.page.nodes
    if session.place in ("search", "done"):
        return PageView(session.place)
    body = nodes[2:]  # behind the instruction, which is shown anyway
    buttons = {text: _click(text) for kind, text in body if kind == BUTTON}
    ways = tuple(
        buttons[name] for name in (pages.BACK, pages.PREVIOUS, pages.NEXT) if name in buttons
    )
    if session.place == "search_results":
        return PageView("search_results", _texts(body)[0], ways, _cards(session))
    title = session.catalogue.product(session.asin).title
    if session.place == "item_sub_page":
        return PageView("item_sub_page", f"{_sub_page(session)}: {title}", ways, texts=_texts(body))
    return PageView(
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


def _cards(session: Session) -> tuple[ResultCard, ...]:
    """The articles: a link each, then its title (unless that is empty) and its price."""
    nodes = session.page.nodes
    starts = [place for place, (kind, _) in enumerate(nodes) if kind == LINK]
    cards = []
    for start, end in zip(starts, [*starts, len(nodes)][1:], strict=True):
        asin, texts = nodes[start][1], _texts(nodes[start:end])
        title = texts[0] if len(texts) > 1 else asin
        click = Click(title, f"click[{asin.lower()}]", asin in session.visited)
        cards.append(ResultCard(click, asin, texts[-1]))
    return tuple(cards)


def _choices(session: Session) -> tuple[OptionView, ...]:
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
    return tuple(OptionView(name, tuple(values)) for name, values in found.items())


def _sub_page(session: Session) -> str:
    """The name of this page of details, from its address."""
    ends = {name: f"/{name}/{session.options}" for name in pages.SUB_PAGES}
    return next((name for name, end in ends.items() if session.url.endswith(end)), "Details")


# Receipts -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScorePart:
    name: str
    words: str
    share: float
    """How much of it was met, 0 to 1."""
    weight: float


@dataclass(frozen=True, slots=True)
class ReceiptArticle:
    """An article, bought or wanted."""

    title: str
    asin: str
    facts: tuple[tuple[str, str], ...]
    """(what, its value)"""


@dataclass(frozen=True, slots=True)
class Receipt:
    verdict: str
    score: float
    wanted: ReceiptArticle
    bought: ReceiptArticle | None = None
    kind: ScorePart | None = None
    """Whether it is the right kind of article: the other parts are multiplied by it."""
    parts: tuple[ScorePart, ...] = ()


def receipt(session: Session) -> Receipt:
    """The receipt of a finished episode. It names the target: never show it during one."""
    reward, goal = session.purchase, session.goal
    if reward is None:
        return Receipt("Nothing was bought", 0.0, _wanted(goal))
    verdict = "Just what was wanted" if reward.total == 1 else "Not all that was wanted"
    if reward.total == 0:
        verdict = "Nothing that was wanted"
    kind = ScorePart("Kind of article", _kind(reward), reward.r_type, 1.0)
    return Receipt(
        verdict, reward.total, _wanted(goal), _bought(session), kind, _parts(session, reward)
    )


def _parts(session: Session, reward: PurchaseReward) -> tuple[ScorePart, ...]:
    goal, price = session.goal, session.catalogue.price(session.asin)
    limit = f"the limit of {_dollars(goal.price_upper)}"
    words = f"{_dollars(price)} is {'within' if reward.r_price else 'above'} {limit}"
    if goal.price_upper >= NO_LIMIT:
        words = "No limit was given"
    parts = [
        _counted("Attributes", reward.r_att, len(goal.attributes), reward.w_att),
        _counted("Options", reward.r_option or 0.0, len(goal.options), reward.w_option),
        ScorePart("Price", words, float(reward.r_price), reward.w_price),
    ]
    return tuple(part for part in parts if part.weight)


def _counted(name: str, share: float, asked: int, weight: float) -> ScorePart:
    return ScorePart(name, f"{round(share * asked)} of the {asked} asked for", share, weight)


def _kind(reward: PurchaseReward) -> str:
    said = {1.0: "The right kind", 0.5: "A kind somewhat like it", 0.1: "Hardly the right kind"}
    reasons = (
        f"found by {'the same' if reward.query_match else 'another'} query",
        f"{'same' if reward.category_match else 'other'} category",
        f"{reward.title_score:.0%} of the nouns of the wanted title",
    )
    return f"{said.get(reward.r_type, 'Another kind')}: {', '.join(reasons)}"


def _bought(session: Session) -> ReceiptArticle:
    product = session.catalogue.product(session.asin)
    price = product.price_tag
    if len(product.prices) > 1:
        price += f" (counted as {_dollars(session.catalogue.price(session.asin))})"
    chosen = [f"{name}: {value}" for name, value in session.options.items()]
    return ReceiptArticle(
        product.title, product.asin, (("Price", price), ("Options", _listed(chosen)))
    )


def _wanted(goal: ShopGoal) -> ReceiptArticle:
    options = [each if isinstance(each, str) else ": ".join(each) for each in goal.options]
    limit = "no limit" if goal.price_upper >= NO_LIMIT else f"at most {_dollars(goal.price_upper)}"
    facts = (("Price", limit), ("Options", _listed(options)))
    return ReceiptArticle(goal.title, goal.asin, (*facts, ("Attributes", _listed(goal.attributes))))


def _listed(words: list[str] | tuple[str, ...]) -> str:
    return ", ".join(words) or "none"


def _dollars(price: float) -> str:
    return f"${price:,.2f}"
