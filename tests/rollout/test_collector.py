"""Episodes: what goes wrong in one episode stays in that episode, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.rollout.pool_envs  # noqa: F401  (registers its environments)
from aem_gym.protocols import EpisodeStart, Response, TurnInput
from aem_gym.rollout.collector import (
    Collector,
    CollectorSettings,
    RolloutRequest,
    _next,
    grouped,
    requests_for,
)
from aem_gym.rollout.envs import PREFETCHED, EnvSpec
from aem_gym.rollout.pool import EnvPool
from aem_gym.types import Episode, PromptTemplate, StepResult, StopReason
from tests.rollout.pool_envs import Counter
from tests.training.guess_env import DOORS, Troubled

GUESS = EnvSpec("guess-test/Guess-v0")
HUGE = "x" * 1_000_000
ODD = "\ud800 \x00\x07\x1b[2J \u202e \U0001f6aa \u4f60\u597d"


class Scripted:
    """Answers with `reply(key of the episode, turn)`; a reply that is an error is raised."""

    name = "scripted"

    def __init__(self, reply: Callable[[int, TurnInput], Any]) -> None:
        self.reply = reply
        self.keys: dict[int, int] = {}
        self.ended: list[int] = []

    def begin(self, start: EpisodeStart) -> None:
        self.keys[start.slot] = start.key

    def act(self, situations: Sequence[TurnInput]) -> list[Response]:
        replies = [self.reply(self.keys[s.slot], s) for s in situations]
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return [Response(r) if isinstance(r, str) else r for r in replies]

    def end(self, slot: int) -> None:
        self.ended.append(self.keys.pop(slot))


def run(agent: Any, count: int = 6, spec: EnvSpec = GUESS, **limits: Any) -> list[Episode]:
    """Episodes of tasks 0, 1, ...; checks that each was heard of once, and can be written."""
    heard: list[Episode] = []
    requests = [replace(r, key=i) for i, r in enumerate(requests_for(range(count), 1, "t"))]
    with EnvPool(spec, **limits) as pool:
        settings = CollectorSettings(PromptTemplate())
        episodes = Collector(pool, agent, settings).run(requests, on_end=heard.append)
    assert [e.seed for e in episodes] == list(range(count))
    assert sorted(e.seed for e in heard) == list(range(count))
    for episode in episodes:
        assert Episode.from_json(episode.to_json()) == episode
    return episodes


def door(key: int, situation: TurnInput) -> str:
    return DOORS[(key + situation.turn) % 3]


REFERENCE = run(Scripted(door))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_environment_fails_its_own_episode_only(workers: int) -> None:
    spec = EnvSpec("guess-test/Troubled-v0")
    agent = Scripted(door)
    # With workers a hang takes its worker's other episodes along: give each its own.
    count = len(Troubled.faults)
    episodes = run(agent, count, spec, step_timeout=0.3, workers=workers and count)
    seen = dict(zip(Troubled.faults, episodes, strict=True))
    assert "no reset today" in str(seen["reset"].error)
    assert "no step today" in str(seen["step"].error)
    assert "str observation" in str(seen["type"].error)
    assert "EnvironmentTimeout" in str(seen["hang"].error) or "hung" in str(seen["hang"].error)
    for fault in ("reset", "step", "type", "hang"):
        assert seen[fault].truncated and not seen[fault].won and not seen[fault].terminated
    assert seen["reset"].turns == ()
    assert seen["step"].turns[-1].error
    assert seen["none"] == REFERENCE[0]
    assert seen["odd"].error is None
    assert seen["odd"].turns[0].observation.startswith("? \x00\x1b[31m")
    assert sorted(agent.ended) == [0, 2, 3, 4, 5]  # what began has ended; 1 never began


FAULTS: dict[str, Any] = {
    "raises": RuntimeError("lost"),
    "asserts": AssertionError("lost"),
    "attribute": AttributeError("lost"),
    "network": ConnectionError("lost"),
    "none": None,
    "number": 7,
    "no reason": Response("", stop=True, stop_reason="quit"),  # type: ignore[arg-type]
    "an exception": Response("", error=ValueError("lost")),  # type: ignore[arg-type]
    "no text": Response(action=b"bytes"),  # type: ignore[arg-type]
    "gives an error": Response("", error="AgentFailure: lost"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_agent_fails_its_own_episode_only(fault: str) -> None:
    agent = Scripted(lambda key, s: FAULTS[fault] if key == 2 else door(key, s))
    episodes = run(agent)
    assert str(episodes[2].error).startswith("AgentFailure")
    assert episodes[2].truncated and episodes[2].turns == ()
    assert [e for e in episodes if e.seed != 2] == [e for e in REFERENCE if e.seed != 2]
    assert sorted(agent.ended) == list(range(6))


def test_failures_in_begin_and_end_are_recorded_too() -> None:
    class Clumsy(Scripted):
        def begin(self, start: EpisodeStart) -> None:
            super().begin(start)
            if start.key == 1:
                raise OSError("no memory of it")

        def end(self, slot: int) -> None:
            super().end(slot)
            raise OSError("cannot forget")

    episodes = run(Clumsy(door))
    assert "no memory of it" in str(episodes[1].error)
    assert [e for e in episodes if e.seed != 1] == [e for e in REFERENCE if e.seed != 1]


def test_responses_that_cannot_be_told_apart_fail_together_and_later_episodes_run() -> None:
    class Short(Scripted):
        def act(self, situations: Sequence[TurnInput]) -> list[Response]:
            answers = super().act(situations)
            return answers[1:] if len(answers) == 6 else answers

    episodes = run(Short(door))
    assert all("expected 6 responses, got 5" in str(e.error) for e in episodes)
    assert [e.error for e in run(Short(door), count=5)] == [None] * 5


@pytest.mark.parametrize("given", [None, (answer for answer in ())], ids=["none", "generator"])
def test_an_agent_that_gives_no_list_fails_its_episodes(given: Any) -> None:
    class Listless(Scripted):
        def act(self, situations: Sequence[TurnInput]) -> list[Response]:
            return given

    for episode in run(Listless(door)):
        assert episode.stop_reason is StopReason.AGENT_ERROR
        assert f"responses, got {type(given).__name__}" in str(episode.error)


@pytest.mark.parametrize("text", ["", HUGE, ODD, "\n", "\u0000"], ids=repr)
def test_any_text_is_an_answer(text: str) -> None:
    """Nonsense is an invalid action of its own episode; what was said is kept."""
    text_id = 3
    agent = Scripted(
        lambda key, s: Response(text, text=text, thought=text) if key == text_id else door(key, s)
    )
    episodes = run(agent)
    odd = episodes[text_id]
    assert odd.error is None and odd.truncated
    assert len(odd.turns) == 5
    assert not any(turn.action_valid for turn in odd.turns)
    assert odd.turns[0].action == text.replace("\ud800", "?")
    rest = [e for e in REFERENCE if e.seed != text_id]
    assert [e for e in episodes if e.seed != text_id] == rest


def test_an_agent_that_stops_truncates_without_an_error() -> None:
    agent = Scripted(lambda key, s: Response("", stop=True) if s.turn else "push")
    for episode in run(agent):
        assert episode.truncated and episode.error is None and len(episode.turns) == 1


def test_turn_limits() -> None:
    with EnvPool(GUESS) as pool:
        for limits, turns in (
            ({"max_turns": 3}, 3),
            ({"template": PromptTemplate(max_turns=2)}, 2),
            ({"template": PromptTemplate(max_turns=2), "max_turns": 4}, 4),
            ({}, 5),
        ):
            settings = CollectorSettings(**{"template": PromptTemplate(), **limits})
            agent = Scripted(lambda key, s: "push")
            (episode,) = Collector(pool, agent, settings).run(requests_for([0], 1))
            assert len(episode.turns) == turns and episode.truncated


def _settings(most: int) -> CollectorSettings:
    return CollectorSettings(PromptTemplate(), max_concurrent_episodes=most)


def test_waves_change_nothing() -> None:
    """At most so many episodes at once give the same episodes in the same order."""
    requests = requests_for(range(4), 2, 0, "x")
    with EnvPool(GUESS) as pool:
        runs = [
            Collector(pool, Scripted(door), _settings(most)).run(requests) for most in (0, 3, 1)
        ]
    assert runs[0] == runs[1] == runs[2]
    groups = grouped(runs[0], 2)
    assert [g.seed for g in groups] == [0, 1, 2, 3]
    for group in groups:
        first = {(e.task_id, e.turns[0].observation) for e in group.episodes}
        assert len(first) == 1 and [e.rollout for e in group.episodes] == [0, 1]


def test_requests_name_their_draws() -> None:
    """Keys differ within a batch and between batches, and do not depend on the batch's size."""
    some, more = requests_for([5, 5, 6], 2, 0, "a"), requests_for([5, 5, 6, 7], 2, 0, "a")
    assert more[: len(some)] == some
    keys = {t.key for t in (*more, *requests_for([5, 5, 6, 7], 2, 0, "b"))}
    assert len(keys) == 16


