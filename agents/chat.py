"""Chat templates taken apart: the constant text of a chat, and the tokens with which turns end.

Templates may treat the past differently from the present (drop old thoughts, write dates); a
growing sequence must not. So the fixed strings around messages are found once, with markers, and
compared over several turns: a template that rewrites what was said before is refused.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from aem_gym.errors import ModelError

logger = logging.getLogger(__name__)

_S, _A, _B, _C, _R, _Q = (f"\u2402{letter}\u2402" for letter in "SABCRQ")
_THOUGHTS = ("<think>", "</think>")
"""Tags that responses write themselves, whether or not a tokenizer calls them special."""
SWITCHES = ("enable_thinking", "thinking")
"""The variables by which chat templates turn thinking on."""
_OPEN = re.compile(r"<think>\s*\Z")
_EMPTY = re.compile(r"<think>\s*</think>\s*\Z")
_NO_CONTROL = re.compile(r"</?think>|<0x[0-9A-F]{2}>|.?", re.DOTALL)
"""Texts of added tokens that structure no chat: thoughts, bytes, single characters."""
_MARKUP = re.compile(r"<[^<>\s]+>")
_Render: TypeAlias = Callable[..., str]
Trim: TypeAlias = Callable[[str], str]
"""What a template does to the outer white space of a text."""


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
    """The text with which a response closes: the end token, and white space before it if any."""
    lead: str = ""
    """White space between prompt and response, which the response begins with."""
    opened: str = ""
    """The thought that a prompt has begun for the response, `<think>` and a line break, or none."""
    trims: Mapping[str, Trim] = field(default_factory=dict)
    """By role, what happens to the outer white space of its texts; nothing where it is left out."""
    stops: tuple[str, ...] = ()
    """Texts of all tokens that may end a response."""

    def opening(self, system: str, text: str) -> str:
        """The text before the first response."""
        if system:
            before, between, after = self.system_user
            return before + system + between + text + after + self.lead
        return self.user[0] + text + self.user[1] + self.lead

    def following(self, text: str) -> str:
        """The text between the end of a response and the next response."""
        return self.next_user[0] + text + self.next_user[1] + self.lead


def chat_pieces(
    tokenizer: Any, options: Mapping[str, Any] | None = None, *, thinks: bool = False
) -> ChatPieces:
    """Take the tokenizer's chat template apart.

    Args:
        tokenizer: its chat template is used.
        options: further variables of the template (`chat_template_kwargs`).
        thinks: responses write their thoughts in `<think>` tags themselves. The template then gets
            `enable_thinking`, and an empty thought that it begins a response with is left out.

    Raises:
        ModelError: the template is missing, does not keep messages whole, or rewrites the past.
    """
    variables = {"enable_thinking": thinks, **(options or {})}
    opens = thinks or any(variables.get(name) for name in SWITCHES)

    def render(*messages: tuple[str, str], prompt: bool = True) -> str:
        chat = [{"role": role, "content": content} for role, content in messages]
        return str(
            tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=prompt, **variables
            )
        )

    try:
        _warn_of_variables(tokenizer, options or {})
        return _take_apart(render, _added(tokenizer), str(tokenizer.eos_token), thinks, opens)
    except Exception as error:  # a template raises what it likes
        raise ModelError(
            f"the model's chat template cannot be used for dialogues: {error}. To use another one, "
            "set chat_template_kwargs.chat_template to its text"
        ) from error


def _warn_of_variables(tokenizer: Any, options: Mapping[str, Any]) -> None:
    """Jinja has no unknown names: a template reads past a variable that it does not mention."""
    text = str(tokenizer.get_chat_template(options.get("chat_template")))
    words = {*re.findall(r"[A-Za-z_]\w*", text)}
    for name in sorted({*options} - words - {"chat_template"}):
        near = difflib.get_close_matches(name, sorted(words), 1)
        logger.warning(
            "chat_template_kwargs.%s: the model's chat template mentions no such variable, so it "
            "changes nothing: %s",
            *(name, f"did you mean {near[0]!r}?" if near else "leave it out"),
        )


def _added(tokenizer: Any) -> list[str]:
    """The texts of the tokens that a tokenizer finds before all others."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return [str(token.content) for token in added if str(token.content).strip()]


