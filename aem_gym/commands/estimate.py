"""What `train --dry-run` says of memory and time: comment lines, so that its output stays YAML."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.commands.flags import parse_env_args
from aem_gym.config import Config
from aem_gym.errors import AemGymError, ConfigError
from aem_gym.registry import import_object
from aem_gym.training.distributed import process_count

if TYPE_CHECKING:
    from aem_gym.training.duration import TimeEstimate
    from aem_gym.training.memory import MemoryEstimate
    from aem_gym.training.workload import Workload

_NEEDED = ("torch", "transformers", "peft")
_LARGE = 40.0
"""GB above which a card is taken for one of 80 GB."""
_GIVES_BACK = "MALLOC_MMAP_THRESHOLD_"


def estimate_lines(
    config: Config, model_config: str | None = None, workload: Sequence[str] = ()
) -> Iterator[str]:
    """The estimate of a run, or why there is none; the last line is one JSON object."""
    lacking = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        yield f"# memory, time: not estimated without {', '.join(lacking)}"
        return
    try:
        shape = import_object("aem_gym.agents.shapes:model_shape")(config, model_config)
    except AemGymError as error:
        if model_config is not None:
            raise
        yield f"# memory, time: not estimated. {error}"
        return
    _check_targets(config, shape)
    yield from _lines(config, shape, workload)


def _check_targets(config: Config, shape: Any) -> None:
    unknown = shape.unknown_targets(config.lora_targets)
    if unknown:
        known = ", ".join(sorted({each.name for each in shape.linears}))
        raise ConfigError(
            f"lora_targets: {', '.join(unknown)}: no layer of {config.model!r} has this name. "
            f"Expected all-linear or some of: {known}"
        )


def _lines(config: Config, shape: Any, workload: Sequence[str]) -> Iterator[str]:
    from aem_gym.training.disk import estimate_disk
    from aem_gym.training.duration import GPU_24, GPU_80, calibration, estimate_time
    from aem_gym.training.memory import FIXED, GPU, MemoryLayout, estimate_memory

    size, device = _device(config)
    gpu = device != "CPU"
    speed, constants = calibration()
    if gpu:
        speed, constants = GPU_80 if size > _LARGE else GPU_24, GPU
    whole, processes = _workload(config, workload), process_count()
    work = replace(whole, episodes=whole.episodes / processes)
    layout = MemoryLayout(config, shape, work, gpu)
    chunks = import_object("aem_gym.agents.shapes:chunks")()
    memory = estimate_memory(config, shape, work, gpu=gpu, constants=constants, chunks=chunks)
    time = estimate_time(config, shape, work, speed, layout)
    yield from _head(config, shape, whole, bool(workload))
    if processes > 1:
        yield f"# memory and time of each of {processes} processes"
    yield from _memory_table(memory)
    yield f"#   {'at most at once':34}{memory.peak / 1e9:9.2f}  of {size:.0f} GB ({device})"
    if memory.peak > size * 1e9:
        remedy = "lower max_concurrent_episodes, micro_batch or max_length"
        if memory.phase(FIXED) > size * 1e9:
            remedy = "take a smaller model, or --set model_options.quantization=4bit on a GPU"
        yield f"#   TOO LARGE: {remedy} (docs/memory.md)"
    elif not gpu and _GIVES_BACK not in os.environ:
        yield f"#   glibc may keep twice this or more; not so with {_GIVES_BACK}=65536 (slower)"
    yield from _time_table(config, time, speed.source)
    disk = sum(part.bytes for part in estimate_disk(config, shape, whole))
    yield from _disk_table(config, shape, whole)
    numbers = _numbers(config, memory, time, size)
    yield "# " + json.dumps(numbers | {"disk_gb": round(disk / 1e9, 3)})


def _device(config: Config) -> tuple[float, str]:
    """Memory in GB, and the name, of the device that trains."""
    import torch

    if config.card is not None:
        return config.card, f"a card of {config.card:g} GB"
    place = import_object("aem_gym.agents.models:resolve_device")(config.device)
    if place.type == "cuda":
        found = torch.cuda.get_device_properties(place)
        return found.total_memory / 1e9, str(found.name)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, "CPU"


def _workload(config: Config, given: Sequence[str]) -> Workload:
    from aem_gym.training.workload import Workload, workload_of_run

    work = Workload.at_limits(config, _turn_limit(config))
    folders = [text for text in given if "=" not in text]
    if len(folders) > 1:
        raise ConfigError(f"--workload: expected one run, got {', '.join(folders)}")
    if folders:
        work = workload_of_run(Path(folders[0]), config)
    return work.changed(parse_env_args(text for text in given if "=" in text))


def _turn_limit(config: Config) -> int | None:
    """The prompt template's or the environment's, where it can be asked."""
    from aem_gym.rollout.pool import open_pool
    from aem_gym.training.setup import choose_template

    own = config.env_args.get("max_turns")
    try:
        with open_pool(replace(config, workers=0), config.train_split) as pool:
            description = pool.describe()
    except AemGymError:  # an environment that does not run here
        return int(own) if isinstance(own, int) else None
    limits = (choose_template(config, description).max_turns, description.max_turns, own)
    return min((limit for limit in limits if isinstance(limit, int)), default=None)


def _head(config: Config, shape: Any, work: Workload, given: bool) -> Iterator[str]:
    kind = "as given" if given else "every episode at its limits"
    yield f"# {config.model}: {shape.parameters / 1e6:,.1f} M parameters, {shape.layers} layers"
    yield (
        f"# a step, {kind}: {work.episodes:.0f} episodes x {work.turns:.1f} turns x "
        f"{work.response:.0f} sampled tokens; {work.rows:.0f} rows of {work.row:.0f} tokens"
    )


def _memory_table(memory: MemoryEstimate) -> Iterator[str]:
    yield "# memory, GB"
    for part in memory.parts:
        yield f"#   {part.name:34}{part.bytes / 1e9:9.2f}  {part.phase}"
    for phase in ("rollout", "update"):
        yield f"#   {'sum with always: ' + phase:34}{memory.together(phase) / 1e9:9.2f}"


def _time_table(config: Config, time: TimeEstimate, source: str) -> Iterator[str]:
    yield f"# time of a step, seconds ({source})"
    for name in ("decode", "prefill", "turns", "scoring", "update"):
        yield f"#   {name:34}{getattr(time, name):9.1f}"
    hours = time.step * config.steps / 3600
    yield f"#   {'a step':34}{time.step:9.1f}  {config.steps} steps: {hours:.1f} hours"
    yield "#   evaluations, warm start and environments that wait are not counted"


def _disk_table(config: Config, shape: Any, work: Workload) -> Iterator[str]:
    from aem_gym.training.disk import (
        compresses,
        estimate_disk,
        free_bytes,
        published_bytes,
        remedy,
    )

    parts, run = estimate_disk(config, shape, work), config.run_folder
    yield f"# disk, GB, after {config.steps} steps"
    for part in parts:
        yield f"#   {part.name:44}{part.bytes / 1e9:9.2f}"
    total, free = sum(part.bytes for part in parts), free_bytes(run)
    yield f"#   {'in all':44}{total / 1e9:9.2f}  of {free / 1e9:.0f} GB free ({run})"
    published = published_bytes(config, shape)
    if published:
        yield f"#   {'adapters for servers, in their own folder':44}{published / 1e9:9.2f}"
    if total > free:
        yield f"#   TOO LARGE FOR THE DISK: {remedy(config, compresses(config))} (docs/memory.md)"


def _numbers(
    config: Config, memory: MemoryEstimate, time: TimeEstimate, size: float
) -> dict[str, float]:
    return {
        "memory_gb": round(memory.peak / 1e9, 3),
        "device_gb": round(size, 1),
        "step_seconds": round(time.step, 2),
        "run_seconds": round(time.step * config.steps, 1),
    }
