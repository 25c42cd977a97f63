"""Transcripts that are full and go on: prompts, training rows, demonstrations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aem_gym.agents.compacting import LEFT_OUT
from aem_gym.protocols import EpisodeStart, GenerationRequest, Response, TurnInput
from aem_gym.training.credit import training_rows
from aem_gym.types import IMITATE, Episode, StopReason
from tests.tiny import Tiny, flat

SHORT = 170
"""Tokens of a context that some turns fill."""


def played(tiny: Tiny, **changes: object) -> list[Episode]:
    agent = tiny.agent(max_length=SHORT, **changes)
    return flat(tiny.groups(agent, 3, 3, max_turns=16))


@pytest.fixture(scope="module")
def compacted(tiny: Tiny) -> list[Episode]:
    return played(tiny, context_limit="compact")


def pieces(tiny: Tiny, episode: Episode) -> list[tuple[int, ...]]:
    """The tokens of each turn, its response closed. The message of a compacted one is rendered."""
    builder = tiny.agent().builder
    made: list[tuple[int, ...]] = []
    was_open = False
    for number, turn in enumerate(episode.turns):
        message = turn.prompt_ids[len(builder.end_ids) * was_open :]
        if turn.compacted:
            start = EpisodeStart(0, 0, tiny.description.instructions, episode.goal, tiny.template)
            message = builder.added(start, number, f"{LEFT_OUT}\n{turn.observation}")
        was_open = turn.response_ids[-1:] != (builder.end_id,)
        made.append(message + turn.response_ids + builder.end_ids * was_open)
    return made


def test_an_episode_goes_on_where_it_would_have_ended(tiny: Tiny, compacted: list[Episode]) -> None:
    stopped = played(tiny)
    assert {e.stop_reason for e in stopped} == {StopReason.CONTEXT_FULL}
    assert not any(e.stop_reason == StopReason.CONTEXT_FULL for e in compacted)
    for before, after in zip(stopped, compacted, strict=True):
        assert len(after.turns) > len(before.turns)
        first = next(i for i, turn in enumerate(after.turns) if turn.compacted)
        # Until then nothing is different.
        said = [[turn.response_ids for turn in e.turns[:first]] for e in (before, after)]
        assert said[0] == said[1]
        assert not any(turn.compacted for turn in before.turns)


def test_a_compacted_prompt_is_the_first_turn_and_the_latest(
    tiny: Tiny, compacted: list[Episode]
) -> None:
    times = 0
    for episode in compacted:
        turns = pieces(tiny, episode)
        for number, turn in enumerate(episode.turns):
            if turn.compacted:
                times += 1
                message = turns[number][: -len(turn.response_ids)] or turns[number]
                ends = [sum((turns[0], *turns[first:number]), ()) for first in range(2, number + 1)]
                kept = [e for e in ends if turn.prompt_ids[: len(e)] == e]
                assert kept, "not the first turn and the latest ones"
                longest = max(kept, key=len)
                rest = turn.prompt_ids[len(longest) :]
                assert message[: len(rest)] == rest
                assert len(turn.prompt_ids) <= max(SHORT // 2, len(turns[0]) + len(message))
    assert times >= len(compacted)


def test_every_response_is_trained_under_the_prompt_it_was_sampled_under(
    tiny: Tiny, compacted: list[Episode]
) -> None:
    agent = tiny.agent(max_length=SHORT, context_limit="compact")
    rows = training_rows(enumerate(compacted))
    spans = [(row, span) for row in rows for span in row.spans]
    places = [(span.episode, span.turn) for _, span in spans]
    assert places == [(e, t) for e, each in enumerate(compacted) for t in range(len(each.turns))]
    starts = sum(turn.compacted for episode in compacted for turn in episode.turns)
    assert len(rows) == len(compacted) + starts
    assert max(len(row.ids) for row in rows) <= SHORT
    turns = [compacted[e].turns[t] for e, t in places]
    with torch.no_grad():
        scored = agent.learner.score(rows, temperature=1.0)
    for i, ((row, span), turn) in enumerate(zip(spans, turns, strict=True)):
        assert row.ids[span.start : span.end] == turn.response_ids
        size = len(turn.response_ids)
        for name in ("logprobs", "entropies"):
            ours = getattr(scored, name)[i, :size]
            assert torch.allclose(ours, torch.tensor(getattr(turn, name)), atol=1e-4), name


def test_what_does_not_fit_at_all_still_ends(tiny: Tiny) -> None:
    agent = tiny.agent(max_length=SHORT, context_limit="compact")
    agent.begin(EpisodeStart(0, 0, "", "", tiny.template))
    info = {"admissible_actions": []}
    for number in range(4):
        (response,) = agent.act([TurnInput(0, number, "You see a cabinet 1.", info, ())])
        assert not response.stop
    (full,) = agent.act([TurnInput(0, 4, "word " * 1000, info, ())])
    assert full.stop and full.stop_reason == StopReason.CONTEXT_FULL
    # Preparing changes nothing: the next one is answered as if that had not been.
    turn = TurnInput(0, 4, "You see a cabinet 1.", info, ())
    again = [agent.prepare(turn) for _ in range(2)]
    assert isinstance(again[0], GenerationRequest) and again[0] == again[1]
    agent.end(0)
    agent.begin(EpisodeStart(0, 0, "", "", tiny.template))
    (first,) = agent.act([TurnInput(0, 0, "word " * 1000, info, ())])
    assert isinstance(first, Response) and first.stop  # the first turn alone is too long


def test_demonstrations_are_cut_as_rollouts_are(tiny: Tiny) -> None:
    demo = max(tiny.demos, key=lambda demo: len(demo.steps))
    imitated = replace(demo, steps=tuple(replace(step, imitate=True) for step in demo.steps))
    start = EpisodeStart(0, 0, tiny.description.instructions, demo.goal, tiny.template)
    (whole,) = tiny.agent(max_length=10_000).tokenize(imitated, start)
    # Enough for the longest response and its turn, far from enough for all.
    limits = {"max_length": len(whole.ids) // 2, "max_new_tokens": 20}
    assert tiny.agent(**limits).tokenize(imitated, start) == []
    agent = tiny.agent(**limits, context_limit="compact")
    rows = agent.tokenize(imitated, start)
    assert len(rows) > 1 and max(len(row.ids) for row in rows) <= limits["max_length"]
    taught = [i for row in rows for i, x in zip(row.ids, row.labels, strict=True) if x == IMITATE]
    wanted = [i for i, x in zip(whole.ids, whole.labels, strict=True) if x == IMITATE]
    assert taught == wanted  # every response once, in its order
    assert rows[0].ids == whole.ids[: len(rows[0].ids)]
    long = tiny.agent(max_length=10_000, context_limit="compact")
    assert long.tokenize(imitated, start) == [whole]
