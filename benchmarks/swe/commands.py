"""A command's round trip."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median, quantiles

from aem_gym.envs.swe.pool import SandboxPool
from aem_gym.envs.swe.tasks.base import SweTask
from benchmarks.swe.plain import Plain

_EXECS = 40


def measure(pool: SandboxPool, task: SweTask, number: int) -> dict[str, float]:
    """Milliseconds of `echo` in the persistent shell and by `docker exec`."""
    ready = pool.take(task)
    try:
        ours = times(lambda: ready.sandbox.run("echo hello", 10), number)
    finally:
        ready.sandbox.close()
    plain = Plain()
    container = plain.open(pool.engine.image(task.image), task)
    try:
        theirs = times(lambda: plain.run(container, "echo hello"), _EXECS)
    finally:
        container.remove(v=True, force=True)
    return {
        "command_p50_ms": median(ours),
        "command_p95_ms": quantiles(ours, n=20)[-1],
        "exec_p50_ms": median(theirs),
        "exec_over_command": median(theirs) / median(ours),
    }


def times(call: Callable[[], object], number: int) -> list[float]:
    """Milliseconds of each of so many calls."""
    found = []
    for _ in range(number):
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1000)
    return found
