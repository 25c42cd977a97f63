"""The official data set: its files, and articles read from them."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import msgspec

from aem_gym.envs.webshop.catalogue import BadRow, Product, document, is_listed, parse_product
from aem_gym.envs.webshop.stream import BrokenJson, JsonElement, elements
from aem_gym.errors import ConfigError

logger = logging.getLogger(__name__)

VARIABLE = "WEBSHOP_DATA"
"""Names the folder of the official files, or of an imported shop."""
FILES = ("items_shuffle*.json", "items_ins_v2*.json", "items_human_ins.json")
GET_DATA = (
    "WebShop's data are the files " + ", ".join(FILES) + " of the official setup "
    "(github.com/princeton-nlp/WebShop, setup.sh)"
)
_NAMED = 3
_LONGEST_REASON = 500


class ShopDataError(ConfigError):
    """A file of the shop's data cannot be read; the message names it, and the row."""


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row that is not on sale."""

    row: int
    """From 0, in its file."""
    asin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stock:
    """The articles read from official files, and the rows that were left out."""

    products: tuple[Product, ...]
    skipped: tuple[SkippedRow, ...]


class Entries(Protocol):
    """Entries by id, in memory or in a file."""

    def get(self, asin: str, /) -> Any:
        """The entry of an article; None if it has none."""


class ArticleReader:
    """Makes articles of official rows, by the official filters.

    `attributes` are the entries of `items_ins_v2*.json`, `human` those of `items_human_ins.json`
    (empty if people's goals are not wanted), `seen` the ids of the articles of earlier rows.
    """

    def __init__(self, attributes: Entries, human: Entries, seen: Iterable[str] = ()) -> None:
        self._attributes, self._human, self._seen = attributes, human, set(seen)

    def read(self, number: int, row: Any) -> tuple[Product, bytes] | SkippedRow:
        """Read a row: the article and its packed form (see `unpack`), or why it is left out."""
        asin: Any = row.get("asin") if isinstance(row, Mapping) else None
        reason = self._why_not(asin)
        if not reason:
            try:
                article = parse_product(
                    row, self._attributes.get(asin), self._human.get(asin) or ()
                )
                document(article)
                packed = msgspec.msgpack.encode(article)
            except UnicodeEncodeError as error:
                reason = f"a text is not Unicode: {error.reason}"
            except (BadRow, AttributeError, TypeError) as error:
                reason = str(error)
            else:
                self._seen.add(article.asin)
                return article, packed
        printable = str(asin).encode(errors="replace").decode()
        return SkippedRow(number, printable, reason[:_LONGEST_REASON])

    def _why_not(self, asin: Any) -> str:
        """The reason of the official filters to leave out an article; empty if there is none."""
        if not is_listed(asin):
            return "the id is 'nan', longer than 10 characters, or no text"
        return "the id was there before" if asin in self._seen else ""


def unpack(packed: bytes) -> Product:
    """The article that `ArticleReader.read` has packed."""
    return msgspec.msgpack.decode(packed, type=Product)


def load_products(
    items: Path, attributes: Path, human: Path | None = None, *, num_products: int | None = None
) -> Stock:
    """The articles of official files, in their order and by the official filters.

    `human` is given if people's goals are wanted. Only the first `num_products` rows are read,
    before the filters.

    Raises:
        ShopDataError: a file is missing or is not what it should be. Rows that cannot be read are
            skipped and logged.
    """
    articles = ArticleReader(read_json(attributes, dict), read_json(human, dict) if human else {})
    products: list[Product] = []
    skipped: list[SkippedRow] = []
    for number, element in enumerate(islice(rows(items), num_products)):
        found = articles.read(number, element.value)
        if isinstance(found, SkippedRow):
            skipped.append(found)
        else:
            products.append(found[0])
    if skipped:
        first = "; ".join(f"row {s.row} ({s.asin}): {s.reason}" for s in skipped[:_NAMED])
        logger.warning("%s: %d rows are not on sale: %s", items, len(skipped), first)
    if not products:
        raise none_for_sale(items)
    return Stock(tuple(products), tuple(skipped))


def rows(path: Path, kind: type = list, after: int = 0, number: int = 0) -> Iterator[JsonElement]:
    """The elements of an official file (a `list` or a `dict`), one by one.

    Goes on after the element that ends at byte `after`, the `number`-th.

    Raises:
        ShopDataError: it is missing, cut off, or something else.
    """
    try:
        for element in elements(path, kind, after):
            yield element
            number += 1
    except OSError as error:
        raise _unreadable(path, error) from error
    except BrokenJson as error:
        raise ShopDataError(
            f"{path}: is not a whole JSON file (row {number:,}, {error}): get it again. {GET_DATA}"
        ) from error


def none_for_sale(items: Path) -> ShopDataError:
    """The error of a file without a single article."""
    return ShopDataError(f"{items}: expected articles, got none that can be sold. {GET_DATA}")


def read_json(path: Path, kind: type) -> Any:
    """A JSON file whose outermost value is a list or a mapping. Raises ShopDataError."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise ShopDataError(
            f"{path}: is not a whole JSON file ({error}): get it again. {GET_DATA}"
        ) from error
    if not isinstance(found, kind):
        expected = "a list of rows" if kind is list else "a mapping by id"
        raise ShopDataError(f"{path}: expected {expected}, got {type(found).__name__}. {GET_DATA}")
    return found


