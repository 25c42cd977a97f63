"""BM25 over an inverted index of NumPy arrays, which processes can share by mapping its files.

Scores and ties are Lucene's (Anserini's defaults k1 = 0.9, b = 0.4): lengths pass through its
one-byte norm, scores are float32, equal scores are ordered by ASIN.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aem_gym.envs.webshop.search.mapped import MappedNumbers, open_array
from aem_gym.envs.webshop.search.text import tokens

LIMIT = 50
_FEW = 20_000
"""Up to so many postings, all of them are added up exactly."""
_STEP = 2.0**-23
"""Twice the relative error of one rounding to float32."""
_LEAST = 1e-30
"""Less than any score of a document that has one of the terms."""
_Span = tuple[int, int]
"""Where the postings of a term begin and end."""
ARRAYS = ("starts", "documents", "gains", "order")


class TermNumbers(Protocol):
    def get(self, term: str, /) -> int | None:
        """The number of a term; None if no document has it."""


class SearchIndex:
    """Finds documents. Positions are those of the documents it was built from.

    `arrays` are `starts` (terms + 1), `documents` and `gains` (postings, by term and position; a
    gain is 1 + frequency / (k1 * (1 - b + b * length / mean))), `order` (documents: rank of the
    ASIN among all, ascending).
    """

    def __init__(self, terms: TermNumbers, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._terms, self._arrays = terms, arrays
        self._starts = arrays["starts"].data
        self._documents, self._gains = arrays["documents"], arrays["gains"]
        self._order = arrays["order"]

    def __len__(self) -> int:
        return len(self._order)

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return sum(array.nbytes for array in self._arrays.values())

    @classmethod
    def build(cls, documents: Iterable[str], asins: Sequence[str]) -> SearchIndex:
        """Index documents, all in memory; as many `asins` decide ties."""
        terms = Numbering()
        found = find_postings(documents, terms)
        sizes = np.bincount(found.numbers, minlength=len(terms))
        arrays = {
            "starts": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            "documents": found.places,
            "gains": gains(found.counts, norms(found.lengths)[found.places]),
            "order": ranks(asins),
        }
        return cls(dict(terms), arrays)

    @classmethod
    def open(cls, folder: Path) -> SearchIndex:
        """Map the files of a folder; processes that do the same share the memory."""
        arrays = {name: open_array(folder / f"{name}.npy") for name in ARRAYS}
        return cls(MappedNumbers.open(folder, "terms"), arrays)

    def search(self, words: Sequence[str], limit: int = LIMIT) -> list[int]:
        """Positions of the best documents, best first; repeated words count again."""
        spans, weights = self._wanted(" ".join(words))
        if sum([end - start for start, end in spans]) <= _FEW:
            positions, scores = self._all(spans, weights)
        else:
            positions, scores = self._best(spans, weights, limit)
        if len(positions) > limit:  # keep all that tie with the last one
            kept = scores >= _last(scores, limit)
            positions, scores = positions[kept], scores[kept]
        best = np.lexsort((self._order[positions], -scores))[:limit]
        found: list[int] = positions[best].tolist()
        return found

    def _wanted(self, text: str) -> tuple[list[_Span], NDArray[np.float32]]:
        """The known terms of a query, in its order: where their postings are, what they weigh."""
        times: dict[str, int] = {}
        for term in tokens(text):
            times[term] = times.get(term, 0) + 1
        number_of, starts, total = self._terms.get, self._starts, len(self)
        spans, counts, rarities = [], [], []
        for term, count in times.items():
            number = number_of(term)
            if number is not None:
                start, end = starts[number], starts[number + 1]
                spans.append((start, end))
                counts.append(count)
                rarities.append(log(1 + (total - (end - start) + 0.5) / (end - start + 0.5)))
        return spans, np.array(counts, np.float32) * np.array(rarities, np.float32)

    def _all(
        self, spans: Sequence[_Span], weights: NDArray[np.float32]
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """All documents with any of the terms, and their scores."""
        if not spans:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        documents = np.concatenate([self._documents[start:end] for start, end in spans])
        gains = np.concatenate([self._gains[start:end] for start, end in spans])
        weight = weights.repeat([end - start for start, end in spans])
        # float32 terms are added up in float64, as Lucene does
        scores = np.bincount(documents, weight - weight / gains)
        positions = scores.nonzero()[0]
        return positions, scores[positions].astype(np.float32)

    def _best(
        self, spans: Sequence[_Span], weights: NDArray[np.float32], limit: int
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """At least the best `limit` documents with any of the terms, and their scores.

        Scores are first added up in float32, which is many times as fast; then exactly for those
        documents whose rough score leaves it open that they are among the best.
        """
        rough = np.zeros(len(self), np.float32)
        for (start, end), weight in zip(spans, weights, strict=True):
            np.add.at(rough, self._documents[start:end], weight - weight / self._gains[start:end])
        slack = 1 - (len(spans) + 2) * _STEP
        positions = (rough >= max(self._floor(rough, spans, limit) * slack, _LEAST)).nonzero()[0]
        if len(positions) > limit:
            likely = rough[positions]
            positions = positions[likely >= _last(likely, limit) * slack]
        scores = np.zeros(len(positions))
        for span, weight in zip(spans, weights, strict=True):  # sums depend on the order: as above
            scores += self._worth(span, weight, positions)
        return positions, scores.astype(np.float32)

    def _floor(self, rough: NDArray[np.float32], spans: Sequence[_Span], limit: int) -> float:
        """A score that `limit` documents reach: of those with the rarest of the frequent terms."""
        enough = [(end - start, start) for start, end in spans if end - start >= limit]
        if not enough:
            return 0.0
        size, start = min(enough)
        return _last(rough[self._documents[start : start + min(size, max(_FEW, limit))]], limit)

    def _worth(self, span: _Span, weight: np.float32, positions: NDArray[Any]) -> NDArray[Any]:
        """The term's part of the scores of some documents; 0 where it does not occur."""
        documents, gains = (array[slice(*span)] for array in (self._documents, self._gains))
        at = np.searchsorted(documents, positions)
        at[at == len(documents)] = 0
        return np.where(documents[at] == positions, weight - weight / gains[at], 0)


