"""The ways in which a repository and its issue are shown to an agent."""

from __future__ import annotations

from collections.abc import Mapping

from aem_gym.envs.swe.sandbox.base import WORKDIR
from aem_gym.envs.swe.tools.schemas import OPENHANDS, R2E, SWE_AGENT
from aem_gym.types import PromptTemplate, Tool

_ROLE = "You are a software engineer. You work on a repository through actions, one at a time."
_SHELL_ROLE = (
    "You are a software engineer who works at a command line. Each of your responses has a thought "
    "and exactly one command."
)
_WINDOW = (
    "{instructions}\n\nThe issue:\n\n{goal}\n\nYou have taken {step} steps. The last {shown}:\n\n"
    "{history}\n\nThe result of the last one:\n\n{observation}"
)
_ORDER = (
    "A good order: find and read the relevant code; write a script that reproduces the fault; fix "
    "the source; run the script again; check edge cases; submit."
)
_TASK = (
    f"The repository is in {WORKDIR}, in a sandbox without network access. Change it so that it "
    "does what the issue asks for. Hidden tests judge the result; changes to tests and to the test "
    "runner's settings do not count."
)


def _with_tools(
    name: str, form: str, tools: tuple[Tool, ...], later: str = "{observation}"
) -> PromptTemplate:
    """For response formats with function calls: the tools are described by the format."""
    return PromptTemplate(
        name=name,
        system="You are a software engineer. You work on a repository by calling tools.",
        first=f"{_TASK} {_ORDER}\n\nThe issue:\n\n{{observation}}",
        later=later,
        window=_WINDOW.replace("{instructions}", _TASK),
        history_item="{action}",
        history=20,
        response_format=form,
        tools=tools,
    )


PROMPT_TEMPLATES: Mapping[str, PromptTemplate] = {
    "default": PromptTemplate(
        name="default",
        system=_ROLE,
        first="{instructions}\n\nThe issue:\n\n{observation}",
        window=_WINDOW,
        history_item="{action}",
        history=20,
    ),
    "compact": PromptTemplate(
        name="compact",
        first="{observation}",
        window="{goal}\n{history}\n{observation}",
        history_item="> {action}",
        response_format="short",
        rewrite=(
            (r"\n\nThe repository is in \S+\.$", ""),
            (r"\n\[\d+ steps? left\]$", ""),
            (r"\n\[lines \d+ to \d+ of \d+\]$", ""),
        ),
    ),
    "bash": PromptTemplate(
        name="bash",
        system=_SHELL_ROLE,
        first=(
            f"{{instructions}}\n\n{_ORDER} The folder and variables persist from one command to "
            "the next.\n\nThe issue:\n\n{observation}"
        ),
        window=_WINDOW,
        history_item="{action}",
        history=20,
    ),
    "mini": PromptTemplate(
        name="mini",
        system=_SHELL_ROLE,
        first=f"{{instructions}}\n\n{_ORDER}\n\nThe issue:\n\n{{observation}}",
        window=_WINDOW,
        history_item="{action}",
        history=20,
        response_format="bash",
    ),
    "tools": _with_tools(
        "tools", "tool_call", SWE_AGENT, "<tool_response>\n{observation}\n</tool_response>"
    ),
    "r2e": _with_tools("r2e", "xml_function", R2E),
    "openhands": _with_tools("openhands", "xml_function", OPENHANDS),
}
"""`default`: instruction-tuned models, with the whole transcript. `compact`: a tiny model trained
from scratch; only the issue and the answers. `bash`: for `bash_only`, with mini-swe-agent's
advice; `mini`: the same with its fenced blocks. `tools`, `r2e`, `openhands`: function calls, with
the tools of SWE-agent, R2E-Gym and OpenHands."""
