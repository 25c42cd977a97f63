"""What a language agent reads before it responds: `transcript` and `window`.

`transcript`: one growing token sequence, extended by delta and never re-tokenised.
`window`: a fresh prompt per turn that tells the last K turns (the published ALFWorld recipe).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aem_gym.agents.templates import ChatPieces, chat_pieces
from aem_gym.protocols import EpisodeStart
from aem_gym.types import PromptTemplate, Turn

CONTEXTS = ("transcript", "window")


@dataclass(frozen=True, slots=True)
class View:
    """What the environment shows at one turn."""

    turn: int
    observation: str
    admissible: Sequence[str] = ()
    history: Sequence[Turn] = ()


class PromptBuilder:
    """Renders a recipe into token ids for one model.

    Args:
        tokenizer: the model's; its chat template is used.
        kind: `transcript` or `window`.
    """

    def __init__(self, tokenizer: Any, kind: str) -> None:
        self.kind = kind
        self.pieces: ChatPieces = chat_pieces(tokenizer)
        self._encode: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=1 << 16)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
        )
        self.end_id = int(tokenizer.eos_token_id)

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, no special tokens added. Cached: observations repeat a lot."""
        return self._encode(text)

    def added(self, start: EpisodeStart, view: View) -> tuple[int, ...]:
        """`transcript`: the ids between the last response and this one. `window`: the prompt."""
        recipe = start.recipe
        fields = _fields(start, view)
        if view.turn == 0:
            return self._opening(recipe, recipe.first.format_map(fields))
        if self.kind == "window":
            text = recipe.window.format_map(fields)
            if recipe.longest_window is not None and len(text) > recipe.longest_window:
                text = recipe.first.format_map(fields)
            return self._opening(recipe, text)
        return self._between(recipe.later.format_map(fields))

    def response(self, text: str) -> tuple[int, ...]:
        """A response as the policy would have sampled it, end token included."""
        return (*self.encode(text), self.end_id)

    def _opening(self, recipe: PromptTemplate, text: str) -> tuple[int, ...]:
        return self.encode(self.pieces.opening(recipe.system, text))

    def _between(self, text: str) -> tuple[int, ...]:
        return self.encode(self.pieces.following(text))


def rewritten(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A text as a recipe shows it: its (regular expression, replacement) pairs applied in order."""
    for pattern, replacement in pairs:
        text = re.sub(pattern, replacement, text)
    return text


def _fields(start: EpisodeStart, view: View) -> Mapping[str, Any]:
    recipe = start.recipe
    past = list(view.history[-recipe.history :]) if recipe.history else []
    first = len(view.history) - len(past)
    lines = [
        recipe.history_item.format(
            step=first + i + 1,
            observation=rewritten(turn.observation, recipe.rewrite),
            action=turn.action,
        )
        for i, turn in enumerate(past)
    ]
    shown = [
        rewritten(action, recipe.rewrite_actions)
        for action in view.admissible
        if action not in recipe.hidden_actions
    ]
    return {
        "instructions": start.instructions,
        "goal": start.goal,
        "observation": rewritten(view.observation, recipe.rewrite),
        "admissible": "\n".join(shown),
        "history": "\n".join(lines),
        "step": view.turn,
        "next_step": view.turn + 1,
        "shown": len(past),
    }
