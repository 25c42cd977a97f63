"""What a language agent reads before it responds, in the contexts `transcript` and `window`.

`transcript`: one growing token sequence, extended by what is new and never tokenised again.
`window`: a fresh prompt per turn that holds the last K turns (the published ALFWorld prompts).

Chat templates may treat the past differently from the present (drop old thoughts, say); a growing
sequence must not. So the fixed strings around messages are found once, with marker contents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aem_gym.errors import ModelError
from aem_gym.protocols import EpisodeStart
from aem_gym.types import Turn

_A, _B, _R = "\u2402A\u2402", "\u2402B\u2402", "\u2402R\u2402"


class PromptBuilder:
    """Renders prompt templates into token ids for one model.

    Args:
        tokenizer: the model's; its chat template is used.
        kind: `transcript` or `window`.
    """

    def __init__(self, tokenizer: Any, kind: str) -> None:
        self.tokenizer, self.kind = tokenizer, kind
        self.pieces: ChatPieces = chat_pieces(tokenizer)
        self._encode: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=1 << 16)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False))
        )
        self.end_id = int(tokenizer.eos_token_id)

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, no special tokens added. Cached: observations repeat a lot."""
        return self._encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def added(
        self,
        start: EpisodeStart,
        turn: int,
        observation: str,
        admissible: Sequence[str] = (),
        history: Sequence[Turn] = (),
    ) -> tuple[int, ...]:
        """`transcript`: the ids between the last response and this one. `window`: the prompt."""
        template = start.template
        fields = _fields(start, turn, observation, admissible, history)
        if turn == 0:
            return self._opening(template.system, template.first.format_map(fields))
        if self.kind == "window":
            text = template.window.format_map(fields)
            if template.longest_window is not None and len(text) > template.longest_window:
                text = template.first.format_map(fields)
            return self._opening(template.system, text)
        return self.encode(self.pieces.following(template.later.format_map(fields)))

    def response(self, text: str) -> tuple[int, ...]:
        """A response as the policy would have sampled it, end token included."""
        return (*self.encode(text), self.end_id)

    def _opening(self, system: str, text: str) -> tuple[int, ...]:
        return self.encode(self.pieces.opening(system, text))


def rewritten(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A text with a template's (regular expression, replacement) pairs applied in order."""
    for pattern, replacement in pairs:
        text = re.sub(pattern, replacement, text)
    return text


def _fields(
    start: EpisodeStart,
    turn: int,
    observation: str,
    admissible: Sequence[str],
    history: Sequence[Turn],
) -> Mapping[str, Any]:
    template = start.template
    past = list(history[-template.history :]) if template.history else []
    first = len(history) - len(past)
    lines = [
        template.history_item.format(
            step=first + i + 1,
            observation=rewritten(old.observation, template.rewrite),
            action=old.action,
        )
        for i, old in enumerate(past)
    ]
    shown = [
        rewritten(action, template.rewrite_actions)
        for action in admissible
        if action not in template.hidden_actions
    ]
    return {
        "instructions": start.instructions,
        "goal": start.goal,
        "observation": rewritten(observation, template.rewrite),
        "admissible": "\n".join(shown),
        "history": "\n".join(lines),
        "step": turn,
        "next_step": turn + 1,
        "shown": len(past),
    }


# Chat templates ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChatPieces:
    """The constant text of a chat, before, between and after messages."""

    system_user: tuple[str, str, str]
    """Before the system text, between it and the first user text, and after that text."""
    user: tuple[str, str]
    """Before and after a first user text where there is no system text."""
    next_user: tuple[str, str]
    """From the end of a response to the next user text, and after it, to the next response."""
    end: str
    """The text of the end token with which a response closes."""

    def opening(self, system: str, text: str) -> str:
        """The prompt of the first response."""
        if system:
            before, between, after = self.system_user
            return before + system + between + text + after
        return self.user[0] + text + self.user[1]

    def following(self, text: str) -> str:
        """The text between the end token of a response and the next response."""
        return self.next_user[0] + text + self.next_user[1]


def chat_pieces(tokenizer: Any) -> ChatPieces:
    """Take the tokenizer's chat template apart.

    Raises:
        ModelError: the template is missing or does not keep messages whole.
    """

    def render(*messages: tuple[str, str], prompt: bool = True) -> str:
        chat = [{"role": role, "content": content} for role, content in messages]
        return str(
            tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=prompt, enable_thinking=False
            )
        )

    end = str(tokenizer.eos_token)
    try:
        user = _cut(render(("user", _A)), _A)
        turns = render(("user", _A), ("assistant", _R), ("user", _B))
        _, after_response = _cut(turns, _R)
        following = _cut(after_response, _B)
        system = _system_pieces(render, user)
    except Exception as error:  # a template raises what it likes
        message = f"the model's chat template cannot be used for dialogues: {error}"
        raise ModelError(message) from error
    if following[0].lstrip().startswith(end):
        # The end token is sampled by the policy, so it belongs to the response.
        following = (following[0].lstrip()[len(end) :], following[1])
    return ChatPieces(system, (user[0], user[1]), (following[0], following[1]), end)


def _system_pieces(render: Any, user: tuple[str, str]) -> tuple[str, str, str]:
    try:
        before, rest = _cut(render(("system", _B), ("user", _A)), _B)
        between, after = _cut(rest, _A)
    except Exception:  # a template's own error type; such models have no system role
        return user[0], "\n\n", user[1]
    return before, between, after


def _cut(text: str, marker: str) -> tuple[str, str]:
    before, found, after = text.partition(marker)
    if not found or marker in after:
        raise ValueError(f"a message was dropped or doubled in {text!r}")
    return before, after
