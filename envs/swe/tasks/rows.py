"""Rows of SWE-bench and of data sets like it: from a file, a folder, or the hub."""

from __future__ import annotations

import importlib
import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from aem_gym.envs.swe.tasks.base import RowError, SweTask
from aem_gym.envs.swe.tasks.dialects import read_task
from aem_gym.envs.swe.tasks.git import touched
from aem_gym.envs.swe.workspace import is_inside
from aem_gym.errors import ConfigError, MissingDependencyError

MAX_RECORD = 64_000_000
"""Most bytes of one record; SWE-bench's largest has less than one million."""
_KINDS = (".jsonl", ".parquet", ".json")
"""In a folder, only files of the first of these kinds are read."""
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
_IMAGES = ("image", "docker_image", "image_name")
_HUB = "hub:"
_FETCH_AGAIN = "Take the row from SWE-bench again"
# These end up in names of images, in paths and in a shell.
_FORMS = {
    "instance_id": (r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}", "letters, digits, -_."),
    "repo": (r"[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9_-][A-Za-z0-9_.-]*", "owner/name"),
    "base_commit": (r"[0-9a-f]{40}", "40 hex digits"),
    "version": (r"[A-Za-z0-9][A-Za-z0-9_.+-]*", "a version, as 1.2"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row, with the columns of the official schema."""

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
    image: str = ""
    """Of the row itself; empty: as SWE-bench names it."""
    task: SweTask | None = None
    """The task itself, of a row of another data set (`dialects.py`)."""


@dataclass(frozen=True, slots=True)
class Rows:
    rows: tuple[Row, ...]
    incomplete: tuple[str, ...] = ()
    """Ids of rows without hidden tests, which cannot be graded."""
    malformed: tuple[str, ...] = ()
    """A message for each row that was skipped: where it is, what was expected, what came."""


def read_rows(source: str | Path, *, split: str = "test", strict: bool = False) -> Rows:
    """The rows of a source; of several with one id, the first complete one.

    `source` is a `.jsonl` file, a `.json` list, a folder of such files or of a dataset's parquet
    files, or a dataset on the hub (`hub:OWNER/NAME@SPLIT`, or its id); `split` is the dataset's.

    Raises:
        ConfigError: there is no such file, folder or dataset, or it has no row.
        RowError: a row is malformed, and `strict`; else such rows are skipped.
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
                    f"{place}: expected one row of {row.instance_id}, got a second, different one; "
                    "the first is used. Remove one of them"
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
    """One row, or the id of a row without hidden tests.

    `content` is a decoded record or its JSON text; `place` is its file and line, for messages.

    Raises:
        RowError: a column is missing, of another type, or malformed.
    """
    record = _decode(content, place)
    if task := read_task(record, place):
        return _row_of(task)
    if any(_is_empty(record.get(name)) for name in ("test_patch", "FAIL_TO_PASS")):
        return _text(record, "instance_id", place)
    values: dict[str, object] = {}
    for name, column in _COLUMNS.items():
        read = _tests if column.endswith("_PASS") else _text
        values[name] = read(record, column, place)
    for column in ("patch", "test_patch"):
        paths = touched(str(values[column]))
        if not paths or not all(map(is_inside, paths)):
            got = f"one of {reprlib.repr(sorted(paths))}" if paths else _short(values[column])
            raise RowError(
                f"{place}, column {column}: expected a diff of files in the repository, got "
                f"{got}. {_FETCH_AGAIN}"
            )
    given = next((record[name] for name in _IMAGES if record.get(name)), "")
    return Row(**values, image=given if isinstance(given, str) else "")  # type: ignore[arg-type]


def _row_of(task: SweTask) -> Row:
    """The row of a task that a dialect has read."""
    lists = (task.fail_to_pass, task.pass_to_pass)
    texts = (task.problem, task.gold, task.test_patch)
    return Row(task.task_id, task.repo, "", "", *texts, *lists, task=task)


def _decode(content: object, place: str) -> Mapping[str, object]:
    if isinstance(content, str | bytes):
        if len(content) > MAX_RECORD:
            raise RowError(
                f"{place}: expected at most {MAX_RECORD:,} bytes, got more. {_FETCH_AGAIN}"
            )
        try:
            content = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RowError(
                f"{place}: expected a JSON object a line, got {_short(content)} ({error}). "
                f"{_FETCH_AGAIN}"
            ) from error
    if not isinstance(content, dict):
        raise RowError(
            f"{place}: expected a JSON object a line, got {type(content).__name__}. {_FETCH_AGAIN}"
        )
    return cast("dict[str, object]", content)


def _is_empty(value: object) -> bool:
    """Whether a column is empty, as in rows whose hidden tests are not published."""
    return value is None or value == [] or (isinstance(value, str) and value.strip() in ("", "[]"))


def _text(record: Mapping[str, object], column: str, place: str) -> str:
    value = record.get(column)
    if not isinstance(value, str) or not value.strip() or not _is_plain(value):
        came = "nothing" if column not in record else _short(value)
        raise RowError(f"{place}, column {column}: expected a text, got {came}. {_FETCH_AGAIN}")
    form, expected = _FORMS.get(column, ("", ""))
    if form and not re.fullmatch(form, value):
        raise RowError(
            f"{place}, column {column}: expected {expected}, got {_short(value)}. {_FETCH_AGAIN}"
        )
    return value


def _tests(record: Mapping[str, object], column: str, place: str) -> tuple[str, ...]:
    """A list of tests, which the official files hold as a JSON string."""
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
            f"{came}. {_FETCH_AGAIN}"
        )
    if not value and column == "FAIL_TO_PASS":
        raise RowError(
            f"{place}, column {column}: expected at least one test, got none. {_FETCH_AGAIN}"
        )
    return tuple(dict.fromkeys(value))


def _is_test(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and _is_plain(value)


def _is_plain(text: str) -> bool:
    """Whether a text survives being written to a file: no NUL, no lone surrogates."""
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)


def _short(value: object) -> str:
    return reprlib.repr(value)


def records(source: str | Path, split: str) -> Iterator[tuple[str, object]]:
    """(place, decoded record or its bytes) of a file, a folder, or a dataset of the hub.

    A record that is too long is cut off after `MAX_RECORD`.

    Raises:
        ConfigError: there is no such file, folder or dataset, or it cannot be read.
        MissingDependencyError: it needs a package that is not installed.
    """
    path = Path(source).expanduser()
    if str(source).startswith(_HUB):
        name, _, of = str(source).removeprefix(_HUB).partition("@")
        yield from _from_hub(name, of or split)
    elif path.is_dir():
        for file in _files(path, split):
            yield from _from_file(file)
    elif path.exists():
        yield from _from_file(path)
    else:
        yield from _from_hub(str(source), split)


def _files(folder: Path, split: str) -> list[Path]:
    for kind in _KINDS:
        files = sorted(path for path in folder.rglob(f"*{kind}") if path.is_file())
        if files:
            # A copy of a dataset of the hub: `data/test-00000-of-00001.parquet`.
            of_split = [path for path in files if path.name.startswith(f"{split}-")]
            return of_split if kind == ".parquet" and of_split else files
    raise ConfigError(
        f"expected a folder with files of rows (*{', *'.join(_KINDS)}), got none in {folder}. "
        "Give the file itself: --tasks FILE.jsonl"
    )


def _from_file(file: Path) -> Iterator[tuple[str, object]]:
    try:
        if file.suffix == ".parquet":
            yield from _from_parquet(file)
        elif is_list(file):
            yield from _from_list(file)
        else:
            yield from _from_lines(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error


def _from_lines(file: Path) -> Iterator[tuple[str, object]]:
    with file.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_RECORD + 1):
            number += 1
            rest = line
            while len(rest) > MAX_RECORD and not rest.endswith(b"\n"):
                rest = stream.readline(MAX_RECORD + 1)
            if line.strip():
                yield f"{file}, line {number}", line


def is_list(file: Path) -> bool:
    """Whether a file holds a JSON list, by its beginning. Raises OSError: it cannot be read."""
    with file.open("rb") as stream:
        return stream.read(1000).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _from_list(file: Path) -> Iterator[tuple[str, object]]:
    """The records of one JSON list."""
    try:
        found = cast("list[object]", json.loads(file.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"expected a JSON list of rows, or a JSON object a line, in {file}, got {error}"
        ) from error
    for number, record in enumerate(found, 1):
        yield f"{file}, row {number}", record


def _from_parquet(file: Path) -> Iterator[tuple[str, object]]:
    parquet = _package("pyarrow.parquet", f"the file {file.name} (--tasks FILE.jsonl needs none)")
    try:
        found = parquet.read_table(file).to_pylist()
    except OSError:
        raise
    except Exception as error:  # of Arrow
        raise ConfigError(f"expected a parquet file of rows in {file}, got {error}") from error
    for number, record in enumerate(cast("list[object]", found), 1):
        yield f"{file}, row {number}", record


def _from_hub(source: str, split: str) -> Iterator[tuple[str, object]]:
    if source.count("/") != 1 or source.endswith(_KINDS) or not source[:1].isalnum():
        raise ConfigError(
            f"expected a .jsonl file, a folder, or a dataset's id (owner/name), got {source!r}: "
            "there is no such file. Give one with --tasks FILE.jsonl"
        )
    purpose = f"the dataset {source!r} of the hub (--tasks FILE.jsonl needs no download)"
    datasets = _package("datasets", purpose)
    try:
        table = datasets.load_dataset(source, split=split)
    except Exception as error:  # of many libraries
        raise ConfigError(
            f"the dataset {source!r} (split {split!r}) cannot be loaded: {error}. "
            "Without a network give a file of its rows: --tasks FILE.jsonl"
        ) from error
    for number, record in enumerate(cast("list[Mapping[str, object]]", table), 1):
        yield f"{source}, row {number}", dict(record)


def _package(name: str, purpose: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(name.partition(".")[0], "swebench", purpose) from error