def _last(scores: NDArray[np.float32], limit: int) -> float:
    """The lowest of the best `limit` scores."""
    return float(np.partition(scores, len(scores) - limit)[len(scores) - limit])


# Postings --------------------------------------------------------------------------------------

K1, B = 0.9, 0.4
_FREE = 24
"""Lengths up to 40 are exact: 24 values without, then four significant bits."""


class Numbering(dict[str, int]):
    """Numbers terms in the order in which they are asked for."""

    def __missing__(self, term: str) -> int:
        number = self[term] = len(self)
        return number


@dataclass(frozen=True, slots=True)
class Postings:
    """Parallel arrays, ordered by the term's number, then by the document's place."""

    numbers: NDArray[Any]
    places: NDArray[Any]
    counts: NDArray[Any]
    """How often the term occurs in the document."""
    lengths: NDArray[Any]
    """Of all documents: how many terms they have, repeated ones as often as they occur."""


def find_postings(documents: Iterable[str], terms: Numbering, first: int = 0) -> Postings:
    """The postings of some documents, of which the first has the place `first`.

    New terms are added to `terms`.
    """
    found, lengths = array("i"), array("i")
    for text in documents:
        words = tokens(text)
        lengths.append(len(words))
        found.extend(map(terms.__getitem__, words))
    sizes = np.array(lengths, np.int32)
    pairs = np.array(found, np.int64) << 32
    pairs |= np.repeat(np.arange(first, first + len(sizes)), sizes)
    pairs.sort()
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    counts = np.diff(starts, append=len(pairs)).astype(np.int32)
    pairs = pairs[starts]
    places = (pairs & 0xFFFFFFFF).astype(np.int32)
    return Postings((pairs >> 32).astype(np.int32), places, counts, sizes)


def gains(counts: NDArray[Any], norm: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 + frequency / (k1 * (1 - b + b * length / mean)), for some postings.

    `counts`: how often the term occurs in the document. `norm`: of the documents (`norms`).
    """
    return 1 + counts.astype(np.float32) * norm


def norms(lengths: NDArray[Any]) -> NDArray[np.float32]:
    """1 / (k1 * (1 - b + b * length / mean)), the length rounded as Lucene's norm byte does."""
    total = lengths.sum(dtype=np.float64)
    mean = np.float32(total / len(lengths)) if total else np.float32(1)
    rounded = rounded_lengths(lengths).astype(np.float32)
    return (1 / (np.float32(K1) * ((1 - np.float32(B)) + np.float32(B) * rounded / mean))).astype(
        np.float32
    )


def rounded_lengths(lengths: NDArray[Any]) -> NDArray[np.int32]:
    """Lengths as they come back from Lucene's norm byte: above 40, four significant bits."""
    over = np.maximum(lengths - _FREE, 1)
    lost = np.maximum(np.floor(np.log2(over)).astype(np.int32) - 3, 0)
    kept = (over >> lost) << lost
    return np.where(lengths <= _FREE + 16, lengths, kept + _FREE).astype(np.int32)


def ranks(asins: Sequence[str]) -> NDArray[np.int32]:
    """The rank of each id among all, ascending: equal scores are put in this order."""
    found = np.empty(len(asins), np.int32)
    found[sorted(range(len(asins)), key=asins.__getitem__)] = np.arange(len(asins))
    return found
