"""The native environment against another commit: python -m benchmarks.alfworld versus COMMIT.

Checks out COMMIT in a temporary worktree and plays the same seeded episodes in both, one process
each. First both must answer with the same bytes (expert and random actions, every info). Then
both are timed in turn, round by round.
The last line is one JSON object; exit 1 on any difference or below the bar.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BAR = 0.95
"""Least ratio of speeds, this tree to the commit."""
KINDS: tuple[dict[str, Any], ...] = (
    {"difficulty": "small"},
    {"difficulty": "full"},
    {"difficulty": "full", "dialect": "0.3", "split": "valid_unseen"},
    {"difficulty": "small", "shuffle_numbers": True, "split": "valid_seen"},
)


def make(arguments: dict[str, Any]) -> Any:
    """An environment of the tree that comes first on the path."""
    import gymnasium as gym

    import aem_gym  # noqa: F401  (registers the ids)

    return gym.make("aem_gym/ALFWorld-v0", **arguments).unwrapped


def info_keys(arguments: dict[str, Any], episodes: int) -> list[str]:
    """The keys of the infos."""
    return sorted(make(arguments).reset(seed=episodes)[1])


def episode(env: Any, seed: int, by_expert: bool, without: list[str]) -> str:
    """Digest of everything that one episode answers, `without` some keys of its infos."""
    import numpy as np

    rng, digest = np.random.default_rng(seed), hashlib.sha256()
    observation, info = env.reset(seed=seed)
    answer: tuple[Any, ...] = (observation, info)
    over = False
    while not over:
        answer[-1].update(dict.fromkeys(without))
        digest.update(json.dumps(answer, sort_keys=True).encode())
        expert, possible = env.expert(), info["admissible_actions"]
        digest.update(repr(expert).encode())
        drawn = [*possible, "nonsense"][int(rng.integers(len(possible) + 1))]
        answer = env.step(expert[1] if by_expert else drawn)
        info, over = answer[4], answer[2] or answer[3]
    answer[-1].update(dict.fromkeys(without))
    digest.update(json.dumps(answer, sort_keys=True).encode())
    return digest.hexdigest()


def same_bytes(
    arguments: dict[str, Any], episodes: int, without: list[str] | None = None
) -> list[str]:
    """Digests of seeded episodes: by the expert, then at random."""
    env, left = make(arguments), without or []
    return [episode(env, seed, who, left) for who in (True, False) for seed in range(episodes)]


def times(arguments: dict[str, Any], episodes: int) -> dict[str, float]:
    """Mean CPU seconds of a reset and of a step: the expert's episodes, played once more."""
    env, clock = make(arguments), time.process_time
    plays = [(seed, expert_actions(env, seed)) for seed in range(episodes)]
    steps = 0.0
    for seed, actions in plays:
        env.reset(seed=seed)
        start = clock()
        for action in actions:
            env.step(action)
        steps += clock() - start
    start = clock()
    for seed in range(episodes, 3 * episodes):  # games that were not made yet
        env.reset(seed=seed)
    resets = (clock() - start) / (2 * episodes)
    return {"reset": resets, "step": steps / sum(len(actions) for _, actions in plays)}


def expert_actions(env: Any, seed: int) -> list[str]:
    """What the expert does in an episode."""
    env.reset(seed=seed)
    actions, over = [], False
    while not over:
        actions.append(env.expert()[1])
        _, _, terminated, truncated, _ = env.step(actions[-1])
        over = terminated or truncated
    return actions


class Player:
    """A process that plays with the package of one tree."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, what: str, *arguments: Any) -> Any:
        """The answer of `info_keys`, `same_bytes` or `times` there."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def answer_questions() -> None:
    """What the process of a `Player` does: a line of JSON for each line of JSON."""
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        answer: Any = {f.__name__: f for f in (info_keys, same_bytes, times)}[what](*arguments)
        print(json.dumps(answer), flush=True)


def compare(old: Player, new: Player, kinds: list[dict[str, Any]], episodes: int) -> int:
    """How many episodes differ. Keys of infos that one tree lacks are printed and left out."""
    different = 0
    keys = [set(player.ask("info_keys", kinds[0], 0)) for player in (old, new)]
    without = sorted(keys[0] ^ keys[1])
    print(f"keys of infos that only one of the trees has: {', '.join(without) or 'none'}")
    for kind in kinds:
        pairs = zip(
            *(p.ask("same_bytes", kind, episodes, without) for p in (old, new)), strict=True
        )
        count = sum(one != other for one, other in pairs)
        print(f"{kind}: {2 * episodes} episodes, {count} differ", flush=True)
        different += count
    return different


def speed(old: Player, new: Player, rounds: int, episodes: int) -> dict[str, float]:
    """Ratios commit / this tree of the best rounds: other load on the machine only adds time."""
    figures: dict[str, float] = {}
    for kind in KINDS[:2]:
        asked = [
            [player.ask("times", kind, episodes) for player in (old, new)] for _ in range(rounds)
        ]
        for what in ("reset", "step"):
            before, now = (min(one[what] for one in column) for column in zip(*asked, strict=True))
            name = f"{kind['difficulty']}_{what}"
            figures |= {f"{name}_ratio": before / now, f"{name}_us": now * 1e6}
    return figures


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--episodes", type=int, default=200, help="compared, of each kind and way")
    parser.add_argument("--rounds", type=int, default=25, help="of timing, in turn")
    parser.add_argument("--timed", type=int, default=40, help="episodes in each round")
    parser.add_argument("--data", help="a folder with official games: compared as well")
    arguments = parser.parse_args(argv)
    root = Path(__file__).resolve().parents[2]
    kinds = [*KINDS, *([{"data_dir": arguments.data}] if arguments.data else [])]
    git = ["git", "-C", str(root), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        there = str(Path(folder) / "commit")
        add = [*git, "add", "--detach", "--force", there, arguments.commit]
        subprocess.run(add, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        old, new = Player(Path(there)), Player(root)
        try:
            different = compare(old, new, kinds, arguments.episodes)
            figures: dict[str, Any] = speed(old, new, arguments.rounds, arguments.timed)
        finally:
            old.close()
            new.close()
            subprocess.run([*git, "remove", "--force", there], check=True)
    for key, value in figures.items():
        print(f"{key:20} {value:8.3f}")
    met = not different and all(v >= BAR for key, v in figures.items() if key.endswith("ratio"))
    figures |= {"episodes": 2 * arguments.episodes * len(kinds), "episodes_that_differ": different}
    head = {"benchmark": "alfworld_versus", "commit": arguments.commit}
    print(json.dumps(head | figures | {"bar": BAR, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    answer_questions()
