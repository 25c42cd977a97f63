"""The gradient of an update does not depend on how its rows are cut into micro-batches."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aem_gym.config import Config
from aem_gym.credit.losses import LossOutput
from aem_gym.protocols import Scores
from aem_gym.registry import ESTIMATORS, LOSSES, MODULATORS
from aem_gym.settings import settle
from aem_gym.training.credit import CreditRule, Rewards, TrainBatch, make_batch
from aem_gym.training.update import Updater
from aem_gym.types import Episode, Group, TrainingRow, Turn
from tests.credit.cases import shipped

WORDS = 11


class Bigram:
    """A learner whose weights are a table of logits of the next token, in float64."""

    def __init__(self) -> None:
        draws = torch.Generator().manual_seed(1)
        table = torch.randn(WORDS, WORDS, generator=draws, dtype=torch.float64)
        self.table, self.reference = nn.Parameter(table), table.roll(1, 0)
        self.value_head = nn.Parameter(torch.linspace(-1, 1, WORDS, dtype=torch.float64))

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {"table": self.table, "value_head.weight": self.value_head}

    def score(
        self, rows: Sequence[TrainingRow], *, temperature: float, reference: bool = False
    ) -> Scores:
        log_p = torch.log_softmax((self.reference if reference else self.table) / temperature, -1)
        spans = [(torch.tensor(row.ids), span) for row in rows for span in row.spans]
        lengths = torch.tensor([span.end - span.start for _, span in spans])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        read = [log_p[ids[s.start - 1 : s.end - 1], ids[s.start : s.end]] for ids, s in spans]
        flat = torch.cat(read)
        logprobs = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, flat)
        before = torch.stack([self.value_head[ids[s.start - 1]] for ids, s in spans])
        return Scores(logprobs, logprobs.detach().abs(), mask, before)


def sampled(context: str) -> TrainBatch:
    """Episodes of another policy than the learner's, so that ratios differ from 1."""
    draws = torch.Generator().manual_seed(5)

    def ids(low: int, high: int) -> tuple[int, ...]:
        size = int(torch.randint(low, high + 1, (1,), generator=draws))
        return tuple(torch.randint(0, WORDS, (size,), generator=draws).tolist())

    def turn() -> Turn:
        response = ids(1, 5)
        prompt, reward = ids(1, 3), float(torch.rand(1, generator=draws))
        anchor = "ab"[int(reward * 2)]
        return replace(
            Turn(anchor, "", "", "", reward=reward, format_valid=reward > 0.2),
            prompt_ids=prompt,
            response_ids=response,
            entropies=tuple(torch.rand(len(response), generator=draws).tolist()),
        )

    groups = [
        Group(
            g,
            tuple(
                Episode("t", "k", "g", g, r, (turn(), turn()), context=context, truncated=r == 2)
                for r in range(3)
            ),
        )
        for g in range(2)
    ]
    step = make_batch(groups, Rewards(), mask_truncated=True)
    assert step is not None
    scores = Bigram().score(step.rows, temperature=1.0)
    noise = torch.randn(scores.mask.shape, generator=draws, dtype=torch.float64)
    old = (scores.logprobs.detach() + 0.3 * noise) * scores.mask
    assert scores.values is not None
    values = scores.values.detach() + 0.1
    return replace(step, batch=replace(step.batch, logprobs=old, values=values))


STEPS = {context: sampled(context) for context in ("transcript", "window")}


def configured(context: str, **given: Any) -> Config:
    common = {"mini_batch": "1/1", "lr": 1.0, "lr_warmup": 0, "grad_clip": 0.0, "kl_coef": 0.1}
    return settle({**common, "context": context, **given}).config


