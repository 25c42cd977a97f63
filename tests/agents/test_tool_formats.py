"""Formats that tell the model how to respond: by the chat template, or in the system text."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from aem_gym.agents.build import open_writing
from aem_gym.agents.formats import Thinking, response_format
from aem_gym.agents.tool_formats import ACT, ToolFormat
from aem_gym.errors import ConfigError
from aem_gym.protocols import EpisodeStart
from aem_gym.settings import settle
from aem_gym.training.setup import choose_template
from aem_gym.types import REPLY, PromptTemplate, Tool, Turn
from tests.agents.test_chat_templates import CHATML, stand_in
from tests.tiny import Tiny, flat

# As Qwen3's template does it: tools in the system message, an empty thought where none is wanted.
TOOLS = (
    "{% set head = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% if tools %}<|im_start|>system\n{{ head }}\nFunctions:{% for t in tools %}\n{{ t | tojson }}"
    "{% endfor %}\nCall one so:\n[[form]]<|im_end|>\n"
    "{% elif head %}<|im_start|>system\n{{ head }}<|im_end|>\n{% endif %}"
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
JSON = TOOLS.replace("[[form]]", '<tool_call>\n{"name": NAME, "arguments": ARGS}\n</tool_call>')
XML = TOOLS.replace("[[form]]", "<tool_call>\n<function=NAME>\n</function>\n</tool_call>")
RUN = Tool("run", "Runs it.", {"what": {"type": "string"}}, ("what",), action="what")
LOOK = Tool("look", "Looks.", {"far": {"type": "integer"}})
SHOWN = PromptTemplate(system="You play.", first="{observation}", tools=(RUN, LOOK))
START = EpisodeStart(0, 0, template=SHOWN)


def opened(template: str, name: str, tokens: tuple[str, ...] = (), **variables: Any) -> Any:
    tokenizer = stand_in(template, "<|im_end|>")
    tokenizer.add_tokens(list(tokens))
    given = {"model": "x", "response_format": name, "chat_template_kwargs": variables}
    return tokenizer, *open_writing(replace(settle({}).config, **given), SHOWN, tokenizer)


@pytest.mark.parametrize(
    ("template", "name", "own"),
    [
        (JSON, "tool_call", True),
        (XML, "xml_function", True),
        (XML, "tool_call", False),
        (JSON, "xml_function", False),
        (CHATML, "tool_call", False),
        (CHATML, "bash", False),
        (JSON, "react", False),
    ],
)
@pytest.mark.parametrize("thinking", [False, True])
def test_a_prompt_is_what_the_chat_template_asks_with(
    template: str, name: str, own: bool, thinking: bool
) -> None:
    """With the tools, where it describes them in the format; else the system text tells."""
    variables = {"enable_thinking": True} if thinking and template != CHATML else {}
    tokenizer, builder, form = opened(template, name, **variables)
    inner = form.form if isinstance(form, Thinking) else form
    system = SHOWN.system if own else f"{SHOWN.system}\n\n{inner.describe()}"
    chat = [{"role": "system", "content": system}, {"role": "user", "content": "Go."}]
    tools = inner.schemas() if own else None
    wanted = tokenizer.apply_chat_template(
        chat, tools=tools, tokenize=False, add_generation_prompt=True,
        enable_thinking=bool(variables),
    )  # fmt: skip
    assert tokenizer.decode(builder.added(START, 0, "Go.")) == wanted
    assert isinstance(form, Thinking) == bool(variables)
    said = form.render("why", "go")
    assert form.parse(builder.decode(builder.response(said))) == ("why", "go", True)
    assert said.startswith("<think>") == bool(variables)


@pytest.mark.parametrize(("template", "name"), [(JSON, "tool_call"), (XML, "xml_function")])
def test_tags_that_are_tokens_of_the_model_are_read(template: str, name: str) -> None:
    """They stand in the template's description of the tools, too, and are no control tokens."""
    tags = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    tokenizer, builder, form = opened(template, name, tags)
    text = f"<tool_call>\n{form.write('look', {'far': 3})}\n</tool_call>".replace(
        "\n<tool_call>", ""
    )
    said = form.write("look", {"far": 3}) if name == "tool_call" else text
    ids = builder.response(said)
    assert tokenizer.convert_tokens_to_ids("<tool_call>") in ids
    assert form.parse(builder.decode(ids)) == ("", 'look {"far": 3}', True)


