"""Response formats: (thought, action) to text and back.

`parse` never raises. Where a text does not follow the format, the environment still gets an
action, as each class says, and `valid` is False, so that the trainer can penalize it.
"""

from __future__ import annotations

import re
from typing import Any

from aem_gym.errors import ConfigError
from aem_gym.protocols import ResponseFormat
from aem_gym.registry import FORMATS
from aem_gym.types import REPLY

_SENT = 20
_CHINESE = re.compile("[\u4e00-\u9fff]")


class Tags:
    """`<think>...</think>` and `<action>...</action>`, as published language agents write them.

    Valid if both pairs of tags are there; the action is the text of the last pair of action
    tags. Carries thoughts and actions without these tags and without outer white space.
    """

    name = "tags"
    separators: tuple[str, ...] = ("<think>", "</think>\n<action>", "</action>")

    def render(self, thought: str, action: str) -> str:
        return f"<think>{thought}</think>\n<action>{action}</action>"

    def parse(self, text: str) -> tuple[str, str, bool]:
        thought = _between(text, "<think>", "</think>")
        action = _last_between(text, "<action>", "</action>")
        if thought is None or not action:
            return (thought or "", action or last_line(text), False)
        return thought, action, True


class Published(Tags):
    """The same tags, read as the published WebShop agents are read (GiGPO's verl-agent).

    The whole response is lower-cased; the action is between the first pair of action tags. A
    response without them sends its last 20 characters, and one with a Chinese character, or
    without tags around a thought, counts as invalid though its action is sent.
    """

    name = "published"

    def parse(self, text: str) -> tuple[str, str, bool]:
        lower = text.lower()
        start, end = lower.find("<action>"), lower.find("</action>")
        thought = _between(lower, "<think>", "</think>") or ""
        if start < 0 or end < 0:
            return thought, lower[-_SENT:], False
        valid = "<think>" in text and "</think>" in text and not _CHINESE.search(text)
        return thought, lower[start + len("<action>") : end].strip(), valid


class Short:
    """`thought ; action` on one line: few tokens. Without a thought: ` ; action`.

    The first ` ; ` separates, so an action may hold further ones (a shell command). Carries
    thoughts in which, followed by the separator, no earlier one appears.
    """

    name = "short"
    separators: tuple[str, ...] = (" ; ",)

    def render(self, thought: str, action: str) -> str:
        return f"{thought} ; {action}"

    def parse(self, text: str) -> tuple[str, str, bool]:
        thought, found, action = text.partition(" ; ")
        if not found or not action.strip():
            return "", last_line(text), False
        return thought.strip(), action.strip(), True


class Plain:
    """The action alone; a thought is not written. Any text with something in it is valid."""

    name = "plain"
    separators: tuple[str, ...] = ()

    def render(self, thought: str, action: str) -> str:
        del thought
        return action

    def parse(self, text: str) -> tuple[str, str, bool]:
        action = text.strip()
        return "", action, bool(action)


class ThinkLine(Plain):
    """A response is an action, or a thought alone: `think: ...` (ReAct's prompts for ALFWorld).

    A thought takes a turn; the answer to it is `OK.`. A `>` before either is left out.
    """

    name = "think_line"

    def parse(self, text: str) -> tuple[str, str, bool]:
        said = text.strip().removeprefix(">").strip()
        word, colon, thought = said.partition(":")
        if colon and word.strip().lower() == "think":
            return thought.strip(), REPLY + "OK.", True
        return super().parse(said or text)

    def describe(self) -> str:
        """What a model is told about it."""
        return (
            "Each response is one action, or one thought, written as `think: ...`. A thought "
            "changes nothing; the answer to it is `OK.`"
        )


class React:
    """`Thought: ...`, then `Action: ...` (ReAct; AgentGym and AgentBoard write it alike).

    Both may be numbered (`Thought 1:`) and begin on the next line. The action goes on to the end,
    or to a line that begins with one of the words again: what a model makes up after its action is
    not read. A response without an action does nothing, and is told so.
    """

    name = "react"
    _label = re.compile(r"^[ \t]*(Thought|Action|Observation)[ \t]*\d*[ \t]*:", re.MULTILINE)

    def render(self, thought: str, action: str) -> str:
        return f"Thought: {thought}\nAction: {action}"

    def parse(self, text: str) -> tuple[str, str, bool]:
        parts = self._label.split(text)
        pairs = [(word, said.strip()) for word, said in zip(parts[1::2], parts[2::2], strict=True)]
        thought = next((said for word, said in pairs if word == "Thought"), parts[0].strip())
        for word, said in pairs:
            if word == "Action" and said:
                return thought, said, True
        return thought, unread("a line `Action: ...` after the thought", "none"), False

    def describe(self) -> str:
        """What a model is told about it."""
        return "Each response is a thought and one action:\n\nThought: ...\nAction: ..."


