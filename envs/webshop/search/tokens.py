"""Text to terms, as Lucene's English analyzer makes them.

Words end where the standard tokenizer (Unicode's UAX #29) ends them: letters and digits run on,
marks between two letters (`. ' ’ :`) or two digits (`. , ; ' ’`) hold them together, symbols
that are emoji are words of their own, superscripts and fractions are none. Then: no possessive,
lower case, no stop words, Porter's stems.
"""

from __future__ import annotations

import re
from functools import lru_cache

from aem_gym.envs.webshop.search.porter import porter

_STOP = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
STOP_WORDS = frozenset(_STOP.split())
_EMOJI = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u23cf"
    "\u23e9-\u23f3\u23f8-\u23fa\u24c2\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u2604\u260e"
    "\u2611\u2614\u2615\u2618\u261d\u2620\u2622\u2623\u2626\u262a\u262e\u262f\u2638-\u263a\u2640"
    "\u2642\u2648-\u2653\u265f\u2660\u2663\u2665\u2666\u2668\u267b\u267e\u267f\u2692-\u2697\u2699"
    "\u269b\u269c\u26a0\u26a1\u26a7\u26aa\u26ab\u26b0\u26b1\u26bd\u26be\u26c4\u26c5\u26c8\u26ce"
    "\u26cf\u26d1\u26d3\u26d4\u26e9\u26ea\u26f0-\u26f5\u26f7-\u26fa\u26fd\u2702\u2705\u2708-\u270d"
    "\u270f\u2712\u2714\u2716\u271d\u2721\u2728\u2733\u2734\u2744\u2747\u274c\u274e\u2753-\u2755"
    "\u2757\u2763\u2764\u2795-\u2797\u27a1\u27b0\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50"
    "\u2b55\u3030\u303d\u3297\u3299\U0001f004\U0001f0cf\U0001f170-\U0001f251\U0001f300-\U0001faff"
)
_LETTER, _DIGIT = r"[^\W\d]", r"\d"
_NONE = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u215f\u2189\u2460-\u249b\u24ea-\u24ff"
_IN = rf"[^\W{_NONE}]"
_MARK = r"\u0300-\u036f"
_WORD = re.compile(
    rf"[{_EMOJI}]"
    rf"|{_IN}+(?:[{_MARK}.'\u2019:,;](?:(?<=[{_MARK}])"
    rf"|(?<={_LETTER}[.'\u2019:])(?={_LETTER})"
    rf"|(?<={_DIGIT}[.,;'\u2019])(?={_DIGIT})){_IN}*)*"
)


def tokens(text: str) -> list[str]:
    """The terms of a text, in order."""
    return list(filter(None, map(_term, _WORD.findall(text))))


@lru_cache(maxsize=1 << 18)
def _term(word: str) -> str:
    """The term of a word; empty for a stop word."""
    if len(word) > 2 and word[-1] in "sS" and word[-2] in "'\u2019":
        word = word[:-2]
    word = word.lower()
    if word in STOP_WORDS:
        return ""
    return porter(word)
