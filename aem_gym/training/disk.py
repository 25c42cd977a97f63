"""The disk that a run takes, from its settings: episodes, checkpoints, adapters.

docs/memory.md says what the constants were measured on. What a run really takes depends on the
lengths of its episodes, which a `Workload` states.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from aem_gym.config import Config
from aem_gym.models import find_model
from aem_gym.shape import Chunks, ModelShape
from aem_gym.training.workload import Workload

logger = logging.getLogger(__name__)

AUTO_COMPRESS = 1e9
"""Bytes of uncompressed episodes from which `compress_episodes: auto` compresses."""
_METRICS = 6e3
"""Bytes of a step in metrics.jsonl and in TensorBoard's curves."""
_HISTORY = 2
"""Past turns of a window prompt where the settings leave them to the prompt template."""
_SERVED = 2
"""Adapters that a server keeps, where `sampler_options.versions` does not say."""


@dataclass(frozen=True, slots=True)
class RecordBytes:
    """Bytes that a part of an episode takes in its record."""

    read: float
    """The text of a token of an observation."""
    sampled: float
    """The text of a sampled token: the response, and again its thought and action."""
    read_id: float
    """A prompt token's id, where tokens are kept (`token_samples`)."""
    sampled_arrays: float
    """A sampled token's id, log-probability and entropy, there."""
    turn: float
    """The figures of a turn."""
    episode: float
    """The figures of an episode."""


PLAIN = RecordBytes(4.0, 8.0, 6.0, 48.0, 250.0, 400.0)
GZIP = RecordBytes(1.2, 1.4, 2.5, 21.0, 60.0, 100.0)
"""Measured by `python -m benchmarks.size`."""


@dataclass(frozen=True, slots=True)
class DiskPart:
    """One line of the table."""

    name: str
    bytes: float


def episode_bytes(config: Config, work: Workload, *, compress: bool) -> float:
    """Bytes of all training episodes of a run at its end, those of old steps pruned."""
    sizes, steps = GZIP if compress else PLAIN, config.steps
    whole = min(config.keep_episodes or steps, steps)
    shown = work.prompt
    if config.context == "window":  # the prompt repeats earlier turns
        shown /= 1 + (_HISTORY if config.history is None else config.history)
    figures = sizes.episode + work.turns * sizes.turn
    text = work.turns * (shown * sizes.read + work.response * sizes.sampled)
    arrays = work.turns * (work.prompt * sizes.read_id + work.response * sizes.sampled_arrays)
    samples = config.token_samples
    sampled = work.episodes if samples == "all" else min(float(samples), work.episodes)
    return steps * work.episodes * figures + whole * (work.episodes * text + sampled * arrays)


def compresses(config: Config) -> bool:
    """Whether a run writes compressed episodes."""
    if config.compress_episodes != "auto":
        return config.compress_episodes == "on"
    return episode_bytes(config, Workload.at_limits(config), compress=False) > AUTO_COMPRESS


def estimate_disk(config: Config, shape: ModelShape, work: Workload) -> list[DiskPart]:
    """What the folder of a run holds at its largest, line by line."""
    adapter = 4.0 * shape.adapter(config.lora_rank, config.lora_targets)
    compress = compresses(config)
    kept = config.keep_checkpoints + (config.keep_best is not None) + 1  # one is being written
    form = "compressed" if compress else "not compressed"
    whole = f"texts of {config.keep_episodes} steps" if config.keep_episodes else "all whole"
    text = work.turns * (work.prompt * PLAIN.read + work.response * PLAIN.sampled)
    board = config.steps * text * ("tensorboard" in config.loggers)
    made = find_model(config.model).from_scratch
    parts = [
        DiskPart(f"episodes, {form}, {whole}", episode_bytes(config, work, compress=compress)),
        DiskPart("checkpoints (adapter, AdamW)", kept * (3 + config.max_staleness) * adapter),
        DiskPart("adapters: trained, start", 2 * adapter),
        DiskPart("base model made for the run", 4.0 * shape.parameters * made),
        DiskPart("metrics, tensorboard", config.steps * _METRICS + board),
    ]
    return [part for part in parts if part.bytes]


def published_bytes(config: Config, shape: ModelShape) -> float:
    """Bytes of weights on their way to servers, in a folder of their own; 0 without servers.

    Adapters, or merged weights: where `merge` leaves that open, what takes more.
    """
    if config.sampler == "hf":
        return 0.0
    options = config.sampler_options
    versions = max(float(options.get("versions", _SERVED)), config.max_staleness + 2)
    small = shape.parameters < Chunks().merge_below and not config.sampler_url
    if small if options.get("merge") is None else options["merge"]:
        return (versions + 1) * 4.0 * shape.parameters
    return (versions + 1) * 4.0 * shape.adapter(config.lora_rank, config.lora_targets)


def free_bytes(folder: Path) -> float:
    """Free bytes of the disk that `folder` is or will be on."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return float(shutil.disk_usage(there).free)


def warn_if_short(config: Config, run: Path) -> None:
    """Say before the first step where the disk cannot take the episodes at their limits."""
    compress = compresses(config)
    most = episode_bytes(config, Workload.at_limits(config), compress=compress)
    free = free_bytes(run)
    if most > free:
        form = "%s: the episodes of this run may take %.1f GB, and %.1f GB are free: %s (--dry-run)"
        logger.warning(form, run, most / 1e9, free / 1e9, remedy(config, compress))


def remedy(config: Config, compress: bool) -> str:
    """What makes a run's folder smaller, most effective first."""
    ways = [] if compress else ["--compress-episodes on"]
    ways += [] if config.keep_episodes else ["--keep-episodes 20"]
    ways += ["fewer --token-samples"] if config.token_samples == "all" else []
    return ", ".join([*ways, "fewer --keep-checkpoints", "or another --out"])
