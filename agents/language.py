"""The language agent: it renders prompts, lets a policy continue them, and parses the responses.

Contexts: `transcript` is one growing token sequence, extended by what is new and never tokenised
again; `window` is a fresh prompt per turn that holds the last K turns (the published ALFWorld
prompts). Chat templates may treat the past differently from the present (drop old thoughts, say); a
growing sequence must not. So the fixed strings around messages are found once, with markers.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from aem_gym.errors import ComponentError, ModelError
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

L = TypeVar("L", bound=Learner | None)
_A, _B, _R = "\u2402A\u2402", "\u2402B\u2402", "\u2402R\u2402"


@dataclass(slots=True)
class _LiveEpisode:
    start: EpisodeStart
    transcript: tuple[int, ...] = ()
    """All tokens so far; stays empty in the window context."""
    was_cut: bool = False
    """The last response has no end token."""


class LanguageAgent(Generic[L]):
    """Acts by asking a policy to continue prompts, all live episodes in one call.

    Args:
        policy: samples continuations.
        learner: holds the weights that train; None where nothing trains.
        builder: renders prompts (`transcript` or `window`).
        response_format: parses responses.
        max_length: most tokens of a prompt and its response together.
        max_new_tokens: the policy's response limit, reserved at the end of each prompt.
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
        self._live: dict[int, _LiveEpisode] = {}

    def begin(self, start: EpisodeStart) -> None:
        self._live[start.slot] = _LiveEpisode(start)

    def end(self, slot: int) -> None:
        self._live.pop(slot, None)
        self.policy.release(slot)

    def act(self, inputs: Sequence[TurnInput]) -> list[Response]:
        prepared = [self.prepare(turn) for turn in inputs]
        requests = [part for part in prepared if isinstance(part, GenerationRequest)]
        pairs = zip(requests, _sample(self.policy, requests), strict=True)
        finished = {request.slot: self.finish(request, made) for request, made in pairs}
        return [part if isinstance(part, Response) else finished[part.slot] for part in prepared]

    def prepare(self, turn: TurnInput) -> GenerationRequest | Response:
        """A turn's prompt; a `Response` with `stop` where the context is full. Changes nothing."""
        live = self._live[turn.slot]
        shown = (turn.observation, turn.info["admissible_actions"], turn.history)
        added = self.builder.added(live.start, turn.turn, *shown)
        # A response that ran into the limit has no end token; the transcript needs one.
        end = (self.builder.end_id,) if live.was_cut else ()
        prompt = live.transcript + end + added
        if len(prompt) + self.max_new_tokens > self.max_length:
            return Response("", stop=True, stop_reason=StopReason.CONTEXT_FULL)
        key = derive(live.start.key, turn.turn)
        return GenerationRequest(turn.slot, prompt, key, live.start.temperature)

    def finish(self, request: GenerationRequest, generation: Generation) -> Response:
        """Parse a generation, and remember it as the episode's past."""
        live = self._live[request.slot]
        text = self.builder.decode(generation.ids)
        thought, action, valid = self.format.parse(text)
        added = request.prompt_ids[len(live.transcript) :]
        if self.builder.kind == "transcript":
            live.transcript = request.prompt_ids + generation.ids
            live.was_cut = generation.cut
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


def _sample(policy: Policy, requests: list[GenerationRequest]) -> list[Generation]:
    """One generation per request, from either kind of policy."""
    if not requests:
        return []
    made: Any
    made = policy.generate(requests) if isinstance(policy, BatchPolicy) else _each(policy, requests)
    if not isinstance(made, list | tuple) or len(made) != len(requests):
        wanted = f"expected {len(requests)} Generations in a list"
        raise ComponentError(f"sampler {type(policy).__name__}: {wanted}, got {made!r:.200}")
    return [_plain(each, policy) for each in made]


def _plain(made: Any, policy: Policy) -> Generation:
    """A generation in tuples of Python's own numbers. Raises ComponentError if it is not whole."""
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        ids = tuple(map(int, made.ids))
        scores = [tuple(map(float, values)) for values in (made.logprobs, made.entropies)]
        sizes = (len(ids),) if policy.exact else (0, len(ids))
        whole = len(scores[0]) == len(ids) and len(scores[1]) in sizes
        if ids and whole and all(map(math.isfinite, scores[0] + scores[1])):
            return Generation(ids, scores[0], scores[1], bool(made.cut))
    few = "an" if policy.exact else "no or an"
    raise ComponentError(
        f"sampler {type(policy).__name__} (exact: {policy.exact}): expected a Generation of one or "
        f"more ids, each with a log-probability and {few} entropy, all finite, got {made!r:.200}"
    )


def _each(policy: AsyncPolicy, requests: list[GenerationRequest]) -> list[Generation]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_gather(policy, requests))
    with ThreadPoolExecutor(1) as thread:  # in a notebook, whose loop is running already
        return thread.submit(asyncio.run, _gather(policy, requests)).result()


async def _gather(policy: AsyncPolicy, requests: list[GenerationRequest]) -> list[Generation]:
    return await asyncio.gather(*(policy.sample(request) for request in requests))


# Prompts -----------------------------------------------------------------------------------------


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
        template, counts = start.template, {"step": turn, "next_step": turn + 1}
        fields = _fields(start, observation, admissible, history) | counts
        if turn and self.kind != "window":
            return self.encode(self.pieces.following(template.later.format_map(fields)))
        text = template.first.format_map(fields)
        if turn:
            window = template.window.format_map(fields)
            if template.longest_window is None or len(window) <= template.longest_window:
                text = window
        return self.encode(self.pieces.opening(template.system, text))

    def response(self, text: str) -> tuple[int, ...]:
        """A response as the policy would have sampled it, end token included."""
        return (*self.encode(text), self.end_id)


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
    past = [
        template.history_item.format(
            step=step, observation=rewritten(old.observation, template.rewrite), action=old.action
        )
        for step, old in enumerate(history[first:], first + 1)
    ]
    shown = [action for action in admissible if action not in template.hidden_actions]
    return {
        "instructions": start.instructions,
        "goal": start.goal,
        "observation": rewritten(observation, template.rewrite),
        "admissible": "\n".join(rewritten(action, template.rewrite_actions) for action in shown),
        "history": "\n".join(past),
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
