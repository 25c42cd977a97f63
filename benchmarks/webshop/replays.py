"""Steps per second of the shop, playing recorded episodes with their own actions."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aem_gym.envs.webshop.authoring.conformance import open_shop
from aem_gym.envs.webshop.catalogue import MemoryCatalogue
from aem_gym.envs.webshop.dataset import draw_prices, load_products
from aem_gym.envs.webshop.engine import Session
from aem_gym.envs.webshop.goals import human_goals, official_order
from aem_gym.envs.webshop.reward import Nouns
from aem_gym.envs.webshop.shops import Shop

_STRETCHES = 20


def open_recorded(products: Path, attributes: Path, human: Path, goals: Path | None) -> Shop:
    """The shop of some recordings; without theirs, prices and goals are drawn with seed 0."""
    if goals is not None:
        return open_shop(products, attributes, human, goals, None)
    stock = load_products(products, attributes, human)
    rng = random.Random(0)
    prices = draw_prices(stock.products, rng)
    wanted = official_order(human_goals(stock.products, prices, rng))
    return Shop(MemoryCatalogue(stock.products, prices), wanted, Nouns(), str(products), digest="")


def replay(shop: Shop, traces: Sequence[Any], seconds: float) -> dict[str, float]:
    """Steps per second, the best of twenty stretches, and per second of the processor's time.

    The second figure is the mean of all stretches; other work on the machine leaves it as it is, or
    nearly so. Text and available actions are rendered at every step; nothing of a search is kept
    from one episode to the next.
    """
    episodes = [
        (
            shop.goals[episode["goal_idx"] % len(shop.goals)],
            [step["action"] for step in episode["steps"] if "error" not in step],
        )
        for episode in traces
    ]
    total = sum(len(actions) for _, actions in episodes)
    searches = sum(action.startswith("search") for _, some in episodes for action in some)
    rates, played, used = [], 0, time.process_time()
    for _ in range(_STRETCHES):
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / _STRETCHES:
            for goal, actions in episodes:
                session = Session(shop.catalogue, goal, shop.nouns, strict=True)
                for action in actions:
                    session.step(action)
                    session.text()
                    session.available_actions()
            steps += total
        rates.append(steps / (time.perf_counter() - start))
        played += steps
    return {
        "steps_per_second": max(rates),
        "steps_per_cpu_second": played / (time.process_time() - used),
        "searches_share": searches / total,
    }
