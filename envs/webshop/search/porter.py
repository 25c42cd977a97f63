"""Porter's stems, as Lucene finds them.

Snowball's `porter` is the algorithm as it was published in 1980. Lucene follows its author's
later program, in which `assembly` and `technology` lose more, and halves every double consonant
(`trekking`).
"""

from __future__ import annotations

import re

_DERIVED = {
    **{"ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize"},
    **{"bli": "ble", "alli": "al", "entli": "ent", "eli": "e", "ousli": "ous", "logi": "log"},
    **{"ization": "ize", "ation": "ate", "ator": "ate", "alism": "al", "iveness": "ive"},
    **{"fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble"},
}
_FORMED = {
    **{"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic"},
    **{"ful": "", "ness": ""},
}
_LAST = "al|ance|ence|er|ic|able|ible|ant|ement|ment|ent|(?<=[st])ion|ou|ism|ate|iti|ous|ive|ize"


# A stem, as short as can be, and with it the longest ending.
_DERIVED_END, _FORMED_END, _LAST_END = (
    re.compile(f"(.*?)({endings})", re.DOTALL)
    for endings in ("|".join(_DERIVED), "|".join(_FORMED), _LAST)
)


def porter(word: str) -> str:
    """The stem of a word of lower-case letters."""
    if len(word) < 3:
        return word
    word = _past(_plural(word))
    if word.endswith("y") and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"
    for pattern, replaced in ((_DERIVED_END, _DERIVED), (_FORMED_END, _FORMED)):
        found = pattern.fullmatch(word)
        if found and _measure(found[1]) > 0:
            word = found[1] + replaced[found[2]]
    found = _LAST_END.fullmatch(word)
    if found and _measure(found[1]) > 1:
        word = found[1]
    return _tidy(word)


def _plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    stem = word.removesuffix("ed") if word.endswith("ed") else word.removesuffix("ing")
    shape = _shape(stem)
    if stem == word or "v" not in shape:
        return word
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if _doubled(stem):
        return stem if stem[-1] in "lsz" else stem[:-1]
    return stem + "e" if shape.count("vc") == 1 and _short(stem) else stem


def _tidy(word: str) -> str:
    """Without a last `e` or the second of a last `ll`, if enough is left."""
    measure = _measure(word)
    if word.endswith("e") and (measure > 1 or (measure == 1 and not _short(word[:-1]))):
        word = word[:-1]
    return word[:-1] if word.endswith("ll") and measure > 1 else word


def _shape(stem: str) -> str:
    """`v` for each vowel, `c` for each consonant; `y` is a vowel after a consonant."""
    shape = ""
    for letter in stem:
        vowel = letter in "aeiou" or (letter == "y" and shape.endswith("c"))
        shape += "v" if vowel else "c"
    return shape


def _measure(stem: str) -> int:
    """How often consonants follow vowels."""
    return _shape(stem).count("vc")


def _short(stem: str) -> bool:
    """Whether it ends in consonant, vowel, consonant other than w, x, y."""
    return _shape(stem).endswith("cvc") and stem[-1] not in "wxy"


def _doubled(stem: str) -> bool:
    return len(stem) > 1 and stem[-1] == stem[-2] and _shape(stem).endswith("c")
