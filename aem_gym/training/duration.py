"""The time of a training step, from the same shape and workload as its memory.

docs/memory.md derives every term. On a CPU the constants are measured; those of a GPU are
arithmetic from data sheets, and said to be.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from aem_gym.config import Config
from aem_gym.credit.estimators import needs_of
from aem_gym.io import atomic_write, cache_folder
from aem_gym.registry import ESTIMATORS
from aem_gym.shape import ModelShape
from aem_gym.training.memory import CPU as MEMORY_OF_CPU
from aem_gym.training.memory import MemoryConstants, MemoryLayout
from aem_gym.training.workload import Workload

_FILE = "calibration.json"
_FORWARD_SHARE = 0.3
"""Elementwise traffic of a forward pass without gradient, by that of a training pass."""
_OF_A_LOGIT = 4.0
"""What sampling moves for a logit, in the same unit as `Speed.moved`."""
_DRAW = 2
"""Layers that take as long as the head, the draw and the bookkeeping of a decoding step."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What a machine does in a second."""

    source: str
    """Where the figures are from."""
    flops: float
    """Of large matrix products."""
    read: float
    """Bytes of weights and cache that are read while few rows are sampled."""
    moved: float
    """Bytes of activations that training moves, by those that it saves."""
    call: float
    """Seconds that one layer takes for a call with hardly any work."""
    turn: float
    """Seconds of one turn outside the model: environment, tokens, records."""


CPU = Speed("one CPU thread, measured in November 2026", 72e9, 9e9, 0.8e9, 4e-4, 2e-4)
_TEXT = "arithmetic, not measured: {} TFLOP/s at 35%, {} TB/s at 60%, 0.2 ms a layer and call"
GPU_24 = Speed(_TEXT.format(165, "1.0"), 58e12, 6e11, 6e10, 2e-4, 2e-3)
GPU_80 = Speed(_TEXT.format(990, "3.35"), 346e12, 2e12, 2e11, 2e-4, 2e-3)


@dataclass(frozen=True, slots=True)
class TimeEstimate:
    """Seconds of one step."""

    decode: float
    prefill: float
    turns: float
    scoring: float
    update: float

    @property
    def rollout(self) -> float:
        return self.decode + self.prefill + self.turns

    @property
    def step(self) -> float:
        return self.rollout + self.scoring + self.update


def estimate_time(
    config: Config, shape: ModelShape, work: Workload, speed: Speed, layout: MemoryLayout
) -> TimeEstimate:
    """Seconds of one step of `work`, on one device."""
    together = layout.concurrent
    rounds = work.most_turns * work.episodes / together
    calls = rounds * work.longest_response
    sampled = work.episodes * work.turns * work.longest_response
    cache = together * work.row / 2 * shape.kv_per_token * layout.width
    weights = shape.active * layout.width
    decode = (
        calls * ((shape.layers + _DRAW) * speed.call + (weights + cache) / speed.read)
        + 2 * shape.active * sampled / speed.flops
        + sampled * shape.vocabulary * _OF_A_LOGIT / speed.moved
    )
    read = work.episodes * work.turns * work.prompt
    traffic = layout.saved * shape.layers / speed.moved
    forward = 2 * shape.decoder / speed.flops + traffic * _FORWARD_SHARE
    prefill = rounds * shape.layers * speed.call + read * forward
    head = work.sampled * shape.vocabulary * (2 * shape.hidden / speed.flops + 2 / speed.moved)
    needs = needs_of(ESTIMATORS.load(config.estimator))
    kl = needs.kl_coef if config.kl_coef is None else config.kl_coef
    passes = config.epochs * bool(kl) + (layout.width < 4 or needs.needs_values)
    scoring = passes * (work.tokens * forward + head)
    again = 1 if layout.checkpointing else 0
    batches = work.rows / layout.micro_rows
    products = (4 + 2 * again) * shape.decoder / speed.flops
    once = work.tokens * (products + traffic * (1 + 0.5 * again))
    update = config.epochs * (once + 2 * head + batches * 3 * shape.layers * speed.call)
    return TimeEstimate(decode, prefill, work.episodes * work.turns * speed.turn, scoring, update)


# Calibration -------------------------------------------------------------------------------------


def save_calibration(speed: Speed, memory: MemoryConstants) -> Path:
    """Keep the constants of this machine's CPU; returns the file."""
    path = cache_folder() / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {"speed": asdict(speed), "memory": asdict(memory)}
    atomic_write(path, json.dumps(parts, indent=2) + "\n")
    return path


def calibration() -> tuple[Speed, MemoryConstants]:
    """The constants of a CPU: those that were kept, else those of the machine they were made on."""
    try:
        found = json.loads((cache_folder() / _FILE).read_text(encoding="utf-8"))
        return Speed(**found["speed"]), MemoryConstants(**found["memory"])
    except (OSError, ValueError, KeyError, TypeError):
        return CPU, MEMORY_OF_CPU
