"""Calls of tools with JSON arguments, as agents of other scaffolds write them.

The action is the tool's name and a JSON object of its arguments (`aem_gym.types.Tool`). The tools
are those of SWE-agent (`bash`, `str_replace_editor`, `submit`), R2E-Gym (`file_editor`,
`execute_bash`, `search`, `finish`) and OpenHands (`execute_bash`, `str_replace_editor`, `think`,
`finish`); `schemas.py` lists their fields. Any other action is read by our own grammar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aem_gym.envs.swe.tools import grammar
from aem_gym.envs.swe.tools.grammar import (
    Bash,
    Call,
    Create,
    Insert,
    Malformed,
    Reply,
    Search,
    StrReplace,
    Submit,
    UndoEdit,
    ViewFile,
)
from aem_gym.types import REPLY

EDITORS = ("str_replace_editor", "file_editor", "str_replace_based_edit_tool")
_SHELLS = ("bash", "execute_bash")
_ENDS = ("finish", "submit")
_NAMES = (*EDITORS, *_SHELLS, *_ENDS, "search", "think")
_MINI_END = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
"""With this command mini-swe-agent hands in; what follows prints its patch, which is not needed."""
COMMANDS = ("view", "create", "str_replace", "insert", "undo_edit")


def parse(action: str, *, bash_only: bool = False) -> Call:
    """The call that an action stands for. Never raises."""
    if action.startswith(REPLY):
        return Reply(action.removeprefix(REPLY))
    text = action.strip()
    if text == _MINI_END or text.startswith((f"{_MINI_END} ", f"{_MINI_END}\n")):
        return Submit()
    name, _, rest = text.partition(" ")
    if name not in _NAMES or not rest.lstrip().startswith("{"):
        return Submit() if text == "finish" else grammar.parse(action, bash_only=bash_only)
    try:
        given = json.loads(rest)
        call = _call(name, given)
    except RecursionError:
        return Malformed(f"{name}: its arguments are nested too deeply.")
    except ValueError as error:
        return Malformed(f"{name}: {error}.")
    if bash_only and not isinstance(call, Bash | Submit | Reply):
        return Malformed(f"{name}: there is no such tool here. Use shell commands, or submit.")
    return call


def _call(name: str, given: Mapping[str, Any]) -> Call:
    """The call of a tool. Raises ValueError with the reason."""
    if name in _ENDS:
        return Submit()
    if name == "think":
        return Reply("The thought was noted.")
    if name == "search":
        text = _text(given, "search_term")
        if not text:
            raise ValueError("search_term is empty")
        return Search(text, _text(given, "path", "").strip())
    if name in _SHELLS:
        command = _text(given, "command" if "command" in given else "cmd").strip()
        return Bash(command) if command else Malformed(f"{name}: the command is empty.")
    return _edit(given)


def _edit(given: Mapping[str, Any]) -> Call:
    command, path = _text(given, "command"), _text(given, "path").strip()
    match command:
        case "view":
            return ViewFile(path, *_range(given.get("view_range")))
        case "create":
            return Create(path, _text(given, "file_text"))
        case "str_replace":
            old = _text(given, "old_str")
            if not old:
                raise ValueError("old_str is empty")
            return StrReplace(path, old, _text(given, "new_str", ""))
        case "insert":
            line = given.get("insert_line")
            if not isinstance(line, int) or isinstance(line, bool) or line < 0:
                raise ValueError(f"insert_line: expected a line number, or 0, got {_short(line)}")
            return Insert(path, line, _text(given, "new_str"))
        case "undo_edit":
            return UndoEdit(path)
    raise ValueError(f"command: expected one of {', '.join(COMMANDS)}, got {_short(command)}")


def _text(given: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = given.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise ValueError(f"expected the argument {name}, got none of that name")
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{name}: expected a text, got {_short(value)}")
    return value


def _range(value: Any) -> tuple[int | None, int | None]:
    """First and last line of `view_range`; -1 is the end of the file."""
    if value is None:
        return None, None
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 2 or not all(type(number) is int for number in numbers):
        raise ValueError(f"view_range: expected [FIRST, LAST], got {_short(value)}")
    first, last = numbers
    if first < 1 or (last != -1 and last < first):
        raise ValueError(
            f"view_range: expected [FIRST, LAST] with lines from 1 on, or -1 as LAST for the end, "
            f"got {_short(value)}"
        )
    return first, None if last == -1 else last


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}..."
