"""AEM's alpha against a slow reference, and every property that is relied on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aem_gym.credit import aem_coefficients
from tests.credit.cases import dtypes, reference_alpha, tolerance

entropy_values = st.lists(st.floats(0, 12, width=32), min_size=1, max_size=20)
lambdas = st.sampled_from([0.5, 1.0, 2.0])


@st.composite
def grouped(draw):
    """Entropies with the group of each, interleaved."""
    entropies = draw(entropy_values)
    n = len(entropies)
    return entropies, draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))


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
