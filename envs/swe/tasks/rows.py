"""Rows of SWE-bench, in the official schema: from a file, a folder, or the hub."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

from aem_gym.envs.swe.grading.patches import touched
from aem_gym.envs.swe.tasks.records import MAX_RECORD, records
from aem_gym.envs.swe.workspace import is_inside
from aem_gym.errors import ConfigError

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
_MEND = "Take the row from SWE-bench anew"
# What ends up in names of images, in paths and in a shell.
_FORMS = {
    "instance_id": (r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", "letters, digits, -_."),
    "repo": (r"[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9_-][A-Za-z0-9_.-]*", "owner/name"),
    "base_commit": (r"[0-9a-f]{40}", "40 hex digits"),
    "version": (r"[A-Za-z0-9][A-Za-z0-9_.+-]*", "a version, as 1.2"),
}


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
    """Of each row that was skipped: where it is, what was expected, what came, the mend."""


def read_rows(source: str | Path, *, split: str = "test", strict: bool = False) -> Rows:
    """The rows of a source. Of rows with the same id the first complete one counts.

    Args:
        source: a `.jsonl` file, a `.json` list, a folder of such files or of a dataset's parquet
            files, or the id of a dataset on the hub.
        split: of the dataset.
        strict: raise at the first malformed row instead of skipping it.

    Raises:
        ConfigError: there is no such file, folder or dataset, or it has no row.
        RowError: a row is malformed, and `strict`.
        MissingDependencyError: a dataset of the hub or a parquet file, without `datasets`.
    """
    rows: dict[str, Row] = {}
    incomplete: dict[str, None] = {}
    malformed: list[str] = []
    for place, content in records(source, split):
        try:
            row = read_row(content, place)
            if isinstance(row, str):
                incomplete[row] = None
            elif rows.setdefault(row.instance_id, row) != row:
                raise RowError(
                    f"{place}: expected one row of {row.instance_id}, got another one that says "
                    "something else; the first counts. Take one of them away"
                )
        except RowError as error:
            if strict:
                raise
            malformed.append(str(error))
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
        RowError: a column is missing, of another type, or malformed.
    """
    record = _decode(content, place)
    if any(_is_empty(record.get(name)) for name in ("test_patch", "FAIL_TO_PASS")):
        return _text(record, "instance_id", place)
    values: dict[str, object] = {}
    for field in fields(Row):
        column = _COLUMNS[field.name]
        read = _tests if column.endswith("_PASS") else _text
        values[field.name] = read(record, column, place)
    for column in ("patch", "test_patch"):
        paths = touched(str(values[column]))
        if not paths or not all(map(is_inside, paths)):
            told = f"one of {reprlib.repr(sorted(paths))}" if paths else _short(values[column])
            raise RowError(
                f"{place}, column {column}: expected a diff of files in the repository, got "
                f"{told}. {_MEND}"
            )
    return Row(**values)  # type: ignore[arg-type]


def _decode(content: object, place: str) -> Mapping[str, object]:
    if isinstance(content, str | bytes):
        if len(content) > MAX_RECORD:
            raise RowError(f"{place}: expected at most {MAX_RECORD:,} bytes, got more. {_MEND}")
        try:
            content = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RowError(
                f"{place}: expected a JSON object a line, got {_short(content)} ({error}). {_MEND}"
            ) from error
    if not isinstance(content, dict):
        raise RowError(
            f"{place}: expected a JSON object a line, got {type(content).__name__}. {_MEND}"
        )
    return cast("dict[str, object]", content)


def _is_empty(value: object) -> bool:
    """Whether a column says nothing, as in rows whose hidden tests are not published."""
    return value is None or value == [] or (isinstance(value, str) and value.strip() in ("", "[]"))


def _text(record: Mapping[str, object], column: str, place: str) -> str:
    value = record.get(column)
    if not isinstance(value, str) or not value.strip() or not _is_plain(value):
        came = "nothing" if column not in record else _short(value)
        raise RowError(f"{place}, column {column}: expected a text, got {came}. {_MEND}")
    form, told = _FORMS.get(column, ("", ""))
    if form and not re.fullmatch(form, value):
        raise RowError(f"{place}, column {column}: expected {told}, got {_short(value)}. {_MEND}")
    return value


def _tests(record: Mapping[str, object], column: str, place: str) -> tuple[str, ...]:
    """A list of tests; the official files hold it as JSON in a text."""
    value = record.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = record[column]
    if not isinstance(value, list) or not all(map(_is_test, value)):
        came = "nothing" if column not in record else _short(value)
        raise RowError(
            f"{place}, column {column}: expected a list of tests (or JSON of one), got "
            f"{came}. {_MEND}"
        )
    if not value and column == "FAIL_TO_PASS":
        raise RowError(f"{place}, column {column}: expected at least one test, got none. {_MEND}")
    return tuple(dict.fromkeys(value))


def _is_test(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and _is_plain(value)


def _is_plain(text: str) -> bool:
    """Whether a text can be written to a file that is read again: no NUL, no half characters."""
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)


def _short(value: object) -> str:
    return reprlib.repr(value)
