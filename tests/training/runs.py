"""Small real runs for tests: everything is real, only few and short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aem_gym.config import Config
from aem_gym.protocols import Logger

ROOT = Path(__file__).resolve().parents[2]

SMALL: dict[str, Any] = {
    "groups": 3,
    "group_size": 3,
    "steps": 4,
    "max_new_tokens": 12,
    "max_turns": 6,
    "warmstart_episodes": 60,
    "warmstart_steps": 30,
    "warmstart_batch": 8,
    "eval_every": 2,
    "eval_episodes": 6,
    "save_every": 1,
    "lr_schedule": "constant",
    "threads": 1,
    "device": "cpu",
    "loggers": [],
}
"""A whole run in a few seconds. All runs of a test session share its warm start."""

GUESS: dict[str, Any] = {
    **SMALL,
    "env": "tests.training.guess_env:guess-test/Guess-v0",
    "max_turns": 5,
    "group_size": 4,
    "warmstart_steps": 80,
    "warmstart_batch": 16,
    "warmstart_episodes": 40,
}
"""The same in a game that is won one time in nine: groups with and without differences."""


def run(
    out: Path, settings: dict[str, Any] = SMALL, *, objects: Sequence[Logger] = (), **changes: Any
) -> dict[str, Any]:
    """A run in this process, with loggers that are objects; its summary."""
    from aem_gym.training.loop import train

    return train(Config(**{**settings, "out": str(out), **changes}), loggers=objects)


def lines(file: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def flags(out: Path, **changes: Any) -> list[str]:
    """`SMALL` with changes, as flags of train.py."""
    values = {**SMALL, "out": str(out), **changes}
    return [f"--set={key}={json.dumps(value)}" for key, value in values.items()]


def train_process(arguments: list[str], **kwargs: Any) -> subprocess.Popen[str]:
    """`python train.py` as a user starts it, from another folder."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "random"},
        **kwargs,
    )


def result_files(run: Path) -> dict[str, bytes]:
    """What must be byte-identical: the episodes and the adapter."""
    files = [run / "episodes.jsonl", *sorted((run / "adapter").iterdir())]
    return {file.name: file.read_bytes() for file in files}