def _unreadable(path: Path, error: OSError) -> ShopDataError:
    return ShopDataError(f"{path}: cannot be read: {error.strerror}. {GET_DATA}")


def draw_prices(products: Iterable[Product], rng: random.Random) -> dict[str, float]:
    """Price by id. A price range is drawn from, once, in the order of the articles."""
    return {
        product.asin: product.prices[0]
        if len(product.prices) == 1
        else rng.uniform(*product.prices)
        for product in products
    }


# Files ----------------------------------------------------------------------------------------


_SAMPLE = 1 << 20
_SIZE = re.compile(r"_(\d+)$")


@dataclass(frozen=True, slots=True)
class FileFingerprint:
    """Identifies the content of a file."""

    name: str
    bytes: int
    modified: int
    """Nanoseconds."""
    ends: str
    """SHA-256 of its first and last megabyte."""


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    items: Path
    attributes: Path
    human: Path
    rows: int | None = None
    """Read only the first so many articles."""


def find_files(folder: Path, num_products: int | None = None) -> DatasetFiles:
    """Find the official files in a folder; of several sizes the largest.

    If there are files of size `num_products` (`items_shuffle_1000.json`), these; else as many rows
    of the largest.

    Raises:
        ShopDataError: a file is missing.
    """
    if num_products is not None and num_products < 1:
        raise ShopDataError(f"num_products: expected at least 1, got {num_products}")
    found = [sorted(folder.glob(pattern), key=_by_size, reverse=True) for pattern in FILES]
    for pattern, files in zip(FILES, found, strict=True):
        if not files:
            raise ShopDataError(f"{folder}: expected {pattern}, got no such file. {GET_DATA}")
    exact = [path for path in found[0] if _suffix(path) == f"_{num_products}"]
    items = (exact or found[0])[0]
    same = [path for path in found[1] if _suffix(path) == _suffix(items)]
    return DatasetFiles(items, (same or found[1])[0], found[2][0], None if exact else num_products)


def fingerprint(path: Path) -> FileFingerprint:
    """Name, size, time, and a hash of the first and last megabyte. Raises ShopDataError."""
    try:
        state = path.stat()
        with path.open("rb") as stream:
            digest = hashlib.sha256(stream.read(_SAMPLE))
            stream.seek(max(state.st_size - _SAMPLE, 0))
            digest.update(stream.read(_SAMPLE))
    except OSError as error:
        raise ShopDataError(f"{path}: cannot be read: {error.strerror}") from error
    return FileFingerprint(path.name, state.st_size, state.st_mtime_ns, digest.hexdigest())


def _by_size(path: Path) -> tuple[int, str]:
    return path.stat().st_size, path.name


def _suffix(path: Path) -> str:
    """`_1000` of `items_shuffle_1000.json`; empty for the whole catalogue."""
    found = _SIZE.search(path.stem)
    return found[0] if found else ""
