"""How fast the native ALFWorld is: python -m benchmarks.alfworld native [--episodes N].

Prints a table, and as the last line the same figures as JSON. Times are of one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

from benchmarks.alfworld.timing import timed

BARS = {"first_reset_s": 0.2, "reset_ms": 3.0, "small_step_us": 100.0}
"""What the project promises: make + first reset, later resets, a step in small rooms."""


def measure(difficulty: str, dialect: str, episodes: int) -> dict[str, float | str]:
    """Figures of one kind of room, over `episodes` episodes played by the oracle."""
    import gymnasium as gym

    import aem_gym  # noqa: F401  (registers the ids)

    def make() -> Any:
        env = gym.make("aem_gym/ALFWorld-v0", difficulty=difficulty, dialect=dialect)
        env.reset(seed=0)
        return env.unwrapped

    env, first = timed(make)
    resets, steps, experts, won = [], [], [], 0
    for seed in range(episodes):
        (_, info), seconds = timed(lambda seed=seed: env.reset(seed=seed))
        resets.append(seconds)
        over = False
        while not over:
            (_, action), seconds = timed(env.expert)
            experts.append(seconds)
            (_, _, terminated, truncated, info), seconds = timed(
                lambda action=action: env.step(action)
            )
            steps.append(seconds)
            over = terminated or truncated
        won += info["won"]
    return {
        "rooms": difficulty,
        "dialect": dialect,
        "first_reset_s": first,
        "reset_ms": statistics.mean(resets) * 1e3,
        "step_us": statistics.mean(steps) * 1e6,
        "step_us_p99": statistics.quantiles(steps, n=100)[98] * 1e6,
        "steps_per_s": 1 / statistics.mean(steps),
        "expert_us": statistics.mean(experts) * 1e6,
        "turns": len(steps) / episodes,
        "won": won / episodes,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1000)
    episodes = parser.parse_args(argv).episodes
    rows = [
        measure(difficulty, dialect, episodes)
        for difficulty in ("small", "full")
        for dialect in ("0.4", "0.3")
    ]
    print(" | ".join(f"{name:>13}" for name in rows[0]))
    for row in rows:
        cells = (f"{v:13.3f}" if isinstance(v, float) else f"{v:>13}" for v in row.values())
        print(" | ".join(cells))
    kept = (
        all(float(row["first_reset_s"]) <= BARS["first_reset_s"] for row in rows)
        and all(float(row["reset_ms"]) <= BARS["reset_ms"] for row in rows)
        and all(float(row["step_us"]) <= BARS["small_step_us"] for row in rows[:2])
    )
    print(json.dumps({"benchmark": "alfworld_native", "rows": rows, "bars": BARS, "kept": kept}))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
