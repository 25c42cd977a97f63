"""Facts of the original, found by running it side by side with ours on made-up articles."""

from __future__ import annotations

import pytest

from aem_gym.envs.webshop.reward import same


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
