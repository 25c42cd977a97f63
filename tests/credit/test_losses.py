"""Losses against plain-Python references; aggregation does not depend on micro-batches."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.credit.losses import (
    AGGREGATIONS,
    aggregate,
    clip_cov,
    gspo,
    kl_cov,
    kl_k3,
    overlong_penalty,
    ppo_clip,
    reinforce,
    token_covariance,
    value_loss,
)
from aem_gym.errors import UnknownNameError
from aem_gym.registry import LOSSES
from tests.credit.cases import shipped


def example(seed: int, n: int = 6, width: int = 5, dtype: torch.dtype = torch.float64):
    """(logprobs with gradient, old, advantages, mask), with one empty row and junk outside."""
    generator = torch.Generator().manual_seed(seed)

    def noise() -> torch.Tensor:
        return torch.randn(n, width, generator=generator, dtype=dtype)

    lengths = torch.randint(1, width + 1, (n,), generator=generator)
    lengths[seed % n] = 0
    mask = torch.arange(width) < lengths[:, None]
    old = -noise().abs()
    logprobs = (old + 0.3 * noise()).masked_fill(~mask, float("inf")).requires_grad_()
    advantages = (2 * noise()[:, :1]).expand(n, width).masked_fill(~mask, 0)
    return logprobs, old.masked_fill(~mask, float("-inf")), advantages, mask


def tokens(logprobs, old, advantages, mask):
    """(row, column, logp, old, advantage) of each real token."""
    for i, j in mask.nonzero().tolist():
        yield i, j, logprobs[i, j].item(), old[i, j].item(), advantages[i, j].item()


def surrogate(ratio: float, advantage: float, low: float, high: float, dual: float | None):
    """(loss, d loss / d log ratio) of PPO's clipped objective, case by case."""
    clipped = min(max(ratio, 1 - low), 1 + high)
    if advantage >= 0:
        return (
            (-advantage * ratio, -advantage * ratio)
            if ratio <= 1 + high
            else (-advantage * clipped, 0.0)
        )
    if ratio < 1 - low:
        return -advantage * clipped, 0.0
    if dual is not None and ratio > dual:
        return -advantage * dual, 0.0
    return -advantage * ratio, -advantage * ratio


seeds = st.integers(0, 2**31)
clips = st.sampled_from([(0.2, 0.2), (0.2, 0.28), (0.05, 0.1)])


@settings(max_examples=50, deadline=None)
@given(seed=seeds, clip=clips, dual=st.sampled_from([None, 3.0, 1.2]))
def test_ppo_clip_value_and_gradient(seed, clip, dual):
    logprobs, old, advantages, mask = example(seed)
    low, high = clip
    out = ppo_clip(logprobs, old, advantages, mask, clip_low=low, clip_high=high, dual_clip=dual)
    out.per_token.sum().backward()
    value, slope = torch.zeros_like(advantages), torch.zeros_like(advantages)
    for i, j, logp, before, advantage in tokens(logprobs, old, advantages, mask):
        ratio = math.exp(logp - before)
        value[i, j], slope[i, j] = surrogate(ratio, advantage, low, high, dual)
    torch.testing.assert_close(out.per_token.detach(), value)
    torch.testing.assert_close(logprobs.grad, slope)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, clip=st.sampled_from([(3e-4, 4e-4), (0.1, 0.2)]))
def test_gspo_value_and_gradient(seed, clip):
    """Against the sequence-level objective: |row| * s * A, differentiated through the mean."""
    logprobs, old, advantages, mask = example(seed)
    out = gspo(logprobs, old, advantages, mask, clip_low=clip[0], clip_high=clip[1])
    out.per_token.sum().backward()
    for i, row in enumerate(mask):
        n = int(row.sum())
        if not n:
            assert not logprobs.grad[i].any()
            continue
        drift = [(logprobs[i, j] - old[i, j]).item() for j in range(n)]
        value, slope = surrogate(math.exp(sum(drift) / n), advantages[i, 0].item(), *clip, None)
        assert out.per_token[i, :n].tolist() == pytest.approx([value] * n)
        assert logprobs.grad[i, :n].tolist() == pytest.approx([slope] * n)


