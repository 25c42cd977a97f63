"""Suites of generated tasks: a file of small specs, from which tasks are made again.

A suite is a JSONL file. Its lines are packages, each with the tests that pass in it by file, and
tasks, each a mutation with the tests that it fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.candidates import Candidate, hide
from aem_gym.envs.swe.tasks.cuts import function_of
from aem_gym.envs.swe.tasks.mutations import Mutation
from aem_gym.envs.swe.tasks.packages import Package, image_plan, source
from aem_gym.envs.swe.tasks.problem import Failure, issue, subject
from aem_gym.envs.swe.tasks.trials import test_command
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.seeding import generator

_GENERATE = "python -m aem_gym.envs.swe.tasks.generate --package NAME==VERSION --out FILE.jsonl"
_CONTEXT = 3


class SuiteError(ConfigError):
    """A suite's file is not what it should be."""


@dataclass(frozen=True, slots=True)
class PackageSpec:
    """A package of a suite."""

    package: Package
    tests: Mapping[str, tuple[str, ...]]
    """Those that pass before anything is broken, by file: node ids without the file."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a task is made from."""

    task_id: str
    package: str
    """Its name."""
    split: str
    seed: int
    """Of the issue's words."""
    mutation: Mutation
    fail_to_pass: tuple[str, ...]
    """Node ids; `a.py::f[*]` stands for all tests of a function."""
    failure: Failure


def load_suite(name_or_file: str | Path, split: str | None = None) -> list[SweTask]:
    """The tasks of a suite that is shipped (`default`) or in a file, in the file's order.

    The sources of their packages are fetched if they are not in the cache.

    Args:
        name_or_file: `default`, or the path of a JSONL file.
        split: only the tasks of this one.

    Raises:
        UnknownNameError: no suite of that name, and no such file.
        SuiteError: the file is no suite.
        PackageError: the source of a package cannot be had.
        MutationError: a source is another than the one that the suite was made from.
    """
    packages, tasks = read_suite(name_or_file)
    makers = {name: TaskMaker(spec) for name, spec in packages.items()}
    chosen = [spec for spec in tasks if split in (None, spec.split)]
    # Tasks of one file are made together: it is read once.
    by_file = sorted(chosen, key=lambda spec: (spec.package, spec.mutation.path))
    made = {spec.task_id: makers[spec.package].task(spec) for spec in by_file}
    return [made[spec.task_id] for spec in chosen]


def read_suite(name_or_file: str | Path) -> tuple[dict[str, PackageSpec], list[TaskSpec]]:
    """The specs of a suite: packages by name, and tasks. Fetches nothing."""
    path = Path(name_or_file)
    shipped = files(__package__) / "suites"
    if path.suffix == ".jsonl" and path.is_file():
        text = path.read_text("utf-8")
    elif (shipped / f"{name_or_file}.jsonl").is_file():
        text = (shipped / f"{name_or_file}.jsonl").read_text("utf-8")
    else:
        known = [item.name.removesuffix(".jsonl") for item in shipped.iterdir()]
        raise UnknownNameError("suite", str(name_or_file), known, f"Make one: {_GENERATE}")
    packages: dict[str, PackageSpec] = {}
    tasks: list[TaskSpec] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
            if "tests" in row:
                package = msgspec.convert(row, PackageSpec)
                packages[package.package.name] = package
            else:
                tasks.append(msgspec.convert(row, TaskSpec))
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise SuiteError(
                f"{name_or_file}, line {number}: expected a package or a task of a suite, got "
                f"something else ({error}). Make a suite: {_GENERATE}"
            ) from error
    lost = sorted({task.package for task in tasks} - packages.keys())
    if lost or not tasks:
        what = f"none for {', '.join(lost)}" if lost else "no task"
        raise SuiteError(
            f"{name_or_file}: expected tasks, and the line of each of their packages, got {what}. "
            f"Make a suite: {_GENERATE}"
        )
    return packages, tasks


def suite_of(name_or_file: str | Path, kept: Collection[str]) -> str:
    """The content of a suite's file with some of its tasks only, by their ids."""
    packages, tasks = read_suite(name_or_file)
    specs = [spec for spec in tasks if spec.task_id in kept]
    used = {spec.package for spec in specs}
    return suite_text([packages[name] for name in packages if name in used], specs)


