"""Many sandboxes open at once in one process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from aem_gym.envs.swe.pool import SandboxPool
from aem_gym.envs.swe.sandbox.base import LABEL
from aem_gym.envs.swe.sandbox.connect import find
from aem_gym.envs.swe.tasks.base import SweTask
from benchmarks.swe.commands import times


def measure(pool: SandboxPool, task: SweTask, number: int) -> dict[str, float]:
    """Open them, run a command in each, close them."""
    before, descriptors = _available_mb(), _descriptors()
    start = time.perf_counter()
    ready = [pool.make(task) for _ in range(number)]
    opened = time.perf_counter() - start
    used, open_descriptors = before - _available_mb(), _descriptors()
    spent = [times(lambda r=r: r.sandbox.run("echo hello", 10), 1)[0] for r in ready]
    for one in ready:
        one.sandbox.close()
    return {
        "open_sandboxes": number,
        "open_s": opened,
        "open_mb_each": used / number,
        "open_command_p50_ms": median(spent),
        "descriptors_each": (open_descriptors - descriptors) / number,
        "descriptors_left": _descriptors() - descriptors,
        "containers_left": len(_containers(pool)),
    }


def _containers(pool: SandboxPool) -> list[object]:
    """Of this run: others may use the same engine."""
    client = find().client
    run = getattr(pool.engine, "run", "")
    return list(client.api.containers(all=True, filters={"label": f"{LABEL}={run}"}))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _available_mb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("expected MemAvailable in /proc/meminfo")
