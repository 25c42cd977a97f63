"""The grammar of actions: a shell command, or one of a few tools, chosen by the first word.

A tool's short arguments are on its line, quoted as in a shell. The long ones follow below, each
between its tags, without escapes.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TypeAlias

from aem_gym.envs.swe.sandbox.base import WORKDIR


@dataclass(frozen=True, slots=True)
class Bash:
    """A command for the shell."""

    command: str


@dataclass(frozen=True, slots=True)
class ViewFile:
    """Show a file, or lines `first` to `last` of it, or a folder."""

    path: str
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """Write a new file."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class StrReplace:
    """Replace the only occurrence of `old`."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Insert:
    """Put a text after a line; 0: before the first."""

    path: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class UndoEdit:
    """Take back the last change of a file by one of these tools."""

    path: str


@dataclass(frozen=True, slots=True)
class Search:
    """Find the lines that hold a text."""

    text: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Submit:
    """End the episode and have the work graded."""


@dataclass(frozen=True, slots=True)
class Reply:
    """No action; it is answered with a text."""

    text: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A call of a tool that cannot be parsed."""

    why: str


Edit: TypeAlias = ViewFile | Create | StrReplace | Insert | UndoEdit
Call: TypeAlias = Bash | Edit | Search | Submit | Reply | Malformed

USAGE = {
    "view": "view PATH [FIRST LAST]",
    "create": "create PATH\n<text>\nall of the file\n</text>",
    "str_replace": (
        "str_replace PATH\n<old>\nlines that occur once in the file\n</old>\n"
        "<new>\nwhat takes their place\n</new>"
    ),
    "insert": "insert PATH LINE\n<text>\nwhat comes after that line (0: at the top)\n</text>",
    "search": "search TEXT [PATH]",
    "submit": "submit",
}
"""The syntax of each tool."""

_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)\n?```", re.DOTALL)


def instructions(*, bash_only: bool) -> str:
    """The instructions for an agent."""
    head = (
        f"The repository is in {WORKDIR}, in a sandbox without network access. Change it so "
        "that it does what the issue asks for. Hidden tests judge the result; changes to tests and "
        "to the test runner's settings do not count.\n\n"
        "Each action is one shell command, which may have several lines. All commands run in one "
        "bash, so the folder and variables persist; processes left running are stopped. Nobody can "
        "answer a prompt."
    )
    end = "submit\n    ends the work. Only then is the result graded."
    if bash_only:
        return f"{head}\n\nWhen everything is done, the action is:\n\n{end}"
    tools = (
        f"{USAGE['view']}\n    shows a file with line numbers, or a folder",
        f"{USAGE['search']}\n    finds the lines that contain TEXT literally; quote it if it "
        "contains spaces",
        f"{USAGE['str_replace']}\n    replaces a text that occurs exactly once; whitespace counts",
        USAGE["insert"],
        USAGE["create"],
        end,
    )
    return (
        f"{head}\n\nOr it is one of these, with PATH relative to {WORKDIR}, and texts written "
        "literally, without escapes:\n\n" + "\n\n".join(tools)
    )


def parse(action: str, *, bash_only: bool = False) -> Call:
    """The call that an action stands for. Never raises.

    A fence of three backticks around the whole action is removed.
    """
    text = action.strip("\n")
    if fenced := _FENCE.fullmatch(text.strip()):
        text = fenced[1]
    if "\0" in text:
        return Malformed("An action is text: it holds a NUL character.")
    head, _, below = text.lstrip().partition("\n")
    word = head.split(maxsplit=1)[0] if head.strip() else ""
    if not word:
        return Malformed("There is no action in it. Write one shell command, or one of the tools.")
    if word not in USAGE or (bash_only and word != "submit"):
        return Bash(text)
    try:
        return _tool(word, head, below)
    except ValueError as error:
        return Malformed(f"{word}: {error}. Its syntax:\n\n{USAGE[word]}")


def _tool(word: str, head: str, below: str) -> Call:
    """The call of a tool. Raises ValueError with the reason."""
    try:
        arguments = shlex.split(head)[1:]
    except ValueError as error:
        raise ValueError(f"its line cannot be read ({str(error).lower()})") from error
    if word in ("view", "search", "submit") and below.strip():
        raise ValueError("expected one line and nothing below it: one action at a time")
    match word:
        case "submit":
            _count(arguments, 0)
            return Submit()
        case "view":
            return _view(arguments)
        case "search":
            _count(arguments, 1, 2)
            if not arguments[0]:
                raise ValueError("the text is empty")
            return Search(*arguments)
        case "create":
            _count(arguments, 1)
            return Create(arguments[0], _between(below, "text"))
        case "insert":
            _count(arguments, 2)
            return Insert(arguments[0], _number(arguments[1]), _between(below, "text"))
    _count(arguments, 1)
    old, new = _two(below)
    if not old:
        raise ValueError("there is nothing between <old> and </old>")
    return StrReplace(arguments[0], old, new)


def _view(arguments: list[str]) -> ViewFile:
    _count(arguments, 1, 3)
    if len(arguments) == 2:
        raise ValueError("expected two line numbers, FIRST and LAST, or none; got one")
    return ViewFile(arguments[0], *map(_number, arguments[1:]))


def _count(arguments: list[str], *counts: int) -> None:
    least, most = counts[0], counts[-1]
    if not least <= len(arguments) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise ValueError(
            f"expected {wanted} words after it, got {len(arguments)} (quote what contains spaces)"
        )


def _number(word: str) -> int:
    if not re.fullmatch(r"\d{1,9}", word):
        raise ValueError(f"expected a line number, got {word[:40]!r}")
    return int(word)


def _between(below: str, tag: str) -> str:
    found = re.fullmatch(rf"\s*<{tag}>(.*)</{tag}>\s*", below, re.DOTALL)
    if not found:
        raise ValueError(f"expected a text between <{tag}> and </{tag}>, and nothing after it")
    return _inner(found[1])


def _two(below: str) -> tuple[str, str]:
    found = re.fullmatch(r"\s*<old>(.*?)</old>\s*<new>(.*)</new>\s*", below, re.DOTALL)
    if not found:
        raise ValueError(
            "expected <old>, a text, </old>, <new>, a text, </new>, and nothing after it"
        )
    return _inner(found[1]), _inner(found[2])


def _inner(text: str) -> str:
    """The text between two tags, without the ends of the tags' own lines."""
    return text.removeprefix("\n").removesuffix("\n")
