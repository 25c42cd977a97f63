"""Parts of an imported shop: search index, goals, nouns, and lists of strings in mapped files."""

from __future__ import annotations

import importlib
import json
import math
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from aem_gym.envs.webshop.catalogue import Product
from aem_gym.envs.webshop.goals import SHUFFLE_SEED, human_goals, synthetic_goals
from aem_gym.envs.webshop.search.index import Numbering, Postings, find_postings, gains, norms
from aem_gym.envs.webshop.search.mapped import open_array
from aem_gym.envs.webshop.stored import GOAL_ARRAYS, HUMAN, MOST_GOALS, choices
from aem_gym.errors import ConfigError, MissingDependencyError
from aem_gym.io import atomic_folder

_PARTS = ("numbers", "places", "counts", "lengths")
_TERMS = "terms.json"
_CHUNK = 1 << 22
"""Postings that are merged at a time."""


class IndexBuilder:
    """Builds the files that `SearchIndex.open` maps. Whole blocks in the folder `work` are kept."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._terms = Numbering()
        self._lengths: list[NDArray[Any]] = []
        self._sizes = np.zeros(0, np.int64)  # by term: how many documents have it
        while (block := work / str(len(self._lengths))).exists():
            for term in json.loads((block / _TERMS).read_text()):
                self._terms[term]  # takes the next number
            self._take(_open(block))

    @property
    def done(self) -> int:
        return sum(map(len, self._lengths))

    @property
    def postings(self) -> int:
        return int(self._sizes.sum())

    def add(self, documents: Sequence[str]) -> None:
        """Index the next documents, as a block of their own."""
        known = len(self._terms)
        found = find_postings(documents, self._terms, self.done)
        with atomic_folder(self._work / str(len(self._lengths))) as part:
            for name in _PARTS:
                np.save(part / f"{name}.npy", getattr(found, name))
            (part / _TERMS).write_text(json.dumps(list(self._terms)[known:]))
        self._take(found)

    def _take(self, block: Postings) -> None:
        self._lengths.append(np.array(block.lengths))
        sizes = np.bincount(block.numbers, minlength=len(self._terms))
        sizes[: len(self._sizes)] += self._sizes
        self._sizes = sizes

    def finish(
        self, folder: Path, order: NDArray[np.int32], advance: Callable[[int], object]
    ) -> None:
        """Merge the blocks into a folder; `order` holds the ranks of the ids of all documents.

        `advance` is called with the number of postings merged, chunk by chunk.
        """
        starts = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)
        norm = norms(np.concatenate([np.zeros(0, np.int32), *self._lengths]))
        total = int(starts[-1])
        with (
            _array_file(folder / "documents.npy", np.int32, total) as write_documents,
            _array_file(folder / "gains.npy", np.float32, total) as write_gains,
        ):
            for first, last in _ranges(starts):
                places, counts = self._merged(first, last)
                write_documents(places)
                write_gains(gains(counts, norm[places]))
                advance(len(places))
        np.save(folder / "starts.npy", starts)
        np.save(folder / "order.npy", order)
        write_numbers(folder, "terms", self._terms)

    def _merged(self, first: int, last: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Places and counts of the terms `first` to `last` - 1, by term and place."""
        ends = np.array([first, last], np.int32)  # of the same kind, else the block is copied
        parts: list[tuple[NDArray[Any], ...]] = []
        for number in range(len(self._lengths)):
            block = _open(self._work / str(number))  # mapped for as long as it is looked at
            some = slice(*np.searchsorted(block.numbers, ends))
            parts.append(
                tuple(part[some].copy() for part in (block.numbers, block.places, block.counts))
            )
        numbers, places, counts = (np.concatenate(part) for part in zip(*parts, strict=True))
        # The blocks are in the order of their places, so a stable sort by term is all it takes.
        by_term = np.argsort(numbers, kind="stable")
        return places[by_term], counts[by_term]


def _open(block: Path) -> Postings:
    return Postings(*(open_array(block / f"{name}.npy") for name in _PARTS))


