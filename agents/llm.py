"""The language agent: a policy that reads through a context and answers in a response format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aem_gym.agents.contexts import PromptBuilder, View
from aem_gym.protocols import (
    EpisodeStart,
    GenerationRequest,
    Policy,
    Response,
    ResponseFormat,
    TurnInput,
)
from aem_gym.seeding import derive
from aem_gym.types import IGNORE, IMITATE, PROMPT, Demo, LabelledRow, Turn


class LanguageAgent:
    """Acts by asking a policy to continue prompts. Batched over all live episodes.

    Args:
        policy: samples continuations.
        builder: renders prompts (`transcript` or `window`).
        response_format: parses responses.
        decode: token ids to text, special tokens left out.
        max_length: most tokens of a prompt and its response together.
        max_new_tokens: the policy's response limit, reserved at the end of each prompt.
    """

    name = "llm"

    def __init__(
        self,
        policy: Policy,
        builder: PromptBuilder,
        response_format: ResponseFormat,
        decode: Callable[[tuple[int, ...]], str],
        *,
        max_length: int,
        max_new_tokens: int,
    ) -> None:
        self.policy, self.builder, self.format, self.decode = (
            policy,
            builder,
            response_format,
            decode,
        )
        self.max_length, self.max_new_tokens = max_length, max_new_tokens
        self._starts: dict[int, EpisodeStart] = {}
        self._transcripts: dict[int, tuple[int, ...]] = {}
        self._was_cut: set[int] = set()

    def begin(self, start: EpisodeStart) -> None:
        """A new episode lives in `start.slot`."""
        self._starts[start.slot] = start
        self._transcripts[start.slot] = ()
        self._was_cut.discard(start.slot)

    def end(self, slot: int) -> None:
        """Forget the episode in `slot`."""
        self._starts.pop(slot, None)
        self._transcripts.pop(slot, None)
        self._was_cut.discard(slot)
        self.policy.release(slot)

    def act(self, situations: Sequence[TurnInput]) -> list[Response]:
        """One response per situation. A full context answers with `stop`."""
        responses: dict[int, Response] = {}
        requests: list[GenerationRequest] = []
        added: dict[int, tuple[int, ...]] = {}
        for situation in situations:
            slot = situation.slot
            added[slot] = self._added(situation)
            prompt = self._transcripts[slot] + added[slot]
            if len(prompt) + self.max_new_tokens > self.max_length:
                responses[slot] = _full(len(prompt), self.max_length)
                continue
            key = derive(self._starts[slot].key, situation.turn)
            requests.append(GenerationRequest(slot, prompt, key))
        for request, generation in zip(requests, self.policy.generate(requests), strict=True):
            slot = request.slot
            if self.builder.kind == "transcript":
                self._transcripts[slot] = request.prompt_ids + generation.ids
                (self._was_cut.add if generation.cut else self._was_cut.discard)(slot)
            text = self.decode(generation.ids)
            thought, action, valid = self.format.parse(text)
            responses[slot] = Response(
                action=action,
                text=text,
                thought=thought,
                format_valid=valid and not generation.cut,
                prompt_ids=added[slot],
                response_ids=generation.ids,
                logprobs=generation.logprobs,
                entropies=generation.entropies,
                cut=generation.cut,
            )
        return [responses[situation.slot] for situation in situations]

    def _added(self, situation: TurnInput) -> tuple[int, ...]:
        view = View(
            situation.turn,
            situation.observation,
            situation.info["admissible_actions"],
            situation.history,
        )
        ids = self.builder.added(self._starts[situation.slot], view)
        # A response that ran into the limit has no end token; the transcript needs one.
        return (self.builder.end_id, *ids) if situation.slot in self._was_cut else ids

    def tokenize(self, demo: Demo, start: EpisodeStart) -> list[LabelledRow]:
        """A demonstration as rows to clone, as if the policy had acted so."""
        rows: list[LabelledRow] = []
        ids: tuple[int, ...] = ()
        labels = b""
        history: list[Turn] = []
        for number, step in enumerate(demo.steps):
            view = View(number, step.observation, step.admissible_actions, history)
            prompt = self.builder.added(start, view)
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


def _full(length: int, limit: int) -> Response:
    return Response(
        action="",
        stop=True,
        format_valid=True,
        text="",
        error=f"context full: {length} tokens of {limit} (--max-length)",
    )
