"""The nouns of titles: found once, by the import, and looked up in its database."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from aem_gym.envs.webshop.nouns import Nouns
from aem_gym.envs.webshop.store.database import Database
from aem_gym.errors import ConfigError, MissingDependencyError

_REMEMBERED = 8192
_NOUNS = ("NOUN", "PROPN")


class StoredNouns(Nouns):
    """Nouns by title, from a database; of titles that are not there, all words but a few."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self._stored = lru_cache(_REMEMBERED)(self._find)

    @property
    def mode(self) -> str:
        """`spacy`: what is stored are answers of spaCy."""
        return "spacy"

    def __call__(self, title: str) -> Sequence[str]:
        """The nouns of a title, in lower case."""
        known = self._stored(title)
        return super().__call__(title) if known is None else known

    def _find(self, title: str) -> Sequence[str] | None:
        row = self._database.one("SELECT nouns FROM nouns WHERE title = ?", title)
        return None if row is None else msgspec.msgpack.decode(row[0], type=list[str])


class NounFinder:
    """Finds nouns as the original does.

    Args:
        model: name or folder of a spaCy pipeline; the original loads `en_core_web_sm`.

    Raises:
        MissingDependencyError: spaCy is not installed.
        ConfigError: there is no such model.
    """

    def __init__(self, model: str) -> None:
        try:
            spacy: Any = importlib.import_module("spacy")
        except ImportError as error:
            raise MissingDependencyError("spacy", "webshop-nouns", "--spacy") from error
        try:
            self._pipeline = spacy.load(model)
        except OSError as error:
            raise ConfigError(
                f"--spacy: {model!r} is no spaCy model that is installed. "
                f"Get it: python -m spacy download {model}"
            ) from error

    def __call__(self, titles: Iterable[str]) -> Iterator[list[str]]:
        """The nouns of each title, in lower case, repeated ones as often as they occur."""
        for text in self._pipeline.pipe(titles):
            yield [token.text.lower() for token in text if token.pos_ in _NOUNS]
