"""Each estimator against a slow reference on Python floats; and what holds for all of them."""

from __future__ import annotations

import inspect
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.credit.estimators import EstimatorNeeds, estimator, gae, gigpo_parts, needs_of
from aem_gym.credit.losses import AGGREGATIONS
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.registry import ESTIMATORS, LOSSES
from tests.credit.cases import Row, dtypes, make_rows, row_lists, shipped, to_batch, tolerance

GROUP_ESTIMATORS = [
    *("grpo", "dr_grpo", "rloo", "dapo", "gspo", "reinforce_pp", "reinforce_pp_baseline")
]


def scores(rows: list[Row], over: str, penalty: str) -> list[tuple[int, float]]:
    """(group, score) of each item that enters statistics."""
    if penalty == "reward":
        return [(r.group, r.ret + r.penalty) for r in rows if not r.excluded]
    if over == "rows":
        return [(r.group, r.ret) for r in rows if not r.excluded]
    return list({r.trajectory: (r.group, r.ret) for r in rows if not r.excluded}.values())


def whitened(x: list[float], rows: list[Row], whiten: str) -> list[float]:
    """Written out: one item a token, a response or an episode; the last weigh their rows alike."""
    items: list[list[float]] = []
    for value, row in zip(x, rows, strict=True):
        if row.excluded:
            continue
        if whiten == "episodes":
            continue
        items += [[value]] * (len(row.entropies) if whiten == "tokens" else 1)
    if whiten == "episodes":
        for trajectory in {r.trajectory for r in rows if not r.excluded}:
            pairs = zip(x, rows, strict=True)
            items.append([v for v, r in pairs if r.trajectory == trajectory and not r.excluded])
    if len({value for item in items for value in item}) < 2:
        return [0.0] * len(x)
    mean = sum(statistics.fmean(item) for item in items) / len(items)
    square = sum(statistics.fmean((v - mean) ** 2 for v in item) for item in items)
    std = math.sqrt(square / max(1, len(items) - 1))
    return [(value - mean) / (std + 1e-6) for value in x]


def reference(
    name: str, rows: list[Row], over: str, penalty: str, whiten: str = "tokens"
) -> list[float]:
    items = scores(rows, over, penalty)
    of_group = {g: [x for h, x in items if h == g] for g in {r.group for r in rows}}

    def centred(group: int, x: float) -> float:
        members = of_group[group]
        flat = not members or max(members) == min(members)
        return 0.0 if flat else x - statistics.fmean(members)

    result = []
    for row in rows:
        x = row.ret + (row.penalty if penalty == "reward" else 0.0)
        c = centred(row.group, x)
        n = len(of_group[row.group])
        if name in ("grpo", "dapo", "gspo"):
            a = c / (statistics.stdev(of_group[row.group]) + 1e-6) if c else 0.0
        elif name == "rloo":
            others = list(of_group[row.group])
            if c and not row.excluded:
                others.remove(x)
                a = x - statistics.fmean(others)
            else:
                a = n / (n - 1) * c if n > 1 else 0.0
        else:
            a = x if name == "reinforce_pp" else c
        result.append(a)
    if name.startswith("reinforce_pp"):
        result = whitened(result, rows, whiten)
    late = penalty == "advantage"
    return [a + (row.penalty if late else 0.0) for a, row in zip(result, rows, strict=True)]


@pytest.mark.parametrize("name", GROUP_ESTIMATORS)
@settings(max_examples=60, deadline=None)
@given(
    rows=row_lists,
    dtype=dtypes,
    over=st.sampled_from(["episodes", "rows"]),
    penalty=st.sampled_from(["advantage", "reward"]),
    whiten=st.sampled_from(["tokens", "rows", "episodes"]),
)
def test_matches_the_reference(name, rows, dtype, over, penalty, whiten):
    options = {"over": over, "penalty": penalty, "whiten": whiten}
    known = inspect.signature(ESTIMATORS.load(name)).parameters
    taken = {key: value for key, value in options.items() if key in known}
    found = ESTIMATORS.load(name)(to_batch(rows, dtype), **taken)
    expected = torch.tensor(reference(name, rows, over, penalty, whiten), dtype=dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, **tolerance(dtype))