def _take_apart(
    render: _Render, tokens: Sequence[str], eos: str, thinks: bool, opens: bool
) -> ChatPieces:
    said = (("user", _A), ("assistant", _R), ("user", _B), ("assistant", _Q), ("user", _C))
    before, asked = _split(render(said[0]), _A)
    start, past, link, again = _split(render(*said[:3]), _A, _R, _B)
    whole = _split(render(*said), _A, _R, _B, _Q, _C)
    past_again = whole.pop(3)
    if start != before or whole != [start, past, link, link, again]:
        raise ValueError(f"it changes earlier turns later on: {render(*said)!r}")
    ask, lead = _prompt(asked, past, thinks, opens)
    ask_again, _ = _prompt(again, past_again, thinks, opens)
    end = _end(link, tokens, eos)
    following = link.removeprefix(end)
    _, last = _split(render(*said[:2], prompt=False), _R)
    stops = dict.fromkeys([end.strip(), _end(last, tokens, eos).strip(), eos])
    opened = _OPEN.search(ask)
    return ChatPieces(
        system_user=(*_system_pieces(render, before, asked, past), ask),
        user=(before, ask),
        next_user=(following, ask_again),
        end=end,
        lead=lead,
        opened=opened.group() if opened else "",
        trims=dict(_trimmed(render)),
        stops=tuple(stops),
    )


def _prompt(asked: str, past: str, thinks: bool, opens: bool) -> tuple[str, str]:
    """The text between a user text and a response, and the white space the response begins with.

    Args:
        asked: as the template asks for a response.
        past: as it writes the two down later.
        thinks: as in `chat_pieces`.
        opens: whether the prompt may begin a thought.
    """
    lead = ""
    if past.startswith(asked):
        more = past[len(asked) :]
        if not more.strip():
            lead = more
        elif not (opens and any(tag in more for tag in _THOUGHTS)):
            asked = past  # a role, a channel: the policy is not asked to write those
    elif asked.startswith(past):
        more = asked[len(past) :]
        asked = past if not more.strip() or (_OPEN.search(more) and not opens) else asked
    elif _without_thoughts(asked) != _without_thoughts(past):
        raise ValueError(f"it asks for a response with {asked!r}, but writes {past!r} later")
    if thinks and (empty := _EMPTY.search(asked)):
        return asked[: empty.start()], ""
    bare = asked.rstrip(" ")  # a space is part of the first token of a response
    return bare, asked[len(bare) :] + lead


def _without_thoughts(text: str) -> str:
    return re.sub(r"\s*</?think>\s*", "", text).rstrip()


def _end(text: str, tokens: Sequence[str], eos: str) -> str:
    """The end token at the beginning of what follows a response; the tokenizer's if none is there.

    Where the next user's own token follows at once (`<|user|>`), that is what ends a response.
    """
    body = text.lstrip()
    known = [token for token in tokens if body.startswith(token) and token not in _THOUGHTS]
    if not known and (found := _MARKUP.match(body)):
        known = [found.group()]
    if body.startswith(eos):
        known.append(eos)
    return text[: len(text) - len(body)] + max(known, key=len) if known else eos


def _system_pieces(render: _Render, before: str, asked: str, past: str) -> tuple[str, str]:
    """The text before a system text, and between it and the first user text.

    A template without a system role, or which moves that text into the last turn (Mistral), gets
    it as the beginning of the first user text.
    """
    said = (("system", _S), ("user", _A), ("assistant", _R), ("user", _B))
    try:
        head, between, after = _split(render(*said[:2]), _S, _A)
        if [head, between, past] == _split(render(*said), _S, _A, _R, _B)[:3] and after == asked:
            return head, between
    except Exception:  # a template's own error type
        logger.debug("the chat template has no system role")
    return before, "\n\n"


def _trimmed(render: _Render) -> Iterator[tuple[str, Trim]]:
    """The roles whose texts the template strips, and on which sides."""
    spaced = f" \n{_A}\n "
    chats = {
        "system": (("system", spaced), ("user", _B)),
        "user": (("user", spaced),),
        "assistant": (("user", _B), ("assistant", spaced), ("user", _B)),
    }
    for role, chat in chats.items():
        try:
            text = render(*chat)
        except Exception:  # no such role
            continue
        if _A in text and spaced not in text:
            sides = (trim for trim in (str.lstrip, str.rstrip) if trim(spaced) in text)
            yield role, next(sides, str.strip)


def _split(text: str, *markers: str) -> list[str]:
    """The texts around markers, each of which is there once, in their order."""
    pieces = []
    for marker in markers:
        before, found, text = text.partition(marker)
        if not found or marker in text:
            raise ValueError(f"a message was dropped, moved or doubled in {before + text!r}")
        pieces.append(before)
    return [*pieces, text]


@dataclass(frozen=True, slots=True)
class Frame:
    """The constant text around a message, with which it is encoded in one piece."""

    before: tuple[str, ...]
    """Of the template; or of the template, the system text, of the template."""
    after: str
    trim: Trim
    """What happens to the outer white space of the message."""
    skip: int = 0
    """Ids at the beginning that only set the context."""
    controls: int = 0
    """Control tokens of the template in it."""


