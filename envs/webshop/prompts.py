"""Instructions and prompt templates of WebShop."""

from __future__ import annotations

from collections.abc import Mapping

from aem_gym.types import PromptTemplate

INSTRUCTIONS = """\
You are in a web shop. Find and buy what the instruction asks for. Actions, one at a time:
  search[words]   searches the shop for the words
  click[name]     clicks what the page shows by that name: an article's id, an option, a button
Every page is a list of texts with [SEP] between them. Choose the options that are asked for \
before you click[buy now], which ends the visit. How well the purchase fits (kind of article, \
attributes, options, price) is the score. Anything else does nothing."""

_ROLE = "You are a customer of a web shop. You act by text commands, one at a time."
_WITHOUT_GOAL = (r"^(?:WebShop \[SEP\] )?Instruction: ?\[SEP\] .*? \[SEP\] ", "")
"""Every page repeats the instruction; a prompt says it once."""
_QUOTED = (("^", "'"), (r" \[SEP\] ", "' [SEP] '"), ("$", "'"))

_PUBLISHED_ROLE = (
    "You act as an expert agent in the WebShop online shopping environment.\nYour task is: {goal}"
)
_PUBLISHED_TURN = (
    "What you observe now: {observation}.\n"
    "Actions that are possible now:\n[\n{admissible}\n].\n\n"
    "Choose your next action. Think step by step about the situation first, inside "
    "<think> </think> tags. Then give exactly one of the possible actions inside "
    "<action> </action> tags."
)

PROMPT_TEMPLATES: Mapping[str, PromptTemplate] = {
    "default": PromptTemplate(
        name="default",
        system=_ROLE,
        first="{instructions}\n\nInstruction: {goal}\n\n{observation}",
        later="{observation}",
        window=(
            "{instructions}\n\nInstruction: {goal}\n\nYou have taken {step} steps. "
            "The last {shown}:\n{history}\n\nNow: {observation}"
        ),
        rewrite=(_WITHOUT_GOAL,),
    ),
    "compact": PromptTemplate(
        name="compact",
        first="{goal}\n{observation}",
        later="{observation}",
        window="{goal}\n{history}\n{observation}",
        history_item="{observation}\n> {action}",
        response_format="short",
        rewrite=(_WITHOUT_GOAL,),
    ),
    "published": PromptTemplate(
        name="published",
        first=f"{_PUBLISHED_ROLE}\n{_PUBLISHED_TURN}",
        window=(
            f"{_PUBLISHED_ROLE}\nYou have already taken {{step}} step(s). The last {{shown}} "
            "observation(s) and the actions you took:\n{history}\n"
            f"You are now at step {{next_step}}. {_PUBLISHED_TURN}"
        ),
        history_item="[Observation {step}: '{observation}', Action {step}: '{action}']",
        history=2,
        response_format="published",
        max_turns=15,
        reward_scale=10.0,
        reward_source="won",
        longest_window=13_000,
        rewrite=(_WITHOUT_GOAL, *_QUOTED),
        rewrite_actions=((r"^search\[.*\]$", "search[<your query>]"), ("^(.*)$", r"'\1',")),
    ),
}
"""`default`: instruction-tuned models, whole transcript. `compact`: a tiny model trained from
scratch, nothing but the pages. `published`: the structure of the prompt of GiGPO's WebShop runs
(last two turns, admissible actions, think and action tags; reward 10 for a score of 1.0, otherwise
none; 15 turns; history left out where the prompt exceeds 13,000 characters)."""
