"""Folders that appear whole, and what to say when the disk does not take them."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aem_gym.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, sqlite3.SQLITE_FULL)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


@contextmanager
def explained(folder: Path, part: Path) -> Iterator[None]:
    """Turn errors of the disk into an OutputError about `folder`, and remove `part` then.

    What was written may not be whole after such an error, and a full disk needs the space.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        shutil.rmtree(part, ignore_errors=True)
        cause = error.__cause__ if isinstance(error, OutputError) else None
        raise OutputError(f"cannot write {folder}: {_mend(cause or error)}") from error


def _mend(error: BaseException) -> str:
    number = getattr(error, "errno", None) or getattr(error, "sqlite_errorcode", None)
    if number in _FULL:
        return (
            "the disk is full. An import takes about as much space as the files it reads, at the "
            "end and once more on the way. Free some, or choose another folder with --out"
        )
    if number in _FORBIDDEN:
        return "you may not write there. Choose another folder with --out"
    return f"{getattr(error, 'strerror', None) or error}. Choose another folder with --out"


def settle(part: Path, folder: Path) -> None:
    """Give a finished folder its name; what stood there before goes."""
    for path in part.rglob("*"):
        _sync(path)
    _sync(part)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    part.replace(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Bring a file or folder to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
