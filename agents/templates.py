"""A chat template taken apart, so that a conversation can grow without being rendered again.

Templates may treat the past differently from the present (drop old thoughts, say); a growing
token sequence must not. The fixed strings around messages are found once, with marker contents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aem_gym.errors import ModelError

_A, _B, _R = "\u2402A\u2402", "\u2402B\u2402", "\u2402R\u2402"


@dataclass(frozen=True, slots=True)
class ChatPieces:
    """The constant text of a chat: what stands before, between and after messages."""

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
        """What comes between the end token of a response and the next response."""
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
