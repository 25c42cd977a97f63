"""Runs episodes: an agent in a pool of environments, the live ones together, turn by turn."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from aem_gym.protocols import Agent, EpisodeStart, Response, TurnInput
from aem_gym.rollout.observed import CheckedStep, describe, well_formed
from aem_gym.rollout.pool import EnvPool
from aem_gym.rollout.queue import Queue, RolloutRequest
from aem_gym.seeding import derive
from aem_gym.types import Episode, Group, PromptTemplate, Turn

__all__ = ["Collector", "CollectorSettings", "RolloutRequest", "grouped", "requests_for"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Live:
    ticket: RolloutRequest
    slot: int
    place: int
    """Of its ticket among all."""
    now: CheckedStep
    turns: list[Turn] = field(default_factory=list)
    begun: bool = False
    done: bool = False
    truncated: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """How episodes are run, whatever the agent and the task."""

    recipe: PromptTemplate
    context: str = "transcript"
    max_turns: int | None = None
    """Turn limit on top of the environment's own; None: the recipe's."""
    live: int = 0
    """Most episodes at once (memory of a GPU, or of sandboxes); 0: all."""


class Collector:
    """Runs tickets to episodes. Failures are recorded on the episode, never raised.

    Args:
        pool: the environments.
        agent: who acts.
        settings: recipe, context, limits.
    """

    def __init__(self, pool: EnvPool, agent: Agent, settings: CollectorSettings) -> None:
        self.pool, self.agent, self.settings = pool, agent, settings
        self.description = pool.describe()
        self.env_seconds = 0.0
        self.agent_seconds = 0.0

    def run(
        self, tickets: Sequence[RolloutRequest], on_end: Callable[[Episode], None] | None = None
    ) -> list[Episode]:
        """One episode per ticket, in their order. `on_end` hears of each as it ends."""
        queue = Queue(tickets, self.settings.live, self.pool.processes)
        limit = self.settings.max_turns or self.settings.recipe.max_turns
        episodes: dict[int, Episode] = {}
        live: list[_Live] = []
        while live or queue.waiting:
            live += self._reset(queue)
            for row in live:
                if row.done:
                    self._end(row)
                    queue.free.append(row.slot)
                    episode = episodes[row.place] = self._episode(row)
                    if on_end is not None:
                        on_end(episode)
            live = [row for row in live if not row.done]
            if live and not (queue.free and queue.waiting):
                self._turn(live, limit)
        return [episodes[place] for place in range(len(tickets))]

    def expect(self, tickets: Sequence[RolloutRequest]) -> None:
        """Tell the environments which tickets are run next."""
        first = tickets[: self.settings.live or None]
        self.pool.expect([(i, t.seed, t.options) for i, t in enumerate(first)])

    def _reset(self, queue: Queue) -> list[_Live]:
        """Begin an episode in every free slot."""
        begun = queue.take()
        if not begun:
            return []
        clock = time.perf_counter()
        answers = self.pool.reset([(slot, t.seed, t.options) for slot, _, t in begun])
        self.pool.expect([(slot, t.seed, t.options) for slot, t in queue.tell()])
        self.env_seconds += time.perf_counter() - clock
        rows = [
            _Live(ticket, slot, place, now)
            for (slot, place, ticket), now in zip(begun, answers, strict=True)
        ]
        for row in rows:
            self._begin(row)
        return rows

    def _begin(self, row: _Live) -> None:
        row.error = row.now.error
        if row.error is None:
            row.begun = True
            try:
                self.agent.begin(self._start(row))
            except Exception as error:
                row.error = _failure(error)
        row.done = row.truncated = row.error is not None

    def _end(self, row: _Live) -> None:
        if not row.begun:
            return
        try:
            self.agent.end(row.slot)
        except Exception as error:  # the episode itself is whole
            logger.warning("the agent failed to end an episode: %s", describe(error))

    def _turn(self, live: list[_Live], limit: int | None) -> None:
        """Let the agent respond in all live episodes, then step their environments."""
        clock = time.perf_counter()
        responses = self._ask(live)
        self.agent_seconds += time.perf_counter() - clock
        acting = []
        for row, response in zip(live, responses, strict=True):
            if response.stop or response.error:
                row.done = row.truncated = True
                row.error = None if response.stop else response.error
            else:
                acting.append((row, response))
        clock = time.perf_counter()
        answers = self.pool.step([(row.slot, response.action) for row, response in acting])
        self.env_seconds += time.perf_counter() - clock
        for (row, response), answer in zip(acting, answers, strict=True):
            row.turns.append(_turn_of(row.now, response, answer))
            row.error = answer.error
            full = limit is not None and len(row.turns) >= limit
            row.done = answer.terminated or answer.truncated or full
            row.truncated = row.done and not answer.terminated
            row.now = answer if answer.error is None else replace(answer, info=row.now.info)

    def _ask(self, live: list[_Live]) -> list[Response]:
        situations = [self._situation(row) for row in live]
        try:
            responses = self.agent.act(situations)
        except Exception as error:
            # A model out of memory, say, would fail for all; a bad observation only for its own.
            if len(situations) == 1 or _out_of_memory(error):
                return [Response("", error=_failure(error))] * len(situations)
            return [self._ask([row])[0] for row in live]
        if len(responses) != len(situations):
            message = f"expected {len(situations)} responses, got {len(responses)}"
            return [Response("", error=_failure(ValueError(message)))] * len(situations)
        return [_recordable(response) for response in responses]

    def _situation(self, row: _Live) -> TurnInput:
        return TurnInput(
            slot=row.slot,
            turn=len(row.turns),
            observation=row.now.observation,
            info=row.now.info,
            history=row.turns,
            ask_expert=lambda: self.pool.ask_expert(row.slot),
        )

    def _start(self, row: _Live) -> EpisodeStart:
        return EpisodeStart(
            slot=row.slot,
            key=row.ticket.key,
            instructions=self.description.instructions,
            goal=row.now.info["goal"],
            recipe=self.settings.recipe,
        )

    def _episode(self, row: _Live) -> Episode:
        info = row.now.info
        return Episode(
            task_id=info["task_id"],
            task_type=info["task_type"],
            goal=info["goal"],
            seed=row.ticket.seed,
            rollout=row.ticket.rollout,
            turns=tuple(row.turns),
            won=info["won"] and row.error is None,
            score=info["score"] if row.error is None else 0.0,
            terminated=row.done and not row.truncated,
            truncated=row.truncated,
            context=self.settings.context,
            error=row.error,
        )


def requests_for(seeds: Sequence[int], group_size: int, *stream: int | str) -> list[RolloutRequest]:
    """`group_size` tickets per task seed; the agent's randomness is named by `stream`."""
    return [
        RolloutRequest(seed, rollout, derive(*stream, place, seed, rollout))
        for place, seed in enumerate(seeds)
        for rollout in range(group_size)
    ]