# Tokens ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """The tokens that structure a chat, which no text from outside may become."""

    texts: tuple[str, ...]
    """Longest first; the token for unknown text is among them."""
    ids: frozenset[int]
    """Without the token for unknown text, which may come of any text."""
    unknown: str
    """The text of that token."""

    def count(self, ids: Sequence[int]) -> int:
        return sum(map(self.ids.__contains__, ids))


def control_tokens(tokenizer: Any, pieces: ChatPieces, tags: str = "") -> ControlTokens:
    """The special tokens of a tokenizer, and other markup that its chat template writes.

    Special tokens that appear in `tags`, a response as its format writes it, structure responses.
    """
    written = (*pieces.system_user, *pieces.user, *pieces.next_user, pieces.end, *pieces.stops)
    special, found = {*tokenizer.all_special_ids}, {}
    for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items():
        text = str(token.content)
        in_chat, bare = any(text in piece for piece in written), text.strip()
        markup = in_chat and not text[:1].isalnum()
        other = _NO_CONTROL.fullmatch(bare) or (bare in tags and not in_chat)
        if (number in special or token.special or markup) and not other:
            found[text] = int(number)
    unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id, tokenizer.bos_token_id}
    texts = tuple(sorted(found, key=len, reverse=True))
    numbers = frozenset({*found.values()} - unknown)
    return ControlTokens(texts, numbers, str(tokenizer.unk_token or "<unk>"))


def hidden_tokens(tokenizer: Any, controls: ControlTokens, tags: str = "") -> frozenset[int]:
    """The tokens that are no part of a response's text; tags of thoughts and of its format are."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).items()
    texts = {int(number): str(token.content).strip() for number, token in added}
    shown = {i for i, text in texts.items() if text in _THOUGHTS or (text and text in tags)}
    return frozenset({*controls.ids, *({*tokenizer.all_special_ids} - shown)})


def whole_tokens(pieces: ChatPieces, tokenizer: Any) -> ChatPieces:
    """The pieces; responses close with an end that is a token, so that a policy can stop there.

    Where the template's end is none of the tokenizer, the tokenizer's own end token comes first.
    """
    mark, eos = pieces.end.strip(), str(tokenizer.eos_token)
    if mark == eos or len(tokenizer.encode(mark, add_special_tokens=False)) == 1:
        return pieces
    logger.warning(
        "the chat template ends responses with %r, which is no token of the tokenizer; %r is "
        "taught and sampled before it",
        *(mark, eos),
    )
    before, after = pieces.next_user
    return replace(pieces, end=eos, next_user=(pieces.end + before, after))


def text_ids(
    encode: Callable[[str], tuple[int, ...]],
    parts: Sequence[str],
    controls: ControlTokens,
    mark: str,
) -> tuple[int, ...]:
    """Token ids of a chat whose contents hold the text of control tokens, which stays text.

    Such a text is cut behind its first character: neither half is a control token then, and the
    tokens of both say the same letters.

    Args:
        encode: token ids of a text, control tokens read as such.
        parts: template, content, template, ... in turn.
        controls: what no content may become.
        mark: a control token, behind which a text goes on without being a text's beginning.
    """
    anywhere = re.compile(f"(?={'|'.join(map(re.escape, controls.texts))})")
    wanted = controls.count(encode("".join(parts[::2])))
    ids: tuple[int, ...] = ()
    for pattern in (anywhere, re.compile("(?=.)", re.DOTALL)):  # then behind every character
        first, *others = _segments(parts, pattern)
        ids = encode(first)
        for segment in others:
            ids += _continued(encode, segment, mark)
        if controls.count(ids) <= wanted:
            return ids
    logger.warning(
        "a text has control tokens in it that this tokenizer cannot write as text: a model may "
        "read it as several messages"
    )
    return ids


def _segments(parts: Sequence[str], pattern: re.Pattern[str]) -> list[str]:
    """The joined parts, cut in contents behind the first character of each match."""
    segments = [""]
    for number, part in enumerate(parts):
        start = 0
        for found in pattern.finditer(part) if number % 2 else ():
            segments[-1] += part[start : found.start() + 1]
            segments.append("")
            start = found.start() + 1
        segments[-1] += part[start:]
    return [segment for segment in segments if segment]


def _continued(encode: Callable[[str], tuple[int, ...]], text: str, mark: str) -> tuple[int, ...]:
    """Token ids of a text in the middle of another."""
    for context in (mark + "\n", mark):
        known, ids = encode(context), encode(context + text)
        if ids[: len(known)] == known:
            return ids[len(known) :]
    return encode(text)
