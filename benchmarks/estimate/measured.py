"""One training run in this process, its phases measured: `python -m benchmarks.estimate.measured`.

Reads settings as JSON from stdin and prints one JSON object: bytes above what imports take, CPU
seconds of this process, and what the steps had to do.
"""

from __future__ import annotations

import gc
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aem_gym.training.workload import Workload


def memory(key: str) -> int:
    """A figure of /proc/self/status in bytes: VmRSS now, VmHWM at most since the last reset."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Phase:
    """CPU seconds and peak memory of each call of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.seconds: list[float] = []
        self.peaks: list[int] = []
        self.results: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        reset_peak()
        clock = time.process_time()
        self.results.append(self.function(*args, **kwargs))
        self.seconds.append(time.process_time() - clock)
        self.peaks.append(memory("VmHWM"))
        return self.results[-1]


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Run all steps; medians over the steps after the first."""
    from aem_gym.runs import CheckpointStore
    from aem_gym.settings import settle
    from aem_gym.training.loop import Trainer
    from aem_gym.training.setup import open_components, prepare_torch

    import_heavy()
    config = settle(settings).config
    prepare_torch(config)
    imported = memory("VmRSS")
    with tempfile.TemporaryDirectory() as folder, open_components(config, Path(folder)) as parts:
        trainer = Trainer(config, Path(folder), parts, CheckpointStore(Path(folder), 1))
        gc.collect()
        built = memory("VmRSS")
        rollout = Phase(parts.collector.run)
        update = Phase(trainer.updater.update)
        step = Phase(trainer.train_step)
        parts.collector.run, trainer.updater.update = rollout, update  # type: ignore[method-assign]
        with trainer.recorder:
            for _ in range(config.steps):
                step()
                trainer.progress.step += 1
    if not config.steps:
        return {}  # the model is made now
    episodes = [episode for run in rollout.results for episode in run]
    return {
        "built": built - imported,
        "peak": max(*rollout.peaks, *update.peaks, *step.peaks) - imported,
        "seconds_rollout": _median(rollout.seconds),
        "seconds_update": _median(update.seconds),
        "seconds": _median(step.seconds),
        "workload": Workload.of_episodes(episodes, config.context, config.steps).as_dict(),
    }


def import_heavy() -> None:
    """Everything that a run imports, so that it counts as imports."""
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    import aem_gym.agents.build
    import aem_gym.agents.learner
    import aem_gym.agents.sampler
    import aem_gym.envs.alfworld  # noqa: F401

    # Libraries of the processor and the threads of autograd come with their first use.
    x = torch.ones(8, 8, requires_grad=True)
    torch.optim.AdamW([x]).step()
    (x @ x).sum().backward()


def _median(values: Sequence[float]) -> float:
    return statistics.median(values[1:] or values)


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
