"""The fused functions against log_softmax, in value, gradient, dtype and memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym import logprobs as module
from aem_gym.logprobs import LogitMap, linear_logprob_and_entropy, logprob_and_entropy


def naive(logits, targets, temperature=1.0):
    logp = torch.log_softmax(logits / temperature, -1)
    entropy = -(logp.exp() * logp).sum(-1)
    return logp.gather(-1, targets[:, None])[:, 0], entropy


def draw(seed, rows, columns, scale=3.0, offset=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64) + offset
    return logits.to(dtype), torch.randint(0, columns, (rows,), generator=generator)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(0, 9),
    columns=st.integers(1, 40),
    temperature=st.sampled_from([1.0, 0.4, 2.0]),
    offset=st.sampled_from([0.0, 500.0, -500.0]),
)
def test_exact_in_float32_and_float64(seed, rows, columns, temperature, offset):
    logits, targets = draw(seed, rows, columns, offset=offset)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        mine = logits.to(dtype)
        expected = naive(mine.double(), targets, temperature)
        for found, exact in zip(
            logprob_and_entropy(mine, targets, temperature), expected, strict=True
        ):
            assert found.dtype == dtype
            limit = tolerance * (1 + exact.abs() + (abs(offset) if dtype == torch.float32 else 0))
            assert ((found.double() - exact).abs() <= limit).all()


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_gradcheck_of_logits(temperature):
    logits, targets = draw(0, 5, 7)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: logprob_and_entropy(z, targets, temperature)[0], [logits]
    )


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_gradcheck_of_the_linear_head(frozen, with_bias, chunk):
    hidden, targets = draw(1, 7, 4, scale=1.0)
    targets = targets % 6
    weight, _ = draw(2, 6, 4, scale=1.0)
    bias = draw(3, 1, 6)[0][0] if with_bias else None
    inputs = [hidden.requires_grad_()]
    if not frozen:
        inputs += [x.requires_grad_() for x in (weight, bias) if x is not None]

    def call(*_):
        return linear_logprob_and_entropy(hidden, weight, bias, targets, 0.7, chunk)[0]

    assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("logit_map", [LogitMap(0.25), LogitMap(2.0, 1.5), LogitMap(1.0, 0.5)])
@pytest.mark.parametrize("frozen", [True, False])
def test_scaled_and_capped_logits(frozen, logit_map):
    hidden, targets = draw(1, 7, 4, scale=1.0)
    weight = draw(2, 6, 4, scale=1.0)[0].requires_grad_(not frozen)
    hidden, targets = hidden.requires_grad_(), targets % 6

    def call(*_):
        return linear_logprob_and_entropy(hidden, weight, None, targets, 0.7, 3, logit_map)

    plain = (logit_map.apply(hidden @ weight.T) / 0.7).log_softmax(-1)
    torch.testing.assert_close(call()[0], plain.gather(-1, targets[:, None])[:, 0])
    torch.testing.assert_close(call()[1], -(plain.exp() * plain).sum(-1).detach())
    assert torch.autograd.gradcheck(lambda *_: call()[0], [hidden] if frozen else [hidden, weight])


@pytest.mark.parametrize("train_hidden", [True, False])
def test_linear_equals_logits_in_float32(train_hidden):
    hidden, targets = draw(4, 50, 16, scale=1.0, dtype=torch.float32)
    weight, _ = draw(5, 200, 16, scale=1.0, dtype=torch.float32)
    hidden.requires_grad_(train_hidden)
    weight.requires_grad_(not train_hidden)
    trained = hidden if train_hidden else weight
    results = []
    for logp, entropy in (
        linear_logprob_and_entropy(hidden, weight, None, targets, 0.8, 7),
        naive(hidden @ weight.T, targets, 0.8),
    ):
        (logp * torch.linspace(-1, 1, 50)).sum().backward()
        results.append((logp.detach(), entropy.detach(), trained.grad))
        trained.grad = None
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_the_entropy_is_detached_and_bounded_by_log_v():
    logits, targets = draw(6, 20, 11)
    logits.requires_grad_()
    logp, entropy = logprob_and_entropy(logits, targets)
    assert logp.requires_grad and not entropy.requires_grad
    assert (entropy >= 0).all() and (entropy <= torch.tensor(11.0).log() + 1e-12).all()
    uniform = logprob_and_entropy(torch.zeros(1, 11), torch.zeros(1, dtype=torch.long))[1]
    assert uniform.item() == pytest.approx(torch.tensor(11.0).log().item())


def test_forbidden_tokens_add_nothing():
    logits, targets = draw(7, 6, 5)
    targets = targets % 3
    masked = logits.clone()
    masked[:, 3:] = -float("inf")
    masked.requires_grad_()
    logp, entropy = logprob_and_entropy(masked, targets)
    expected = naive(logits[:, :3], targets)
    torch.testing.assert_close(logp.detach(), expected[0])
    torch.testing.assert_close(entropy, expected[1])
    logp.sum().backward()
    assert torch.isfinite(masked.grad).all() and not masked.grad[:, 3:].any()


def test_bfloat16_is_accumulated_in_float32():
    logits, targets = draw(8, 64, 3000, dtype=torch.bfloat16)
    logits.requires_grad_()
    logp, entropy = logprob_and_entropy(logits, targets)
    exact = naive(logits.detach().double(), targets)
    assert logp.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logp.detach().double(), exact[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), exact[1], rtol=1e-5, atol=1e-5)
    logp.sum().backward()
    assert logits.grad.dtype == torch.bfloat16


def test_bfloat16_linear_head_is_as_good_as_bfloat16_allows():
    hidden, targets = draw(9, 64, 32, scale=1.0, dtype=torch.bfloat16)
    weight, _ = draw(10, 500, 32, scale=0.3, dtype=torch.bfloat16)
    for train_weight in (False, True):
        mine, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_(train_weight)
        linear_logprob_and_entropy(mine, head, None, targets, 1.0, 16)[0].sum().backward()
        wide, wide_head = (x.double().requires_grad_() for x in (hidden, weight))
        naive(wide @ wide_head.T, targets)[0].sum().backward()
        pairs = [(mine.grad, wide.grad)] + [(head.grad, wide_head.grad)] * train_weight
        for ours, exact in pairs:
            assert (ours.double() - exact).norm() < 0.01 * exact.norm()


def test_rows_beyond_one_block_are_treated_alike(monkeypatch):
    logits, targets = draw(11, 10, 6)
    results = []
    for block in (10_000, 18, 1):
        monkeypatch.setitem(module._BLOCK, "cpu", block)
        mine = logits.clone().requires_grad_()
        logp, entropy = logprob_and_entropy(mine, targets)
        logp.sum().backward()
        results.append((logp.detach(), entropy, mine.grad))
    for whole, *others in zip(*results, strict=True):
        for blocks in others:
            torch.testing.assert_close(whole, blocks)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_linear_head_saves_nothing_as_large_as_the_logits(frozen):
    hidden, targets = draw(12, 300, 8, scale=1.0, dtype=torch.float32)
    weight, _ = draw(13, 400, 8, dtype=torch.float32)
    hidden.requires_grad_()
    weight.requires_grad_(not frozen)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        linear_logprob_and_entropy(hidden, weight, None, targets, 1.0, 16)
    assert saved and max(saved) <= 400 * 8
    with torch.no_grad():
        logp, _ = linear_logprob_and_entropy(hidden, weight, None, targets, 1.0, 16)
    assert not logp.requires_grad


def test_wrong_arguments_are_named():
    logits, targets = draw(14, 4, 5)
    with pytest.raises(ValueError, match="temperature"):
        logprob_and_entropy(logits, targets, 0.0)
    with pytest.raises(ValueError, match=r"\(4, 5\) and \(3,\)"):
        logprob_and_entropy(logits, targets[:3])
    with pytest.raises(ValueError, match="chunk"):
        linear_logprob_and_entropy(logits, logits, None, targets, chunk=0)
