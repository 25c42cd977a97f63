"""The language agent: a policy that reads through a context and answers in a response format."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from aem_gym.agents.prompts import PromptBuilder
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
from aem_gym.types import IGNORE, IMITATE, PROMPT, Demo, LabelledRow, StopReason, Turn

L = TypeVar("L", bound=Learner | None)


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
    ) -> None:
        self.policy, self.learner = policy, learner
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
        generations = _sample(self.policy, requests)
        finished = {
            request.slot: self.finish(request, generation)
            for request, generation in zip(requests, generations, strict=True)
        }
        return [part if isinstance(part, Response) else finished[part.slot] for part in prepared]

    def prepare(self, turn: TurnInput) -> GenerationRequest | Response:
        """The prompt of a turn; a `Response` with `stop` where the context is full.

        Changes nothing, so it may be called again for the same turn.
        """
        live = self._live[turn.slot]
        admissible = turn.info["admissible_actions"]
        added = self.builder.added(
            live.start, turn.turn, turn.observation, admissible, turn.history
        )
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
        return Response(
            action=action,
            text=text,
            thought=thought,
            format_valid=valid and not generation.cut,
            prompt_ids=added,
            response_ids=generation.ids,
            logprobs=generation.logprobs,
            entropies=generation.entropies,
            cut=generation.cut,
        )

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
    if isinstance(policy, BatchPolicy):
        return policy.generate(requests)
    return asyncio.run(_gather(policy, requests))


async def _gather(policy: AsyncPolicy, requests: list[GenerationRequest]) -> list[Generation]:
    return await asyncio.gather(*(policy.sample(request) for request in requests))
