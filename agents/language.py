"""The language agent: it renders prompts, lets a policy continue them, and parses the responses.

Contexts: `transcript` is one growing token sequence, extended by what is new and never tokenised
again (so it keeps thoughts that a chat template would drop from earlier turns); `window` is a fresh
prompt per turn that holds the last K turns (the published ALFWorld prompts).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from aem_gym.agents.chat import (
    ChatPieces,
    Frame,
    chat_pieces,
    control_tokens,
    hidden_tokens,
    text_ids,
    whole_tokens,
)
from aem_gym.concurrency import run_async
from aem_gym.errors import ComponentError
from aem_gym.protocols import (
    AsyncPolicy,
    BatchPolicy,
    EpisodeStart,
    Generation,
    GenerationRequest,
    Learner,
    Policy,
    Response,
    ResponseFormat,
    TurnInput,
)
from aem_gym.seeding import derive
from aem_gym.types import (
    IGNORE,
    IMITATE,
    PROMPT,
    Demo,
    LabelledRow,
    PromptTemplate,
    StopReason,
    Turn,
)

__all__ = ["ChatPieces", "LanguageAgent", "PromptBuilder", "chat_pieces", "rewritten"]

L = TypeVar("L", bound=Learner | None)


@dataclass(slots=True)
class _LiveEpisode:
    start: EpisodeStart
    transcript: tuple[int, ...] = ()
    """All tokens so far; stays empty in the window context."""
    is_open: bool = False
    """The last response does not close with the end of the chat template."""


class LanguageAgent(Generic[L]):
    """Acts by asking a policy to continue prompts, all live episodes in one call.

    Args:
        policy: samples continuations.
        learner: holds the weights that train; None where nothing trains.
        builder: renders prompts (`transcript` or `window`).
        response_format: parses responses.
        max_length: most tokens of a prompt and its response together.
        max_new_tokens: most tokens of a response; one that has less left of `max_length` gets
            that.
        template: the prompt template it was trained with; None: the environment's.
    """

    name = "llm"

    def __init__(
        self,
        policy: Policy,
        learner: L,
        builder: PromptBuilder,
        response_format: ResponseFormat,
        *,
        max_length: int,
        max_new_tokens: int,
        template: PromptTemplate | None = None,
    ) -> None:
        self.policy, self.learner, self.template = policy, learner, template
        self.builder, self.format = builder, response_format
        self.max_length, self.max_new_tokens = max_length, max_new_tokens
        self._vocabulary: float = getattr(learner, "vocabulary", math.inf)
        self._live: dict[int, _LiveEpisode] = {}

    def begin(self, start: EpisodeStart) -> None:
        self._live[start.slot] = _LiveEpisode(start)

    def end(self, slot: int) -> None:
        self._live.pop(slot, None)
        self.policy.release(slot)

    def act(self, inputs: Sequence[TurnInput]) -> list[Response]:
        prepared = [self.prepare(turn) for turn in inputs]
        requests = [part for part in prepared if isinstance(part, GenerationRequest)]
        made = _sample(self.policy, requests, self._vocabulary)
        pairs = zip(requests, made, strict=True)
        finished = {request.slot: self.finish(request, made) for request, made in pairs}
        return [part if isinstance(part, Response) else finished[part.slot] for part in prepared]

    async def respond(self, turn: TurnInput) -> Response:
        """The response to one turn from an `AsyncPolicy`, while others are under way."""
        request, policy = self.prepare(turn), self.policy
        if isinstance(request, Response):
            return request
        assert isinstance(policy, AsyncPolicy)
        made, limit = await policy.sample(request), request.max_new_tokens or math.inf
        return self.finish(request, _plain(made, limit, policy, self._vocabulary))

    def prepare(self, turn: TurnInput) -> GenerationRequest | Response:
        """A turn's prompt; a `Response` with `stop` where the context is full. Changes nothing."""
        live, shown = self._live[turn.slot], turn.info["admissible_actions"]
        added = self.builder.added(live.start, turn.turn, turn.observation, shown, turn.history)
        # A response that ran into the limit has no end; the transcript needs one.
        prompt = live.transcript + (self.builder.end_ids if live.is_open else ()) + added
        limit = min(self.max_new_tokens, self.max_length - len(prompt))
        if limit < 1:
            return Response("", stop=True, stop_reason=StopReason.CONTEXT_FULL)
        key = derive(live.start.key, turn.turn)
        return GenerationRequest(turn.slot, prompt, key, live.start.temperature, limit)

    def finish(self, request: GenerationRequest, generation: Generation) -> Response:
        """Parse a generation, and remember it as the episode's past."""
        live = self._live[request.slot]
        text = self.builder.decode(generation.ids)
        thought, action, valid = self.format.parse(text)
        added = request.prompt_ids[len(live.transcript) :]
        if self.builder.kind == "transcript":
            live.transcript = request.prompt_ids + generation.ids
            live.is_open = generation.ids[-1:] != (self.builder.end_id,)
        sampled = (generation.ids, generation.logprobs, generation.entropies, generation.cut)
        return Response(action, text, thought, valid and not generation.cut, added, *sampled)

    def tokenize(self, demo: Demo, start: EpisodeStart) -> list[LabelledRow]:
        """A demonstration as rows to clone, as if the policy had acted so.

        Rows with nothing to imitate, or longer than `max_length`, are left out.
        """
        rows: list[LabelledRow] = []
        ids: tuple[int, ...] = ()
        labels = b""
        history: list[Turn] = []
        for number, step in enumerate(demo.steps):
            shown = (step.observation, step.admissible_actions)
            prompt = self.builder.added(start, number, *shown, history)
            text = self.format.render(step.thought, step.action)
            response = self.builder.response(text)
            ids += prompt + response
            label = IMITATE if step.imitate else IGNORE
            labels += bytes([PROMPT]) * len(prompt) + bytes([label]) * len(response)
            if self.builder.kind == "window":
                rows.append(LabelledRow(ids, labels))
                ids, labels = (), b""
            history.append(Turn(step.observation, text, step.thought, step.action))
        if ids:
            rows.append(LabelledRow(ids, labels))
        return [row for row in rows if IMITATE in row.labels and len(row.ids) <= self.max_length]


