"""Results of validating tasks: kept in a file, shown as a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.errors import ConfigError
from aem_gym.io import atomic_write


@dataclass(frozen=True, slots=True)
class Result:
    """What validating one task came to."""

    task_id: str
    repo: str
    fingerprint: str
    """Of the task: a result counts for the very same one only."""
    gold: bool
    """Its gold patch resolves it."""
    empty: bool
    """It is resolved without any patch."""
    reason: str = ""
    seconds: float = 0.0

    @property
    def valid(self) -> bool:
        """Whether it is what it claims to be."""
        return self.gold and not self.empty and not self.reason


def fingerprint(task: SweTask) -> str:
    """A hash of all that a task's validity depends on."""
    image = task.image if isinstance(task.image, str) else task.image.name
    tests = (task.fail_to_pass, task.pass_to_pass, task.test_command, task.test_patch)
    files = (sorted(task.hidden.items()), sorted(task.overlay.items()), task.removed)
    return hashlib.sha256(repr((image, tests, files, task.gold)).encode()).hexdigest()[:16]


def read_results(path: Path) -> dict[str, Result]:
    """The results in a file by task; none if there is no such file.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        results = msgspec.json.decode(path.read_bytes(), type=dict[str, list[Result]])["results"]
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError) as error:
        raise ConfigError(
            f"expected results of this command in {path}, got something else ({error}). "
            "Choose another file with --out"
        ) from error
    return {result.task_id: result for result in results}


def write_results(path: Path, results: Mapping[str, Result]) -> None:
    """Replace the file of results."""
    rows = [asdict(results[name]) for name in sorted(results)]
    atomic_write(path, json.dumps({"results": rows}, indent=1) + "\n")


def table(results: Sequence[Result]) -> Iterator[str]:
    """The lines of a table by repository, and one for each task that is not valid."""
    heads = f"{'tasks':>7}{'valid':>7}{'gold fails':>12}{'empty passes':>14}{'s':>8}"
    yield f"{'repository':<24}{heads}"
    for repo in sorted({result.repo for result in results}):
        group = [result for result in results if result.repo == repo]
        seconds = sum(result.seconds for result in group) / len(group)
        yield (
            f"{repo:<24}{len(group):>7}{sum(r.valid for r in group):>7}"
            f"{sum(not r.gold for r in group):>12}{sum(r.empty for r in group):>14}{seconds:>8.1f}"
        )
    for result in results:
        if not result.valid:
            yield f"{result.task_id}: {result.reason or 'resolved without a patch'}"