def test_every_estimator_has_a_reference():
    assert {*GROUP_ESTIMATORS, "ppo", "gigpo"} == set(shipped(ESTIMATORS))


def turns_of(rows: list[Row], row: Row) -> list[Row]:
    """The turns of the row's trajectory, in order, copies once."""
    mine = {r.turn: r for r in rows if r.trajectory == row.trajectory}
    return [mine[turn] for turn in sorted(mine)]


def reference_gae(rows: list[Row], gamma: float, lam: float, penalised: bool) -> list[float]:
    result = []
    for row in rows:
        path = turns_of(rows, row)
        advantage, following = 0.0, 0.0
        for step in reversed([s for s in path if s.turn >= row.turn]):
            reward = step.reward + (step.penalty if penalised else 0.0)
            advantage = reward + gamma * following - step.value + gamma * lam * advantage
            following = step.value
        result.append(advantage)
    return result


@settings(max_examples=60, deadline=None)
@given(
    rows=row_lists,
    dtype=dtypes,
    gamma=st.sampled_from([1.0, 0.9]),
    lam=st.sampled_from([1.0, 0.5, 0.0]),
    penalty=st.sampled_from(["advantage", "reward"]),
    whiten=st.sampled_from(["tokens", "rows", "episodes"]),
)
def test_gae_and_ppo_match_the_reference(rows, dtype, gamma, lam, penalty, whiten):
    batch = to_batch(rows, dtype)
    advantages, targets = gae(batch, gamma, lam, penalty=penalty)
    raw = reference_gae(rows, gamma, lam, penalty == "reward")
    expected = torch.tensor(raw, dtype=dtype)
    torch.testing.assert_close(advantages, expected, **tolerance(dtype))
    torch.testing.assert_close(targets, expected + batch.values, **tolerance(dtype))

    kept = [a for a, r in zip(raw, rows, strict=True) if not r.excluded and r.entropies]
    if len(kept) > 1 and statistics.stdev(kept) > 1e-3:
        white = whitened(raw, rows, whiten)
        if penalty == "advantage":
            white = [w + r.penalty for w, r in zip(white, rows, strict=True)]
        options = {"gamma": gamma, "lam": lam, "penalty": penalty, "whiten": whiten}
        found = ESTIMATORS.load("ppo")(batch, **options)
        torch.testing.assert_close(found, torch.tensor(white, dtype=dtype), **tolerance(dtype))


def reference_step_part(
    rows: list[Row], gamma: float, normalise: bool, penalised: bool
) -> list[float]:
    def step_return(row: Row) -> float:
        future = [s for s in turns_of(rows, row) if s.turn >= row.turn]
        discounted = sum(gamma**k * s.reward for k, s in enumerate(future))
        return discounted + (row.penalty if penalised else 0.0)

    result = []
    for row in rows:
        peers = [
            step_return(r)
            for r in rows
            if (r.group, r.anchor) == (row.group, row.anchor) and not r.excluded
        ]
        if not peers or max(peers) == min(peers):
            result.append(0.0)
            continue
        part = step_return(row) - statistics.fmean(peers)
        result.append(part / (statistics.stdev(peers) + 1e-6) if normalise else part)
    return result


@settings(max_examples=60, deadline=None)
@given(
    rows=row_lists,
    omega=st.sampled_from([1.0, 0.5, 0.0]),
    mode=st.sampled_from([None, "mean_norm", "mean_std_norm"]),
    penalty=st.sampled_from(["advantage", "reward"]),
    over=st.sampled_from(["episodes", "rows"]),
)
def test_gigpo_is_both_parts_in_one_mode(rows, omega, mode, penalty, over):
    """By default no standard deviation in either part, as in verl-agent's default mode."""
    batch = to_batch(rows)
    options = {"omega": omega, "penalty": penalty, "over": over} | ({"mode": mode} if mode else {})
    episode, step = gigpo_parts(batch, **options)
    divided = mode == "mean_std_norm"
    peers = reference_step_part(rows, 0.95, divided, penalty == "reward")
    expected = torch.tensor(peers, dtype=torch.float64)
    torch.testing.assert_close(step, omega * expected, rtol=1e-6, atol=1e-9)
    plain = reference("grpo" if divided else "dr_grpo", rows, over, penalty)
    torch.testing.assert_close(episode, torch.tensor(plain, dtype=torch.float64))
    assert torch.equal(episode + step, ESTIMATORS.load("gigpo")(batch, **options))


