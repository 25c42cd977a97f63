"""The articles of a shop that is being imported, in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from aem_gym.envs.webshop.catalogue import Product
from aem_gym.envs.webshop.dataset import SkippedRow, unpack

_TABLES = """
PRAGMA page_size = 16384;
CREATE TABLE IF NOT EXISTS articles (
    position INTEGER PRIMARY KEY, asin TEXT NOT NULL, price REAL NOT NULL,
    category TEXT NOT NULL, query TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS bodies (position INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS skipped (
    row INTEGER PRIMARY KEY, asin TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS nouns (title TEXT PRIMARY KEY, nouns BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_INDEXES = """
CREATE UNIQUE INDEX IF NOT EXISTS by_asin ON articles (asin);
CREATE INDEX IF NOT EXISTS by_category ON articles (category);
CREATE INDEX IF NOT EXISTS by_query ON articles ("query");
"""


class ImportDraft:
    """A database that is being made. What is committed together is there together."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(_TABLES)

    def state(self, name: str) -> Any:
        """The value that `commit` last kept under a name; None if there is none."""
        row = self._database.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def commit(self, name: str, value: Any) -> None:
        """Keep what was added since the last time, and where to go on."""
        self._write("REPLACE INTO state VALUES (?, ?)", name, json.dumps(value))
        self._database.execute("COMMIT")

    def add(self, position: int, product: Product, packed: bytes, price: float) -> None:
        row = (position, product.asin, price, product.category, product.query)
        self._write("INSERT INTO articles VALUES (?, ?, ?, ?, ?)", *row)
        self._write("INSERT INTO bodies VALUES (?, ?)", position, packed)

    def skip(self, row: SkippedRow) -> None:
        """Note a row that is not on sale."""
        self._write("INSERT INTO skipped VALUES (?, ?, ?)", row.row, row.asin, row.reason)

    def add_nouns(self, title: str, nouns: Iterable[str]) -> None:
        packed = msgspec.msgpack.encode(list(nouns))
        self._write("INSERT OR IGNORE INTO nouns VALUES (?, ?)", title, packed)

    def asins(self) -> list[str]:
        """All ids, in the order of the catalogue."""
        found = self._database.execute("SELECT asin FROM articles ORDER BY position")
        return [asin for (asin,) in found]

    def products(self, first: int = 0) -> Iterator[Product]:
        """The articles in order, from position `first` on."""
        query = "SELECT body FROM bodies WHERE position >= ? ORDER BY position"
        return (unpack(body) for (body,) in self._database.execute(query, (first,)))

    def priced(self) -> Iterator[tuple[Product, float]]:
        """The articles in order, with their prices."""
        prices = self._database.execute("SELECT price FROM articles ORDER BY position")
        return ((product, price) for product, (price,) in zip(self.products(), prices, strict=True))

    def skipped(self) -> Iterator[SkippedRow]:
        """The rows that are not on sale, in order."""
        found = self._database.execute("SELECT row, asin, reason FROM skipped ORDER BY row")
        return (SkippedRow(*row) for row in found)

    def finish(self) -> None:
        """Add the indexes, and close."""
        self._database.executescript(f"BEGIN; {_INDEXES} COMMIT;")
        self.close()

    def close(self) -> None:
        """Drop what was not committed, and close."""
        self._database.close()

    def _write(self, query: str, *values: str | int | float | bytes) -> None:
        if not self._database.in_transaction:
            self._database.execute("BEGIN")
        self._database.execute(query, values)
