"""What deviates with the gold patch, too, and so is not held against an answer.

Some suites skip tests, expect failures, or change the test runner themselves. This is asked only
when an answer deviates, with the same seed, and what was seen is kept by task in the cache folder.
Without a gold patch the repository as the agent got it is the reference.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from aem_gym import __version__
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.io import atomic_write, cache_folder


def fingerprint(task: SweTask) -> str:
    """A hash of everything that a task's validity depends on."""
    image = task.image if isinstance(task.image, str) else task.image.name
    tests = (task.fail_to_pass, task.pass_to_pass, task.test_command, task.test_patch)
    files = (sorted(task.hidden.items()), sorted(task.overlay.items()), task.removed)
    return hashlib.sha256(repr((image, tests, files, task.gold)).encode()).hexdigest()[:16]


def known_deviations(task: SweTask) -> frozenset[str]:
    """What the gold patch was seen to show before."""
    try:
        return frozenset(msgspec.json.decode(_file(task).read_bytes(), type=list[str]))
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return frozenset()


def keep_deviations(task: SweTask, found: frozenset[str]) -> None:
    file = _file(task)
    file.parent.mkdir(parents=True, exist_ok=True)
    every = sorted(found | known_deviations(task))
    atomic_write(file, msgspec.json.encode(every).decode() + "\n")


def _file(task: SweTask) -> Path:
    return cache_folder() / "swe" / "reference" / __version__ / f"{fingerprint(task)}.json"