def test_gigpo_divides_each_part_apart_where_that_is_asked_for():
    batch = to_batch(make_rows(3, 3, 4))
    plain, divided = gigpo_parts(batch), gigpo_parts(batch, mode="mean_std_norm")
    first = gigpo_parts(batch, normalise=True)
    assert torch.equal(first[0], divided[0]) and torch.equal(first[1], plain[1])
    second = gigpo_parts(batch, mode="mean_std_norm", normalise=False)
    assert torch.equal(second[0], plain[0]) and torch.equal(second[1], divided[1])
    with pytest.raises(UnknownNameError, match="Did you mean 'mean_norm'"):
        gigpo_parts(batch, mode="mean")


@pytest.mark.parametrize("name", shipped(ESTIMATORS))
@settings(max_examples=25, deadline=None)
@given(rows=row_lists, order=st.randoms(use_true_random=False))
def test_row_order_and_padding_change_nothing(name, rows, order):
    estimator = ESTIMATORS.load(name)
    permutation = list(range(len(rows)))
    order.shuffle(permutation)
    shuffled = to_batch([rows[i] for i in permutation], pad=3, junk=float("nan"))
    torch.testing.assert_close(estimator(shuffled), estimator(to_batch(rows))[permutation])


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "gigpo"])
def test_other_groups_change_nothing(name):
    rows = make_rows(5, groups=4, size=4)
    alone = [r for r in rows if r.group == 10]
    found = ESTIMATORS.load(name)(to_batch(rows))
    mine = torch.tensor([r.group == 10 for r in rows])
    torch.testing.assert_close(found[mine], ESTIMATORS.load(name)(to_batch(alone)))


@pytest.mark.parametrize("name", shipped(ESTIMATORS))
def test_dropped_groups_enter_no_statistic(name):
    for seed in range(5):
        rows = make_rows(seed, groups=3, size=5, exclude=False)
        for row in rows:
            row.excluded = row.group == 3
        kept = [r for r in rows if not r.excluded]
        found = ESTIMATORS.load(name)(to_batch(rows))
        mine = torch.tensor([not r.excluded for r in rows])
        torch.testing.assert_close(found[mine], ESTIMATORS.load(name)(to_batch(kept)))


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce_pp_baseline"])
@settings(deadline=None)
@given(value=st.floats(-1e6, 1e6), size=st.integers(1, 9), dtype=dtypes)
def test_equal_returns_give_exactly_the_penalty(name, value, size, dtype):
    rows = [
        Row(value, 0.0, -0.1 if i == 0 else 0.0, 0, i, 0, 0, 0.0, False, [-1.0], [1.0])
        for i in range(size)
    ]
    batch = to_batch(rows, dtype)
    assert torch.equal(ESTIMATORS.load(name)(batch), batch.penalties)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "dapo", "gspo", "gigpo"])
def test_a_group_that_is_invalid_throughout(name):
    """The default pushes all its responses down; "reward", as published, compares them: 0."""
    rows = [
        Row(0.0, 0.0, -0.1, 0, i, turn, 0, 0.0, False, [-1.0], [1.0])
        for i in range(4)
        for turn in range(2)
    ]
    batch, function = to_batch(rows), ESTIMATORS.load(name)
    torch.testing.assert_close(function(batch), batch.penalties, rtol=0, atol=0)
    assert torch.equal(function(batch, penalty="reward"), torch.zeros_like(batch.returns))


def test_whitening_is_over_tokens():
    """Returns 1 (3 tokens) and 0 (1 token): mean 3/4, unbiased std 1/2."""
    rows = [
        Row(1.0, 1.0, 0.0, 0, 0, 0, 0, 0.0, False, [-1.0] * 3, [1.0] * 3),
        Row(0.0, 0.0, 0.0, 0, 1, 0, 0, 0.0, False, [-1.0], [1.0]),
    ]
    for name in ("reinforce_pp", "reinforce_pp_baseline", "ppo"):
        found = ESTIMATORS.load(name)(to_batch(rows)).tolist()
        assert found == pytest.approx([0.5, -1.5], rel=1e-5), name
        found = ESTIMATORS.load(name)(to_batch(rows), whiten="rows").tolist()
        assert found == pytest.approx([0.5**0.5, -(0.5**0.5)], rel=1e-5), name
        with pytest.raises(UnknownNameError, match="Known: episodes, rows, tokens"):
            ESTIMATORS.load(name)(to_batch(rows), whiten="all")


