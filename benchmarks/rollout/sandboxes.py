"""Sandboxes of SWE whose commands wait, in one process: `python -m benchmarks.rollout.sandboxes`.

    python -m benchmarks.rollout.sandboxes ENGINE FOLDER RESETS SANDBOXES COMMANDS

Begins with RESETS first resets from as many threads, before anything has asked for the process'
pool; then SANDBOXES episodes of COMMANDS commands that sleep for a second each, all at once and one
after the other. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from aem_gym.envs.swe.env import SWEEnv
from aem_gym.envs.swe.sandbox.base import SandboxError
from aem_gym.envs.swe.sandbox.engines import open_engine
from aem_gym.protocols import EpisodeStart, Response, TurnInput
from aem_gym.rollout.collector import Collector, CollectorSettings, requests_for
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool

COMMAND, PRINTED = "sleep 1; echo $((6 * 7))", "42\n"
LOCAL = ("bubblewrap", "process")
"""Engines for machines without containers. The commands here are our own."""


class Sleeper:
    """Gives the same command in every turn, and times them.

    Attributes:
        seconds: how long some episode was between its first command and its end. Resets are before.
    """

    name = "sleeper"

    def __init__(self) -> None:
        self.seconds = self._began = 0.0
        self._live = 0

    def begin(self, start: EpisodeStart) -> None:
        """Nothing before the first command."""

    def act(self, inputs: Sequence[TurnInput]) -> list[Response]:
        first = sum(turn.turn == 0 for turn in inputs)
        if first and not self._live:
            self._began = time.perf_counter()
        self._live += first
        return [Response(COMMAND) for _ in inputs]

    def end(self, slot: int) -> None:
        self._live -= 1
        if not self._live:
            self.seconds += time.perf_counter() - self._began


def choose_engine() -> str:
    """A container engine if one answers, else one that works here without. Raises SandboxError."""
    failures: list[str] = []
    for name in ("auto", *LOCAL):
        try:
            open_engine(name).close()
            return name
        except SandboxError as error:
            failures.append(f"{name}: {error}")
    raise SandboxError("no sandbox engine works here:\n" + "\n".join(failures))


def write_task(folder: Path) -> str:
    """A repository with one file, and a task about it: the file of tasks."""
    repo = folder / "repository"
    repo.mkdir(parents=True)
    (repo / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    (folder / "hidden.py").write_text(
        "from calc import add\n\n\ndef test_add():\n    assert add(2, 2) == 4\n"
    )
    who = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *words], cwd=repo, check=True)
    task = {"id": "add", "issue": "add(2, 2) gives 0", "tests": {"test_calc.py": "hidden.py"}}
    content = {
        "repo": "repository",
        "test_command": "python -m pytest --junitxml={report} test_calc.py",
        "tasks": [{**task, "split": "train", "fail_to_pass": ["test_calc.py::test_add"]}],
    }
    file = folder / "tasks.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


def first_resets(make: Callable[[], SWEEnv], threads: int) -> dict[str, Any]:
    """How many of so many threads get a sandbox that answers, all asking at the same moment."""
    together, failures = threading.Barrier(threads), list[str]()
    envs, answered = list[SWEEnv](), list[str]()

    def reset() -> None:
        try:
            env = make()
            envs.append(env)
            together.wait()
            env.reset(seed=0)
            answered.append(env.step("echo $((6 * 7))")[0])
        except Exception as error:  # a figure of its own
            failures.append(f"{type(error).__name__}: {error}")

    clock = time.perf_counter()
    every = [threading.Thread(target=reset) for _ in range(threads)]
    for thread in every:
        thread.start()
    for thread in every:
        thread.join()
    seconds = time.perf_counter() - clock
    for env in envs:
        env.close()
    right = sum(text.startswith(PRINTED) for text in answered)
    found = {"first_resets": threads, "first_resets_ok": right, "first_resets_seconds": seconds}
    return found | ({"first_failure": failures[0]} if failures else {})


def play(pool: EnvPool, sandboxes: int, commands: int, at_once: int) -> tuple[float, float]:
    """Seconds of the commands of so many episodes, and of the episodes with their resets."""
    template = pool.describe().prompt_templates["default"]
    settings = CollectorSettings(template, max_concurrent_episodes=at_once)
    agent, clock = Sleeper(), time.perf_counter()
    episodes = Collector(pool, agent, settings).run(requests_for(range(sandboxes), 1, "sleep"))
    whole = time.perf_counter() - clock
    for episode in episodes:
        seen = [turn.observation.startswith(PRINTED) for turn in episode.turns[1:]]
        if episode.error or len(episode.turns) != commands or not all(seen):
            raise RuntimeError(f"expected {commands} commands that print {PRINTED!r}: {episode}")
    return agent.seconds, whole


def measure(engine: str, folder: Path, resets: int, sandboxes: int, commands: int) -> Any:
    """All figures by name."""
    args: dict[str, Any] = {"tasks": write_task(folder), "engine": engine, "max_turns": commands}
    figures: dict[str, Any] = {"engine": engine}
    figures |= first_resets(lambda: SWEEnv(**args), resets)
    spec = EnvSpec("aem_gym/SWE-v0", args)
    with EnvPool(spec, step_timeout=600, reset_timeout=600) as pool:
        # Those at once are taken before and after, as the machine may change meanwhile.
        before = play(pool, sandboxes, commands, 0)
        apart = play(pool, sandboxes, commands, 1)
        after = play(pool, sandboxes, commands, 0)
    together = [statistics.mean(pair) for pair in zip(before, after, strict=True)]
    return figures | {
        "sandbox_ratio": apart[0] / together[0],
        "sandbox_seconds": together[0],
        "sandbox_one_by_one_seconds": apart[0],
        "sandbox_episodes_ratio": apart[1] / together[1],
    }


def main() -> None:
    engine, folder, *numbers = sys.argv[1:]
    print(json.dumps(measure(engine, Path(folder), *map(int, numbers))), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
