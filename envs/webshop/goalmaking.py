"""Goals from instructions, as the official engine makes them.

It draws prices and price limits from the global generator before it seeds anything, so they differ
from process to process; here one generator, seeded by the caller, does all of it in the same order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product as combinations

from aem_gym.envs.webshop.goals import NO_LIMIT, Goal
from aem_gym.envs.webshop.products import Product

SHUFFLE_SEED = 233
_LIMITS = range(10, 1000, 10)
_CANDIDATES = 4


def human_goals(
    products: Iterable[Product], prices: Mapping[str, float], rng: random.Random
) -> list[Goal]:
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
) -> list[Goal]:
    """Goals made from attributes: one for each combination of an article's options."""
    goals: list[Goal] = []
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


def official_order(goals: list[Goal]) -> list[Goal]:
    """The goals in the order in which the official engine numbers them."""
    shuffled = list(goals)
    random.Random(SHUFFLE_SEED).shuffle(shuffled)
    return shuffled


def _limit(price: float, rng: random.Random) -> tuple[float, str]:
    """(the most that may be paid, the clause that says so)."""
    above = [limit for limit in _LIMITS if limit > price][:_CANDIDATES]
    if len(above) < 2:
        return NO_LIMIT, ""
    limit = float(max(rng.sample(above, 2)))
    return limit, f", and price lower than {limit:.2f} dollars"


def _goal(product: Product, text: str, attributes: tuple[str, ...], limit: float) -> Goal:
    return Goal(
        asin=product.asin,
        title=product.title,
        text=text,
        attributes=attributes,
        price_upper=limit,
        category=product.category,
        product_category=product.product_category,
        query=product.query,
    )