def grouped(episodes: Sequence[Episode], group_size: int) -> list[Group]:
    """Cut a flat list of episodes, as run from `requests_for`, into groups."""
    return [
        Group(episodes[i].seed, tuple(episodes[i : i + group_size]))
        for i in range(0, len(episodes), group_size)
    ]


def _turn_of(before: CheckedStep, response: Response, after: CheckedStep) -> Turn:
    return Turn(
        observation=before.observation,
        response=response.text or response.action,
        thought=response.thought,
        action=response.action,
        reward=after.reward,
        format_valid=response.format_valid,
        action_valid=bool(after.info["action_valid"]),
        prompt_ids=response.prompt_ids,
        response_ids=response.response_ids,
        logprobs=response.logprobs,
        entropies=response.entropies,
        cut=response.cut,
        error=after.error,
    )


def _recordable(response: object) -> Response:
    """The response as it can be written down; an error in its place if it is none."""
    if not isinstance(response, Response):
        return Response("", error=_failure(TypeError(f"expected a Response, got {response!r:.80}")))
    texts = (response.action, response.text, response.thought)
    if not all(isinstance(text, str) for text in texts):
        message = f"expected str for action, text and thought, got {texts!r:.80}"
        return Response("", error=_failure(TypeError(message)))
    action, text, thought = map(well_formed, texts)
    return replace(response, action=action, text=text, thought=thought)


def _failure(error: Exception) -> str:
    message = f"AgentFailure: {describe(error)}"
    logger.warning("%s", message)
    logger.debug("where it failed:", exc_info=error)
    return message


def _out_of_memory(error: BaseException) -> bool:
    return "out of memory" in str(error).lower()
