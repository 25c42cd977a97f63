"""The modulators against slow references, and what each option promises."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.credit import aem, aem_coefficients
from aem_gym.credit.modulators import empg, entropy_shaping, identity
from aem_gym.errors import UnknownNameError
from aem_gym.registry import ESTIMATORS, MODULATORS
from tests.credit.cases import Row, dtypes, make_rows, reference_alpha, row_lists, shipped, to_batch


def test_no_gradient_flows_through_alpha():
    entropies = torch.rand(6, requires_grad=True)
    advantages = torch.randn(6, requires_grad=True)
    assert not aem_coefficients(entropies, torch.zeros(6)).requires_grad
    batch = to_batch(make_rows(3, 2, 3, exclude=False))
    batch.entropies.requires_grad_()
    advantages = torch.randn(len(batch.returns), dtype=torch.float64, requires_grad=True)
    for name in shipped(MODULATORS):
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
@pytest.mark.parametrize("name", shipped(ESTIMATORS))
def test_aem_off_is_the_base_bit_for_bit(off, recentre, name):
    for seed in range(5):
        batch = to_batch(make_rows(seed, 3, 4), torch.float32)
        base = ESTIMATORS.load(name)(batch)
        plain, found = identity(batch, base), aem(batch, base, recentre=recentre, **off)
        assert torch.equal(found.advantages, plain.advantages)
        assert torch.equal(found.alpha, torch.ones_like(base))


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
