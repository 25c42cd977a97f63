"""An imported shop's folder: where its files are, and the manifest that names all of them.

The manifest is written last: a folder without it is not whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aem_gym.envs.webshop.dataset import FileFingerprint, ShopDataError
from aem_gym.io import cache_folder

ARTICLES = "articles.sqlite"
ASINS = "asins"
INDEX = "index"
GOALS = "goals"
SKIPPED = "skipped.jsonl"
MANIFEST = "manifest.json"
WORDS = "words"
"""How nouns are found where none are stored."""
_PARTIAL = ".partial"


def partial(folder: Path) -> Path:
    """The folder in which a shop is made, until it is whole."""
    return folder.with_name(f"{folder.name}{_PARTIAL}")


def is_partial(folder: Path) -> bool:
    """Whether a folder is one of an import that was stopped."""
    return folder.name.endswith(_PARTIAL)


def default_place() -> Path:
    """The default folder of imported shops."""
    return cache_folder() / "webshop"


FORMAT = 1
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """The settings and sources of an import. The same plan gives the same bytes."""

    sources: tuple[FileFingerprint, ...]
    seed: int
    """Of hidden prices and price limits."""
    rows: int | None
    """Only the first so many rows of the articles' file."""
    nouns: str
    """How nouns were found: `words`, or the file or spaCy model they are from."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class StoredFile:
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShopManifest:
    plan: ImportPlan
    products: int
    skipped: int
    human_goals: int
    synthetic_goals: int
    files: Mapping[str, StoredFile]
    """By their path in the folder."""


def read_manifest(folder: Path) -> ShopManifest:
    """The manifest of an imported shop whose files have the right sizes.

    Raises:
        ShopDataError: it is missing or damaged; the message names the command that makes it.
    """
    manifest = _decode(folder)
    for name, file in manifest.files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != file.bytes:
            got = "no such file" if size is None else f"{size:,}"
            raise ShopDataError(
                f"{path}: expected {file.bytes:,} bytes, got {got}. {_import_again(folder)}"
            )
    return manifest


def _decode(folder: Path) -> ShopManifest:
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        found = msgspec.json.decode(text)["plan"]["format"]
        if found == FORMAT:  # the rest may look different in another format
            return msgspec.json.decode(text, type=ShopManifest)
        why = f"expected format {FORMAT}, got {found!r}"
    except OSError as error:
        why = f"expected an imported shop, but it cannot be read: {error.strerror}"
    except (ValueError, TypeError, KeyError) as error:
        why = f"expected a whole manifest: {error}"
    raise ShopDataError(f"{path}: {why}. {_import_again(folder)}")


def _import_again(folder: Path) -> str:
    return f"Import it (again): aem-gym data webshop import DIR --out {folder}"


def verify(folder: Path, manifest: ShopManifest, advance: Callable[[int], object]) -> None:
    """Compare every file of a shop with its hash. Raises ShopDataError: a file has changed.

    `advance` is called with the number of bytes read, block by block.
    """
    for name, file in manifest.files.items():
        if digest_file(folder / name, advance) != file.sha256:
            raise ShopDataError(
                f"{folder / name}: expected what was imported, got other bytes. "
                f"{_import_again(folder)}"
            )


def digest_file(path: Path, advance: Callable[[int], object]) -> str:
    """Hex SHA-256 of a file. Calls `advance` with the number of bytes read, block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()
