"""What simple customers earn: python -m benchmarks.webshop.baselines [--episodes N] [--data DIR].

The task is neither trivial nor impossible if the oracle earns everything and these do not:

    oracle   the environment's expert
    first    searches the words of the instruction and buys the first article, without options
    random   clicks anything that can be clicked, after a search of the instruction
    shoes    the official random policy: searches "shoes", otherwise clicks anything

Scores and successes in percent, on the goals of one split. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from typing import Any

Chooser = Callable[[Any, str, dict[str, Any], random.Random], str]


def oracle(env: Any, page: str, info: dict[str, Any], rng: random.Random) -> str:
    action: str = env.expert()[1]
    return action


def first(env: Any, page: str, info: dict[str, Any], rng: random.Random) -> str:
    actions: list[str] = info["admissible_actions"]
    wanted = ("search[", "click[b0", "click[buy now]")
    return next((a for start in reversed(wanted) for a in actions if a.startswith(start)), "")


def anything(env: Any, page: str, info: dict[str, Any], rng: random.Random) -> str:
    return rng.choice(info["admissible_actions"])


def shoes(env: Any, page: str, info: dict[str, Any], rng: random.Random) -> str:
    action = anything(env, page, info, rng)
    return "search[shoes]" if action.startswith("search[") else action


AGENTS: dict[str, Chooser] = {"oracle": oracle, "first": first, "random": anything, "shoes": shoes}


def score(env: Any, choose: Chooser, episodes: int) -> dict[str, float]:
    """Mean score, share of successes and mean number of turns."""
    rng, total, won, turns = random.Random(0), 0.0, 0, 0
    for seed in range(episodes):
        page, info = env.reset(seed=seed)
        over = False
        while not over:
            page, _, terminated, truncated, info = env.step(choose(env, page, info, rng))
            over, turns = terminated or truncated, turns + 1
        total += info["score"]
        won += info["won"]
    return {"score": total / episodes, "success": won / episodes, "turns": turns / episodes}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--split", default="test")
    parser.add_argument("--data", help="a folder of official files: its articles, too")
    arguments = parser.parse_args(argv)
    import gymnasium as gym

    import aem_gym  # noqa: F401  (registers the ids)

    kinds: dict[str, dict[str, Any]] = {
        f"{difficulty}, {goals}": {"difficulty": difficulty, "goals": goals}
        for difficulty in ("full", "easy")
        for goals in ("human", "synthetic")
    }
    if arguments.data:
        kinds["official"] = {"data_dir": arguments.data}
    figures: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'shop':18} {'agent':8} {'score':>7} {'success':>8} {'turns':>6}")
    for kind, options in kinds.items():
        env = gym.make("aem_gym/WebShop-v0", split=arguments.split, **options).unwrapped
        figures[kind] = {}
        for name, choose in AGENTS.items():
            found = figures[kind][name] = score(env, choose, arguments.episodes)
            print(
                f"{kind:18} {name:8} {100 * found['score']:7.1f} {100 * found['success']:8.1f} "
                f"{found['turns']:6.1f}"
            )
    print(json.dumps({"benchmark": "webshop_baselines", "split": arguments.split, **figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
