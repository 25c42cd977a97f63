"""How an episode ended, in words: what was bought, what was wanted, what each part was worth."""

from __future__ import annotations

from dataclasses import dataclass

from aem_gym.envs.webshop.engine import Session
from aem_gym.envs.webshop.goals import NO_LIMIT, Goal
from aem_gym.envs.webshop.reward import Reward


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the score."""

    name: str
    words: str
    share: float
    """How much of it was met, 0 to 1."""
    weight: float


@dataclass(frozen=True, slots=True)
class Article:
    """An article, bought or wanted."""

    title: str
    asin: str
    facts: tuple[tuple[str, str], ...]
    """(what, its value)"""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The end of an episode."""

    verdict: str
    score: float
    wanted: Article
    bought: Article | None = None
    kind: Part | None = None
    """Whether it is the right kind of article: the other parts are multiplied by it."""
    parts: tuple[Part, ...] = ()


def receipt(session: Session) -> Receipt:
    """What a finished episode came to. Tells the target: show it to nobody who still plays."""
    reward, goal = session.purchase, session.goal
    if reward is None:
        return Receipt("Nothing was bought", 0.0, _wanted(goal))
    verdict = "Just what was wanted" if reward.total == 1 else "Not all that was wanted"
    if reward.total == 0:
        verdict = "Nothing that was wanted"
    kind = Part("Kind of article", _kind(reward), reward.r_type, 1.0)
    return Receipt(
        verdict, reward.total, _wanted(goal), _bought(session), kind, _parts(session, reward)
    )


def _parts(session: Session, reward: Reward) -> tuple[Part, ...]:
    goal, price = session.goal, session.catalogue.price(session.asin)
    limit = f"the limit of {_dollars(goal.price_upper)}"
    words = f"{_dollars(price)} is {'within' if reward.r_price else 'above'} {limit}"
    if goal.price_upper >= NO_LIMIT:
        words = "No limit was given"
    parts = [
        _counted("Attributes", reward.r_att, len(goal.attributes), reward.w_att),
        _counted("Options", reward.r_option or 0.0, len(goal.options), reward.w_option),
        Part("Price", words, float(reward.r_price), reward.w_price),
    ]
    return tuple(part for part in parts if part.weight)


def _counted(name: str, share: float, asked: int, weight: float) -> Part:
    return Part(name, f"{round(share * asked)} of the {asked} asked for", share, weight)


def _kind(reward: Reward) -> str:
    said = {1.0: "The right kind", 0.5: "A kind somewhat like it", 0.1: "Hardly the right kind"}
    reasons = (
        f"found by {'the same' if reward.query_match else 'another'} query",
        f"{'same' if reward.category_match else 'other'} category",
        f"{reward.title_score:.0%} of the nouns of the wanted title",
    )
    return f"{said.get(reward.r_type, 'Another kind')}: {', '.join(reasons)}"


def _bought(session: Session) -> Article:
    product = session.catalogue.product(session.asin)
    price = product.price_tag
    if len(product.prices) > 1:
        price += f" (counted as {_dollars(session.catalogue.price(session.asin))})"
    chosen = [f"{name}: {value}" for name, value in session.options.items()]
    return Article(product.title, product.asin, (("Price", price), ("Options", _listed(chosen))))


def _wanted(goal: Goal) -> Article:
    options = [each if isinstance(each, str) else ": ".join(each) for each in goal.options]
    limit = "no limit" if goal.price_upper >= NO_LIMIT else f"at most {_dollars(goal.price_upper)}"
    facts = (("Price", limit), ("Options", _listed(options)))
    return Article(goal.title, goal.asin, (*facts, ("Attributes", _listed(goal.attributes))))


def _listed(words: list[str] | tuple[str, ...]) -> str:
    return ", ".join(words) or "none"


def _dollars(price: float) -> str:
    return f"${price:,.2f}"
