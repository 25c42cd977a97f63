"""Suites of generated tasks: a JSONL file of rows, in the columns of SWE-bench where they fit.

The first lines are packages, each with the tests that pass in its release; the others are tasks.
The agent's repository is the release with `bug_patch` applied and `test_patch` undone. Rows are
data: what made them (`aem_gym.envs.swe.authoring`) has no part in reading them.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from aem_gym.envs.swe.sandbox.base import ImagePlan
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.git import DiffError, apply_diff, touched
from aem_gym.envs.swe.tasks.packages import Package, source
from aem_gym.errors import ConfigError, UnknownNameError

_GENERATE = "aem-gym swe generate --package NAME==VERSION --out FILE.jsonl"


class SuiteError(ConfigError):
    """A suite's file is malformed, or does not fit the source of its packages."""


class SuitePackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package of a suite: where its source comes from, and how it is installed and tested."""

    package: Package
    image: str
    """Name of the image, with a hash of all that it depends on."""
    install: tuple[str, ...]
    """Shell commands that install it in the image."""
    test_command: str
    """As in `SweTask`."""
    tests: tuple[str, ...]
    """Node ids of the tests that pass before anything is broken."""


class SuiteRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task of a suite. PASS_TO_PASS are all tests of its package that are not in FAIL_TO_PASS."""

    instance_id: str
    repo: str
    """The name of its package, which is also the task's type."""
    split: str
    problem_statement: str
    patch: str
    """The gold patch."""
    bug_patch: str
    """Breaks the release."""
    test_patch: str
    """Adds the hidden tests to what the agent sees."""
    fail_to_pass: tuple[str, ...] = msgspec.field(name="FAIL_TO_PASS")


def load_suite(name_or_file: str | Path, split: str | None = None) -> list[SweTask]:
    """The tasks of a suite in the file's order. Fetches the source of packages not in the cache.

    `name_or_file` is `default`, or the path of a JSONL file.

    Raises:
        UnknownNameError: there is no suite of that name, and no such file.
        SuiteError: the file is not a suite.
        PackageError: the source of a package cannot be fetched.
    """
    packages, rows = read_suite(name_or_file)
    chosen = [row for row in rows if split in (None, row.split)]
    return [suite_task(packages[row.repo], row) for row in chosen]


def read_suite(name_or_file: str | Path) -> tuple[dict[str, SuitePackage], list[SuiteRow]]:
    """The packages of a suite by name, and its rows. Fetches nothing. Raises as `load_suite`."""
    packages: dict[str, SuitePackage] = {}
    rows: list[SuiteRow] = []
    for number, line in enumerate(suite_text(name_or_file).split("\n"), 1):
        if not line and number > 1:
            continue
        where = f"{name_or_file}, line {number}"
        try:
            content = msgspec.json.decode(line, type=dict[str, Any])
            if "mutation" in content or isinstance(content.get("tests"), dict):
                raise SuiteError(
                    f"{where}: expected a row of a suite, got one of an older version that holds "
                    f"no patches. Make the suite again: {_GENERATE}"
                )
            if "tests" in content:
                package = msgspec.convert(content, SuitePackage)
                packages[package.package.name] = package
            else:
                rows.append(msgspec.convert(content, SuiteRow))
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise SuiteError(
                f"{where}: expected a package or a task of a suite, got something else ({error}). "
                f"Make a suite: {_GENERATE}"
            ) from error
    lost = sorted({row.repo for row in rows} - packages.keys())
    if lost or not rows:
        what = f"none for {', '.join(lost)}" if lost else "no task"
        raise SuiteError(
            f"{name_or_file}: expected tasks, and the line of each of their packages, got {what}. "
            f"Make a suite: {_GENERATE}"
        )
    return packages, rows


def suite_text(name_or_file: str | Path) -> str:
    """The content of a suite's file. Raises UnknownNameError: there is no such suite or file."""
    path = Path(name_or_file)
    if path.suffix == ".jsonl" and path.is_file():
        return path.read_text("utf-8")
    shipped = files(__package__) / "suites"
    if (shipped / f"{name_or_file}.jsonl").is_file():
        return (shipped / f"{name_or_file}.jsonl").read_text("utf-8")
    known = [item.name.removesuffix(".jsonl") for item in shipped.iterdir()]
    raise UnknownNameError("suite", str(name_or_file), known, f"Make one: {_GENERATE}")


def suite_task(package: SuitePackage, row: SuiteRow) -> SweTask:
    """The task of a row.

    Raises:
        PackageError: the source of its package cannot be fetched.
        SuiteError: its patches do not apply to that source.
    """
    folder, broken, tests = source(package.package), touched(row.bug_patch), touched(row.test_patch)
    try:
        release = {path: (folder / path).read_bytes() for path in (*broken, *tests)}
        overlay = apply_diff({path: release[path] for path in broken}, row.bug_patch)
        hidden = {path: release[path] for path in tests}
        overlay |= apply_diff(hidden, row.test_patch, reverse=True)
    except (DiffError, OSError) as error:
        raise SuiteError(
            f"{row.instance_id}: expected patches of {row.repo} {package.package.version}, got "
            f"others ({error}). Make the suite again: {_GENERATE}"
        ) from error
    return SweTask(
        task_id=row.instance_id,
        repo=row.repo,
        problem=row.problem_statement,
        image=ImagePlan(package.image, folder, package.install),
        fail_to_pass=row.fail_to_pass,
        pass_to_pass=tuple(test for test in package.tests if test not in row.fail_to_pass),
        test_command=package.test_command,
        hidden=hidden,
        overlay=overlay,
        gold=row.patch,
        split=row.split,
    )
