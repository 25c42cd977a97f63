"""AEM's coefficients and the modulators: a slow reference, and every property relied on."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from credit_cases import Row, dtypes, make_rows, row_lists, to_batch, tolerance
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aem_gym.credit import aem, aem_coefficients, gigpo_parts
from aem_gym.credit.modulation import empg, entropy_shaping, identity
from aem_gym.errors import UnknownNameError
from aem_gym.registry import ESTIMATORS, MODULATORS

entropy_values = st.lists(st.floats(0, 12, width=32), min_size=1, max_size=20)
lambdas = st.sampled_from([0.5, 1.0, 2.0])


@st.composite
def grouped(draw):
    """Entropies with the group of each, interleaved."""
    entropies = draw(entropy_values)
    n = len(entropies)
    return entropies, draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))


def reference_alpha(entropies, groups, lam=1.0, threshold=0.1, counted=None):
    """Section 2 of the method, word by word; None marks a response without tokens."""
    counted = [True] * len(entropies) if counted is None else counted
    result = []
    for mine, group in zip(entropies, groups, strict=True):
        members = [
            h
            for h, g, c in zip(entropies, groups, counted, strict=True)
            if g == group and c and h is not None
        ]
        spread = max(members) - min(members) if members else 0.0
        if mine is None or len(members) < 2 or spread < threshold or spread == 0:
            result.append(1.0)
            continue
        low = min(members)
        mean = statistics.fmean(math.exp(-lam * (h - low) / spread) for h in members)
        scaled = min(1.0, max(0.0, (mine - low) / spread))  # matters for rows not counted
        result.append(math.exp(-lam * scaled) / mean)
    return result


def spreads(entropies, groups):
    members = {g: [h for h, k in zip(entropies, groups, strict=True) if k == g] for g in groups}
    return {g: (max(m) - min(m) if len(m) > 1 else 0.0) for g, m in members.items()}


def near_threshold(entropies, groups, threshold=0.1):
    return any(abs(s - threshold) < 1e-4 for s in spreads(entropies, groups).values())


def alpha_of(entropies, groups, dtype=torch.float64, **options):
    return aem_coefficients(torch.tensor(entropies, dtype=dtype), torch.tensor(groups), **options)


@settings(deadline=None)
@given(data=grouped(), dtype=dtypes, lam=lambdas, threshold=st.sampled_from([0.0, 0.1, 0.3]))
def test_coefficients_match_the_reference(data, dtype, lam, threshold):
    entropies, groups = data
    assume(threshold == 0 or not near_threshold(entropies, groups, threshold))
    found = alpha_of(entropies, groups, dtype, lam=lam, threshold=threshold)
    assert found.dtype == dtype
    expected = torch.tensor(reference_alpha(entropies, groups, lam, threshold), dtype=dtype)
    torch.testing.assert_close(found, expected, **tolerance(dtype))


@settings(deadline=None)
@given(data=grouped(), dtype=dtypes, lam=lambdas)
def test_mean_is_one_and_all_are_positive(data, dtype, lam):
    entropies, groups = data
    alpha = alpha_of(entropies, groups, dtype, lam=lam)
    assert (alpha > 0).all()
    for group in set(groups):
        mean = alpha[torch.tensor(groups) == group].mean().item()
        assert mean == pytest.approx(1, abs=1e-5 if dtype == torch.float32 else 1e-12)


@settings(deadline=None)
@given(data=grouped(), lam=lambdas)
def test_ratio_of_extremes_is_exp_lambda_above_the_threshold(data, lam):
    entropies, groups = data
    assume(not near_threshold(entropies, groups))
    alpha = alpha_of(entropies, groups, lam=lam)
    for group, spread in spreads(entropies, groups).items():
        mine = alpha[torch.tensor(groups) == group]
        if spread >= 0.1:
            assert (mine.max() / mine.min()).item() == pytest.approx(math.exp(lam))
        else:
            assert torch.equal(mine, torch.ones_like(mine))


@settings(deadline=None)
@given(data=grouped(), dtype=dtypes)
def test_decreases_with_entropy(data, dtype):
    entropies, groups = data
    alpha = alpha_of(entropies, groups, dtype)
    for group, spread in spreads(entropies, groups).items():
        if spread < 0.11:
            continue
        mine = sorted(
            (h, a) for h, a, g in zip(entropies, alpha.tolist(), groups, strict=True) if g == group
        )
        for (h, a), (h_next, a_next) in zip(mine, mine[1:], strict=False):
            assert a_next <= a * (1 + 1e-6)
            if h_next - h > 1e-3:
                assert a_next < a


@settings(deadline=None)
@given(data=grouped(), a=st.floats(1, 50), b=st.floats(-20, 20))
def test_invariant_to_affine_maps_above_the_threshold(data, a, b):
    entropies, groups = data
    assume(all(s > 0.11 or s == 0 for s in spreads(entropies, groups).values()))
    moved = alpha_of([a * h + b for h in entropies], groups)
    spread_zero = all(s == 0 for s in spreads(entropies, groups).values())
    torch.testing.assert_close(moved, alpha_of(entropies, groups), rtol=1e-7, atol=1e-7)
    assert not spread_zero or torch.equal(moved, torch.ones_like(moved))


@settings(deadline=None)
@given(data=grouped(), order=st.randoms(use_true_random=False))
def test_row_order_and_other_groups_change_nothing(data, order):
    entropies, groups = data
    alpha = alpha_of(entropies, groups)
    permutation = list(range(len(groups)))
    order.shuffle(permutation)
    shuffled = alpha_of([entropies[i] for i in permutation], [groups[i] for i in permutation])
    torch.testing.assert_close(shuffled, alpha[permutation])
    mine = torch.tensor(groups) == groups[0]
    alone = [h for h, m in zip(entropies, mine.tolist(), strict=True) if m]
    torch.testing.assert_close(alpha[mine], alpha_of(alone, [9] * len(alone)))


@settings(deadline=None)
@given(data=grouped(), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_lambda_zero_is_exactly_one(data, dtype):
    entropies, groups = data
    alpha = alpha_of(entropies, groups, dtype, lam=0.0)
    assert torch.equal(alpha, torch.ones(len(groups), dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threshold_is_strict(dtype):
    step = torch.tensor(0.1, dtype=dtype).item()
    assert alpha_of([0.0, step], [0, 0], dtype)[0] > 1
    below = torch.nextafter(torch.tensor(step, dtype=dtype), torch.tensor(0.0, dtype=dtype)).item()
    assert torch.equal(alpha_of([0.0, below], [0, 0], dtype), torch.ones(2, dtype=dtype))


def test_responses_without_tokens_get_one_and_are_not_counted():
    nan = float("nan")
    alpha = alpha_of([0.2, nan, 0.9, nan, nan], [0, 0, 0, 1, 1])
    assert torch.equal(alpha[[1, 3, 4]], torch.ones(3, dtype=alpha.dtype))
    torch.testing.assert_close(alpha[[0, 2]], alpha_of([0.2, 0.9], [0, 0]))


def test_large_groups_in_half_precision_keep_mean_one():
    entropies = torch.linspace(0, 2, 1000).to(torch.bfloat16)
    alpha = aem_coefficients(entropies, torch.zeros(1000, dtype=torch.long))
    assert alpha.dtype == torch.bfloat16
    assert alpha.float().mean().item() == pytest.approx(1, abs=0.01)


def test_no_gradient_flows_through_alpha():
    entropies = torch.rand(6, requires_grad=True)
    advantages = torch.randn(6, requires_grad=True)
    assert not aem_coefficients(entropies, torch.zeros(6)).requires_grad
    batch = to_batch(make_rows(3, 2, 3, exclude=False))
    batch.entropies.requires_grad_()
    advantages = torch.randn(len(batch.returns), dtype=torch.float64, requires_grad=True)
    for name in MODULATORS.names():
        modulated = MODULATORS.load(name)(batch, advantages)
        assert not modulated.advantages.requires_grad
        assert not modulated.alpha.requires_grad


def advantages_for(rows, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(rows))
    return torch.randn(len(rows), generator=generator, dtype=dtype)


def batch_alpha(rows: list[Row], scope=lambda r: r.group, score=lambda r: r.mean_entropy, **kw):
    values = [score(r) if r.entropies else None for r in rows]
    return reference_alpha(
        values, [scope(r) for r in rows], counted=[not r.excluded for r in rows], **kw
    )


def per_token(batch, rows_value) -> torch.Tensor:
    return torch.as_tensor(rows_value)[:, None] * batch.mask


SCOPES = {"group": lambda r: r.group, "trajectory": lambda r: r.trajectory, "batch": lambda r: 0}
PROXIES = {
    "mean-entropy": lambda r: r.mean_entropy,
    "sum-entropy": lambda r: sum(r.entropies),
    "mean-surprisal": lambda r: -sum(r.logprobs) / len(r.logprobs),
}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("proxy", PROXIES)
@settings(max_examples=20, deadline=None)
@given(rows=row_lists, lam=st.sampled_from([0.5, 1.0, -1.0]))
def test_aem_matches_the_reference(scope, proxy, rows, lam):
    batch, advantages = to_batch(rows, junk=float("nan"), pad=2), advantages_for(rows)
    direction = "reversed" if lam < 0 else "normal"
    found = aem(batch, advantages, scope=scope, proxy=proxy, lam=abs(lam), direction=direction)
    expected = torch.tensor(
        batch_alpha(rows, SCOPES[scope], PROXIES[proxy], lam=lam), dtype=torch.float64
    )
    torch.testing.assert_close(found.alpha, expected)
    torch.testing.assert_close(found.advantages, per_token(batch, expected * advantages))


@settings(max_examples=40, deadline=None)
@given(rows=row_lists, dtype=dtypes)
def test_aem_keeps_signs_and_padding_zero(rows, dtype):
    batch, advantages = to_batch(rows, dtype, pad=1, junk=7.0), advantages_for(rows, dtype)
    found = aem(batch, advantages).advantages
    assert torch.equal(found.sign(), advantages.sign()[:, None] * batch.mask)


@pytest.mark.parametrize("off", [{"lam": 0.0}, {"threshold": 100.0}, {"lam": 0.0, "shuffle": True}])
@pytest.mark.parametrize("recentre", [False, True])
@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_aem_off_is_the_base_bit_for_bit(off, recentre, name):
    for seed in range(5):
        batch = to_batch(make_rows(seed, 3, 4), torch.float32)
        base = ESTIMATORS.load(name)(batch)
        plain, found = identity(batch, base), aem(batch, base, recentre=recentre, **off)
        assert torch.equal(found.advantages, plain.advantages)
        assert torch.equal(found.alpha, torch.ones_like(base))


def test_gigpo_with_only_the_episode_part_modulated():
    batch = to_batch(make_rows(2, 3, 4))
    episode, step = gigpo_parts(batch)
    off = aem(batch, episode, lam=0.0, unmodulated=step)
    base = identity(batch, ESTIMATORS.load("gigpo")(batch))
    assert torch.equal(off.advantages, base.advantages)
    on = aem(batch, episode, unmodulated=step)
    torch.testing.assert_close(on.advantages, per_token(batch, on.alpha * episode + step))
    assert not torch.allclose(on.advantages, base.advantages)


@settings(max_examples=40, deadline=None)
@given(rows=row_lists, only=st.sampled_from(["positive", "negative"]))
def test_only_one_sign_is_modulated(rows, only):
    batch, advantages = to_batch(rows), advantages_for(rows)
    chosen = advantages > 0 if only == "positive" else advantages < 0
    full, found = aem(batch, advantages).alpha, aem(batch, advantages, only=only).alpha
    assert torch.equal(found, torch.where(chosen, full, torch.ones_like(full)))


@settings(max_examples=40, deadline=None)
@given(rows=row_lists, seed=st.integers(0, 1000))
def test_shuffling_permutes_alpha_within_the_group(rows, seed):
    batch, advantages = to_batch(rows), advantages_for(rows)
    full = aem(batch, advantages).alpha
    found = aem(batch, advantages, shuffle=True, generator=seed).alpha
    again = aem(
        batch, advantages, shuffle=True, generator=torch.Generator().manual_seed(seed)
    ).alpha
    assert torch.equal(found, again)
    for group in batch.group_ids.unique():
        mine = batch.counted & (batch.group_ids == group)
        assert torch.equal(full[mine].sort().values, found[mine].sort().values)


def test_shuffling_breaks_the_link_to_entropy():
    batch = to_batch(make_rows(8, 1, 40, exclude=False))
    advantages = advantages_for(batch.returns)
    links = [
        torch.corrcoef(
            torch.stack(
                [
                    aem(batch, advantages, shuffle=s, generator=4).alpha[keep],
                    batch.response_entropy[keep],
                ]
            )
        )[0, 1].item()
        for keep in [batch.counted]
        for s in (False, True)
    ]
    assert links[0] < -0.9
    assert abs(links[1]) < 0.5


@settings(max_examples=40, deadline=None)
@given(rows=row_lists)
def test_recentring_keeps_the_groups_mean_advantage(rows):
    batch, advantages = to_batch(rows), advantages_for(rows)
    modulated = aem(batch, advantages, recentre=True).advantages
    for group in batch.group_ids.unique():
        mine = batch.counted & (batch.group_ids == group)
        if mine.any():
            torch.testing.assert_close(modulated[mine, 0].mean(), advantages[mine].mean())


def test_a_copied_row_is_treated_as_its_original_and_counts_once():
    rows = [r for r in make_rows(11, 2, 4, empty=False, exclude=False)]
    copied = [*rows, Row(**{**rows[0].__dict__, "excluded": True})]
    alone = aem(to_batch(rows), advantages_for(rows)).alpha
    found = aem(to_batch(copied), advantages_for(copied)).alpha
    assert torch.equal(found[:-1], alone)
    assert found[-1] == alone[0]


def reference_empg(rows, advantages, k, k_future, zeta, centre):
    counted = [r.mean_entropy for r in rows if r.counted]
    low, spread = (min(counted), max(counted) - min(counted)) if counted else (0.0, 0.0)

    def scaled(row):
        return min(1.0, max(0.0, (row.mean_entropy - low) / spread)) if spread else 0.0

    alpha = batch_alpha(rows, SCOPES["batch"], lam=k, threshold=0.0)
    result = []
    for row, a, advantage in zip(rows, alpha, advantages, strict=True):
        later = [r for r in rows if r.trajectory == row.trajectory and r.turn > row.turn]
        following = min(later, key=lambda r: r.turn, default=None)
        bonus = math.exp(-k_future * scaled(following)) if following and following.entropies else 0
        result.append(a * advantage + zeta * bonus)
    mean = statistics.fmean([x for x, r in zip(result, rows, strict=True) if r.counted] or [0.0])
    return [x - (mean if centre else 0.0) for x in result]


@settings(max_examples=60, deadline=None)
@given(rows=row_lists, k=st.sampled_from([0.5, 1.0]), centre=st.booleans())
def test_empg_matches_the_reference(rows, k, centre):
    batch, advantages = to_batch(rows), advantages_for(rows)
    found = empg(batch, advantages, k=k, k_future=2.0, zeta=0.05, centre=centre)
    expected = reference_empg(rows, advantages.tolist(), k, 2.0, 0.05, centre)
    torch.testing.assert_close(
        found.advantages, per_token(batch, torch.tensor(expected, dtype=torch.float64))
    )


@settings(max_examples=40, deadline=None)
@given(rows=row_lists, dtype=dtypes)
def test_empg_without_bonus_and_centring_is_aem_over_the_batch(rows, dtype):
    batch, advantages = to_batch(rows, dtype), advantages_for(rows, dtype)
    rival = empg(batch, advantages, zeta=0.0, centre=False)
    ours = aem(batch, advantages, scope="batch", threshold=0.0)
    assert torch.equal(rival.advantages, ours.advantages)
    assert torch.equal(rival.alpha, ours.alpha)


@settings(max_examples=40, deadline=None)
@given(rows=row_lists)
def test_entropy_shaping_matches_the_reference_and_keeps_signs(rows):
    batch, advantages = to_batch(rows, pad=1, junk=float("nan")), advantages_for(rows)
    found = entropy_shaping(batch, advantages, c=0.4, kappa=2.0).advantages
    for i, (row, advantage) in enumerate(zip(rows, advantages.tolist(), strict=True)):
        expected = [advantage + min(0.4 * h, abs(advantage) / 2) for h in row.entropies]
        assert found[i, : len(expected)].tolist() == pytest.approx(expected)
        assert not found[i, len(expected) :].any()
        assert all((x > 0) == (advantage > 0) for x in expected)


@pytest.mark.parametrize("option", ["scope", "direction", "proxy", "only"])
def test_a_wrong_option_says_what_exists(option):
    batch = to_batch(make_rows(1, 2, 3))
    with pytest.raises(UnknownNameError, match="Known: "):
        aem(batch, batch.returns, **{option: "nonsense"})
