"""Where things are in the folder of an imported shop."""

from __future__ import annotations

from pathlib import Path

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
    """Where a shop is until it is whole."""
    return folder.with_name(f"{folder.name}{_PARTIAL}")


def is_partial(folder: Path) -> bool:
    """Whether a folder is one of an import that was stopped."""
    return folder.name.endswith(_PARTIAL)


def default_place() -> Path:
    """Where imported shops go unless said otherwise."""
    from aem_gym.io import cache_folder

    return cache_folder() / "webshop"
