"""RL steps of the default job, as often as the driver asks.

    python job.py RUN_FOLDER [FLAG ...]

Runs `train.py`'s own loop in the tree that is first on its path, with flags that older trees know,
and stops it before each step and behind it.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import signals

TRAINERS = (("aem_gym.training.loop", "train_step"), ("aem_gym.training.trainer", "_train_step"))
"""Where trees have the class `Trainer` and its method for one step, the newest first."""


def trainer() -> tuple[Any, str]:
    for module, method in TRAINERS:
        try:
            found = importlib.import_module(module).Trainer
        except ImportError:
            continue
        if hasattr(found, method):
            return found, method
    raise SystemExit(f"no Trainer with a step is in {TRAINERS}: add its place to {__file__}")


def main() -> None:
    told = signals.Told()
    found, method = trainer()
    told.imported()
    step = getattr(found, method)

    def timed(self: Any, *given: Any) -> Any:
        if not told.wait():
            os._exit(0)
        figures = step(self, *given)
        told.done()
        return figures

    setattr(found, method, timed)
    run, *flags = sys.argv[1:]
    sys.argv = ["train.py", "--steps", "1000", "--eval-every", "0", "--out", run, *flags]
    importlib.import_module("aem_gym.cli").train_main()


if __name__ == "__main__":
    main()