def _sample(
    policy: Policy, requests: list[GenerationRequest], vocabulary: float
) -> list[Generation]:
    """One generation per request, from either kind of policy."""
    if not requests:
        return []
    if isinstance(policy, BatchPolicy):
        made: Any = policy.generate(requests)
    else:
        made = run_async(_gather(policy, requests))
    if not isinstance(made, list | tuple) or len(made) != len(requests):
        raise _wrong_number(made, len(requests), policy)
    limits = [request.max_new_tokens or math.inf for request in requests]
    return [_plain(*pair, policy, vocabulary) for pair in zip(made, limits, strict=True)]


def _plain(made: Any, limit: float, policy: Policy, vocabulary: float) -> Generation:
    """A generation in tuples of Python's own numbers. Raises ComponentError if it is not whole."""
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        ids = tuple(map(int, made.ids))
        scores = [tuple(map(float, values)) for values in (made.logprobs, made.entropies)]
        sizes = (len(ids),) if policy.exact else (0, len(ids))
        whole = len(scores[0]) == len(ids) and len(scores[1]) in sizes
        known = ids and len(ids) <= limit and min(ids) >= 0 and max(ids) < vocabulary
        if known and whole and all(map(math.isfinite, scores[0] + scores[1])):
            return Generation(ids, scores[0], scores[1], bool(made.cut))
    raise _not_whole(made, limit, policy, vocabulary)


def _wrong_number(made: object, wanted: int, policy: Policy) -> ComponentError:
    expected = f"expected {wanted} Generations in a list"
    return ComponentError(f"sampler {type(policy).__name__}: {expected}, got {made!r:.200}")


def _not_whole(made: object, limit: float, policy: Policy, vocabulary: float) -> ComponentError:
    few = "an" if policy.exact else "no or an"
    return ComponentError(
        f"sampler {type(policy).__name__} (exact: {policy.exact}): expected a Generation of 1 to "
        f"{limit} ids (max_new_tokens of the request), from 0 and below {vocabulary}, each with a "
        f"log-probability and {few} entropy, all finite, got {made!r:.200}"
    )


async def _gather(policy: AsyncPolicy, requests: list[GenerationRequest]) -> list[Generation]:
    return await asyncio.gather(*(policy.sample(request) for request in requests))


# Prompts -----------------------------------------------------------------------------------------


