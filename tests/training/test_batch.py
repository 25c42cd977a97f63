"""Episodes to tensors, against plain Python: every number lands on its own response."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.errors import ConfigError
from aem_gym.settings import settle
from aem_gym.training.credit import (
    CreditRule,
    Rewards,
    TrainBatch,
    check_credit,
    equal_returns,
    make_batch,
    usable,
)
from aem_gym.types import Episode, Group, PromptTemplate, Turn

number = st.floats(-5, 5, width=32)
REWARDS = Rewards(scale=10.0, invalid_penalty=0.25, penalize="inadmissible")


@st.composite
def turn(draw: st.DrawFn) -> Turn:
    length = draw(st.integers(0, 4))
    ids = tuple(draw(st.integers(0, 50)) for _ in range(length))
    return Turn(
        observation=draw(st.sampled_from(["a", "b", "c"])),
        response="x",
        thought="",
        action="x",
        reward=draw(number),
        format_valid=draw(st.booleans()),
        action_valid=draw(st.booleans()),
        prompt_ids=tuple(draw(st.integers(0, 50)) for _ in range(draw(st.integers(1, 3)))),
        response_ids=ids,
        logprobs=tuple(draw(number) for _ in ids),
        entropies=tuple(abs(draw(number)) for _ in ids),
    )


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[Group], bool]:
    context = draw(st.sampled_from(["transcript", "window"]))
    groups = [
        Group(
            g,
            tuple(
                Episode(
                    *("t", "kind", "goal", g, r),
                    turns=tuple(draw(st.lists(turn(), max_size=3))),
                    truncated=draw(st.booleans()),
                    error=draw(st.sampled_from([None, None, None, "failed"])),
                    context=context,
                )
                for r in range(draw(st.integers(1, 3)))
            ),
        )
        for g in range(draw(st.integers(1, 3)))
    ]
    return groups, draw(st.booleans())


@given(case=steps())
@settings(max_examples=150, deadline=None)
def test_tensors_against_plain_python(case: tuple[list[Group], bool]) -> None:
    groups, mask_truncated = case
    step = make_batch(groups, REWARDS, mask_truncated=mask_truncated)
    kept = [
        (g, e)
        for g, group in enumerate(groups)
        for e in group.episodes
        if not e.error and any(t.response_ids for t in e.turns)
    ]
    masked = {i for i, (_, e) in enumerate(kept) if mask_truncated and e.truncated}
    if step is None:
        assert len(masked) == len(kept)
        return
    assert step.masked == masked
    learned = [i for i, row in enumerate(step.rows) if row.spans[0].episode not in masked]
    assert list(step.learned) == learned != []
    assert step.episodes == tuple(e for _, e in kept)
    assert [g for g, _ in step.place] == [g for g, _ in kept]
    assert all(groups[g].episodes[i] is e for (g, i), (_, e) in zip(step.place, kept, strict=True))
    wanted = [
        (i, place, g, e, t)
        for i, (g, e) in enumerate(kept)
        for place, t in enumerate(e.turns)
        if t.response_ids
    ]
    batch = step.batch
    assert len(wanted) == len(batch.returns)
    for row, (i, place, g, episode, t) in enumerate(wanted):
        assert batch.trajectory_ids[row] == i and batch.group_ids[row] == g
        assert batch.turns[row] == place
        assert batch.returns[row].item() == pytest.approx(10 * episode.reward, rel=1e-5, abs=1e-5)
        assert batch.step_rewards[row].item() == pytest.approx(10 * t.reward, rel=1e-6)
        valid = t.format_valid and t.action_valid
        assert batch.penalties[row].item() == (0 if valid else -0.25)
        length = len(t.response_ids)
        assert batch.mask[row].tolist() == [c < length for c in range(batch.mask.shape[1])]
        assert batch.logprobs[row, :length].tolist() == list(t.logprobs)
        assert batch.entropies[row, :length].tolist() == list(t.entropies)
        assert not batch.logprobs[row, length:].any() and not batch.entropies[row, length:].any()
        for other, (*_, theirs) in enumerate(wanted):
            same = bool(batch.anchor_ids[row] == batch.anchor_ids[other])
            assert same == (t.observation == theirs.observation)
    check_rows(step, wanted)


def check_rows(step: TrainBatch, wanted: list) -> None:
    """Row i of the batch is the i-th span, counted through; its tokens are that response's."""
    seen = 0
    for r, row in enumerate(step.rows):
        assert step.responses([r]).tolist() == list(range(seen, seen + len(row.spans)))
        for span in row.spans:
            i, place, _, episode, t = wanted[seen]
            assert (span.episode, span.turn) == (i, place)
            assert row.ids[span.start : span.end] == t.response_ids
            before = row.ids[: span.start]
            if episode.context == "window":
                assert before == t.prompt_ids and len(row.spans) == 1
            else:
                past = [x for u in episode.turns[:place] for x in (*u.prompt_ids, *u.response_ids)]
                assert before == (*past, *t.prompt_ids)
            seen += 1
    assert seen == len(wanted)
    everything = list(range(len(step.rows)))[::-1]
    assert sorted(step.responses(everything).tolist()) == list(range(seen))


