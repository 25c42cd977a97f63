"""Runs episodes: an agent in a pool of environments, a coroutine per live episode.

Nothing depends on timing: an episode's draws are keyed by its request, a policy in this process is
asked about all live episodes together, and episodes are returned in the order of their requests.
Every failure of an environment or an agent ends its own episode, and is recorded on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from aem_gym.concurrency import run_async
from aem_gym.errors import InfrastructureError, describe
from aem_gym.protocols import (
    Agent,
    AsyncAgent,
    AsyncPolicy,
    EpisodeStart,
    Response,
    TurnInput,
)
from aem_gym.rollout.envs import CheckedStep, well_formed
from aem_gym.rollout.pool import EnvPool
from aem_gym.seeding import derive
from aem_gym.types import Episode, Group, PromptTemplate, StopReason, Turn

logger = logging.getLogger(__name__)
OnEnd = Callable[[Episode], object]
"""What is called with each episode as it ends."""
Follow = Callable[[int, Episode], "Sequence[RolloutRequest]"] | None
"""Called with the place of a request and its episode as that ends: what has to run as well."""


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """One episode to run: which task, which rollout of it, and its own randomness."""

    seed: int
    """Given to `env.reset`: chooses the task."""
    rollout: int
    """Which rollout of the task."""
    key: int
    """Seed of the agent's draws in this episode."""
    options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """Settings of rollouts, independent of agent and task."""

    template: PromptTemplate
    context: str = "transcript"
    max_turns: int | None = None
    """Turn limit on top of the environment's own; None: the prompt template's."""
    max_concurrent_episodes: int = 0
    """Most episodes at once (memory of a GPU, or of sandboxes); 0: all."""


@dataclass(slots=True)
class _Live:
    """An episode in progress."""

    request: RolloutRequest
    place: int
    """Number of the request among all."""
    slot: int
    now: CheckedStep = field(init=False)
    begun: bool = False
    turns: list[Turn] = field(default_factory=list)
    stop_reason: StopReason | None = None
    """Why it is over; None while it is not."""
    error: str | None = None

    def fail(self, reason: StopReason, error: str | None) -> None:
        """End the episode because of a failure."""
        self.stop_reason, self.error = reason, error


class Collector:
    """Runs requests to episodes.

    Args:
        pool: the environments.
        agent: acts in them.
        settings: prompt template, context, limits.

    Attributes:
        quiet: whether it shows no progress bar.
    """

    quiet = False

    def __init__(self, pool: EnvPool, agent: Agent, settings: CollectorSettings) -> None:
        self.pool, self.agent, self.settings = pool, agent, settings
        self.description = pool.describe()

    def run(
        self,
        requests: Sequence[RolloutRequest],
        *,
        temperature: float = 1.0,
        on_end: OnEnd | None = None,
    ) -> list[Episode]:
        """One episode per request, in their order. `on_end` is called with each as it ends."""
        follow = None if on_end is None else partial(_tell, on_end)
        return run_async(self.collect(requests, temperature=temperature, follow=follow))

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        """Let the environments prepare what will be run next, while something else works."""
        self.pool.prefetch([(request.seed, request.options) for request in requests])

    async def collect(
        self, requests: Sequence[RolloutRequest], *, temperature: float = 1.0, follow: Follow = None
    ) -> list[Episode]:
        """The same as a coroutine. What `follow` returns, given a place and its episode, runs too.

        Places number all requests in the order in which they were given.
        """
        requests, waiting = list(requests), list(range(len(requests)))
        free = waiting[: self.settings.max_concurrent_episodes or None]
        running, episodes = dict[asyncio.Task[Episode], _Live](), dict[int, Episode]()
        asked = _asked_of(self.agent)
        self.prefetch(requests)
        while waiting or running:
            while waiting and free:
                place = _next(waiting, slot := free.pop(0), self.pool.processes)
                waiting.remove(place)
                row = _Live(requests[place], place, slot)
                running[asyncio.create_task(self._play(row, asked, temperature))] = row
            asked.expect(len(running))
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: running[task].place):
                row, episode = running.pop(task), task.result()
                free, episodes[row.place] = sorted((*free, row.slot)), episode
                if follow is not None:
                    more = follow(row.place, episode)
                    waiting += range(len(requests), len(requests) + len(more))
                    requests += more
        return [episodes[place] for place in range(len(requests))]

    async def _play(self, row: _Live, asked: _Asked, temperature: float) -> Episode:
        """One episode: turns of the agent and of its environment, until it is over."""
        slot, limit = row.slot, self.settings.max_turns or self.settings.template.max_turns
        row.now = await self.pool.reset_one(slot, row.request.seed, row.request.options)
        self._begin(row, temperature)
        while row.stop_reason is None:
            response = await asked.response(row.place, self._input(row))
            if response.stop or response.error:
                row.fail(response.stop_reason, response.error)
            else:
                answer = await self.pool.step_one(slot, response.action)
                row.turns.append(_turn_of(row.now, response, answer))
                row.error = answer.error
                row.stop_reason = _why_over(answer, len(row.turns), limit)
                row.now = answer if answer.error is None else replace(answer, info=row.now.info)
        self._end(row)
        return self._episode(row)

    def _begin(self, row: _Live, temperature: float) -> None:
        if row.now.error is not None:
            row.fail(row.now.failure, row.now.error)
            return
        row.begun = True
        about = (self.description.instructions, row.now.info["goal"], self.settings.template)
        start = EpisodeStart(row.slot, row.request.key, *about, temperature)
        try:
            self.agent.begin(start)
        except Exception as error:
            row.fail(StopReason.AGENT_ERROR, _agent_failure(error))

    def _end(self, row: _Live) -> None:
        try:
            if row.begun:
                self.agent.end(row.slot)
        except Exception as error:  # the episode itself is whole
            logger.warning("the agent failed to end an episode: %s", describe(error))

    def _input(self, row: _Live) -> TurnInput:
        now, expert = row.now, partial(self.pool.ask_expert, row.slot)
        return TurnInput(row.slot, len(row.turns), now.observation, now.info, row.turns, expert)

    def _episode(self, row: _Live) -> Episode:
        info, request, reason = row.now.info, row.request, row.stop_reason
        assert reason is not None
        task = (info["task_id"], info["task_type"], info["goal"], request.seed, request.rollout)
        won, score = (info["won"], info["score"]) if row.error is None else (False, 0.0)
        over = reason in (StopReason.WON, StopReason.LOST, StopReason.SUBMITTED)
        end = (over, not over, self.settings.context, row.error, reason)
        return Episode(*task, tuple(row.turns), won, score, *end)


