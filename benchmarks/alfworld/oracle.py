"""How many games the oracle wins: python -m benchmarks.alfworld oracle [--games N] [--data DIR].

Generated games of both dialects (and the official ones under --data), to the turn limit: 50, or 14
in small rooms. Prints a table per task type in the published order; the last line is one JSON
object; exit 1 below 99.9%.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

BAR = 0.999


@dataclass(slots=True)
class Tally:
    """What came of the games of one kind."""

    games: int = 0
    won: int = 0
    steps: list[int] = field(default_factory=list)
    """Of the games that were won."""


def play(env: Any, seed: int, task_type: str | None) -> tuple[dict[str, Any], int]:
    """(last info, steps) of one episode of the oracle."""
    _, info = env.reset(seed=seed, options={"task_type": task_type} if task_type else None)
    over, steps = False, 0
    while not over:
        *_, terminated, truncated, info = env.step(env.expert()[1])
        over, steps = terminated or truncated, steps + 1
    return info, steps


def episodes(arguments: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any], int]]:
    """(task type, dialect, last info, steps) of every episode."""
    from aem_gym.envs.alfworld.classes import TASK_TYPES
    from aem_gym.envs.alfworld.env import ALFWorldEnv

    make = {"expert_search": arguments.search, "expert_noise": arguments.noise}
    envs = [
        ALFWorldEnv(split=split, dialect=dialect, difficulty=arguments.difficulty, **make)
        for split in ("train", "valid_seen", "valid_unseen")
        for dialect in ("0.4", "0.3")
    ]
    for index in range(arguments.games):
        env, task_type = envs[index % len(envs)], TASK_TYPES[index // len(envs) % len(TASK_TYPES)]
        info, steps = play(env, arguments.seed + index, task_type)
        yield task_type, env.dialect, info, steps
    if arguments.data:
        official = ALFWorldEnv(data_dir=arguments.data, **make)
        for entry in range(arguments.official):
            info, steps = play(official, arguments.seed + entry, None)
            yield info["task_type"], "official", info, steps


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1_000_000)
    parser.add_argument("--difficulty", choices=("full", "small"), default="full")
    parser.add_argument("--search", default="likely", help="order of search")
    parser.add_argument("--noise", type=float, default=0.0, help="share of random actions")
    parser.add_argument("--data", help="a folder with official games: played as well")
    parser.add_argument("--official", type=int, default=100, help="episodes of official games")
    arguments = parser.parse_args(argv)
    from tqdm import tqdm

    from aem_gym.envs.alfworld.classes import TASK_TYPES

    start, tallies, lost = time.perf_counter(), {}, []
    for task_type, dialect, info, steps in tqdm(episodes(arguments), unit="game"):
        tally = tallies.setdefault((task_type, dialect), Tally())
        tally.games += 1
        if info["won"]:
            tally.won += 1
            tally.steps.append(steps)
        else:
            lost.append(info["task_id"])
    print(f"{'task type':32} {'dialect':9} {'won':>13} {'mean steps':>11} {'most':>5}")
    for key in sorted(tallies, key=lambda key: (TASK_TYPES.index(key[0]), key[1])):
        tally = tallies[key]
        mean = sum(tally.steps) / max(len(tally.steps), 1)
        print(
            f"{key[0]:32} {key[1]:9} {tally.won:6} /{tally.games:5} {mean:11.1f} "
            f"{max(tally.steps, default=0):5}"
        )
    games, won = sum(t.games for t in tallies.values()), sum(t.won for t in tallies.values())
    every = [steps for tally in tallies.values() for steps in tally.steps]
    figures = {"benchmark": "alfworld_oracle", "games": games, "won": won, "share": won / games}
    figures |= {"mean_steps": sum(every) / max(len(every), 1), "lost": lost[:10]}
    print(json.dumps(figures | {"seconds": time.perf_counter() - start, "bar": BAR}))
    return 0 if won / games >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
