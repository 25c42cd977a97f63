"""An index built on disk: block by block, so that memory is bounded and nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from aem_gym.envs.webshop.search.postings import (
    Numbering,
    Postings,
    find_postings,
    gains,
    norms,
)
from aem_gym.envs.webshop.search.strings import open_array, write_numbers

_PARTS = ("numbers", "places", "counts", "lengths")
_TERMS = "terms.json"
_CHUNK = 1 << 22
"""Postings that are merged at a time."""


class IndexBuilder:
    """Builds what `SearchIndex.open` maps.

    Args:
        work: folder for the blocks; whole ones that are there already are kept.
    """

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
        """Documents that are indexed."""
        return sum(map(len, self._lengths))

    @property
    def postings(self) -> int:
        """Their postings."""
        return int(self._sizes.sum())

    def add(self, documents: Sequence[str]) -> None:
        """Index the next documents, as a block of their own."""
        from aem_gym.io import atomic_folder

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
        """Merge the blocks.

        Args:
            folder: where the index goes.
            order: ranks of the ids of all documents (`postings.ranks`).
            advance: is told how many more postings are merged.
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
