"""From `reset()` to the first observation, through the Gymnasium environment."""

from __future__ import annotations

from statistics import median, quantiles
from typing import Any

import gymnasium as gym

from aem_gym.envs.swe.pool import SandboxPool
from aem_gym.envs.swe.tasks.base import SweTask
from benchmarks.swe.commands import times


def measure(
    pool: SandboxPool, task: SweTask, suite: str, engine: str, number: int
) -> dict[str, float]:
    """Milliseconds with the sandbox prefetched, and without."""
    env: Any = gym.make("aem_gym:aem_gym/SWE-v0", tasks=suite, split=task.split, engine=engine)
    options = {"task_id": task.task_id}
    warm: list[float] = []
    cold: list[float] = []
    for seed in range(number):
        env.unwrapped.prefetch(seed=seed, options=options)
        pool.wait()
        warm += times(lambda: env.reset(options=options), 1)
    for _ in range(number):
        cold += times(lambda: env.reset(options=options), 1)
    env.close()
    return {
        "reset_p50_ms": median(warm),
        "reset_p95_ms": quantiles(warm, n=20)[-1],
        "reset_cold_p50_ms": median(cold),
    }