class _Lockstep:
    """Asks an agent about all live episodes together, once none of them is under way elsewhere.

    So what is asked together, and in which order, does not depend on timing.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent, self.live = agent, 0
        self.inputs: dict[int, TurnInput] = {}
        self.round: asyncio.Future[dict[int, Response]] | None = None

    async def response(self, place: int, turn: TurnInput) -> Response:
        """The agent's response in the episode of request `place`."""
        self.inputs[place] = turn
        if self.round is None:
            self.round = asyncio.get_running_loop().create_future()
        answer = self.round
        self._ask_if_all()
        return (await answer)[place]

    def expect(self, live: int) -> None:
        """So many episodes are live."""
        self.live = live
        self._ask_if_all()

    def _ask_if_all(self) -> None:
        if self.round is None or len(self.inputs) < self.live:
            return
        places, answer = sorted(self.inputs), self.round
        inputs = [self.inputs[place] for place in places]
        self.inputs, self.round = {}, None
        answer.set_result(dict(zip(places, self._ask(inputs), strict=True)))

    def _ask(self, inputs: Sequence[TurnInput]) -> list[Response]:
        try:
            given: Any = self.agent.act(inputs)
        except Exception as error:
            return self._ask_apart(inputs, error)
        if not isinstance(given, Sequence) or len(given) != len(inputs):
            return _wrong_number(given, len(inputs))
        return [_checked_response(response) for response in given]

    def _ask_apart(self, inputs: Sequence[TurnInput], error: Exception) -> list[Response]:
        """Ask for one episode at a time after an error: only its own may be to blame."""
        # A model out of memory, say, would fail for all; a bad observation only for its own.
        if len(inputs) == 1 or "out of memory" in str(error).lower():
            return [_failed(error)] * len(inputs)
        return [self._ask([turn])[0] for turn in inputs]


class _Apart:
    """Asks an agent about each episode by itself, as soon as its turn comes."""

    def __init__(self, agent: AsyncAgent) -> None:
        self.agent = agent

    async def response(self, place: int, turn: TurnInput) -> Response:
        """The agent's response in the episode of request `place`."""
        try:
            return _checked_response(await self.agent.respond(turn))
        except Exception as error:
            return _failed(error)

    def expect(self, live: int) -> None:
        """Nobody waits for the others."""


