"""Rules of the shop: what each action does, for any text that may come."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.webshop.catalogue import BadRow, MemoryCatalogue, parse_prices, parse_product
from aem_gym.envs.webshop.engine import Session
from aem_gym.envs.webshop.reward import Nouns, normalize_color, title_score
from tests.envs.webshop.webshop_shop import goal, row, shop

SHOP = shop()
WANTED = SHOP.products[3]


def session(**options: Any) -> Session:
    return Session(SHOP, goal(WANTED), Nouns(), **options)


def play(visit: Session, *actions: str) -> None:
    for action in actions:
        assert visit.step(action).valid, action


def test_the_target_in_the_wanted_options_is_worth_everything() -> None:
    visit = session()
    play(visit, "search[cotton shirt 03]", f"click[{WANTED.asin}]", "click[navy blue]")
    play(visit, "click[small]")
    result = visit.step("click[Buy Now]")
    assert result.done and result.reward == 1.0
    assert visit.text().startswith("Thank you for shopping with us!")
    assert visit.purchase is not None and visit.purchase.info()["r_option"] == 1.0


def test_wrong_options_and_articles_are_worth_less() -> None:
    visit = session()
    play(visit, "search[shirt]", "click[B000000001]", "click[red | white]", "click[large]")
    assert visit.step("click[buy now]").reward == pytest.approx(0.5)
    other = session()
    play(other, "search[desk lamp]", "click[b0000lamp1]")
    assert other.step("click[buy now]").reward == 0.0  # no noun in common


def test_pages_follow_each_other() -> None:
    visit = session()
    play(visit, "search[shirt]")
    assert "Page 1 (Total results: 25)" in visit.text()
    play(visit, "click[next >]", "click[Next >]", "click[next >]")
    assert "Page 4" in visit.text() and len(visit.page.clickables) == 3  # past the end: empty
    play(visit, "click[< prev]")
    play(visit, f"click[{sorted(visit.page.clickables)[2]}]")
    play(visit, "click[small]", "click[features]")
    assert "Soft" in visit.text()
    play(visit, "click[< prev]")
    assert visit.options == {"size": "small"}
    play(visit, "click[< prev]")
    assert "Page 3" in visit.text() and visit.options == {}
    play(visit, "click[back to search]")
    assert visit.page.has_search_bar and list(visit.page.clickables) == ["search"]


def test_clicked_options_and_links_are_marked() -> None:
    visit = session()
    play(visit, "search[shirt]", "click[b000000001]", "click[small]", "click[navy blue]")
    rich = visit.text_rich()
    assert rich.startswith("You have clicked small.\nYou have clicked navy blue.\nInstruction:")
    assert "  [clicked button] small [clicked button_]" in rich
    play(visit, "click[< prev]")
    assert "[clicked button] B000000001 [clicked button_]" in visit.text_rich()


@pytest.mark.parametrize(
    "action",
    [
        *("", "search[]", "click[search]", "click[ small]", "Search[shirt]", "click[small", "buy"),
        *("search[<r>]", "search[<a> x]", "search[<c> fashion]", "search[<q> lamps]", "[x]"),
    ],
)
def test_what_means_nothing_changes_nothing(action: str) -> None:
    visit = session()
    before = (visit.text_rich(), visit.available_actions())
    assert not visit.step(action).valid
    assert (visit.text_rich(), visit.available_actions()) == before


def test_back_doors_are_open_in_strict_sessions_only() -> None:
    visit = session(strict=True)
    play(visit, "search[<q> lamps]")
    assert "b0000lamp1" in visit.page.clickables
    play(visit, "search[<r>]", "search[<c> home]")
    for crash in ("search[<a> x]", "search[<c>]"):
        with pytest.raises(TypeError):
            visit.step(crash)


def test_an_option_called_like_a_button_acts_as_the_button() -> None:
    clash = parse_product(row(customization_options={"Style": [{"value": "Features"}]}))
    visit = Session(MemoryCatalogue([clash], {clash.asin: 1.0}), goal(clash), Nouns())
    play(visit, "search[shirt]", f"click[{clash.asin}]", "click[features]")
    assert "Soft" in visit.text() and visit.options == {}


def test_options_of_one_name_are_shown_with_their_group() -> None:
    groups = {"Color": [{"value": "red"}], "Strap": [{"value": "red"}, {"value": "Buy Now"}]}
    clash = parse_product(row(customization_options=groups))
    shop_of_one = MemoryCatalogue([clash], {clash.asin: 1.0})
    visit = Session(shop_of_one, goal(clash), Nouns())
    play(visit, "search[shirt]", f"click[{clash.asin}]", "click[color: red]", "click[strap: red]")
    assert visit.options == {"color": "red", "strap": "red"}
    assert "[clicked button] strap: red [clicked button_]" in visit.text_rich()
    play(visit, "click[strap: buy now]")
    assert visit.options == {"color": "red", "strap": "buy now"}
    strict = Session(shop_of_one, goal(clash), Nouns(), strict=True)
    play(strict, "search[shirt]", f"click[{clash.asin}]", "click[red]")
    assert strict.options == {"strap": "red"} and strict.step("click[buy now]").done


def test_a_search_for_the_name_of_a_page_leads_nowhere_else() -> None:
    for strict, text in ((True, "Page 0"), (False, "Page 1")):
        visit = session(strict=strict)
        play(visit, "search[shirt search_results]", "click[b000000001]", "click[< prev]")
        assert text in visit.text()


def test_chosen_options_are_marked_whatever_their_letters() -> None:
    odd = parse_product(row(customization_options={"Size": [{"value": '8"x10" caf\u00e9'}]}))
    for strict in (True, False):
        visit = Session(MemoryCatalogue([odd], {odd.asin: 1.0}), goal(odd), Nouns(), strict=strict)
        play(visit, "search[shirt]", f"click[{odd.asin}]", 'click[8"x10" caf\u00e9]')
        assert ("[clicked button]" in visit.text_rich()) != strict


_WORDS = ["shirt", "desk lamp", "", "<r>", "zzz", "the of", "a[b]", "<c>"]
_TARGETS = [
    *("next >", "< prev", "back to search", "features", "description", "reviews", "buy now"),
    *("small", "navy blue", "b000000001", "b0000lamp1", "search", "attributes"),
]
_ACTIONS = (
    st.text()
    | st.sampled_from(_WORDS).map("search[{}]".format)
    | st.sampled_from(_TARGETS).map("click[{}]".format)
)


@given(st.lists(_ACTIONS, max_size=25))
def test_any_text_is_answered(actions: list[str]) -> None:
    visit = session()
    for action in actions:
        before = visit.text()
        result = visit.step(action)
        assert 0.0 <= result.reward <= 1.0
        assert result.valid or visit.text() == before
        assert visit.text() and visit.text_rich() and visit.available_actions()
        assert not result.done or visit.purchase is not None


@pytest.mark.parametrize(
    ("pricing", "prices", "tag"),
    [
        ("", (100.0,), "$100.0"),
        (None, (100.0,), "$100.0"),
        ("$1,299.00", (1299.0,), "$1299.0"),
        ("$12.50", (12.5,), "$12.5"),
        ("$5.00$7.50$9.00", (5.0, 7.5), "$5.0 to $7.5"),
    ],
)
def test_prices(pricing: str | None, prices: tuple[float, ...], tag: str) -> None:
    assert parse_prices(pricing) == prices
    assert parse_product(row(pricing=pricing)).price_tag == tag


@pytest.mark.parametrize(
    "changes",
    [
        {"pricing": "free"},
        {"pricing": "$..."},
        {"name": None},
        {"small_description": 3},
        {"customization_options": ["red"]},
        {"customization_options": {"color": ["red"]}},
    ],
)
def test_rows_that_cannot_be_read_name_the_field(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRow, match=next(iter(changes))):
        parse_product(row(**changes))


def test_colours_and_titles() -> None:
    assert normalize_color("bluetooth") == "blue" and normalize_color("xyz") == "xyz"
    assert normalize_color(("color", "navy blue")) == ("color", "navy blue")
    assert normalize_color(("color", "khaki")) == "khaki"
    assert title_score(["a"], []) == 0.2 and title_score(["a"], ["a", "a", "b"]) == 1 / 3