def gradient(config: Config) -> tuple[Tensor, dict[str, float]]:
    """The gradient of an update on one mini-batch, by plain descent with learning rate 1."""
    learner: Any = Bigram()
    updater = Updater(learner, config)
    groups = [dict(group) for group in updater.optimizer.param_groups]
    updater.optimizer = torch.optim.SGD(groups, lr=1.0)
    before = [weight.detach().clone() for weight in updater.parameters]
    step = STEPS[config.context]
    figures = updater.update(step, CreditRule.of(config).assign(step.batch, 0), 0)
    pairs = zip(before, updater.parameters, strict=True)
    return torch.cat([(a - b.detach()).flatten() for a, b in pairs]), figures


OPTIONS: Mapping[str, dict[str, Any]] = {
    "clip_cov": {"loss_options": {"share": 0.2, "cov_low": 0.01}},
    "kl_cov": {"loss_options": {"share": 0.2}},
}


@pytest.mark.parametrize("estimator", shipped(ESTIMATORS))
@pytest.mark.parametrize("context", STEPS)
def test_micro_batches_give_the_gradient_of_the_whole(estimator: str, context: str) -> None:
    config = configured(context, estimator=estimator)
    for loss, modulator in itertools.product(shipped(LOSSES), shipped(MODULATORS)):
        chosen = replace(config, loss=loss, modulator=modulator, **OPTIONS.get(loss, {}))
        (whole, figures), *others = (
            gradient(replace(chosen, micro_batch=size)) for size in (64, 4, 1)
        )
        assert whole.norm() > 1e-3
        for other, theirs in others:
            assert (other - whole).norm() <= 1e-9 * whole.norm(), (loss, modulator)
            assert theirs == pytest.approx(figures, rel=1e-9), (loss, modulator)


@pytest.mark.parametrize("context", STEPS)
def test_shares_are_of_the_mini_batch_and_draws_differ(context: str) -> None:
    """Not one token of each micro-batch; and not the same draw in each update."""
    tokens = float(
        STEPS[context].batch.mask[STEPS[context].responses(STEPS[context].learned)].sum()
    )
    for loss in ("clip_cov", "kl_cov"):
        options = {**OPTIONS[loss]["loss_options"], "share": 2e-4}
        config = configured(context, loss=loss, loss_options=options, micro_batch=1)
        figures = gradient(config)[1]
        assert figures["selected"] == pytest.approx(1 / tokens)
    given = {"loss": "clip_cov", **OPTIONS["clip_cov"]}
    seeds = [gradient(configured(context, **given, seed=seed))[0] for seed in (0, 0, 1, 2)]
    assert torch.equal(seeds[0], seeds[1])
    assert any(not torch.allclose(seeds[0], other) for other in seeds[2:])


def test_masked_episodes_leave_the_loss_and_its_denominators() -> None:
    """An update is that of the other rows alone, with the advantages of all."""
    step = STEPS["window"]
    kept = [row for i, row in enumerate(step.rows) if i in step.learned]
    assert 0 < len(kept) < len(step.rows)
    for aggregation in ("token-mean", "seq-mean-token-mean", "token-sum-norm"):
        given = {"estimator": "ppo", "loss_options": {"aggregation": aggregation}}
        config = configured("window", **given)
        found, figures = gradient(config)
        credit = CreditRule.of(config).assign(step.batch, 0)
        numbers = step.responses(step.learned)
        rule = Updater(Bigram(), config).loss  # type: ignore[arg-type]
        learner = Bigram()
        scores = learner.score(kept, temperature=1.0)
        width = scores.mask.shape[1]
        advantages = credit.modulated.advantages[numbers, :width]
        old = step.batch.logprobs[numbers, :width]
        output = rule.per_token(scores.logprobs, old, advantages, scores.mask)
        d = learner.score(kept, temperature=1.0, reference=True).logprobs - scores.logprobs
        per_token = output.per_token + 0.1 * (torch.exp(d) - d - 1) * scores.mask
        rows, count = len(kept), float(scores.mask.sum())
        loss = rule.total(per_token, scores.mask, count, rows)
        assert credit.value_targets is not None and step.batch.values is not None
        assert scores.values is not None
        errors = (scores.values - credit.value_targets[numbers]).square()
        loss = loss + 0.5 * 0.5 * errors.sum() / rows  # the clip of 0.2 is not reached from 0.1
        near = step.batch.values[numbers] - 0.1
        assert torch.allclose(scores.values.detach(), near)
        loss.backward()
        weights = [w.grad.flatten() for w in learner.parameters().values() if w.grad is not None]
        torch.testing.assert_close(found, torch.cat(weights))
        assert figures["loss"] == pytest.approx(float(per_token.detach().sum()) / count)


