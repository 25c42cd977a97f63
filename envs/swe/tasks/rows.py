"""Rows of SWE-bench, in the official schema: from a file, a folder, or the hub."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

from aem_gym.errors import ConfigError, MissingDependencyError

_COLUMNS = {
    "instance_id": "instance_id",
    "repo": "repo",
    "base_commit": "base_commit",
    "version": "version",
    "problem": "problem_statement",
    "patch": "patch",
    "test_patch": "test_patch",
    "fail_to_pass": "FAIL_TO_PASS",
    "pass_to_pass": "PASS_TO_PASS",
}
_HIDDEN = ("test_patch", "FAIL_TO_PASS", "PASS_TO_PASS")


class RowError(ConfigError):
    """A row is not what SWE-bench's rows are."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row; the names of its columns are in the official schema's."""

    instance_id: str
    repo: str
    """`owner/name`."""
    base_commit: str
    version: str
    problem: str
    patch: str
    test_patch: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """What a source holds."""

    rows: tuple[Row, ...]
    incomplete: tuple[str, ...] = ()
    """Ids of rows without hidden tests: nothing can be graded by them."""
    malformed: tuple[str, ...] = ()
    """Of each row that was skipped: where it is, what was expected, what came."""


def read_rows(source: str | Path, *, split: str = "test", strict: bool = False) -> Rows:
    """The rows of a source. Of rows with the same id the first complete one counts.

    Args:
        source: a `.jsonl` file, a folder of them, or the id of a dataset on the hub.
        split: of the dataset on the hub.
        strict: raise at the first malformed row instead of skipping it.

    Raises:
        ConfigError: there is no such file, folder or dataset, or it has no row.
        RowError: a row is malformed, and `strict`.
        MissingDependencyError: a dataset of the hub, without the package `datasets`.
    """
    rows: dict[str, Row] = {}
    incomplete: dict[str, None] = {}
    malformed: list[str] = []
    for place, content in _records(source, split):
        try:
            row = read_row(content, place)
        except RowError as error:
            if strict:
                raise
            malformed.append(str(error))
            continue
        if isinstance(row, Row):
            rows.setdefault(row.instance_id, row)
        else:
            incomplete[row] = None
    if not (rows or incomplete or malformed):
        raise ConfigError(
            f"expected rows of SWE-bench in {source}, got none. Is it the right file?"
        )
    left = tuple(name for name in incomplete if name not in rows)
    return Rows(tuple(rows.values()), left, tuple(malformed))


def read_row(content: object, place: str) -> Row | str:
    """One row; the id alone of one that has no hidden tests.

    Args:
        content: a decoded record, or its JSON text.
        place: where it stands, for messages.

    Raises:
        RowError: a column is missing or of another type.
    """
    if isinstance(content, str | bytes):
        try:
            content = json.loads(content)
        except ValueError as error:
            raise RowError(f"{place}: expected a JSON object a line, got {error}") from error
    if not isinstance(content, dict):
        raise RowError(f"{place}: expected a JSON object, got {type(content).__name__}")
    record = cast("dict[str, object]", content)
    hidden = {name: record.get(name) for name in _HIDDEN}
    if not hidden["test_patch"] or hidden["FAIL_TO_PASS"] in (None, "", "[]", []):
        return _text(record, "instance_id", place)
    values: dict[str, object] = {}
    for field in fields(Row):
        column = _COLUMNS[field.name]
        read = _tests if column.endswith("_PASS") else _text
        values[field.name] = read(record, column, place)
    _check(values, place)
    return Row(**values)  # type: ignore[arg-type]


def _records(source: str | Path, split: str) -> Iterable[tuple[str, object]]:
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if not files:
            raise ConfigError(f"expected a folder with *.jsonl files, got none in {path}")
    elif path.is_file():
        files = [path]
    else:
        yield from _from_hub(str(source), split)
        return
    for file in files:
        try:
            lines = file.read_bytes().splitlines()
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{file}, line {number}", line


def _from_hub(source: str, split: str) -> Iterable[tuple[str, object]]:
    if source.count("/") != 1 or source.endswith((".json", ".jsonl")) or source[0] in "./~":
        raise ConfigError(
            f"expected a .jsonl file, a folder, or a dataset's id (owner/name), got {source!r}: "
            "there is no such file. Give one with --tasks FILE.jsonl"
        )
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        purpose = f"the dataset {source!r} of the hub (--tasks FILE.jsonl needs no download)"
        raise MissingDependencyError("datasets", "swebench", purpose) from error
    try:
        table = datasets.load_dataset(source, split=split)
    except Exception as error:  # of many libraries
        raise ConfigError(
            f"the dataset {source!r} (split {split!r}) cannot be loaded: {error}. "
            "Without a network give a file of its rows: --tasks FILE.jsonl"
        ) from error
    for number, record in enumerate(table):
        yield f"{source}, row {number}", dict(record)


def _text(record: Mapping[str, object], column: str, place: str) -> str:
    value = record.get(column)
    if not isinstance(value, str) or not value.strip():
        came = "nothing" if column not in record else repr(value)[:60]
        raise RowError(
            f"{place}, column {column}: expected a text, got {came}. "
            "Take the row from SWE-bench anew"
        )
    return value


def _tests(record: Mapping[str, object], column: str, place: str) -> tuple[str, ...]:
    """A list of tests; the official files hold it as JSON in a text."""
    value = record.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = record[column]
    if not isinstance(value, list) or not all(isinstance(test, str) for test in value):
        raise RowError(
            f"{place}, column {column}: expected a list of tests (or JSON of one), got "
            f"{repr(value)[:60]}. Take the row from SWE-bench anew"
        )
    return tuple(dict.fromkeys(value))


def _check(values: Mapping[str, object], place: str) -> None:
    """What would only show later, in a shell or a path."""
    commit, repo, name = (str(values[k]) for k in ("base_commit", "repo", "instance_id"))
    if len(commit) != 40 or set(commit) - set("0123456789abcdef"):
        raise RowError(f"{place}, column base_commit: expected 40 hex digits, got {commit!r}")
    plain = all(c.isalnum() or c in "-_./" for c in repo) and ".." not in repo
    if repo.count("/") != 1 or not plain or repo[0] == "/" or repo[-1] == "/":
        raise RowError(f"{place}, column repo: expected owner/name, got {repo!r}")
    if not all(c.isalnum() or c in "-_." for c in name):
        raise RowError(f"{place}, column instance_id: expected letters, digits, -_., got {name!r}")