def test_epsilon_is_an_option():
    rows = [Row(float(i), 0, 0, 0, i, 0, 0, 0, False, [-1.0], [1.0]) for i in range(3)]
    for name in ("grpo", "dapo", "gspo"):
        found = ESTIMATORS.load(name)(to_batch(rows), epsilon=1.0)
        assert found.tolist() == pytest.approx([-0.5, 0.0, 0.5])


def test_penalty_as_reward_explodes_only_where_documented():
    """An all-failed group: the default keeps -0.1, the alternative normalises it."""
    rows = [
        Row(0.0, 0.0, p, 0, i, 0, 0, 0.0, False, [-1.0], [1.0])
        for i, p in enumerate([-0.1, 0.0, 0.0, 0.0])
    ]
    grpo = ESTIMATORS.load("grpo")
    torch.testing.assert_close(grpo(to_batch(rows)), to_batch(rows).penalties)
    assert grpo(to_batch(rows), penalty="reward").abs().max() > 1.4


@pytest.mark.parametrize("name", shipped(ESTIMATORS))
def test_every_estimator_carries_its_needs(name):
    function = ESTIMATORS.load(name)
    assert isinstance(function.needs, EstimatorNeeds)
    needs = needs_of(function)
    assert needs.loss in shipped(LOSSES)
    assert needs.aggregation in AGGREGATIONS
    assert needs.needs_values == (name == "ppo")
    assert needs.drops_equal_groups == (name == "dapo")
    assert needs.compares == (name not in ("ppo", "reinforce_pp"))


def test_the_published_clipping():
    assert needs_of(ESTIMATORS.load("dapo")).clip_high == 0.28
    gspo = needs_of(ESTIMATORS.load("gspo"))
    assert (gspo.loss, gspo.clip_low, gspo.clip_high) == ("gspo", 3e-4, 4e-4)


def test_an_own_estimator_states_its_needs_by_a_decorator():
    @estimator(needs_values=True, loss="reinforce", clip_low=0.1)
    def mine(batch):
        return batch.returns

    assert needs_of(mine) == EstimatorNeeds(needs_values=True, loss="reinforce", clip_low=0.1)

    @estimator
    def bare(batch):
        return batch.returns

    assert needs_of(bare) == EstimatorNeeds()
    plain = needs_of(lambda batch: batch.returns)
    assert plain == EstimatorNeeds(compares=False)  # of one without it nothing is assumed


def test_names_of_estimators_that_share_a_formula():
    batch = to_batch(make_rows(3, 3, 4))
    expected = ESTIMATORS.load("grpo")(batch)
    for name in ("dapo", "gspo"):
        assert torch.equal(ESTIMATORS.load(name)(batch), expected)


def test_gigpo_can_keep_its_step_part_from_the_modulator():
    batch = to_batch(make_rows(2, 3, 4))
    split = ESTIMATORS.load("gigpo")(batch, modulate="episode")
    episode, step = gigpo_parts(batch)
    assert torch.equal(split.modulated, episode) and torch.equal(split.unmodulated, step)
    with pytest.raises(UnknownNameError, match="Known: both, episode"):
        ESTIMATORS.load("gigpo")(batch, modulate="step")


def test_wrong_options_say_what_exists():
    batch = to_batch(make_rows(1, 2, 3))
    with pytest.raises(UnknownNameError, match="Did you mean 'episodes'"):
        ESTIMATORS.load("grpo")(batch, over="episode")
    with pytest.raises(UnknownNameError, match="Known: advantage, reward"):
        ESTIMATORS.load("grpo")(batch, penalty="x")
    without = to_batch(make_rows(1, 2, 3))
    object.__setattr__(without, "values", None)
    with pytest.raises(ConfigError, match="--estimator grpo"):
        ESTIMATORS.load("ppo")(without)