def _ranges(starts: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Terms in runs of about a chunk of postings, at least one term each."""
    first = 0
    while first < len(starts) - 1:
        last = int(np.searchsorted(starts, starts[first] + _CHUNK, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


@contextmanager
def _array_file(
    path: Path, kind: DTypeLike, length: int
) -> Iterator[Callable[[NDArray[Any]], object]]:
    """Write an array part by part."""
    header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (length,)}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        yield lambda part: stream.write(part.astype(kind, copy=False).data)


# Strings --------------------------------------------------------------------------------------


def write_strings(folder: Path, name: str, strings: Iterable[str]) -> None:
    """Write strings for `MappedStrings.open`, in their order."""
    encoded = [string.encode() for string in strings]
    starts = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(each) for each in encoded], out=starts[1:])
    np.save(folder / f"{name}.text.npy", np.frombuffer(b"".join(encoded), np.uint8))
    np.save(folder / f"{name}.npy", starts)


def write_numbers(folder: Path, name: str, numbers: Mapping[str, int]) -> None:
    """Write a mapping for `MappedNumbers.open`."""
    strings = sorted(numbers)
    write_strings(folder, name, strings)
    np.save(folder / f"{name}.numbers.npy", np.array([numbers[s] for s in strings], np.int32))


# Goals ----------------------------------------------------------------------------------------


class GoalDraws:
    """Draws price limits of goals, article by article in the order of the catalogue.

    `rng` is as the draws of prices have left it.
    """

    def __init__(self, kind: str, rng: random.Random) -> None:
        self._kind, self._rng = kind, rng
        self._positions, self._limits, self._counts = array("i"), array("d"), array("q")
        self._attributes: list[tuple[int, ...]] = []
        self._numbers = Numbering()
        self._uses: Counter[int] = Counter()

    def add(self, position: int, product: Product, price: float) -> None:
        """Draw for an article's goals, if it has any."""
        prices = {product.asin: price}
        if self._kind == HUMAN:
            for goal in human_goals([product], prices, self._rng):
                self._keep(position, goal.price_upper, 1)
            return
        # Without options there is one goal, whose limit holds for all combinations of options.
        for goal in synthetic_goals([replace(product, options=())], prices, self._rng):
            count = min(math.prod(len(values) for _, values in choices(product)), MOST_GOALS + 1)
            if count:
                self._keep(position, goal.price_upper, count)
                numbers = tuple(map(self._numbers.__getitem__, goal.attributes))
                self._attributes.append(numbers)
                for number in numbers:
                    self._uses[number] += count

    def _keep(self, position: int, limit: float, count: int) -> None:
        self._positions.append(position)
        self._limits.append(limit)
        self._counts.append(count)

    def save(self, folder: Path) -> int:
        """Write the arrays into a folder; the number of goals."""
        firsts = np.zeros(len(self._counts) + 1, np.int64)
        np.cumsum(self._counts, out=firsts[1:])
        total = int(firsts[-1])
        weights = [sum(1 / self._uses[a] for a in some) / len(some) for some in self._attributes]
        arrays: dict[str, NDArray[Any]] = {
            "positions": np.array(self._positions, np.int32),
            "limits": np.array(self._limits, np.float64),
            "weights": np.array(weights) if weights else np.ones(len(self._counts)),
            "firsts": firsts,
            "order": _official_order(total if total <= MOST_GOALS else 0),
        }
        for name in GOAL_ARRAYS:
            np.save(folder / f"{self._kind}.{name}.npy", arrays[name])
        return total


def _official_order(count: int) -> NDArray[np.int32]:
    """The numbers of so many goals as the original shuffles them."""
    order = array("i", range(count))
    random.Random(SHUFFLE_SEED).shuffle(order)
    return np.array(order, np.int32)


# Nouns ----------------------------------------------------------------------------------------


_NOUNS = ("NOUN", "PROPN")


class NounFinder:
    """Finds nouns as the original does, which loads the spaCy pipeline `en_core_web_sm`.

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
                f"--spacy: {model!r} is not an installed spaCy model. "
                f"Get it: python -m spacy download {model}"
            ) from error

    def __call__(self, titles: Iterable[str]) -> Iterator[list[str]]:
        """The nouns of each title, in lower case, repeated ones as often as they occur."""
        for text in self._pipeline.pipe(titles):
            yield [token.text.lower() for token in text if token.pos_ in _NOUNS]
