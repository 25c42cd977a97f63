"""Text to terms, as Lucene's English analyzer makes them.

Words, without a possessive, in lower case, without stop words, as Porter's stems.
"""

from __future__ import annotations

from functools import lru_cache

from aem_gym.envs.webshop.search.porter import porter
from aem_gym.envs.webshop.search.words import words

_STOP = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
STOP_WORDS = frozenset(_STOP.split())


def tokens(text: str) -> list[str]:
    """The terms of a text, in order."""
    return list(filter(None, map(_term, words(text))))


@lru_cache(maxsize=1 << 18)
def _term(word: str) -> str:
    """The term of a word; empty for a stop word, or none but low lines."""
    if len(word) > 2 and word[-1] in "sS" and word[-2] in "'\u2019\uff07":
        word = word[:-2]
    word = word.lower()
    return "" if word in STOP_WORDS or not word.strip("_") else porter(word)