# Why an episode ended ----------------------------------------------------------------------------

PREFETCHING = EnvSpec("pool-test/Prefetching-v0")


def only(agent: Any, spec: EnvSpec = GUESS, seed: int = 0, **pool: Any) -> Episode:
    with EnvPool(spec, **pool) as envs:
        collector = Collector(envs, agent, CollectorSettings(PromptTemplate()))
        return collector.run([RolloutRequest(seed, 0, 0)])[0]


def ask(key: int, turn: TurnInput) -> str:
    answer = turn.ask_expert()
    assert answer is not None
    return answer[1]


def lose(key: int, turn: TurnInput) -> str:
    right = ask(key, turn)
    return next(door for door in DOORS if door != right)


ENDINGS: dict[StopReason, tuple[Callable[[int, TurnInput], Any], EnvSpec]] = {
    StopReason.WON: (ask, GUESS),
    StopReason.LOST: (lose, GUESS),
    StopReason.SUBMITTED: (lambda key, s: "submit", PREFETCHING),
    StopReason.TURN_LIMIT: (lambda key, s: "push", GUESS),
    StopReason.CONTEXT_FULL: (
        lambda key, s: Response("", stop=True, stop_reason=StopReason.CONTEXT_FULL),
        GUESS,
    ),
    StopReason.AGENT_STOPPED: (lambda key, s: Response("", stop=True), GUESS),
    StopReason.AGENT_ERROR: (lambda key, s: RuntimeError("lost"), GUESS),
    StopReason.ENV_ERROR: (lambda key, s: "raise", EnvSpec("pool-test/Faulty-v0")),
    StopReason.INFRASTRUCTURE: (lambda key, s: "report", PREFETCHING),
}


