"""The constants of this machine, from two small runs, near those that the package ships."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from aem_gym.agents.shapes import chunks, model_shape
from aem_gym.config import Config
from aem_gym.settings import settle
from aem_gym.shape import ModelShape
from aem_gym.training.duration import CPU as SPEED
from aem_gym.training.duration import Speed, TimeEstimate, estimate_time
from aem_gym.training.memory import CPU, MemoryConstants, MemoryLayout, estimate_memory
from aem_gym.training.workload import Workload

COMMON: dict[str, Any] = {
    **{"env_args": {"difficulty": "small"}, "group_size": 4, "steps": 3, "max_new_tokens": 12},
    **{"eval_every": 0, "loggers": [], "threads": 1, "device": "cpu"},
    **{"save_every": 1000, "warmstart_steps": 0, "warmstart_episodes": 100},
}
_RATES = ("flops", "read", "moved")
_COSTS = ("call", "turn")
_TIE = 0.15
"""How strongly a constant is held at its shipped value where two runs do not tell it."""


def sized(hidden: int, layers: int, heads: int, mlp: int) -> dict[str, int]:
    """Sizes of a random model."""
    return {"hidden": hidden, "layers": layers, "heads": heads, "mlp": mlp}


@dataclass(frozen=True)
class Run:
    """A run that was measured."""

    name: str
    config: Config
    shape: ModelShape
    work: Workload
    peak: float
    """Bytes above imports, with an allocator that gives memory back."""
    kept: float
    """The same with glibc's defaults, which keep what was freed."""
    rollout: float
    rest: float
    """CPU seconds of a step beside the rollout."""

    def memory(self, constants: MemoryConstants) -> float:
        given = {"gpu": False, "constants": constants, "chunks": chunks()}
        return estimate_memory(self.config, self.shape, self.work, **given).peak

    def time(self, speed: Speed) -> TimeEstimate:
        layout = MemoryLayout(self.config, self.shape, self.work, False)
        return estimate_time(self.config, self.shape, self.work, speed, layout)


def run(name: str, settings: dict[str, Any]) -> Run:
    """Measure one run, in processes of their own."""
    given = {**COMMON, **settings}
    if given["model"] != "tiny":
        given = {k: v for k, v in given.items() if not k.startswith("warmstart")}
    else:
        _measure(given | {"steps": 0})  # makes the model, which stays in the cache
    lean = _measure(given, MALLOC_MMAP_THRESHOLD_="65536")
    plain = _measure(given)
    config = settle(given).config
    return Run(
        name,
        config,
        model_shape(config),
        Workload(**plain["workload"]),
        lean["peak"],
        plain["peak"],
        plain["seconds_rollout"],
        plain["seconds"] - plain["seconds_rollout"],
    )


def _measure(settings: dict[str, Any], **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.estimate.measured"],
        input=json.dumps(settings),
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"a run with {settings} ended with {done.returncode}:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def memory_constants(runs: list[Run]) -> MemoryConstants:
    """What a process takes beside the formula's tensors."""
    bare = dataclasses.replace(CPU, base=0.0)
    beside = float(np.mean([each.peak - each.memory(bare) for each in runs]))
    return dataclasses.replace(CPU, base=max(0.0, beside))


def speed(runs: list[Run]) -> Speed:
    """Constants by which the formula gives the measured seconds, in least squares."""
    names = (*_RATES, *_COSTS)
    rows, wanted = [], []
    for each in runs:
        alone = [each.time(_only(name)) for name in names]
        for part, seconds in (
            ([t.rollout for t in alone], each.rollout),
            ([t.step - t.rollout for t in alone], each.rest),
        ):
            rows.append(np.array(part) / seconds)
            wanted.append(1.0)
    for place in range(len(names)):
        rows.append(_TIE * np.eye(len(names))[place])
        wanted.append(_TIE)
    found, *_ = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)
    factors = dict(zip(names, np.clip(found, 0.2, 5.0).tolist(), strict=True))
    rates = {name: getattr(SPEED, name) / factors[name] for name in _RATES}
    costs = {name: getattr(SPEED, name) * factors[name] for name in _COSTS}
    return Speed("one CPU thread of this machine, calibrated", **rates, **costs)


def _only(name: str) -> Speed:
    """A machine on which nothing but one thing takes time."""
    free = Speed("", 1e30, 1e30, 1e30, 0.0, 0.0)
    return dataclasses.replace(free, **{name: getattr(SPEED, name)})
