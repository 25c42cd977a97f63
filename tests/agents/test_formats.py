"""Response formats: what is rendered is read back; nothing makes a parser raise."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.agents.formats import Short, Tags, response_format
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.protocols import ResponseFormat
from aem_gym.registry import FORMATS
from aem_gym.types import REPLY
from tests.credit.cases import shipped

TAGS = ("<think>", "</think>", "<action>", "</action>")
WORDS = ("<tool_call>", "</tool_call>", '{"name": "act"', "<function=act>", "<parameter=action>")
OTHERS = ("</parameter>", "</function>", "```bash\n", "```", "Thought:", "Action: ", "think: ", ">")
FRAGMENTS = st.sampled_from(
    [*TAGS, *WORDS, *OTHERS, " ; ", ";", " ", "\n", "go to fridge 1", "é", "\x00", "动"]
)
ANYTHING = st.text() | st.lists(FRAGMENTS).map("".join)
STRIPPED = ANYTHING.map(str.strip)


def can_carry(name: str, thought: str, action: str) -> bool:
    if not action:
        return False
    if name in ("tags", "published"):
        plain = not any(tag in text.lower() for tag in TAGS for text in (thought, action))
        exact = all(
            t == t.lower() and not re.search("[\u4e00-\u9fff]", t) for t in (thought, action)
        )
        return plain and (exact or name == "tags")
    if name == "short":
        return (thought + " ; ").index(" ; ") == len(thought)
    if name == "react":
        return not re.search("Thought|Action|Observation", thought + action)
    if name == "bash":
        return "```" not in thought + action and "\r" not in thought + action
    if name == "tool_call":
        return "<tool_call>" not in thought
    if name == "xml_function":
        return "<" not in thought + action
    return thought == "" and not action.startswith((">", "think"))


@pytest.mark.parametrize("name", shipped(FORMATS))
@given(thought=STRIPPED, action=STRIPPED)
def test_render_then_parse_gives_back_what_the_format_can_carry(
    name: str, thought: str, action: str
) -> None:
    form = response_format(name)
    thought = "" if name in ("plain", "think_line") else thought
    if can_carry(name, thought, action):
        assert form.parse(form.render(thought, action)) == (thought, action, True)


@pytest.mark.parametrize("name", sorted({*shipped(FORMATS)} - {"published"}))
@given(text=ANYTHING)
def test_any_text_is_parsed_and_an_action_is_always_offered(name: str, text: str) -> None:
    form = response_format(name)
    thought, action, valid = form.parse(text)
    assert thought == thought.strip() and action == action.strip()
    assert action or not valid
    assert action or not text.strip()
    assert valid or name in ("tags", "short", "plain", "think_line") or action.startswith(REPLY)


@pytest.mark.parametrize("name", shipped(FORMATS))
def test_huge_texts_are_parsed_in_linear_time(name: str) -> None:
    form = response_format(name)
    for piece in ("<action>", "</action><action>", " ; ", "\n", "x", *WORDS, *OTHERS):
        form.parse(piece * 300_000)


@pytest.mark.parametrize("name", shipped(FORMATS))
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>A</think><action> Click[X] </action><action>two", ("a", "click[x]", True)),
        ("<action>look</action>", ("", "look", False)),
        ("I would rather search for SHOES", ("", " rather search for shoes"[-20:], False)),
        ("<think>\u4f60</think><action>look</action>", ("\u4f60", "look", False)),
        ("<THINK>a</THINK><ACTION>look</ACTION>", ("a", "look", False)),
        ("<think>a</think><action></action>", ("a", "", True)),
        ("<think>a</think></action><action>look", ("a", "", True)),
    ],
)
def test_published_reads_what_the_published_parser_reads(
    text: str, expected: tuple[str, str, bool]
) -> None:
    assert response_format("published").parse(text) == expected


@given(text=ANYTHING)
def test_published_parses_anything(text: str) -> None:
    _, action, valid = response_format("published").parse(text)
    assert action in text.lower() and (valid or action or not text.strip() or "<action>" in text)


def test_short_splits_at_the_first_separator() -> None:
    form = response_format("short")
    assert form.parse("list files ; cd src ; ls") == ("list files", "cd src ; ls", True)
    assert form.parse(form.render("", "look")) == ("", "look", True)
    assert form.parse("hm\nlook") == ("", "look", False)


def test_an_unknown_format_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tags'"):
        response_format("tag")


class Loud(Short):
    name = "loud"


loud = Loud()
number = 7


@pytest.mark.parametrize("attribute", ["Loud", "loud"])
def test_a_format_of_ones_own_is_found_by_module_and_attribute(attribute: str) -> None:
    assert response_format(f"{__name__}:{attribute}").name == "loud"
    with pytest.raises(ConfigError, match="expected an object with name, render and parse .*got 7"):
        response_format(f"{__name__}:number")


class Mute(Short):
    def render(self, thought: str, action: str) -> Any:
        return None


class Wordy(Short):
    def parse(self, text: str) -> Any:
        return "", text, "yes"


@pytest.mark.parametrize("form", [Mute, Wordy])
def test_a_format_that_gives_something_else_is_refused_at_once(form: type) -> None:
    with pytest.raises(ConfigError, match=rf"{form.__name__}'.*expected a str of render and"):
        response_format(f"{__name__}:{form.__name__}")


class Deaf(Tags):
    """Reads other tags than it writes."""

    def parse(self, text: str) -> tuple[str, str, bool]:
        return super().parse(text.replace("action>", "act>"))


class Lossy(Short):
    def render(self, thought: str, action: str) -> str:
        return f"{action} ; {thought}"


class Silent(Short):
    """Drops the thought, as it may."""

    def render(self, thought: str, action: str) -> str:
        return f" ; {action}"


@pytest.mark.parametrize("form", [Deaf, Lossy])
def test_a_format_that_does_not_read_what_it_writes_is_refused(form: type) -> None:
    """Every demonstration would teach responses that count as invalid."""
    with pytest.raises(ConfigError, match=rf"{form.__name__}'.*parse has to read what render"):
        response_format(f"{__name__}:{form.__name__}")
    response_format(f"{__name__}:Silent")
