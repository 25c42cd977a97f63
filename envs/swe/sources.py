"""Sources of tasks: a generated suite, rows of SWE-bench, or a file about a user's repository.

Opening a source reads its file, and nothing else. A task is made when it is first needed: that may
fetch the source of a package, or check a repository out.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from aem_gym.envs.swe.tasks.base import SPLITS, SweTask
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.seeding import derive

_EVAL = 6
"""Of tasks without a split, one in so many is for evaluation."""


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A task of a source, and the function that makes it."""

    task_id: str
    repo: str
    split: str
    """Empty: the source gives it none."""
    make: Callable[[], SweTask]


@dataclass(frozen=True)
class TaskSource:
    """The tasks of one source, by id, in the source's order."""

    name: str
    entries: Mapping[str, TaskEntry]
    digest: Callable[[], str]
    """Hex digest that changes when any of its tasks does."""
    _made: dict[str, SweTask] = field(default_factory=dict, repr=False)

    def ids(self, split: str, repos: Iterable[str] = ()) -> tuple[str, ...]:
        """The tasks of a split, of `repos` only if any are named.

        Of tasks without a split, `test` has all, `eval` one in six, `train` the rest; a single one
        is in each.

        Raises:
            ConfigError: there are none.
            UnknownNameError: no task is of such a repository.
        """
        wanted = set(repos)
        known = {entry.repo for entry in self.entries.values()}
        for repo in sorted(wanted - known):
            raise UnknownNameError("repository", repo, known, f"(Of the tasks of {self.name}.)")
        entries = [e for e in self.entries.values() if not wanted or e.repo in wanted]
        dealt = _dealt([e.task_id for e in entries if not e.split], split)
        chosen = tuple(e.task_id for e in entries if e.split == split or e.task_id in dealt)
        if not chosen:
            counts = {name: sum(e.split == name for e in entries) for name in SPLITS}
            known_counts = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise ConfigError(
                f"split: expected one that has tasks, got {split!r} ({self.name}, "
                f"{', '.join(sorted(wanted)) or 'all repositories'}: {known_counts})"
            )
        return chosen

    def task(self, task_id: str) -> SweTask:
        """The task of an id, made at the first call.

        Raises:
            UnknownNameError: there is none.
            AemGymError: it cannot be made; the message says what to do.
        """
        if task_id not in self._made:
            entry = self.entries.get(task_id)
            if entry is None:
                raise UnknownNameError("task", task_id, self.entries, f"(Of {self.name}.)")
            self._made[task_id] = entry.make()
        return self._made[task_id]


def _dealt(ids: Sequence[str], split: str) -> frozenset[str]:
    """The tasks without a split that go to `split`."""
    if split == "test" or len(ids) < 2:
        return frozenset(ids)
    order = sorted(ids, key=lambda name: derive("swe", "deal", name))
    held = max(1, len(order) // _EVAL)
    return frozenset(order[:held] if split == "eval" else order[held:])


@lru_cache(maxsize=8)
def open_source(tasks: str, mirrors: str | None = None) -> TaskSource:
    """The source that `tasks` names; shared by all environments of a process.

    `tasks` is a shipped suite (`default`) or its `.jsonl` file; rows of SWE-bench as a `.jsonl`
    file, a `.json` list, a folder or a dataset's id (`owner/name`); a `.yaml` or `.json` file about
    a repository of the user's. The images of rows are built from the bare clones below `mirrors`,
    or pulled.

    Raises:
        ConfigError: there is no such source, or it is malformed; says what was expected.
    """
    path = Path(tasks).expanduser()
    if _is_own(path):
        return _own(path)
    if path.is_dir() or (path.is_file() and not _is_suite(path)) or _is_hub_id(tasks, path):
        return _rows(tasks, Path(mirrors).expanduser() if mirrors else None)
    return _suite(tasks)


def _suite(name: str) -> TaskSource:
    from aem_gym.envs.swe.tasks.suites import read_suite, suite_task

    packages, rows = read_suite(Path(name).expanduser() if name.endswith(".jsonl") else name)
    entries = [
        TaskEntry(
            row.instance_id, row.repo, row.split, partial(suite_task, packages[row.repo], row)
        )
        for row in rows
    ]
    return _source(name, entries, lambda: repr((packages, rows)))


def _rows(name: str, mirrors: Path | None) -> TaskSource:
    from aem_gym.envs.swe.tasks.swebench import make_task, rows_to_use

    rows, _ = rows_to_use(name, mirrors)
    entries = [TaskEntry(r.instance_id, r.repo, "", partial(make_task, r, mirrors)) for r in rows]
    return _source(name, entries, lambda: repr((rows, mirrors is None)))


def _own(path: Path) -> TaskSource:
    from aem_gym.envs.swe.tasks.own import read_own

    own = read_own(path)
    entries = [TaskEntry(t.id, own.repo, t.split, partial(own.task, t)) for t in own.settings.tasks]
    return _source(str(path), entries, own.content)


def _source(name: str, entries: Sequence[TaskEntry], content: Callable[[], str]) -> TaskSource:
    return TaskSource(
        name,
        {entry.task_id: entry for entry in entries},
        lambda: hashlib.sha256(content().encode("utf-8", "replace")).hexdigest()[:32],
    )


def _is_own(path: Path) -> bool:
    """Whether a file is about a user's repository: YAML, or JSON other than a list of rows."""
    from aem_gym.envs.swe.tasks.rows import is_list

    if path.suffix != ".json":
        return path.suffix in (".yaml", ".yml")
    with contextlib.suppress(OSError):
        return not is_list(path)
    return True  # who reads it says why that fails


def _is_suite(path: Path) -> bool:
    """Whether a file's first line is one of a suite, not a row of SWE-bench."""
    with path.open("rb") as file:
        line = file.readline()
    is_package = b'"tests"' in line and b'"instance_id"' not in line
    return is_package or b'"bug_patch"' in line or b'"mutation"' in line


def _is_hub_id(name: str, path: Path) -> bool:
    if name.startswith("hub:"):
        return True
    return name.count("/") == 1 and path.suffix != ".jsonl" and name[0] not in "./~"