class PromptBuilder:
    """Renders prompt templates into token ids for one model.

    Args:
        tokenizer: the model's; its chat template is used.
        kind: `transcript` or `window`.
        options: further variables of the chat template (`chat_template_kwargs`).
        thinks: whether responses write their thoughts in `<think>` tags.
        tags: a response as its format writes it. Its tags are text, special tokens or not.
        told: what is added to the system text: how responses are written.
        tools: for the chat template, which then describes them.

    Attributes:
        pieces: the constant text of a chat.
        end_ids: the tokens with which a response closes.
        end_id: the last of them, the end token.
        stop_ids: all tokens that end a response, sorted.
    """

    def __init__(
        self,
        tokenizer: Any,
        kind: str,
        options: Mapping[str, Any] | None = None,
        *,
        thinks: bool = False,
        tags: str = "",
        told: str = "",
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.tokenizer, self.kind, self._told = tokenizer, kind, f"\n\n{told}" if told else ""
        pieces = chat_pieces(tokenizer, options, thinks=thinks)
        self.pieces: ChatPieces = whole_tokens(pieces, tokenizer)
        self._controls = control_tokens(tokenizer, self.pieces, tags)
        if tools:  # after the control tokens: markup in their description structures no chat
            given = {**(options or {}), "tools": list(tools)}
            self.pieces = whole_tokens(chat_pieces(tokenizer, given, thinks=thinks), tokenizer)
        self._hidden = hidden_tokens(tokenizer, self._controls, tags)
        self._is_control = self._controls.ids.__contains__
        # Behind this token a text goes on: it is not taken for the beginning of one.
        self._mark = mark = self.pieces.end.strip()
        self.end_ids = self.encode(mark + self.pieces.end)[len(self.encode(mark)) :]
        self.end_id = self.end_ids[-1]
        single = [ids[0] for ids in map(self.encode, self.pieces.stops) if len(ids) == 1]
        self.stop_ids = sorted({self.end_id, int(tokenizer.eos_token_id), *single})
        self._ids = lru_cache(maxsize=1 << 16)(self._encode)  # observations repeat a lot
        self._first = lru_cache(maxsize=64)(self._opening)
        before, after = self.pieces.next_user
        self._later = self._frame((mark + before,), after, "user", mark)
        lead, end = self.pieces.lead, self.pieces.end
        contexts = (mark + after, mark, "")
        self._answers = [
            (self.encode(text), self._frame((text + lead,), end, "assistant")) for text in contexts
        ]

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text in which control tokens are read as such; none are added."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, control tokens left out."""
        return str(self.tokenizer.decode([i for i in ids if i not in self._hidden]))

    def added(
        self,
        start: EpisodeStart,
        turn: int,
        observation: str,
        admissible: Sequence[str] = (),
        history: Sequence[Turn] = (),
    ) -> tuple[int, ...]:
        """`transcript`: the ids between the last response and this one. `window`: the prompt."""
        template, counts = start.template, {"step": turn, "next_step": turn + 1}
        fields = _fields(start, observation, admissible, history) | counts
        if turn and self.kind != "window":
            return self._ids(self._later, template.later.format_map(fields))
        text = _window(template, fields) if turn else template.first.format_map(fields)
        return self._ids(self._first(template.system), text)

    def response(self, text: str) -> tuple[int, ...]:
        """A response as the policy would have sampled it, end included."""
        for known, frame in self._answers:  # the first in which no token spans the border
            ids = self._ids(frame, text)
            if ids[: len(known)] == known:
                break
        return ids[len(known) :]

    def _opening(self, system: str) -> Frame:
        """The frame of a first user text."""
        if not (system := (system + self._told).removeprefix("\n\n")):
            return self._frame(self.pieces.user[:1], self.pieces.user[1], "user")
        before, between, after = self.pieces.system_user
        trim = self.pieces.trims.get("system", str)
        return self._frame((before, trim(system), between), after, "user")

    def _frame(self, before: tuple[str, ...], after: str, role: str, context: str = "") -> Frame:
        fixed = self.encode("".join(before[::2]) + after)
        skip, controls = len(self.encode(context)), self._controls.count(fixed)
        return Frame(before, after, self.pieces.trims.get(role, str), skip, controls)

    def _encode(self, frame: Frame, text: str) -> tuple[int, ...]:
        """Token ids of a message in its frame. What reads like a control token in it is text."""
        parts = (*frame.before, frame.trim(text), frame.after)
        ids = tuple(self.tokenizer.encode("".join(parts), add_special_tokens=False))
        if self._controls.unknown in text or frame.controls != sum(map(self._is_control, ids)):
            ids = text_ids(self.encode, parts, self._controls, self._mark)
        return ids[frame.skip :]


def _window(template: PromptTemplate, fields: Mapping[str, Any]) -> str:
    """A later prompt of the window context: with the history, unless that makes it too long."""
    window = template.window.format_map(fields)
    fits = template.longest_window is None or len(window) <= template.longest_window
    return window if fits else template.first.format_map(fields)


def rewritten(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A text with a template's (regular expression, replacement) pairs applied in order."""
    for pattern, replacement in pairs:
        text = re.sub(pattern, replacement, text)
    return text


def _fields(
    start: EpisodeStart, observation: str, admissible: Sequence[str], history: Sequence[Turn]
) -> dict[str, Any]:
    template = start.template
    first = max(0, len(history) - template.history)
    past: list[str] = []
    for step, old in enumerate(history[first:], first + 1):
        seen = rewritten(old.observation, template.rewrite)
        past.append(template.history_item.format(step=step, observation=seen, action=old.action))
    shown = [action for action in admissible if action not in template.hidden_actions]
    fields = {
        "instructions": start.instructions,
        "goal": start.goal,
        "observation": rewritten(observation, template.rewrite),
        "admissible": "\n".join(rewritten(action, template.rewrite_actions) for action in shown),
        "history": "\n".join(past),
        "shown": len(past),
    }
    return _with_feedback(template, fields, history) if template.invalid_feedback else fields


def _with_feedback(
    template: PromptTemplate, fields: dict[str, Any], history: Sequence[Turn]
) -> dict[str, Any]:
    """The fields; after an invalid action the template's feedback stands for the observation."""
    if not history or history[-1].valid:
        return fields
    return fields | {"observation": template.invalid_feedback.format_map(fields)}