def test_gspo_clamps_the_log_ratio_at_ten():
    logprobs = torch.tensor([[15.0, 15.0]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    out = gspo(logprobs, torch.zeros(1, 2), -torch.ones(1, 2), mask)
    assert out.per_token[0].tolist() == pytest.approx([math.exp(10)] * 2, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_reinforce_value_and_gradient(seed):
    logprobs, old, advantages, mask = example(seed)
    out = reinforce(logprobs, old, advantages, mask)
    out.per_token.sum().backward()
    assert torch.equal(logprobs.grad, -advantages)
    value = torch.zeros_like(advantages)
    for i, j, logp, _, advantage in tokens(logprobs, old, advantages, mask):
        value[i, j] = -advantage * logp
    torch.testing.assert_close(out.per_token.detach(), value)


def test_every_loss_has_a_reference_here():
    assert shipped(LOSSES) == ["clip_cov", "gspo", "kl_cov", "ppo_clip", "reinforce"]


def plain_covariance(logprobs, old, advantages, mask) -> dict[tuple[int, int], float]:
    found = list(tokens(logprobs, old, advantages, mask))
    mean_logp = sum(t[2] for t in found) / len(found)
    mean_adv = sum(t[4] for t in found) / len(found)
    return {(i, j): (a - mean_adv) * (logp - mean_logp) for i, j, logp, _, a in found}


@settings(max_examples=40, deadline=None)
@given(seed=seeds, share=st.sampled_from([2e-4, 0.2, 0.5]))
def test_kl_cov_penalises_exactly_the_top_share(seed, share):
    logprobs, old, advantages, mask = example(seed)
    out = kl_cov(logprobs, old, advantages, mask, share=share, kl_weight=0.7)
    covariance = plain_covariance(logprobs, old, advantages, mask)
    count = max(1, int(share * len(covariance)))
    top = sorted(covariance, key=covariance.__getitem__)[-count:]
    assert out.metrics["selected"] == count
    for i, j, logp, before, a in tokens(logprobs, old, advantages, mask):
        expected = -a * math.exp(logp - before)
        expected += 0.7 * abs(logp - before) if (i, j) in top else 0.0
        assert out.per_token[i, j].item() == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, share=st.sampled_from([2e-4, 0.3, 1.0]))
def test_clip_cov_silences_a_share_of_the_candidates(seed, share):
    logprobs, old, advantages, mask = example(seed)
    out = clip_cov(logprobs, old, advantages, mask, share=share, cov_low=0.1, generator=seed)
    base = ppo_clip(logprobs, old, advantages, mask, dual_clip=None).per_token
    covariance = plain_covariance(logprobs, old, advantages, mask)
    silenced = 0
    candidates = 0
    for i, j, logp, before, a in tokens(logprobs, old, advantages, mask):
        _, slope = surrogate(math.exp(logp - before), a, 0.2, 0.2, None)
        candidates += 0.1 < covariance[i, j] < 5.0 and slope != 0
        if out.per_token[i, j] != base[i, j]:
            assert out.per_token[i, j] == 0
            assert 0.1 < covariance[i, j] < 5.0
            silenced += 1
    assert silenced == min(candidates, max(1, int(share * len(covariance))))


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov"])
def test_tokens_picked_from_a_mini_batch_are_those_of_the_whole(name):
    """Cut into micro-batches, the loss with `selected` is the loss of all rows at once."""
    loss = LOSSES.load(name)
    options = {"share": 0.2} | ({"cov_low": 0.05, "generator": 5} if name == "clip_cov" else {})
    picked = 0
    for seed in range(10):
        logprobs, old, advantages, mask = example(seed)
        whole = loss(logprobs, old, advantages, mask, **options)
        (gradient,) = torch.autograd.grad(whole.per_token.sum(), logprobs)
        selected = loss.select(logprobs.detach(), old, advantages, mask, **options)
        assert selected.sum() == whole.metrics["selected"]
        picked += int(selected.sum())
        for part in mask.new_ones(len(mask)).nonzero().split(2):
            some = (logprobs[part[:, 0]], old[part[:, 0]], advantages[part[:, 0]], mask[part[:, 0]])
            out = loss(*some, **options, selected=selected[part[:, 0]])
            out.per_token.sum().backward()
        torch.testing.assert_close(logprobs.grad, gradient)
    assert picked > 5


def test_one_candidate_more_moves_no_other_draw():
    """So that rounding, which can move a token over a bound, cannot change the whole choice."""
    mask = torch.ones(2, 50, dtype=torch.bool)
    draws = torch.Generator().manual_seed(0)
    old = -torch.rand(2, 50, generator=draws) * 4
    advantages = torch.tensor([[1.0], [-1.0]]).expand(2, 50)
    few = clip_cov.select(old, old, advantages, mask, share=0.05, cov_low=0.3)
    for low in (0.25, 0.2, 0.1):
        more = clip_cov.select(old, old, advantages, mask, share=0.05, cov_low=low)
        assert (few ^ more).sum() <= 4 and few.sum() == more.sum() == 5


def test_the_divergence_of_kl_cov_has_no_slope_where_the_ratio_is_rounding():
    old = torch.tensor([[-1.0, -1.0, -1.0, -1.0]])
    logprobs = (old + torch.tensor([[1e-6, -1e-6, 1e-3, -1e-3]])).requires_grad_()
    ones, mask = torch.zeros_like(old), torch.ones(1, 4, dtype=torch.bool)
    out = kl_cov(logprobs, old, ones, mask, selected=mask)
    out.per_token.sum().backward()
    assert logprobs.grad.tolist() == [[0.0, 0.0, 1.0, -1.0]]
    expected = pytest.approx([1e-6, 1e-6, 1e-3, 1e-3], rel=0.1)
    assert out.per_token[0].tolist() == expected


def test_token_covariance_matches():
    case = example(3)
    found = token_covariance(case[0].detach(), case[2], case[3])
    for (i, j), expected in plain_covariance(*case).items():
        assert found[i, j].item() == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_metrics_are_sums_over_tokens(seed):
    logprobs, old, advantages, mask = example(seed)
    metrics = ppo_clip(logprobs, old, advantages, mask).metrics
    drift = [
        (logp - before, a) for _, _, logp, before, a in tokens(logprobs, old, advantages, mask)
    ]
    assert metrics["ratio"].item() == pytest.approx(sum(math.exp(d) for d, _ in drift))
    assert metrics["old_kl"].item() == pytest.approx(sum(math.expm1(d) - d for d, _ in drift))
    outside = sum((a > 0 and math.exp(d) > 1.2) or (a < 0 and math.exp(d) < 0.8) for d, a in drift)
    assert metrics["clipped"].item() == outside


@pytest.mark.parametrize("name", ["ppo_clip", "gspo", "reinforce"])
@pytest.mark.parametrize("mode", AGGREGATIONS)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, size=st.integers(1, 5))
def test_micro_batches_add_up(name, mode, seed, size):
    logprobs, old, advantages, mask = example(seed)
    totals = {
        "total_tokens": float(mask.sum()),
        "total_rows": float(mask.any(-1).sum()),
        "constant": 11.0,
    }
    whole_out = LOSSES.load(name)(logprobs, old, advantages, mask)
    whole = aggregate(whole_out.per_token, mask, mode, **totals)
    (gradient,) = torch.autograd.grad(whole, logprobs)
    total, metrics = 0.0, dict.fromkeys(whole_out.metrics, 0.0)
    for start in range(0, len(mask), size):
        part = slice(start, start + size)
        out = LOSSES.load(name)(logprobs[part], old[part], advantages[part], mask[part])
        loss = aggregate(out.per_token, mask[part], mode, **totals)
        loss.backward()
        total += loss.item()
        metrics = {k: v + out.metrics[k].item() for k, v in metrics.items()}
    assert total == pytest.approx(whole.item())
    torch.testing.assert_close(logprobs.grad, gradient)
    assert metrics == pytest.approx({k: v.item() for k, v in whole_out.metrics.items()})


def test_aggregation_modes_match_their_definition():
    mask = torch.tensor([[True, True, True], [True, False, False], [False] * 3])
    x = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0], [99.0] * 3])
    totals = {"total_tokens": 4, "total_rows": 2}
    assert aggregate(x, mask, "token-mean", **totals) == 4
    assert aggregate(x, mask, "seq-mean-token-mean", **totals) == 6
    assert aggregate(x, mask, "token-sum-norm", constant=8, **totals) == 1
    with pytest.raises(ValueError, match="constant"):
        aggregate(x, mask, "token-sum-norm", **totals)
    with pytest.raises(UnknownNameError, match="Did you mean 'token-mean'"):
        aggregate(x, mask, "token-men", **totals)


