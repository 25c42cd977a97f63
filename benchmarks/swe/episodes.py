"""Whole episodes, against the plain way through the SDK."""

from __future__ import annotations

import time
from collections.abc import Callable

from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.pool import SandboxPool
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.workspace import take_patch
from benchmarks.swe.plain import Plain

_LOOK = ["git status --short", "ls -la", "grep -rn def . | head -50", "git log --oneline"]
_COMMANDS = 20


def measure(
    pool: SandboxPool, task: SweTask, image: str, suite: str, number: int
) -> dict[str, float]:
    """Episodes per second, both ways, with grading; all of them have to be resolved."""
    plain = Plain()
    mend = f"git apply - <<'END'\n{task.gold}END"
    commands = [_LOOK[i % len(_LOOK)] for i in range(_COMMANDS - 1)] + [mend]
    ours = _rate(lambda: _episode(pool, task, commands), number)
    theirs = _rate(lambda: plain.episode(image, task, commands), number)
    return {
        "episode_commands": _COMMANDS,
        "episodes_per_second": ours,
        "plain_episodes_per_second": theirs,
        "episodes_ratio": ours / theirs,
    }


def _episode(pool: SandboxPool, task: SweTask, commands: list[str]) -> bool:
    pool.prefetch(task)  # the next one, as a training run does
    ready = pool.take(task)
    try:
        for command in commands:
            ready.sandbox.run(command, 60)
        patch = take_patch(ready.sandbox, ready.workspace)
    finally:
        pool.release(ready.sandbox)
    return grade(pool.engine, task, patch).resolved


def _rate(episode: Callable[[], bool], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        if not episode():
            raise RuntimeError("expected a resolved episode")
    return number / (time.perf_counter() - start)
