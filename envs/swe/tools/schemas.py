"""The tools of public scaffolds as schemas: what the prompt templates offer to a model.

Names and fields are those of SWE-agent (tools/edit_anthropic/config.yaml), R2E-Gym
(agenthub/tools) and OpenHands (codeact_agent/tools), as of July 2026; the descriptions are ours.
"""

from __future__ import annotations

from typing import Any

from aem_gym.envs.swe.sandbox.base import WORKDIR
from aem_gym.envs.swe.tools.calls import COMMANDS
from aem_gym.types import Tool


def _string(about: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": about, **more}


_EDITOR = {
    "command": _string("What to do.", enum=list(COMMANDS)),
    "path": _string(f"File or folder, as {WORKDIR}/file.py.", format="path"),
    "file_text": _string("For create: all of the new file."),
    "old_str": _string("For str_replace: lines that occur exactly once in the file."),
    "new_str": _string("For str_replace: what takes their place. For insert: the new lines."),
    "insert_line": {
        "type": "integer",
        "description": "For insert: the line after which new_str comes; 0 for the top.",
    },
    "view_range": {
        "type": "array",
        "items": {"type": "integer"},
        "description": "For view: [first, last] line to show; -1 as last for the end.",
    },
}
_ABOUT_EDITOR = (
    "Shows and changes files. view shows a file with line numbers, or a folder two levels deep; "
    "create writes a new file; str_replace replaces a text that occurs exactly once, white space "
    "included; insert puts lines after a line; undo_edit takes back the last change of a file."
)
_ABOUT_SHELL = (
    "Runs a command in a bash whose folder and variables stay from one command to the next. "
    "There is no network, and nobody can answer a prompt."
)
_ABOUT_END = "Ends the work: only then is it graded."
_COMMAND = {"command": _string("The command; it may have several lines.")}


def _editor(name: str, **more: Any) -> Tool:
    return Tool(name, _ABOUT_EDITOR, {**_EDITOR, **more}, ("command", "path"))


SWE_AGENT = (
    Tool("bash", _ABOUT_SHELL, _COMMAND, ("command",), action="command"),
    _editor("str_replace_editor"),
    Tool("submit", _ABOUT_END),
)
R2E = (
    _editor(
        "file_editor",
        concise={"type": "boolean", "description": "Accepted for compatibility; has no effect."},
    ),
    Tool(
        "execute_bash",
        _ABOUT_SHELL,
        {"cmd": _COMMAND["command"]},
        ("cmd",),
        action="cmd",
    ),
    Tool(
        "search",
        "Finds the lines of a file, or of the files of a folder, that hold a text.",
        {
            "search_term": _string("The text."),
            "path": _string("File or folder; the repository if left out.", format="path"),
        },
        ("search_term",),
    ),
    Tool(
        "finish",
        _ABOUT_END,
        {
            "command": _string("submit", enum=["submit"]),
            "result": _string("Not needed."),
        },
        ("command",),
    ),
)
OPENHANDS = (
    Tool(
        "execute_bash",
        _ABOUT_SHELL,
        {
            **_COMMAND,
            "is_input": _string("Accepted for compatibility; has no effect."),
            "timeout": {"type": "number", "description": "Accepted for compatibility."},
        },
        ("command",),
        action="command",
    ),
    _editor("str_replace_editor"),
    Tool("think", "Notes a thought; nothing changes.", {"thought": _string("It.")}, ("thought",)),
    Tool(
        "finish",
        _ABOUT_END,
        {
            "message": _string("What was done."),
            "task_completed": _string("true, false or partial."),
        },
    ),
)
