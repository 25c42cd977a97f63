"""The official files in a folder: which of them belong together, and whether they have changed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from aem_gym.envs.webshop.official import FILES, MEND, ShopDataError

_SAMPLE = 1 << 20
_SIZE = re.compile(r"_(\d+)$")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as it was when it was read."""

    name: str
    bytes: int
    modified: int
    """Nanoseconds."""
    ends: str
    """SHA-256 of its first and last megabyte."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of one shop."""

    items: Path
    attributes: Path
    human: Path
    rows: int | None = None
    """Read only the first so many articles."""


def find_sources(folder: Path, num_products: int | None = None) -> Sources:
    """The files in a folder: of several sizes the largest.

    Args:
        folder: where they are.
        num_products: if there are files of that size (`items_shuffle_1000.json`), these; else as
            many rows of the largest.

    Raises:
        ShopDataError: a file is missing.
    """
    if num_products is not None and num_products < 1:
        raise ShopDataError(f"num_products: expected at least 1, got {num_products}")
    found = [sorted(folder.glob(pattern), key=_by_size, reverse=True) for pattern in FILES]
    for pattern, files in zip(FILES, found, strict=True):
        if not files:
            raise ShopDataError(f"{folder}: expected {pattern}, got no such file. {MEND}")
    exact = [path for path in found[0] if _suffix(path) == f"_{num_products}"]
    items = (exact or found[0])[0]
    same = [path for path in found[1] if _suffix(path) == _suffix(items)]
    return Sources(items, (same or found[1])[0], found[2][0], None if exact else num_products)


def fingerprint(path: Path) -> SourceFile:
    """What tells whether a file has changed, without reading all of it.

    Raises:
        ShopDataError: it cannot be read.
    """
    try:
        state = path.stat()
        with path.open("rb") as stream:
            digest = hashlib.sha256(stream.read(_SAMPLE))
            stream.seek(max(state.st_size - _SAMPLE, 0))
            digest.update(stream.read(_SAMPLE))
    except OSError as error:
        raise ShopDataError(f"{path}: cannot be read: {error.strerror}") from error
    return SourceFile(path.name, state.st_size, state.st_mtime_ns, digest.hexdigest())


def _by_size(path: Path) -> tuple[int, str]:
    return path.stat().st_size, path.name


def _suffix(path: Path) -> str:
    """`_1000` of `items_shuffle_1000.json`; empty for the whole catalogue."""
    found = _SIZE.search(path.stem)
    return found[0] if found else ""
