"""What an imported shop says of itself. Written last: a folder without it is not whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aem_gym.envs.webshop.official import ShopDataError
from aem_gym.envs.webshop.store.layout import MANIFEST
from aem_gym.envs.webshop.store.sources import SourceFile

FORMAT = 1
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What an import is made of. The same plan gives the same bytes."""

    sources: tuple[SourceFile, ...]
    seed: int
    """Of hidden prices and price limits."""
    rows: int | None
    """Only the first so many rows of the articles' file."""
    nouns: str
    """How nouns were found: `words`, or the file or spaCy model they are from."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of an imported shop."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """An imported shop."""

    plan: Plan
    products: int
    skipped: int
    human_goals: int
    synthetic_goals: int
    files: Mapping[str, StoredFile]
    """By their path in the folder."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an imported shop whose files have the right sizes.

    Raises:
        ShopDataError: it is not there or not whole; the message names the command that makes it.
    """
    manifest = _decode(folder)
    for name, file in manifest.files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != file.bytes:
            got = "no such file" if size is None else f"{size:,}"
            raise ShopDataError(
                f"{path}: expected {file.bytes:,} bytes, got {got}. {_mend(folder)}"
            )
    return manifest


def _decode(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        found = msgspec.json.decode(text)["plan"]["format"]
        if found == FORMAT:  # the rest may look different in another format
            return msgspec.json.decode(text, type=Manifest)
        why = f"expected format {FORMAT}, got {found!r}"
    except OSError as error:
        why = f"expected an imported shop, but it cannot be read: {error.strerror}"
    except (ValueError, TypeError, KeyError) as error:
        why = f"expected a whole manifest: {error}"
    raise ShopDataError(f"{path}: {why}. {_mend(folder)}")


def _mend(folder: Path) -> str:
    return f"Import it (again): aem-gym data webshop import DIR --out {folder}"


def verify(folder: Path, manifest: Manifest, advance: Callable[[int], object]) -> None:
    """Compare every file with its hash.

    Args:
        folder: of the shop.
        manifest: of the shop.
        advance: is told how many more bytes were read.

    Raises:
        ShopDataError: a file has changed.
    """
    for name, file in manifest.files.items():
        if _digest(folder / name, advance) != file.sha256:
            raise ShopDataError(
                f"{folder / name}: expected what was imported, got other bytes. {_mend(folder)}"
            )


def stored_files(
    folder: Path, advance: Callable[[int], object]
) -> Iterator[tuple[str, StoredFile]]:
    """All files of a folder with sizes and hashes, by name."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        yield name, StoredFile(path.stat().st_size, _digest(path, advance))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it so that it is whole or absent.

    Raises:
        OutputError: the disk does not take it.
    """
    from aem_gym.io import atomic_write

    atomic_write(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def _digest(path: Path, advance: Callable[[int], object]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()