def test_without_tools_of_its_own_a_template_gets_one_that_acts() -> None:
    form = response_format("tool_call")
    assert isinstance(form, ToolFormat) and list(form.tools) == [ACT.name]
    assert form.parse(form.render("why", "go north")) == ("why", "go north", True)
    assert form.schemas()[0]["function"]["parameters"]["required"] == ["action"]
    assert form.of((RUN, LOOK)).tools.keys() == {"run", "look"} and list(form.tools) == ["act"]


def test_an_action_of_a_tool_is_rendered_as_its_call() -> None:
    form = response_format("tool_call")
    assert isinstance(form, ToolFormat)
    form = form.of((RUN, LOOK))
    call = json.loads(form.render("", 'look {"far": 2}').split("\n")[1])
    assert call == {"name": "look", "arguments": {"far": 2}}
    assert '"run"' in form.render("", "look here") and '"look"' in form.render("", "look")


@pytest.mark.parametrize("text", ["think: it is in 2", "> think: it is in 2", "Think : it is in 2"])
def test_a_thought_is_an_action_that_changes_nothing(text: str) -> None:
    assert response_format("think_line").parse(text) == ("it is in 2", f"{REPLY}OK.", True)
    assert response_format("think_line").parse("> go to desk 1") == ("", "go to desk 1", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thought: a\nAction: look", ("a", "look", True)),
        ("Thought 2: a\nAction 2: look\nObservation 2: a desk\nAction 3: go", ("a", "look", True)),
        ("Thought:\nI see.\n\nAction:\nclick[buy now]", ("I see.", "click[buy now]", True)),
        ("I see.\nAction: look", ("I see.", "look", True)),
        ("Action: two\nlines", ("", "two\nlines", True)),
    ],
)
def test_react_reads_the_first_action(text: str, expected: tuple[str, str, bool]) -> None:
    assert response_format("react").parse(text) == expected


@pytest.mark.parametrize("name", ["tool_call", "xml_function", "bash", "react", "think_line"])
@pytest.mark.parametrize("context", ["transcript", "window"])
def test_episodes_go_on_after_what_cannot_be_read(tiny: Tiny, name: str, context: str) -> None:
    """A policy that never saw the format: each turn is taken, and nothing is done in it."""
    agent = tiny.agent(response_format=name, context=context, max_length=4096)
    episodes = flat(tiny.groups(agent, groups=2, size=2))
    turns = [turn for episode in episodes for turn in episode.turns]
    assert len(turns) == 16 and not any(episode.error for episode in episodes)
    lost = [turn for turn in turns if turn.action.startswith(REPLY)]
    assert bool(lost) == (name != "think_line")
    assert all(turn.action_valid and not turn.format_valid for turn in lost)
    for episode in episodes:
        for turn, following in zip(episode.turns, episode.turns[1:], strict=False):
            if turn.action.startswith(REPLY):
                assert following.observation == turn.action.removeprefix(REPLY)


def test_feedback_stands_in_place_of_the_observation_after_an_invalid_action(tiny: Tiny) -> None:
    builder = tiny.agent().builder
    shown = replace(
        tiny.template, invalid_feedback="Invalid action! {observation} Try: {admissible}"
    )
    start = replace(START, template=shown)

    def prompt(**facts: bool) -> str:
        past = [Turn("You see a mug 1.", "fly", "", "fly", **facts)]
        return builder.decode(builder.added(start, 1, "Nothing happens.", ["look"], past))

    assert "Invalid action! Nothing happens. Try: look" in prompt(action_valid=False)
    assert "Invalid action!" in prompt(format_valid=False)
    assert "Invalid" not in prompt() and "Nothing happens." in prompt()


def test_the_setting_replaces_the_templates_feedback_and_is_checked(tiny: Tiny) -> None:
    config = settle({"invalid_feedback": "No! {observation}"}).config
    chosen = choose_template(config, tiny.description)
    assert chosen.invalid_feedback == "No! {observation}"
    for wrong in ("{oops}", "{", "{0}"):
        with pytest.raises(ConfigError, match="invalid_feedback: expected a text with the fields"):
            choose_template(replace(config, invalid_feedback=wrong), tiny.description)
