"""Text to search terms, as Lucene's English analyzer makes them.

Words (UAX #29 as of Unicode 9, as Lucene's standard tokenizer finds them), without a possessive, in
lower case, without stop words, as Porter's stems. For the words each character is looked up in a
class, one letter for each class; the pattern of these letters finds the words.

Snowball's `porter` is the algorithm as it was published in 1980. Lucene follows its author's
later program, in which `assembly` and `technology` lose more, and which halves every double
consonant (`trekking`).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

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
    """The term of a word; empty for a stop word, and for a word of underscores."""
    if len(word) > 2 and word[-1] in "sS" and word[-2] in "'\u2019\uff07":
        word = word[:-2]
    word = word.lower()
    return "" if word in STOP_WORDS or not word.strip("_") else porter(word)


# Words -----------------------------------------------------------------------------------------

_LONGEST = 255
# Classes: a letter, d digit, e mark or format; `:` holds letters together, `,` digits, `.` both;
# k katakana, i ideograph, s and m letter and mark of scripts without blanks; x emoji, b emoji that
# y, a skin color, can follow, z joiner, v and w variation, f half a flag, c key cap.
_LISTED = {
    "z": "\u200d",
    "v": "\ufe0e",
    "w": "\ufe0f",
    "b": "\u261d\u26f9\u270a-\u270d\U0001f385\U0001f3c2-\U0001f3c4\U0001f3c7\U0001f3ca-\U0001f3cc"
    "\U0001f442-\U0001f443\U0001f446-\U0001f450\U0001f466-\U0001f469\U0001f46e"
    "\U0001f470-\U0001f478\U0001f47c\U0001f481-\U0001f483\U0001f485-\U0001f487\U0001f4aa"
    "\U0001f574-\U0001f575\U0001f57a\U0001f590\U0001f595-\U0001f596\U0001f645-\U0001f647"
    "\U0001f64b-\U0001f64f\U0001f6a3\U0001f6b4-\U0001f6b6\U0001f6c0\U0001f6cc"
    "\U0001f918-\U0001f91c\U0001f91e-\U0001f91f\U0001f926\U0001f930-\U0001f939"
    "\U0001f93d-\U0001f93e\U0001f9b5-\U0001f9b6\U0001f9b8-\U0001f9b9\U0001f9d1-\U0001f9dd",
    "y": "\U0001f3fb-\U0001f3ff",
    "i": "\u2e80-\u2e99\u2e9b-\u2ef3\u2f00-\u2fd5\u3007\u3021-\u3029\u3038-\u303a"
    "\u3041-\u3096\u309d-\u309f\u3400-\u4db5\u4e00-\u9fd5\uf900-\ufad9\U0001b001"
    "\U00020000-\U0002fa1d",
    "x": "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u2388"
    "\u23cf"
    "\u23e9-\u23f3\u23f8-\u23fa\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u2605\u2607-\u2612"
    "\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2714\u2716\u271d\u2721\u2728\u2733\u2734\u2744\u2747"
    "\u274c\u274e\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797\u27a1\u27b0\u27bf\u2934\u2935"
    "\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299"
    "\U0001f000-\U0001f0f5\U0001f10d-\U0001f10f\U0001f12f"
    "\U0001f16c-\U0001f16f\U0001f18e\U0001f191-\U0001f19a\U0001f1ad\U0001f200-\U0001f202\U0001f21a"
    "\U0001f22f\U0001f232-\U0001f23a\U0001f250-\U0001f265\U0001f300-\U0001f53d"
    "\U0001f546-\U0001f64f\U0001f680-\U0001f6fc\U0001f7d5-\U0001f8b1\U0001f90c-\U0001f93a"
    "\U0001f93c-\U0001f945\U0001f947-\U0001fbf9",
    "k": "\u3031-\u3035\u309b\u309c\u30a0-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u32d0-\u32fe"
    "\u3300-\u3357\uff66-\uff9d\U0001b000",
    "f": "\U0001f1e6-\U0001f1ff",
    "_": "_\u202f\u203f\u2040\u2054\ufe33\ufe34\ufe4d-\ufe4f\uff3f",
    ":": ":\u00b7\u02d7\u0387\u05f4\u2027\ufe13\ufe55\uff1a",
    ".": ".'\u2018\u2019\u2024\ufe52\uff07\uff0e",
    ",": ",;\u037e\u0589\u060c\u060d\u066c\u07f8\u2044\ufe10\ufe14\ufe50\ufe54\uff0c\uff1b",
    "c": "\u20e3",
    "#": "#*",
    "d": "\u066b",
    "a": "\u05f3\u24b6-\u24e9\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189",
    "e": "\u1cf2\u1cf3\uff9e\uff9f",
    " ": "\u200b\u3006",
}
_SOUTH_EAST = (
    "\u0e01-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109f\u1780-\u17d3"
    "\u17d7\u17dc\u17dd\u1950-\u19c9\u19da\u19de\u19df\u1a20-\u1a7c\u1aa0-\u1aad\ua9e0-\ua9ef"
    "\ua9fa-\ua9fe\uaa60-\uaac2\uaadb-\uaadf"
)


@lru_cache(maxsize=1 << 16)
def _class(char: str) -> str:
    for name, listed in _LISTED.items():
        if re.match(f"[{listed}]", char):
            return name
    category = unicodedata.category(char)
    mark = category in ("Mn", "Mc", "Me")
    if re.match(f"[{_SOUTH_EAST}]", char) and category not in ("Cn", "Sc"):
        return "m" if mark else "s"
    if mark or category == "Cf":
        return "e"
    if category == "Nd":
        return "d"
    return "a" if char.isalpha() or category == "Nl" else " "


_ON = "[cemvwz]*"
"""What continues a character."""
_LOW = f"(?:_{_ON})"
_KATAKANA = f"k{_ON}(?:{_LOW}*k{_ON})*"
_DIGITS = f"d{_ON}(?:(?:{_LOW}*|[,.]{_ON})d{_ON})*"
_LETTERS = f"a{_ON}(?:(?:{_LOW}*|[:.]{_ON})a{_ON})*"
_PART = f"(?:{_KATAKANA}|(?:{_DIGITS}|{_LETTERS})+)"
_PICTURE = "(?:by|[bx]w|[bxy])"
_WORD = re.compile(
    f"{_LOW}*{_PART}(?:{_LOW}+{_PART})*{_LOW}*"
    "|[ms][cemsvwz]*"
    f"|i{_ON}"
    f"|(?:z+(?=[bx]))?{_PICTURE}(?:z{_PICTURE})*(?:(?<!w)[cemz][cemwz]*)?"
    f"|f{_ON}f{_ON}"
    "|#[emvwz]*c"
    "|_+|z+"  # no words, but to be passed at once
)


# Nearly all texts have only characters of which a pattern of their own is many times as fast.
_COMMON = re.compile(
    "[\\x00-\\x7f\xa0-\xac\xae-\u024f\u2010-\u2023\u2025\u2026\u2030-\u203a\u20ac\u2122]*"
)
_LETTER = "A-Za-z\xaa\xb5\xba\xc0-\xd6\xd8-\xf6\xf8-\u024f"
_COMMON_WORD = re.compile(
    f"[{_LETTER}0-9_]+(?:(?:(?<=[{_LETTER}])[.'\u2018\u2019:\xb7](?=[{_LETTER}])"
    f"|(?<=[0-9])[.'\u2018\u2019,;](?=[0-9]))[{_LETTER}0-9_]+)*|[\xa9\xae\u2122]"
)


def words(text: str) -> list[str]:
    """The words of a text, in order; also those of underscores only, which Lucene leaves out."""
    if _COMMON.fullmatch(text):
        found: list[str] = _COMMON_WORD.findall(text)
        if len(max(found, key=len, default="")) <= _LONGEST:
            return found
    return _any_words(text)


def _any_words(text: str) -> list[str]:
    classes = "".join(map(_class, text))
    found, place = [], 0
    while match := _WORD.search(classes, place):
        start, place = match.span()
        if place - start > _LONGEST:  # it is cut where a shorter one could end
            short = _WORD.match(classes, start, start + _LONGEST)
            place = short.end() if short else start + 1
        if classes[start] not in "_z" or classes[start:place].strip("_z"):
            found.append(text[start:place])
    return found


# Stems -----------------------------------------------------------------------------------------

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
    """The word without a final `e` or the second of a final `ll`, if enough is left."""
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
    """The number of times that consonants follow vowels."""
    return _shape(stem).count("vc")


def _short(stem: str) -> bool:
    """Whether it ends in consonant, vowel, consonant other than w, x, y."""
    return _shape(stem).endswith("cvc") and stem[-1] not in "wxy"


def _doubled(stem: str) -> bool:
    return len(stem) > 1 and stem[-1] == stem[-2] and _shape(stem).endswith("c")
