"""Records of a dataset as they lie on disk or on the hub, one by one, each with its place."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import cast

from aem_gym.errors import ConfigError, MissingDependencyError

MAX_RECORD = 64_000_000
"""Bytes of one record; SWE-bench's largest has less than one million."""
_KINDS = (".jsonl", ".parquet", ".json")
"""In a folder only files of the first kind that is there are read."""


def records(source: str | Path, split: str) -> Iterator[tuple[str, object]]:
    """(where it is, a decoded record or its bytes) of a file, a folder, or a dataset of the hub.

    A record that is too long comes cut off behind `MAX_RECORD`.

    Raises:
        ConfigError: there is no such file, folder or dataset, or it cannot be read.
        MissingDependencyError: it needs a package that is not installed.
    """
    path = Path(source).expanduser()
    if path.is_dir():
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
        elif _is_list(file):
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


def _is_list(file: Path) -> bool:
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