_Asked = _Lockstep | _Apart


def _asked_of(agent: Agent) -> _Asked:
    """A policy behind a server is asked about each episode by itself, all others together."""
    apart = isinstance(getattr(agent, "policy", None), AsyncPolicy)
    return _Apart(agent) if apart and isinstance(agent, AsyncAgent) else _Lockstep(agent)


def _tell(on_end: OnEnd, place: int, episode: Episode) -> Sequence[RolloutRequest]:
    """A `Follow` after which nothing more has to run."""
    on_end(episode)
    return ()


def requests_for(seeds: Sequence[int], group_size: int, *stream: int | str) -> list[RolloutRequest]:
    """`group_size` requests per task seed; `stream` is the seed of the agent's randomness."""
    each = [(place, seed, r) for place, seed in enumerate(seeds) for r in range(group_size)]
    return [RolloutRequest(seed, r, derive(*stream, place, seed, r)) for place, seed, r in each]


def grouped(episodes: Sequence[Episode], group_size: int) -> list[Group]:
    """Cut a flat list of episodes, as run from `requests_for`, into groups."""
    starts = range(0, len(episodes), group_size)
    return [Group(episodes[i].seed, tuple(episodes[i : i + group_size])) for i in starts]


def _next(waiting: Sequence[int], slot: int, processes: int) -> int:
    """The first request that the slot's process has prefetched, or else the first of all."""
    return next((p for p in waiting if p % processes == slot % processes), waiting[0])


def _why_over(answer: CheckedStep, turns: int, limit: int | None) -> StopReason | None:
    if answer.error is not None:
        return answer.failure
    if answer.terminated or (answer.truncated and answer.info["won"]):
        lost = StopReason.SUBMITTED if answer.info.get("submitted") else StopReason.LOST
        return StopReason.WON if answer.info["won"] else lost
    over = answer.truncated or (limit is not None and turns >= limit)
    return StopReason.TURN_LIMIT if over else None


_SAMPLED = (
    *("thought", "action", "format_valid", "prompt_ids", "response_ids"),
    *("logprobs", "entropies", "cut", "compacted"),
)
"""What a turn keeps of a response as it is."""
_TEXTS, _REASONS = ("action", "text", "thought"), frozenset(StopReason)


def _turn_of(before: CheckedStep, response: Response, after: CheckedStep) -> Turn:
    kept: dict[str, Any] = {name: getattr(response, name) for name in _SAMPLED}
    text, valid = response.text or response.action, bool(after.info["action_valid"])
    kept |= {"reward": after.reward, "action_valid": valid, "error": after.error}
    return Turn(before.observation, text, **kept)


def _wrong_number(given: object, wanted: int) -> list[Response]:
    got = len(given) if isinstance(given, Sequence) else type(given).__name__
    error = ValueError(f"expected {wanted} responses, got {got}")
    return [_failed(error)] * wanted


def _checked_response(given: Any) -> Response:
    """The response as it can be written down; an error in its place if it is none."""
    texts: dict[str, Any] = {name: getattr(given, name, None) for name in _TEXTS}
    if not isinstance(given, Response) or not all(isinstance(x, str) for x in texts.values()):
        return _refused(given)
    if given.stop_reason not in _REASONS or not isinstance(given.error, str | None):
        return _refused(given)
    reason = StopReason.AGENT_ERROR if given.error and not given.stop else given.stop_reason
    plain: Any = {name: well_formed(text) for name, text in texts.items()}
    return replace(given, stop_reason=reason, **plain)


def _refused(given: object) -> Response:
    """What stands for a response that is none."""
    message = f"expected a Response, got {given!r:.80}"
    if isinstance(given, Response):
        message = f"expected a StopReason, and for error a str or None, got {given!r:.200}"
        texts = tuple(getattr(given, name) for name in _TEXTS)
        if not all(isinstance(text, str) for text in texts):
            message = f"expected str for action, text and thought, got {texts!r:.80}"
    return _failed(TypeError(message))


def _failed(error: Exception) -> Response:
    """What stands for a response where the agent failed, or the server behind its policy."""
    away = isinstance(error, InfrastructureError)
    reason = StopReason.INFRASTRUCTURE if away else StopReason.AGENT_ERROR
    return Response("", stop_reason=reason, error=_agent_failure(error))


def _agent_failure(error: Exception) -> str:
    message = f"AgentFailure: {describe(error)}"
    logger.warning("%s", message)
    logger.debug("where it failed:", exc_info=error)
    return message