def test_an_episode_that_is_won_at_its_limit_is_won() -> None:
    """An environment may report both; what is won is not masked as cut off."""

    class AtTheEnd(Counter):
        def act(self, action: str) -> StepResult:
            result = super().act(action)
            return replace(result, terminated=False, won=result.terminated)

    env = AtTheEnd(length=3, max_turns=3)
    episode = only(Scripted(lambda key, turn: "one"), EnvSpec("mine", {}, env))
    assert episode.won and episode.stop_reason is StopReason.WON and not episode.truncated


def test_every_reason_is_tried() -> None:
    assert set(ENDINGS) == set(StopReason)


@pytest.mark.parametrize("reason", StopReason)
@pytest.mark.parametrize("workers", [0, 1])
def test_every_episode_says_why_it_ended(reason: StopReason, workers: int) -> None:
    reply, spec = ENDINGS[reason]
    agent = Scripted(reply)
    # In a worker process the expert's answer comes by the pool all the same.
    episode = only(agent, spec, workers=workers)
    assert episode.stop_reason is reason
    failures = {StopReason.AGENT_ERROR, StopReason.ENV_ERROR, StopReason.INFRASTRUCTURE}
    assert (episode.error is not None) == (reason in failures)
    over = {StopReason.WON, StopReason.LOST, StopReason.SUBMITTED}
    assert episode.terminated == (reason in over) != episode.truncated
    assert episode.won == (reason is StopReason.WON)
    assert Episode.from_json(episode.to_json()).stop_reason is reason
    assert agent.ended == [0]


@pytest.mark.parametrize(("fault", "workers"), [("reset", 0), ("hang", 0), ("type", 1)])
def test_a_broken_environment_is_an_environments_error(fault: str, workers: int) -> None:
    seed = Troubled.faults.index(fault)
    spec = EnvSpec("guess-test/Troubled-v0")
    episode = only(Scripted(door), spec, seed, step_timeout=0.3, workers=workers)
    assert episode.stop_reason is StopReason.ENV_ERROR


def test_the_score_of_what_was_submitted_counts() -> None:
    episode = only(Scripted(lambda key, s: "submit"), PREFETCHING)
    assert (episode.won, episode.score, episode.error) == (False, 0.5, None)


# Preparing ahead ---------------------------------------------------------------------------------


@given(
    count=st.integers(0, 40),
    slots=st.integers(1, 12),
    processes=st.integers(1, 4),
    draws=st.randoms(use_true_random=False),
)
def test_every_request_begins_once_and_where_it_was_prefetched(
    count: int, slots: int, processes: int, draws: Any
) -> None:
    """Request n is prefetched in process n modulo their number; its slot is there if one is free.

    A slot takes another process's request only where its own has none left.
    """
    waiting, free, busy, begun = list(range(count)), list(range(slots)), [], []
    while waiting:
        for slot in sorted(free)[: len(waiting)]:
            place = _next(waiting, slot, processes)
            if place % processes != slot % processes:
                assert not any(p % processes == slot % processes for p in waiting)
            waiting.remove(place)
            free.remove(slot)
            busy.append(slot)
            begun.append(place)
        if busy:
            slot = draws.choice(busy)
            busy.remove(slot)
            free.append(slot)
    assert sorted(begun) == list(range(count))
    if processes == 1 or slots >= count:
        assert begun == list(range(count))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("most", [0, 3])
def test_prefetching_changes_no_episode(workers: int, most: int) -> None:
    """All resets are prefetched, a few at a time, and each in the process that then makes it."""
    requests = [RolloutRequest(100 + n, 0, n) for n in range(20)]
    agent = Scripted(lambda key, s: "say" if s.turn == 0 else "end")
    with EnvPool(PREFETCHING, workers=workers) as pool:
        episodes = Collector(pool, agent, _settings(most)).run(requests)
    assert [e.seed for e in episodes] == [r.seed for r in requests]
    assert all(e.error is None and len(e.turns) == 2 for e in episodes)
    # Each episode shows (in the observation of its second turn) what its environment prepared.
    shown = [turn.observation for e in episodes for turn in e.turns[1:]]
    prepared = [int(text.split(":")[0]) for line in shown for text in line.split()]
    assert prepared and set(prepared) <= {r.seed for r in requests}
    assert len(prepared) == len(set(prepared)), "prepared twice"
    assert len(prepared) >= min(PREFETCHED, len(requests))
