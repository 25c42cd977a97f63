"""Response formats: what is rendered is read back; nothing makes a parser raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.agents.formats import FORMATS, response_format
from aem_gym.errors import UnknownNameError
from aem_gym.protocols import ResponseFormat

TAGS = ("<think>", "</think>", "<action>", "</action>")
FRAGMENTS = st.sampled_from([*TAGS, " ; ", ";", " ", "\n", "go to fridge 1", "é", "\x00", "动"])
ANYTHING = st.text() | st.lists(FRAGMENTS).map("".join)
STRIPPED = ANYTHING.map(str.strip)


def can_carry(name: str, thought: str, action: str) -> bool:
    if not action:
        return False
    if name == "tags":
        return not any(tag in text for tag in TAGS for text in (thought, action))
    if name == "short":
        return (thought + " ; ").index(" ; ") == len(thought)
    return thought == ""


@pytest.mark.parametrize("name", sorted(FORMATS))
@given(thought=STRIPPED, action=STRIPPED)
def test_render_then_parse_gives_back_what_the_format_can_carry(
    name: str, thought: str, action: str
) -> None:
    form = response_format(name)
    thought = "" if name == "plain" else thought
    if can_carry(name, thought, action):
        assert form.parse(form.render(thought, action)) == (thought, action, True)


@pytest.mark.parametrize("name", sorted(FORMATS))
@given(text=ANYTHING)
def test_any_text_is_parsed_and_an_action_is_always_offered(name: str, text: str) -> None:
    form = response_format(name)
    thought, action, valid = form.parse(text)
    assert thought == thought.strip() and action == action.strip()
    assert action or not valid
    assert action or not text.strip()


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_huge_texts_are_parsed_in_linear_time(name: str) -> None:
    form = response_format(name)
    for piece in ("<action>", "</action><action>", " ; ", "\n", "x"):
        form.parse(piece * 300_000)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_formats_have_their_own_name_and_the_role(name: str) -> None:
    assert response_format(name).name == name
    assert isinstance(response_format(name), ResponseFormat)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><action>one</action> no, <action> two </action>", ("a", "two", True)),
        ("<action>look</action>", ("", "look", False)),
        ("<think>a</think>\nlook\n", ("a", "look", False)),
        ("<think>never closed <action>look", ("", "<think>never closed <action>look", False)),
        ("<think>a</think><action> </action>", ("a", "<think>a</think><action> </action>", False)),
        ("", ("", "", False)),
    ],
)
def test_tags_needs_both_pairs_and_takes_the_last_action(
    text: str, expected: tuple[str, str, bool]
) -> None:
    assert response_format("tags").parse(text) == expected


def test_short_splits_at_the_first_separator() -> None:
    form = response_format("short")
    assert form.parse("list files ; cd src ; ls") == ("list files", "cd src ; ls", True)
    assert form.parse(form.render("", "look")) == ("", "look", True)
    assert form.parse("hm\nlook") == ("", "look", False)


def test_an_unknown_format_is_told_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tags'"):
        response_format("tag")
