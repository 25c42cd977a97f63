"""Episodes that go on where their transcript is full: with the first turn and the latest ones.

What is kept are the tokens that were read and sampled. Each compacted prompt begins a training row
of its own, so that every response is trained under the prompt it was sampled under.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from aem_gym.agents.language import L, LanguageAgent
from aem_gym.protocols import EpisodeStart, Generation, GenerationRequest, Response, TurnInput
from aem_gym.seeding import derive
from aem_gym.types import IGNORE, IMITATE, PROMPT, Demo, LabelledRow, Turn

LEFT_OUT = "[Earlier turns are left out.]"
"""The line before the observation of a compacted prompt."""
_DEMO = -1
"""The slot in which demonstrations are tokenized."""


@dataclass(frozen=True, slots=True)
class _CompactedRequest(GenerationRequest):
    message: tuple[int, ...] = ()
    """The end of the prompt: what this turn adds to the turns that were kept."""


class CompactingAgent(LanguageAgent[L]):
    """A language agent for `context_limit: compact`, in the transcript context.

    Once less than `max_new_tokens` is left, turns after the first are left out, so many that the
    prompt takes half of `max_length`: the next time is far off, and training rows are few.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._turns: dict[int, list[tuple[int, ...]]] = {}
        """Per slot, the tokens of each turn: its message, its response, the end of that."""

    def begin(self, start: EpisodeStart) -> None:
        super().begin(start)
        self._turns[start.slot] = []

    def end(self, slot: int) -> None:
        self._turns.pop(slot, None)
        super().end(slot)

    def prepare(self, turn: TurnInput) -> GenerationRequest | Response:
        whole = super().prepare(turn)
        left = 0 if isinstance(whole, Response) else whole.max_new_tokens or 0
        if left == self.max_new_tokens or len(self._turns[turn.slot]) < 2:
            return whole
        compacted = self._compacted(turn)
        return compacted if (compacted.max_new_tokens or 0) > left else whole

    def _compacted(self, turn: TurnInput) -> _CompactedRequest:
        start, turns = self._live[turn.slot].start, self._turns[turn.slot]
        text, shown = f"{LEFT_OUT}\n{turn.observation}", turn.info["admissible_actions"]
        message = self.builder.added(start, turn.turn, text, shown, turn.history)
        most = min(self.max_length // 2, self.max_length - self.max_new_tokens)
        room, first = most - len(turns[0]) - len(message), len(turns)
        while first > 2 and len(turns[first - 1]) <= room:
            first -= 1
            room -= len(turns[first])
        prompt = tuple(chain(turns[0], *turns[first:], message))
        limit = min(self.max_new_tokens, self.max_length - len(prompt))
        key = derive(start.key, turn.turn)
        return _CompactedRequest(turn.slot, prompt, key, start.temperature, limit, message)

    def finish(self, request: GenerationRequest, generation: Generation) -> Response:
        live, end = self._live[request.slot], self.builder.end_ids
        message = request.message if isinstance(request, _CompactedRequest) else None
        if message is not None:
            live.transcript, live.is_open = (), False
        closed = len(end) if live.is_open else 0  # counts with the turn before
        response = super().finish(request, generation)
        added = response.prompt_ids[closed:] if message is None else message
        self._turns[request.slot].append(added + generation.ids + (end if live.is_open else ()))
        return replace(response, compacted=message is not None)

    def tokenize(self, demo: Demo, start: EpisodeStart) -> list[LabelledRow]:
        self.begin(replace(start, slot=_DEMO))
        rows: list[LabelledRow] = []
        ids: tuple[int, ...] = ()
        labels = b""
        history: list[Turn] = []
        for number, step in enumerate(demo.steps):
            info = {"admissible_actions": step.admissible_actions}
            request = self.prepare(TurnInput(_DEMO, number, step.observation, info, history))
            if isinstance(request, Response):
                break
            text = self.format.render(step.thought, step.action)
            made = self.finish(request, Generation(self.builder.response(text), (), (), False))
            if made.compacted:
                rows.append(LabelledRow(ids, labels))
                ids, labels = (), b""
            ids += made.prompt_ids + made.response_ids
            label = IMITATE if step.imitate else IGNORE
            labels += bytes([PROMPT]) * len(made.prompt_ids)
            labels += bytes([label]) * len(made.response_ids)
            history.append(Turn(step.observation, text, step.thought, step.action))
        del self._live[_DEMO], self._turns[_DEMO]
        rows.append(LabelledRow(ids, labels))
        return [row for row in rows if IMITATE in row.labels and len(row.ids) <= self.max_length]