def task_spec(
    package: str, tests: Collection[str], candidate: Candidate, split: str, seed: int
) -> TaskSpec:
    """The spec of a mutant that was found among the tests of a package; its id tells nothing."""
    mutation = candidate.mutation
    drawn = generator("swe", "task", seed, package, mutation.path, mutation.function)
    return TaskSpec(
        f"{package}-{drawn.integers(16**8):08x}",
        package,
        split,
        int(drawn.integers(2**31)),
        mutation,
        _folded(candidate.fail_to_pass, tests),
        candidate.failure,
    )


def _folded(failing: Collection[str], tests: Collection[str]) -> tuple[str, ...]:
    passing = {_all_of(test) for test in set(tests) - set(failing)}
    return tuple(sorted({t if _all_of(t) in passing else _all_of(t) for t in failing}))


def _all_of(test: str) -> str:
    """What stands for all tests of a test's function."""
    function, parameters, _ = test.partition("[")
    return f"{function}[*]" if parameters else test


def package_spec(package: Package, tests: Iterable[str]) -> PackageSpec:
    """The spec of a package and the tests that pass in it."""
    by_file: dict[str, list[str]] = {}
    for test in sorted(tests):
        file, _, name = test.partition("::")
        by_file.setdefault(file, []).append(name)
    return PackageSpec(package, {file: tuple(found) for file, found in by_file.items()})


def suite_text(packages: Iterable[PackageSpec], tasks: Iterable[TaskSpec]) -> str:
    """The content of a suite's file."""
    rows = [*(asdict(spec) for spec in packages), *(asdict(spec) for spec in tasks)]
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)


def git_diff(path: str, before: bytes, after: bytes) -> str:
    """The change of a file as git writes it, in one piece, down to a last line without an end."""
    old, new = (re.split(r"(?<=\n)", content.decode("utf-8")) for content in (before, after))
    old, new = [line for line in old if line], [line for line in new if line]
    same = [a == b for a, b in zip(old, new, strict=False)]
    first = same.index(False) if False in same else len(same)
    rest = min(len(old), len(new)) - first
    same = [a == b for a, b in zip(old[::-1], new[::-1], strict=False)][:rest]
    last = same.index(False) if False in same else len(same)
    start, below = max(0, first - _CONTEXT), max(0, last - _CONTEXT)
    gone, come = old[first : len(old) - last], new[first : len(new) - last]
    head, tail = old[start:first], old[len(old) - last : len(old) - below]
    ranges = [f"{start + 1},{len(head) + len(lines) + len(tail)}" for lines in (gone, come)]
    marked = [(" ", head), ("-", gone), ("+", come), (" ", tail)]
    body = [sign + line for sign, lines in marked for line in lines]
    ended = [ln if ln.endswith("\n") else f"{ln}\n\\ No newline at end of file\n" for ln in body]
    return (
        f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n"
        f"@@ -{ranges[0]} +{ranges[1]} @@\n{''.join(ended)}"
    )


@dataclass(frozen=True)
class TaskMaker:
    """Makes the tasks of one package."""

    spec: PackageSpec

    @cached_property
    def _tests(self) -> tuple[str, ...]:
        return tuple(f"{file}::{name}" for file, found in self.spec.tests.items() for name in found)

    @cached_property
    def _files(self) -> dict[str, bytes]:
        folder = source(self.spec.package)
        return {file: (folder / file).read_bytes() for file in self.spec.tests}

    def task(self, spec: TaskSpec) -> SweTask:
        """A task from its spec."""
        package, mutation = self.spec.package, spec.mutation
        content = (source(package) / mutation.path).read_bytes()
        mutated = mutation.apply(content)
        named = set(spec.fail_to_pass)
        failing = tuple(test for test in self._tests if {test, _all_of(test)} & named)
        visible = hide(self._files, frozenset(failing))
        if not visible or function_of(spec.failure.test)[0] not in self._files:
            raise SuiteError(
                f"{spec.task_id}: expected tests of {package.name} {package.version} to hide, got "
                f"{', '.join(sorted(named))}. Make the suite anew: {_GENERATE}"
            )
        about = subject(content, mutation.path, mutation.function)
        tests = self._files[function_of(spec.failure.test)[0]]
        return SweTask(
            task_id=spec.task_id,
            repo=package.name,
            problem=issue(about, spec.failure, tests, generator("swe", "issue", spec.seed)),
            image=image_plan(package),
            fail_to_pass=failing,
            pass_to_pass=tuple(test for test in self._tests if test not in failing),
            test_command=test_command(self.spec.tests),
            hidden={file: self._files[file] for file in visible},
            overlay={mutation.path: mutated, **visible},
            gold=git_diff(mutation.path, mutated, content),
            split=spec.split,
        )
