"""Customers' goals: made from instructions, in their official order, and split.

The official engine draws prices and price limits from the global generator before it seeds
anything, so they differ from process to process; here one generator, seeded by the caller, draws
all of them in the same order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product as combinations
from typing import Any

from aem_gym.envs.webshop.catalogue import Product

NO_LIMIT = 1_000_000.0


@dataclass(frozen=True, slots=True)
class ShopGoal:
    """A customer's wish, and the article it was written for."""

    asin: str
    title: str
    text: str
    """The instruction, with its price clause."""
    attributes: tuple[str, ...]
    options: tuple[str, ...] | tuple[tuple[str, str], ...] = ()
    """Values (people's goals), or pairs of name and value (synthetic ones)."""
    price_upper: float = NO_LIMIT
    category: str = ""
    product_category: str = ""
    query: str = ""
    weight: float = 1.0


def parse_goal(entry: Mapping[str, Any]) -> ShopGoal:
    """A goal as the official engine holds it."""
    options = entry["goal_options"]
    pairs = tuple(options.items()) if isinstance(options, Mapping) else tuple(options)
    return ShopGoal(
        asin=entry["asin"],
        title=entry["name"],
        text=entry["instruction_text"],
        attributes=tuple(entry["attributes"]),
        options=pairs,
        price_upper=float(entry["price_upper"]),
        category=entry["category"],
        product_category=entry["product_category"],
        query=entry["query"],
        weight=float(entry.get("weight", 1.0)),
    )


SHUFFLE_SEED = 233
_LIMITS = range(10, 1000, 10)
_CANDIDATES = 4


def human_goals(
    products: Iterable[Product], prices: Mapping[str, float], rng: random.Random
) -> list[ShopGoal]:
    """People's goals, in the order of the articles."""
    goals = []
    for product in products:
        for instruction in product.human:
            if not instruction.attributes:
                continue
            limit, clause = _limit(prices[product.asin], rng)
            text = instruction.text.strip(".") + clause
            goal = _goal(product, text, instruction.attributes, limit)
            goals.append(replace(goal, options=instruction.options))
    return goals


def synthetic_goals(
    products: Iterable[Product], prices: Mapping[str, float], rng: random.Random
) -> list[ShopGoal]:
    """Goals made from attributes: one for each combination of an article's options."""
    goals: list[ShopGoal] = []
    uses: Counter[str] = Counter()
    for product in products:
        instruction = product.synthetic
        if instruction is None or not instruction.attributes:
            continue
        limit, clause = _limit(prices[product.asin], rng)
        options = sorted(dict(product.options).items())
        for values in combinations(*(values for _, values in options)):
            chosen = tuple((name, value) for (name, _), value in zip(options, values, strict=True))
            wish = ", and ".join(f"{name}: {value}" for name, value in chosen)
            text = instruction.text + (f" with {wish}" if wish else "") + clause
            goal = _goal(product, text, instruction.attributes, limit)
            goals.append(replace(goal, options=chosen))
            uses.update(instruction.attributes)
    return [
        replace(goal, weight=sum(1 / uses[a] for a in goal.attributes) / len(goal.attributes))
        for goal in goals
    ]


def official_order(goals: list[ShopGoal]) -> list[ShopGoal]:
    """The goals in the order in which the official engine numbers them."""
    shuffled = list(goals)
    random.Random(SHUFFLE_SEED).shuffle(shuffled)
    return shuffled


def _limit(price: float, rng: random.Random) -> tuple[float, str]:
    """Draw a price limit: (dollars, the clause of the instruction about it)."""
    above = [limit for limit in _LIMITS if limit > price][:_CANDIDATES]
    if len(above) < 2:
        return NO_LIMIT, ""
    limit = float(max(rng.sample(above, 2)))
    return limit, f", and price lower than {limit:.2f} dollars"


def _goal(product: Product, text: str, attributes: tuple[str, ...], limit: float) -> ShopGoal:
    return ShopGoal(
        asin=product.asin,
        title=product.title,
        text=text,
        attributes=attributes,
        price_upper=limit,
        category=product.category,
        product_category=product.product_category,
        query=product.query,
    )


# Splits ---------------------------------------------------------------------------------------


SPLITS = ("train", "eval", "test")
SPLIT_MODES = ("official", "verl-agent")
_TEST, _EVAL = 500, 1500
"""Official goals 0-499 are for testing, 500-1499 for evaluation, the others for training."""
_ENOUGH = 3000
"""With fewer goals than this the bounds shrink in proportion, so that half are left to train on."""


def bounds(split: str, goals: int) -> range:
    """The numbers of a split's goals, among so many in the official order.

    Returns:
        An empty range if there are too few goals to share out.
    """
    share = min(1.0, goals / _ENOUGH)
    first, second = int(_TEST * share), int(_EVAL * share)
    if split == "test":
        return range(first)
    return range(first, second) if split == "eval" else range(second, goals)


def goal_order(goals: int, split_mode: str, order_seed: int) -> Sequence[int]:
    """The number in the official order of each goal, by its number in this order.

    In `official` mode that is the number itself. In `verl-agent` mode every worker shuffles the
    goals by its own seed in place of the official 233, as GiGPO's code does: the bounds then no
    longer keep test goals out of training, because one worker's test goals are another's training
    goals.
    """
    if split_mode == "official":
        return range(goals)
    official = _shuffled(goals, SHUFFLE_SEED)
    place = {number: position for position, number in enumerate(official)}
    return [place[number] for number in _shuffled(goals, order_seed)]


def _shuffled(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order
