"""Documents to postings: which terms occur where, and how often."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aem_gym.envs.webshop.search.tokens import tokens

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
    """Terms of some documents, by the term's number, then the document's place."""

    numbers: NDArray[Any]
    places: NDArray[Any]
    counts: NDArray[Any]
    """How often the term occurs in the document."""
    lengths: NDArray[Any]
    """Of all documents: how many terms they have, repeated ones as often as they occur."""


def find_postings(documents: Iterable[str], terms: Numbering, first: int = 0) -> Postings:
    """The postings of some documents.

    Args:
        documents: their texts.
        terms: numbers of terms; new ones are added.
        first: the place of the first document.
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

    Args:
        counts: how often the term occurs in the document.
        norm: of the documents (`norms`).
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