class FencedBash:
    """A thought, and one command in a fenced block, as mini-swe-agent's text models write it.

    The fence is named `bash`, `sh` or `mswea_bash_command`, and ends at the first line of three
    backticks. Anything but exactly one block does nothing, and is told so.
    """

    name = "bash"
    _block = re.compile(r"```(?:mswea_bash_command|bash|sh)[ \t]*\r?\n(.*?)\n?```", re.DOTALL)

    def render(self, thought: str, action: str) -> str:
        before = f"{thought}\n\n" if thought else ""
        return f"{before}```bash\n{action}\n```"

    def parse(self, text: str) -> tuple[str, str, bool]:
        blocks = list(self._block.finditer(text))
        thought = text[: blocks[0].start()].strip() if blocks else text.strip()
        wanted = "one command, in one block that begins with ```bash and ends with ```"
        if len(blocks) != 1:
            return thought, unread(wanted, f"{len(blocks)} such blocks"), False
        action = blocks[0][1].strip()
        return thought, action or unread(wanted, "an empty block"), bool(action)

    def describe(self) -> str:
        """What a model is told about it."""
        return (
            "Each response is a thought and exactly one command, in one block:\n\n"
            "THOUGHT: why you do this\n\n```bash\nthe command\n```"
        )


def unread(wanted: str, got: str) -> str:
    """The action of a response that cannot be read: it tells the model what was expected."""
    why = f"expected {wanted}; got {got}."
    return f"{REPLY}The response was not understood, and nothing was done: {why}"


class Thinking:
    """A format in a model that thinks in `<think>` tags of its own before it answers.

    A format with such tags reads them itself. Others get what comes after the thought; a response
    that was still thinking when it ended is invalid.

    Args:
        form: the format of what follows the thought.
        opened: the beginning of a thought that each prompt ends with, or empty.
    """

    def __init__(self, form: ResponseFormat, opened: str = "") -> None:
        self.form, self.name, self.opened = form, form.name, opened

    def render(self, thought: str, action: str) -> str:
        text = self.form.render(thought, action)
        if writes_thoughts(self.form):
            return text.removeprefix("<think>") if self.opened else text
        start = "" if self.opened else "<think>\n"
        return f"{start}{thought}\n</think>\n\n{self.form.render('', action)}"

    def parse(self, text: str) -> tuple[str, str, bool]:
        whole = self.opened + text
        if writes_thoughts(self.form) or not whole.lstrip().startswith("<think>"):
            return self.form.parse(whole)
        thought, closed, rest = whole.partition("</think>")
        inner, action, valid = self.form.parse(rest if closed else whole)
        thought = thought.replace("<think>", "", 1).strip()
        return (thought or inner) if closed else "", action, valid and bool(closed)


def writes_thoughts(form: ResponseFormat) -> bool:
    """Whether the responses of a format hold their thoughts in `<think>` tags."""
    return "<think>" in form.render("a thought", "an action")


SEPARATORS: tuple[str, ...] = (*Tags.separators, *Short.separators)
"""The texts around thought and action; no token should span one."""


def response_format(name: str) -> ResponseFormat:
    """The format called `name`, or the one that `module:attribute` names.

    A component is an instance, or a class or function without arguments that gives one.

    Raises:
        UnknownNameError: there is none of that name.
        ConfigError: what the name stands for is no response format.
    """
    component = FORMATS.load(name)
    form = component() if callable(component) else component
    if not isinstance(form, ResponseFormat):
        raise ConfigError(
            f"response format {name!r}: expected an object with name, render and parse "
            f"(aem_gym.protocols.ResponseFormat), got {form!r:.80}"
        )
    _check_format(name, form)
    return form


def _check_format(name: str, form: ResponseFormat) -> None:
    """Does it write and read one response? Raises ConfigError with what it gives instead."""
    text: object = form.render("a thought", "an action")
    parsed: Any = form.parse(text) if isinstance(text, str) else None
    kinds = tuple(map(type, parsed)) if isinstance(parsed, tuple) else ()
    if kinds != (str, str, bool):
        raise ConfigError(
            f"response format {name!r}: expected a str of render and (thought, action, valid) of "
            f"parse, got {text!r:.80} and {parsed!r:.80}"
        )
    if parsed[1:] != ("an action", True):
        raise ConfigError(
            f"response format {name!r}: parse has to read what render writes: expected the action "
            f"'an action' and valid True of {text!r:.80}, got {parsed[1]!r:.80} and {parsed[2]}"
        )


def last_line(text: str) -> str:
    """The last line of `text` with something in it, without outer white space."""
    stripped = text.strip()
    return stripped.splitlines()[-1].strip() if stripped else ""


def _between(text: str, start: str, end: str) -> str | None:
    """The text between the first `start` and the next `end`, stripped; None without both."""
    _, opened, rest = text.partition(start)
    inner, closed, _ = rest.partition(end)
    return inner.strip() if opened and closed else None


def _last_between(text: str, start: str, end: str) -> str | None:
    """The text between the last closed `start` and its `end`, stripped; None without both."""
    head, closed, _ = text.rpartition(end)
    _, opened, inner = head.rpartition(start)
    return inner.strip() if opened and closed else None
