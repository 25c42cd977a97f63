"""Facts of the original, found by running it side by side with ours on made-up articles."""

from __future__ import annotations

import random
from typing import Any

import pytest

from aem_gym.envs.webshop.catalogue import MemoryCatalogue, parse_product
from aem_gym.envs.webshop.engine import OriginalFails, Session
from aem_gym.envs.webshop.goals import synthetic_goals
from aem_gym.envs.webshop.reward import Nouns, same
from aem_gym.envs.webshop.search.text import tokens
from tests.envs.webshop.webshop_shop import goal, row


def visit(entry: dict[str, Any] | None = None, strict: bool = True, **changes: Any) -> Session:
    """A visit to a shop of one shirt, on its page of results."""
    shirt = parse_product(row(**changes), entry)
    shop = MemoryCatalogue([shirt], {shirt.asin: 1.0})
    session = Session(shop, goal(shirt), Nouns(), strict=strict, show_attributes=True)
    session.step("search[shirt]")
    return session


def last_lines(session: Session, *clicks: str) -> str:
    """The page below the last button after some clicks."""
    for name in clicks:
        assert session.step(f"click[{name}]").valid
    return session.text_rich().rpartition(" [button_]\n")[2]


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


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("\u65e5\u672c\u8a9e \u3072\u3089", ["\u65e5", "\u672c", "\u8a9e", "\u3072", "\u3089"]),
        ("\u30ab\u30bf\u30ab\u30ca usb\u30b1", ["\u30ab\u30bf\u30ab\u30ca", "usb", "\u30b1"]),
        ("\u0e44\u0e17\u0e22usb\u0e35", ["\u0e44\u0e17\u0e22", "usb\u0e35"]),
        ("\ud55c\uad6d\uc5b4 \u0440\u0443\u0431", ["\ud55c\uad6d\uc5b4", "\u0440\u0443\u0431"]),
        ("soft\u00adly a\u200db a\u200bb", ["soft\u00adli", "a\u200db", "b"]),  # a: a stop word
        ("___ _ a_b a_.b 1_,2", ["a_b", "a_", "b", "1_", "2"]),
        ("\u0061\u2018b a\u00b7b a\uff0eb men\uff07s", ["a\u2018b", "a\u00b7b", "a\uff0eb", "men"]),
        ("1\uff0c5 1\u20445 \uff11\uff12", ["1\uff0c5", "1\u20445", "\uff11\uff12"]),
        ("red\uff0cwood \u3010red\u3011", ["red", "wood", "red"]),
        ("\u24d0b \u2167 \u2460 \u00bd", ["\u24d0b", "\u2177"]),
        ("\u2764\ufe0f\u2605\U0001f600x", ["\u2764\ufe0f", "\u2605", "\U0001f600", "x"]),
        (
            "\U0001f44d\U0001f3fd 1\ufe0f\u20e3 #\u20e3",
            ["\U0001f44d\U0001f3fd", "1\ufe0f\u20e3", "#\u20e3"],
        ),
        ("\U0001f469\u200d\U0001f467", ["\U0001f469\u200d\U0001f467"]),
        ("\U0001f1e9\U0001f1ea\U0001f1eb", ["\U0001f1e9\U0001f1ea"]),
        ("q" * 600, ["q" * 255, "q" * 255, "q" * 90]),
        ("q" * 255 + ".w", ["q" * 255, "w"]),
    ],
)
def test_words_end_where_lucene_ends_them(text: str, terms: list[str]) -> None:
    assert tokens(text) == terms


@pytest.mark.parametrize(
    ("blank", "shown"),
    [("", ""), ("\n", ""), (" \n\t", ""), ("   ", " \n"), ("\t", " \n"), ("\x0b ", "\x0b \n")],
)
def test_texts_of_nothing_but_blanks_become_one_blank(blank: str, shown: str) -> None:
    session = visit(full_description=blank)
    assert last_lines(session, "b000000001", "description") == shown
    assert session.text().endswith("< Prev [SEP] ") == bool(shown)


@pytest.mark.parametrize(
    ("blank", "shown"), [("", " \n"), ("\t", " \n"), ("\n", ""), ("\x0b", " \x0b\n")]
)
def test_bullets_of_nothing_but_blanks_become_one_blank(blank: str, shown: str) -> None:
    session = visit(small_description=["Soft", blank])
    assert last_lines(session, "b000000001", "features") == f" Soft\n{shown}"


@pytest.mark.parametrize(
    ("entry", "shown"), [({"attributes": []}, ""), ({}, " DUMMY_ATTR\n"), (None, " DUMMY_ATTR\n")]
)
def test_a_list_of_no_attributes_stays_empty(entry: dict[str, Any] | None, shown: str) -> None:
    session = visit(entry, category="fashion", query="shirts", product_category="Men")
    assert last_lines(session, "b000000001", "attributes") == f"{shown}fashion\nshirts\nMen\n"


def test_of_option_names_that_differ_in_case_the_last_ones_values_count() -> None:
    groups = {"Color": [{"value": "red"}], "Size": None, "Cut": [], "COLOR": [{"value": "blue"}]}
    shirt = parse_product(row(customization_options=groups))
    assert shirt.options == (("color", ("blue",)), ("cut", ()))


def test_an_instruction_without_words_is_one() -> None:
    entry = {"instruction": "", "instruction_attributes": ["soft"]}
    shirt = parse_product(row(customization_options=None), entry)
    assert len(synthetic_goals([shirt], {shirt.asin: 999.0}, random.Random(1))) == 1


def test_what_was_noted_before_a_failure_stays_noted() -> None:
    session = visit()
    session.step("click[b000000001]")
    session.step("click[small]")
    before = (session.text_rich(), session.url)
    for action in ("search[<a> x]", "click[large]", "click[features]", "click[buy now]"):
        with pytest.raises(OriginalFails):
            session.step(action)
        assert (session.text_rich(), session.url) == before
    assert session.options == {"size": "large"} and session.keywords == ["<a>", "x"]
    with pytest.raises(OriginalFails):
        session.step("click[< prev]")  # searches again
    assert session.step("search[shirt]").valid and "Page 1" in session.text()


def test_an_id_in_small_letters_fails_only_in_the_original() -> None:
    with pytest.raises(OriginalFails):
        visit(asin="b1").step("click[b1]")
    session = visit(asin="b1", strict=False)
    assert session.step("click[B1]").valid and session.asin == "b1"


def test_a_click_on_nothing_is_no_click_on_an_option_without_a_name() -> None:
    session = visit(customization_options={"Color": [{"value": " "}, {"value": "red"}]})
    session.step("click[b000000001]")
    assert "" in session.available_actions()["clickables"]
    assert not session.step("click").valid and session.options == {}


def test_a_search_for_more_than_1024_terms_fails_only_in_the_original() -> None:
    words = [f"w{number}" for number in range(1025)]
    session = visit()
    assert session.step(f"search[{' '.join([*words[1:], 'w1', 'the'])}]").valid
    with pytest.raises(OriginalFails):
        session.step(f"search[{' '.join(words)}]")
    assert visit(strict=False).step(f"search[{' '.join(words)}]").valid