def test_junk_outside_the_mask_never_reaches_the_gradient():
    for name in shipped(LOSSES):
        logprobs, old, advantages, mask = example(1)
        LOSSES.load(name)(logprobs, old, advantages, mask).per_token.sum().backward()
        assert torch.isfinite(logprobs.grad).all(), name
        assert not logprobs.grad[~mask].any(), name


def test_on_the_first_update_every_ratio_loss_has_the_policy_gradient():
    _, old, advantages, mask = example(4)
    for name in ("ppo_clip", "gspo", "kl_cov", "reinforce"):
        logprobs = old.clone().requires_grad_()
        LOSSES.load(name)(logprobs, old, advantages, mask).per_token.sum().backward()
        torch.testing.assert_close(logprobs.grad, -advantages)


@settings(deadline=None)
@given(logp=st.floats(-15, 0), ref=st.floats(-15, 0))
def test_k3_is_nonnegative_and_zero_only_at_equality(logp, ref):
    found = kl_k3(torch.tensor(logp, dtype=torch.float64), torch.tensor(ref, dtype=torch.float64))
    assert found.item() == pytest.approx(math.exp(ref - logp) - (ref - logp) - 1, abs=1e-9)
    assert found >= 0


def test_k3_is_an_unbiased_estimate_of_the_divergence():
    p, q = torch.softmax(torch.randn(2, 9, dtype=torch.float64), -1)
    exact = (p * (p / q).log()).sum()
    torch.testing.assert_close((p * kl_k3(p.log(), q.log())).sum(), exact)


@settings(deadline=None)
@given(
    v=st.floats(-3, 3),
    old=st.floats(-3, 3),
    target=st.floats(-3, 3),
    clip=st.sampled_from([None, 0.2]),
)
def test_value_loss_matches(v, old, target, clip):
    found = value_loss(
        *(torch.tensor([x], dtype=torch.float64) for x in (v, old, target)), clip=clip
    )
    near = v if clip is None else min(max(v, old - clip), old + clip)
    assert found.item() == pytest.approx(0.5 * max((v - target) ** 2, (near - target) ** 2))


def test_overlong_penalty_is_soft_then_full():
    lengths = torch.tensor([0, 80, 90, 100, 150])
    found = overlong_penalty(lengths, max_length=100, buffer=20, factor=2.0)
    assert found.tolist() == [0.0, 0.0, -1.0, -2.0, -2.0]
