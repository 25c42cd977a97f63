"""Ways of showing ALFWorld to an agent."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from aem_gym.envs.alfworld.text import DIALECTS
from aem_gym.types import PromptTemplate

_ROLE = "You are a household robot in a room. You act by text commands, one at a time."

_INSTRUCTIONS = """\
Commands, with every thing named as you see it, number included:
  go to <receptacle>
  open <receptacle>
  close <receptacle>
  take <object> from <receptacle>
  {put}
  heat <object> with <microwave>
  cool <object> with <fridge>
  clean <object> with <sinkbasin>
  slice <object> with <knife>
  use <lamp>
  examine <object or receptacle>
  inventory
  look
You carry one object at a time. To heat, cool or clean something, hold it at the microwave, fridge \
or sinkbasin (it need not be open). To look at something under a lamp, hold it where the lamp is \
and use the lamp. What cannot be done is answered "Nothing happens."."""

_ADMISSIBLE = (
    "Actions that are possible now: [{admissible}].\n\n"
    "Choose your next action. Think step by step about the situation first, inside "
    "<think> </think> tags. Then give exactly one of the possible actions inside "
    "<action> </action> tags."
)
_PUBLISHED_ROLE = "You act as an expert agent in the ALFRED embodied environment."


@cache
def instructions_for(dialect: str) -> str:
    """The action grammar in words, in the dialect of the game."""
    return _INSTRUCTIONS.format(put=DIALECTS[dialect].put.format("<object>", "<receptacle>"))


RECIPES: Mapping[str, PromptTemplate] = {
    "default": PromptTemplate(
        name="default",
        system=_ROLE,
        first="{instructions}\n\nYour goal: {goal}\n\n{observation}",
        later="{observation}",
        window=(
            "{instructions}\n\nYour goal: {goal}\n\nYou have taken {step} steps. "
            "The last {shown}:\n{history}\n\nNow: {observation}"
        ),
    ),
    "compact": PromptTemplate(
        name="compact",
        first="{observation}",
        later="{observation}",
        window="{goal}\n{history}\n{observation}",
        history_item="{observation}\n> {action}",
        response_format="short",
    ),
    "published": PromptTemplate(
        name="published",
        first=f"{_PUBLISHED_ROLE}\nWhat you observe now: {{observation}}\n{_ADMISSIBLE}",
        window=(
            f"{_PUBLISHED_ROLE} Your task is to: {{goal}}\n"
            "You have already taken {step} step(s). The last {shown} observation(s) and the "
            "actions you took:\n{history}\n"
            f"What you observe now: {{observation}}\n{_ADMISSIBLE}"
        ),
        history_item="[Observation {step}: '{observation}', Action {step}: '{action}']",
        history=2,
        response_format="tags",
        max_turns=50,
        reward_scale=10.0,
        hidden_actions=("help",),
    ),
}
"""`default`: instruction-tuned models, whole transcript. `compact`: a tiny model trained from
scratch, nothing but the observations. `published`: the structure of the published ALFWorld
prompt (last two turns, admissible actions without `help`, think and action tags, reward 10)."""