def own_draws(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    generator: int = 0,
) -> LossOutput:
    draw = torch.rand(1, generator=torch.Generator().manual_seed(generator))
    return LossOutput(-logprobs * draw * mask, {"draw": draw * mask.sum()})


def test_an_own_loss_that_draws_gets_a_seed_of_the_run() -> None:
    name = f"{__name__}:own_draws"
    configs = [configured("window", loss=name, seed=seed) for seed in (0, 0, 1)]
    draws = [gradient(config)[1]["draw"] for config in configs]
    assert draws[0] == draws[1] != draws[2]


def test_the_value_loss_is_clipped_as_the_setting_says() -> None:
    """The slope of each row's value, by hand: old values are those of now plus 0.1."""
    step, config = STEPS["window"], configured("window", estimator="ppo")
    targets = CreditRule.of(config).assign(step.batch, 0).value_targets
    assert targets is not None and step.batch.values is not None
    for clip in (0.2, 0.05, 0.0):
        slopes = torch.zeros(WORDS, dtype=torch.float64)
        for row in step.learned:
            (span,) = step.rows[row].spans
            old, target = float(step.batch.values[row]), float(targets[row])
            value = old - 0.1
            near = value if not clip else min(max(value, old - clip), old + clip)
            if (value - target) ** 2 >= (near - target) ** 2:
                slopes[step.rows[row].ids[span.start - 1]] += value - target
        found, _ = gradient(replace(config, value_clip=clip))
        expected = 0.5 * slopes / len(step.learned)
        torch.testing.assert_close(found[-WORDS:], expected)


def test_the_value_head_has_a_learning_rate_of_its_own() -> None:
    config = configured("transcript", estimator="ppo")
    plain, _ = gradient(config)
    assert plain[-WORDS:].norm() > 0
    for rate in (0.25, 4.0):
        found, _ = gradient(replace(config, value_lr=rate))
        torch.testing.assert_close(found[:-WORDS], plain[:-WORDS])
        torch.testing.assert_close(found[-WORDS:], rate * plain[-WORDS:])
    learner: Any = Bigram()
    warm = replace(config, lr=2.0, value_lr=0.5, lr_warmup=4, steps=8, lr_schedule="linear")
    updater, step = Updater(learner, warm), STEPS["transcript"]
    updater.update(step, CreditRule.of(warm).assign(step.batch, 0), 1)
    assert [group["lr"] for group in updater.optimizer.param_groups] == [1.0, 0.25]


def test_the_divergence_may_be_weighted_by_the_ratio() -> None:
    """Against a loss that is only the divergence, differentiated by hand."""
    step = STEPS["window"]
    for weighted in (False, True):
        config = configured("window", loss_options={"kl_weighted": weighted}, dual_clip=2.0)
        without = replace(config, kl_coef=0.0)
        found = gradient(config)[0] - gradient(without)[0]
        learner = Bigram()
        rows = [step.rows[i] for i in step.learned]
        scores = learner.score(rows, temperature=1.0)
        d = learner.score(rows, temperature=1.0, reference=True).logprobs - scores.logprobs
        old = step.batch.logprobs[step.responses(step.learned), : scores.mask.shape[1]]
        kl = (torch.exp(d) - d - 1) * (torch.exp(scores.logprobs - old) if weighted else 1.0)
        (0.1 * kl * scores.mask).sum().div(scores.mask.sum()).backward()
        assert learner.table.grad is not None
        torch.testing.assert_close(found[:-WORDS], learner.table.grad.flatten())
