"""Replacing a file in one go."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from secrets import token_hex


def replace_file(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file so that any reader, at any time, finds the old content or the new.

    Several processes may do so at the same time: each writes beside it under a name of its own.

    Args:
        path: in a folder that is there.
        data: the new content.
        durable: return only when it is on the disk itself, safe from a power cut.

    Raises:
        OSError: the disk does not take it; the old file, if any, is untouched.
    """
    part = path.with_name(f".{path.name}.{token_hex(8)}.tmp")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file or folder to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