def test_no_usable_episode_is_no_step() -> None:
    turn = Turn("o", "r", "", "a", response_ids=(1,), logprobs=(-1.0,), entropies=(1.0,))
    good = Episode("t", "k", "g", 0, 0, (turn,), truncated=True)
    bad = replace(good, error="AgentFailure")
    assert usable(good, mask_truncated=False) and not usable(good, mask_truncated=True)
    assert not usable(replace(good, turns=()), mask_truncated=False)
    assert make_batch([Group(0, (bad, bad))], Rewards()) is None
    assert make_batch([Group(0, (good,))], Rewards(), mask_truncated=True) is None
    step = make_batch([Group(0, (bad, good))], Rewards())
    assert step is not None and len(step.batch.returns) == 1


def short(response: tuple[int, ...] = (1, 2), **changes: Any) -> Episode:
    numbers = (-1.0,) * len(response)
    turn = Turn("o", "r", "", "a", prompt_ids=(5,), response_ids=response, logprobs=numbers)
    turn = replace(turn, entropies=tuple(-x for x in numbers), reward=changes.pop("reward", 0.0))
    return replace(Episode("t", "k", "g", 0, 0, (turn, replace(turn, reward=0.0))), **changes)


SOLVED, OVER = short(reward=1.0, won=True), short(truncated=True)


@pytest.mark.parametrize("context", ["transcript", "window"])
@pytest.mark.parametrize(
    ("estimator", "solved"),
    [
        *(("grpo", 1.5), ("dapo", 1.5), ("gspo", 1.5), ("dr_grpo", 0.75), ("rloo", 1.0)),
        # Over 16 tokens of which 4 (ppo: 2) are those of the reward; gigpo: 3/4 + 7/8.
        *(("reinforce_pp", 1.6771), ("reinforce_pp_baseline", 1.6771), ("ppo", 2.5617)),
        ("gigpo", 1.625),
    ],
)
def test_what_is_masked_is_still_compared_with(estimator: str, solved: float, context: str) -> None:
    """One of four solved, three over the limit: 1.5, -0.5, -0.5, -0.5 with grpo."""
    group = Group(0, tuple(replace(e, context=context) for e in (SOLVED, OVER, OVER, OVER)))
    step = make_batch([group], Rewards(), mask_truncated=True)
    assert step is not None and not equal_returns(group, Rewards(), mask_truncated=True)
    rows = 1 if context == "transcript" else 2
    assert (step.learned, step.masked) == (tuple(range(rows)), {1, 2, 3})
    everything = make_batch([group], Rewards())
    assert everything is not None and everything.masked == frozenset()
    rule = CreditRule.of(settle({"estimator": estimator, "modulator": "none"}).config)
    found = rule.assign(replace(step.batch, values=torch.zeros(8)), 0).base
    assert found[0].item() == pytest.approx(solved, rel=1e-4)
    if estimator == "grpo":
        assert found.tolist() == pytest.approx([1.5] * 2 + [-0.5] * 6, rel=1e-5)
    same = rule.assign(replace(everything.batch, values=torch.zeros(8)), 0).base
    assert torch.equal(found, same), "masking changes no advantage"


def test_groups_that_teach_nothing_are_dropped() -> None:
    """All episodes are compared, those that are masked too; but one has to enter the loss."""

    def dropped(*episodes: Episode, mask: bool = True) -> bool:
        return equal_returns(Group(0, episodes), Rewards(), mask_truncated=mask)

    failed = short(error="AgentFailure", reward=1.0)
    assert not dropped(SOLVED, *[OVER] * 7)
    assert not dropped(SOLVED, SOLVED, OVER)
    assert dropped(SOLVED, SOLVED) and dropped(SOLVED, failed) and dropped(failed)
    assert dropped(short(), OVER) and dropped(short(), OVER, mask=False)
    partly = replace(OVER, turns=(replace(OVER.turns[0], reward=0.5),))
    assert dropped(OVER, partly), "neither enters the loss"
    assert not dropped(OVER, partly, mask=False)


