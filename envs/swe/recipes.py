"""Ways of showing SWE to an agent."""

from __future__ import annotations

from collections.abc import Mapping

from aem_gym.types import PromptTemplate

_ROLE = "You are a software engineer. You work on a repository by actions, one at a time."
_WINDOW = (
    "{instructions}\n\nThe issue:\n\n{goal}\n\nYou have taken {step} steps. The last {shown}:\n\n"
    "{history}\n\nWhat came of the last one:\n\n{observation}"
)

RECIPES: Mapping[str, PromptTemplate] = {
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
            (r"\n\nThe repository lies in \S+\.$", ""),
            (r"\n\[\d+ steps? left\]$", ""),
            (r"\n\[lines \d+ to \d+ of \d+\]$", ""),
        ),
    ),
    "bash": PromptTemplate(
        name="bash",
        system=(
            "You are a software engineer who works at a command line. Each of your responses has "
            "a thought and exactly one command."
        ),
        first=(
            "{instructions}\n\nA good order: find and read the code that matters; write a script "
            "that shows the fault; mend the source; run the script again; look for edge cases; "
            "submit. Folder and variables stay from one command to the next.\n\n"
            "The issue:\n\n{observation}"
        ),
        window=_WINDOW,
        history_item="{action}",
        history=20,
    ),
}
"""`default`: instruction-tuned models, whole transcript. `compact`: a tiny model trained from
scratch, nothing but issue and answers. `bash`: for `bash_only`, with the advice that
mini-swe-agent gives."""
