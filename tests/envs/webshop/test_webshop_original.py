"""Facts of the original, found by running it side by side with ours on made-up articles."""

from __future__ import annotations

import pytest

from aem_gym.envs.webshop.reward import same
from aem_gym.envs.webshop.search.tokens import tokens


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("abcdefghijklmnopqrstuvwx", "abcdefghijklmnopqrst123", False),  # 85.1
        ("free", "fre", True),  # 85.7
        ("caf\u00e9s", "cafs", True),
        ("s\u00e9ch\u00e9", "SCH", True),
        ("\u00e9\u00e8\u00ea", "\u00e9\u00e8\u00ea", False),
        ("\u010detn\u00e1", "\u010detn", True),
        ("\u4e2d\u6587", "\u4e2d\u6587", True),
    ],
)
def test_phrases_are_compared_in_whole_percent_without_latin_1(
    one: str, other: str, alike: bool
) -> None:
    assert same(one, other) == alike


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("assembly technology visibly", ["assembl", "technolog", "visibl"]),
        ("biology ably apologies", ["biologi", "abli", "apolog"]),
        ("trekking revved hopping falling hissing", ["trek", "rev", "hop", "fall", "hiss"]),
        ("wobbliness ponies caresses agreed feed", ["wobbli", "poni", "caress", "agre", "feed"]),
        ("filing happy sky relational controlling", ["file", "happi", "sky", "relat", "control"]),
        ("adoption replacement probate rate", ["adopt", "replac", "probat", "rate"]),
        ("plyying", ["ply"]),
    ],
)
def test_stems_are_lucenes(text: str, terms: list[str]) -> None:
    assert tokens(text) == terms