def earning(*rewards: float) -> Episode:
    """An episode with these rewards, one a turn."""
    [turn, *_] = short().turns
    return replace(short(), turns=tuple(replace(turn, reward=reward) for reward in rewards))


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1), True),
        ((0.1, 0.2, -0.3), (-0.3, 0.1, 0.2), True),
        ((1e6, 0.1, 0.2), (1e6, 0.2, 0.1), True),
        ((0.0,), (-0.0,), True),
        ((1.0,), (1.001,), False),
        ((1e-9,), (2e-9,), False),
        ((0.0,), (1e-9,), False),
    ],
)
def test_returns_are_equal_up_to_rounding(
    first: tuple[float, ...], second: tuple[float, ...], equal: bool
) -> None:
    group = Group(0, (earning(*first), earning(*second)))
    for rewards in (Rewards(), Rewards(scale=10.0)):
        assert equal_returns(group, rewards, mask_truncated=False) is equal


def test_long_responses_make_no_outcome_another_one() -> None:
    """DAPO and verl drop groups by accuracy, before the punishment."""
    rewards = Rewards(overlong_buffer=4, max_new_tokens=10)
    lost, long = short((1,) * 2), short((1,) * 10)
    assert sum(rewards.of_turns(lost)) > sum(rewards.of_turns(long))
    assert equal_returns(Group(0, (lost, long)), rewards, mask_truncated=False)
    won = short((1,) * 10, reward=1.0, won=True)
    for source in ("return", "won"):
        of_source = replace(rewards, reward_source=source)
        assert equal_returns(Group(0, (lost, long)), of_source, mask_truncated=False)
        assert not equal_returns(Group(0, (lost, won)), of_source, mask_truncated=False)


def test_overlong_responses_are_punished_softly() -> None:
    """DAPO, equation 13: 0 up to limit - buffer, then linear to the full penalty at the limit."""
    rewards = Rewards(scale=10.0, overlong_buffer=4, overlong_penalty=0.5, max_new_tokens=10)
    for length, penalty in ((2, 0.0), (6, 0.0), (7, -0.125), (9, -0.375), (10, -0.5)):
        episode = short((1,) * length, reward=1.0, won=True)
        found = rewards.of_turns(episode)
        assert found == pytest.approx([10.0 * (1.0 + penalty), 10.0 * penalty])
        won = replace(rewards, reward_source="won").of_turns(episode)
        assert won == pytest.approx([10.0 * penalty, 10.0 * (1.0 + penalty)])
    of_config = settle({"overlong_buffer": 32, "overlong_penalty": 0.2, "max_new_tokens": 64})
    made = Rewards.of(of_config.config, PromptTemplate())
    assert (made.overlong_buffer, made.overlong_penalty, made.max_new_tokens) == (32, 0.2, 64)
    with pytest.raises(ConfigError, match="overlong_buffer.*max_new_tokens = 64, got 65"):
        check_credit(settle({"overlong_buffer": 65, "max_new_tokens": 64}).config)


@given(case=steps())
def test_a_won_episode_is_all_that_counts_where_a_template_says_so(
    case: tuple[list[Group], bool],
) -> None:
    rewards = Rewards(scale=10.0, reward_source="won")
    won = [[replace(e, won=e.rollout % 2 == 0) for e in group.episodes] for group in case[0]]
    step = make_batch([Group(g.seed, tuple(e)) for g, e in zip(case[0], won, strict=True)], rewards)
    if step is None:
        return
    for row in range(len(step.batch.returns)):
        episode = step.episodes[int(step.batch.trajectory_ids[row])]
        last = int(step.batch.turns[row]) == len(episode.turns) - 1
        assert step.batch.returns[row].item() == 10.0 * episode.won
        assert step.batch.step_rewards[row].item() == 10.0 * (episode.won and last)


@pytest.mark.parametrize(
    ("means", "format_valid", "action_valid", "invalid"),
    [
        ("format", True, False, False),
        ("format", False, True, True),
        ("inadmissible", True, False, True),
        ("inadmissible", False, True, True),
        ("inadmissible", True, True, False),
    ],
)
def test_what_is_penalized(means: str, format_valid: bool, action_valid: bool, invalid: bool):
    turn = Turn("o", "r", "", "a", format_valid=format_valid, action_valid=action_valid)
    rewards = Rewards(penalize=means, invalid_penalty=0.5)
    assert rewards.invalid(turn) == invalid
    assert rewards.penalty(turn) == (-0.5 if invalid else 0.0)
