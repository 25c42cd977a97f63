"""Updates on real rollouts of a tiny policy: exact accumulation, checks, schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from aem_gym.config import Config
from aem_gym.credit.losses import LossOutput, selects
from aem_gym.errors import (
    ComponentError,
    ConfigError,
    NotLearningError,
    UnknownNameError,
)
from aem_gym.settings import settle
from aem_gym.training.credit import Credit, CreditRule, TrainBatch
from aem_gym.training.state import check_finite
from aem_gym.training.update import LossSettings, Updater, by_tokens, check_loss
from tests.tiny import Tiny
from tests.weights import base_weights_hash


def trained(
    tiny: Tiny, rollout: tuple[str, TrainBatch], **changes: Any
) -> tuple[Any, dict[str, float]]:
    """An agent after one update, and the update's figures."""
    context, step = rollout
    value_head = changes.get("estimator") == "ppo"
    agent = tiny.agent(context=context, value_head=value_head, **changes)
    config = tiny.changed(context=context, **changes)
    updater = Updater(agent.learner, config)
    if value_head:
        values = updater.score(step).values
        step = replace(step, batch=replace(step.batch, values=values))
    return agent, updater.update(step, CreditRule.of(config).assign(step.batch, 0), 0)


def settled(**given: Any) -> Config:
    return settle(given).config


def weights(agent: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.learner.parameters().values()])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"estimator": "gspo", "kl_coef": 0.1},
        {"estimator": "dr_grpo", "modulator": "entropy_shaping"},
        {"estimator": "ppo"},
        {"loss": "clip_cov", "loss_options": {"share": 0.1, "cov_low": 0.01}},
        {"loss": "kl_cov", "loss_options": {"share": 0.1}},
    ],
    ids=lambda s: s.get("estimator") or s.get("loss", "grpo"),
)
def test_accumulation_changes_nothing(
    tiny: Tiny, rollout: tuple[str, TrainBatch], settings: dict[str, Any]
) -> None:
    """One row at a time gives the gradient of all at once to 1e-5, and the figures."""
    common = {"mini_batch": "1/1", "grad_clip": 0.0, **settings}
    cuts = [{"micro_batch": m} for m in (64, 1, 4)] + [{"micro_batch_tokens": 400}]
    results = [one_gradient(tiny, rollout, common | cut) for cut in cuts]
    first, figures = results[0]
    assert first.norm() > 1e-3
    for other, theirs in results[1:]:
        assert theirs == pytest.approx(figures, rel=1e-4, abs=1e-6)
        assert (other - first).norm() <= 1e-5 * first.norm()


def test_the_comparison_with_the_sampler_fits_the_token_budget(
    tiny: Tiny, rollout: tuple[str, TrainBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, step = rollout
    agent = tiny.agent(context=context)
    longest = max(len(row.ids) for row in step.rows)
    updater = Updater(agent.learner, tiny.changed(context=context, micro_batch_tokens=longest))
    seen: list[int] = []
    score = agent.learner.score

    def counted(rows: Any, **given: Any) -> Any:
        seen.append(len(rows) * max(len(row.ids) for row in rows))
        return score(rows, **given)

    monkeypatch.setattr(agent.learner, "score", counted)
    for number in range(5):
        assert updater.check_sampler(step, number)["mismatch/max"] < 1e-4
    assert max(seen) <= longest


def test_micro_batches_by_tokens() -> None:
    """Padded, each fits; one row too long is alone; nothing is lost or moved."""
    lengths = [3, 4, 4, 9, 30, 5, 5]
    parts = list(by_tokens(list(enumerate(lengths)), 20))
    assert parts == [[0, 1, 2], [3], [4], [5, 6]]
    assert list(by_tokens([], 20)) == []


class Keeping(torch.optim.SGD):
    """Keeps the gradient and changes nothing."""

    def step(self, closure: Any = None) -> None:
        weights = self.param_groups[0]["params"]
        self.kept = torch.cat([weight.grad.flatten().clone() for weight in weights])


def one_gradient(
    tiny: Tiny, rollout: tuple[str, TrainBatch], settings: dict[str, Any]
) -> tuple[torch.Tensor, dict[str, float]]:
    context, step = rollout
    value_head = settings.get("estimator") == "ppo"
    agent = tiny.agent(context=context, value_head=value_head)
    agent.learner.freeze_reference()
    config = tiny.changed(context=context, **settings)
    updater = Updater(agent.learner, config)
    updater.optimizer = Keeping(updater.parameters, lr=config.lr)
    if value_head:
        step = replace(step, batch=replace(step.batch, values=updater.score(step).values))
    figures = updater.update(step, CreditRule.of(config).assign(step.batch, 0), 0)
    return updater.optimizer.kept, figures


def test_an_update_moves_the_adapter_only(tiny: Tiny, rollout: tuple[str, TrainBatch]) -> None:
    agent, figures = trained(tiny, rollout)
    fresh = tiny.agent()
    assert base_weights_hash(agent.learner.model) == base_weights_hash(fresh.learner.model)
    assert (weights(agent) - weights(fresh)).abs().max() > 1e-4
    assert figures["updates"] == 2 and figures["grad_norm"] > 0


def test_good_responses_become_likelier(tiny: Tiny, rollout: tuple[str, TrainBatch]) -> None:
    context, step = rollout
    agent = tiny.agent(context=context)
    config = tiny.changed(context=context, mini_batch="1/1", modulator="none", lr_warmup=0)
    updater = Updater(agent.learner, config)
    credit = CreditRule.of(config).assign(step.batch, 0)
    before = updater.score(step).logprobs.sum(-1)
    for number in range(3):
        updater.update(step, credit, number)
    moved = updater.score(step).logprobs.sum(-1) - before
    advantage = credit.base
    assert moved[advantage > 0].mean() > 0 > moved[advantage < 0].mean()


def test_the_first_epoch_has_ratio_one(tiny: Tiny, rollout: tuple[str, TrainBatch]) -> None:
    """The sampler's log-probabilities serve as the old ones: no drift before the first step."""
    _, figures = trained(tiny, rollout, mini_batch="1/1")
    assert figures["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert figures["old_kl"] == pytest.approx(0.0, abs=1e-8)
    assert figures["clipped"] == 0
    _, figures = trained(tiny, rollout, mini_batch="1/1", epochs=3, lr=0.05, lr_warmup=0)
    assert figures["old_kl"] > 1e-4 and figures["updates"] == 3


@pytest.mark.parametrize(("micro_batch", "dropout"), [(2, 0.0), (8, 0.0), (8, 0.3)])
def test_neither_rounding_nor_chance_is_a_divergence_from_the_reference(
    tiny: Tiny, rollout: tuple[str, TrainBatch], micro_batch: int, dropout: float
) -> None:
    """Without any advantage nothing moves: Adam would make full steps of differences of 1e-5."""
    context, step = rollout
    more = {"context": context, "lora_dropout": dropout}
    agent = tiny.agent(**more)
    agent.learner.freeze_reference()
    config = tiny.changed(**more, kl_coef=0.05, micro_batch=micro_batch)
    credit = CreditRule.of(config).assign(step.batch, 0)
    nothing = torch.zeros_like(credit.modulated.advantages)
    credit = replace(credit, modulated=replace(credit.modulated, advantages=nothing))
    before, updater = weights(agent), Updater(agent.learner, config)
    for number in range(3):
        figures = updater.update(step, credit, number)
        assert figures["grad_norm"] == figures["kl_reference"] == 0.0
    assert torch.equal(weights(agent), before)


def test_kl_to_the_reference_starts_at_zero(tiny: Tiny, rollout: tuple[str, TrainBatch]) -> None:
    context, step = rollout
    agent = tiny.agent(context=context)
    agent.learner.freeze_reference()
    config = tiny.changed(context=context, kl_coef=0.5, mini_batch="1/1", lr_warmup=0, lr=0.02)
    updater = Updater(agent.learner, config)
    credit = CreditRule.of(config).assign(step.batch, 0)
    assert updater.update(step, credit, 0)["kl_reference"] == pytest.approx(0, abs=1e-7)
    assert updater.update(step, credit, 1)["kl_reference"] > 1e-3


def test_gradients_are_clipped(tiny: Tiny, rollout: tuple[str, TrainBatch]) -> None:
    """With plain SGD the change of the weights is lr x clip where the gradient is larger."""
    context, step = rollout
    for clip in (1e-3, 1e9):
        agent = tiny.agent(context=context)
        config = tiny.changed(context=context, grad_clip=clip, mini_batch="1/1", lr_warmup=0)
        updater = Updater(agent.learner, config)
        updater.optimizer = torch.optim.SGD(updater.parameters, lr=config.lr)
        before = weights(agent)
        norm = updater.update(step, CreditRule.of(config).assign(step.batch, 0), 0)["grad_norm"]
        moved = float((weights(agent) - before).norm()) / config.lr
        assert norm > 1e-3
        assert moved == pytest.approx(min(norm, clip), rel=2e-2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("share", [1.0, 0.02])
def test_an_update_that_is_not_finite_is_not_applied(
    tiny: Tiny,
    rollout: tuple[str, TrainBatch],
    bad: float,
    share: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One token is enough; it is counted and named, and the figures are of the other updates."""
    context, step = rollout
    agent = tiny.agent(context=context)
    config = tiny.changed(context=context, mini_batch="1/1" if share == 1 else 1)
    updater = Updater(agent.learner, config)
    credit: Credit = CreditRule.of(config).assign(step.batch, 0)
    advantages = credit.modulated.advantages.clone()
    advantages[: max(1, int(share * len(advantages)))] *= bad
    broken = replace(credit.modulated, advantages=advantages)
    before = weights(agent)
    figures = updater.update(step, replace(credit, modulated=broken), 4)
    assert figures["bad"] == figures["updates_skipped"] >= 1
    assert figures["bad/loss_nan"] == figures["bad"]
    assert torch.equal(weights(agent), before) == (figures["updates"] == 0) == (share == 1)
    assert all(math.isfinite(value) for value in figures.values())
    assert "step 5" in caplog.text and "bad_loss:nan" in caplog.text
    assert "ppo_clip" in caplog.text
    assert bool(torch.isfinite(weights(agent)).all())


def test_a_gradient_that_is_not_finite_is_told_from_a_loss(
    tiny: Tiny, rollout: tuple[str, TrainBatch]
) -> None:
    context, step = rollout
    agent = tiny.agent(context=context)
    config = tiny.changed(context=context)
    updater = Updater(agent.learner, config)
    handle = updater.parameters[0].register_hook(lambda grad: grad * float("inf"))
    before = weights(agent)
    figures = updater.update(step, CreditRule.of(config).assign(step.batch, 0), 0)
    handle.remove()
    assert figures["bad/gradient_nan"] == 2 and figures["updates"] == 0
    assert torch.equal(weights(agent), before)


def test_a_reference_that_is_not_finite_is_told_from_a_loss(
    tiny: Tiny, rollout: tuple[str, TrainBatch], caplog: pytest.LogCaptureFixture
) -> None:
    context, step = rollout
    agent = tiny.agent(context=context)
    config = tiny.changed(context=context, kl_coef=0.1)
    agent.learner.freeze_reference()
    for name, weight in agent.learner.peft_model.named_parameters():
        if ".reference." in name:
            weight.data.fill_(float("nan"))
    before = weights(agent)
    credit = CreditRule.of(config).assign(step.batch, 0)
    figures = Updater(agent.learner, config).update(step, credit, 2)
    assert figures["bad/reference_nan"] == figures["bad"] == 2 and figures["updates"] == 0
    assert "bad/loss_nan" not in figures and "bad_reference" not in figures
    assert torch.equal(weights(agent), before)
    assert "step 3" in caplog.text and "reference policy (learner 'hf')" in caplog.text
    assert "bad_reference:nan" in caplog.text


def test_weights_that_an_update_destroys_end_the_run(
    tiny: Tiny, rollout: tuple[str, TrainBatch]
) -> None:
    context, step = rollout
    agent = tiny.agent(context=context)
    config = tiny.changed(context=context, lr=1e30, lr_warmup=0, weight_decay=1e30)
    updater = Updater(agent.learner, config)
    credit = CreditRule.of(config).assign(step.batch, 0)
    with pytest.raises(NotLearningError, match="step 3"):
        updater.update(step, credit, 2)
    with pytest.raises(NotLearningError, match="after step 3 .*not saved"):
        check_finite(updater, 3)


# Sampler and learner -----------------------------------------------------------------------------


def test_weights_multiply_the_loss_of_each_token(
    tiny: Tiny, rollout: tuple[str, TrainBatch]
) -> None:
    """Twice the weight is twice the gradient, and none is none."""
    context, step = rollout
    moved = []
    for weight in (1.0, 2.0, 0.0):
        agent = tiny.agent(context=context)
        config = tiny.changed(context=context, mini_batch="1/1", lr_warmup=0, grad_clip=0.0)
        updater = Updater(agent.learner, config)
        updater.optimizer = torch.optim.SGD(updater.parameters, lr=1.0)
        before = weights(agent)
        credit = CreditRule.of(config).assign(step.batch, 0)
        given = torch.full(step.batch.mask.shape, weight)
        updater.update(step, credit, 0, given)
        moved.append(weights(agent) - before)
    assert torch.allclose(moved[1], 2 * moved[0], rtol=1e-3, atol=1e-6)
    assert not bool(moved[2].any())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [0.5, 1.0, 1.0, 0.9045, 0.6545, 0.3455, 0.0955]),
    ],
)
def test_schedules(tiny: Tiny, schedule: str, expected: list[float]) -> None:
    config = tiny.changed(lr=2.0, lr_warmup=2, lr_schedule=schedule, steps=7)
    updater = Updater(tiny.agent().learner, config)
    rates = [updater.learning_rate(step) / 2.0 for step in range(7)]
    assert rates == pytest.approx(expected, abs=1e-4)


def test_the_estimators_settings_hold_unless_others_are_given() -> None:
    assert LossSettings.of(settled(estimator="gspo")).options["clip_low"] == 3e-4
    assert LossSettings.of(settled(estimator="gspo")).name == "gspo"
    given = LossSettings.of(settled(estimator="dapo", clip_low=0.1, dual_clip=5.0))
    assert given.options == {"clip_low": 0.1, "clip_high": 0.28, "dual_clip": 5.0}
    assert LossSettings.of(settled(estimator="grpo", kl_coef=None)).kl_coef == 0.01
    assert LossSettings.of(settled(estimator="grpo", kl_coef=0.0)).kl_coef == 0.0
    options = {"aggregation": "token-sum-norm", "constant": 7}
    chosen = LossSettings.of(settled(loss="reinforce", loss_options=options))
    assert (chosen.aggregation, chosen.constant, chosen.options) == ("token-sum-norm", 7.0, {})


def not_a_number(logprobs, old_logprobs, advantages, mask) -> LossOutput:
    return LossOutput(logprobs * float("nan"))


def with_a_list(logprobs, old_logprobs, advantages, mask) -> LossOutput:
    return LossOutput(-logprobs * advantages, {"ratios": torch.ones(3)})


def without_gradient(logprobs, old_logprobs, advantages, mask) -> LossOutput:
    return LossOutput(logprobs.detach() * advantages)


RETURNS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "tensor": (lambda x: x, r"expected a LossOutput .*got torch.Tensor \(2, 2\)"),
    "none": (lambda x: None, "expected a LossOutput .*got None"),
    "float": (lambda x: LossOutput(1.0), r"per_token: expected a tensor \(n, T\) .*got float"),
    "numpy": (lambda x: LossOutput(x.detach().numpy()), r"per_token: .*numpy.ndarray \(2, 2\)"),
    "mean": (lambda x: LossOutput(x.mean()), r"expected \(n, T\) = \(2, 2\), got \(\)"),
    "rows": (lambda x: LossOutput(x.sum(-1)), r"expected \(n, T\) = \(2, 2\), got \(2,\)"),
    "column": (lambda x: LossOutput(x[:, :1]), r"= \(2, 2\), got \(2, 1\)"),
    "long": (lambda x: LossOutput(x.long()), "expected floating-point numbers, got torch.int64"),
    "meta": (lambda x: LossOutput(x.to("meta")), "expected a tensor on cpu, got one on meta"),
    "metrics": (lambda x: LossOutput(x, {"a": "b"}), "numbers by name in metrics, got {'a': 'b'}"),
    "no dict": (lambda x: LossOutput(x, [1.0]), r"numbers by name in metrics, got \[1.0\]"),
}


def returned(logprobs, old_logprobs, advantages, mask, *, what: str) -> Any:
    return RETURNS[what][0](logprobs)


@selects(lambda logprobs, old_logprobs, advantages, mask: mask[0])
def picks_too_few(logprobs, old_logprobs, advantages, mask, *, selected=None) -> LossOutput:
    return LossOutput(-logprobs * advantages * selected)


def test_what_a_loss_returns_is_checked_in_the_run() -> None:
    """It may be right on the made-up responses, and wrong later."""
    some = torch.zeros(2, 2, requires_grad=True)
    for what, (_, message) in RETURNS.items():
        config = settled(loss=f"{__name__}:returned", loss_options={"what": what})
        with pytest.raises(ComponentError, match=rf"loss '{__name__}:returned'.*{message}"):
            LossSettings.of(config).per_token(some, some, some, some > 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": f"{__name__}:not_a_number"}, "expected a finite loss"),
        ({"loss": f"{__name__}:with_a_list"}, "numbers by name in metrics.*with_a_list"),
        ({"loss": f"{__name__}:without_gradient"}, "loss with a gradient"),
        *(
            ({"loss": f"{__name__}:returned", "loss_options": {"what": what}}, message)
            for what, (_, message) in RETURNS.items()
        ),
        ({"loss": f"{__name__}:picks_too_few"}, r"selection of loss .*\(n, T\) = \(2, 2\), got"),
        ({"loss_options": {"generator": 1}}, "loss_options .*generator"),
        ({"loss": "kl_cov", "loss_options": {"selected": 1}}, "loss_options .*selected"),
        ({"loss": "kl_kov"}, "Did you mean 'kl_cov'"),
        ({"loss_options": {"clap": 1}}, "loss_options .*clap.*clip_low"),
        ({"loss_options": {"aggregation": "tokens"}}, "token-mean"),
        ({"loss_options": {"constant": "long"}}, "loss_options"),
        *(
            ({"loss_options": {name: value}}, rf"loss_options\.{name}: expected .*, got ")
            for name, values in {
                "constant": (-5, 0, float("nan")),
                "dual_clip": (0.5, 1, float("inf")),
                "kl_weighted": ("no", 1),
                "value_coef": (-1, float("nan")),
                "clip_low": (5, -0.2, True),
                "clip_high": (-0.1, "0.2"),
                "aggregation": (None, 1),
            }.items()
            for value in values
        ),
        ({"loss": "clip_cov", "loss_options": {"share": 2}}, "loss_options.share: .*at most 1"),
        ({"loss": "kl_cov", "loss_options": {"share": -1}}, "loss_options.share: .*at least 0"),
        ({"loss": "kl_cov", "loss_options": {"kl_weight": -1}}, "kl_weight: .*at least 0"),
        ({"loss": "clip_cov", "loss_options": {"cov_low": 6}}, "cov_low: .*cov_high = 5.0, got 6"),
        (
            {"clip_low": 0.1, "loss_options": {"clip_low": 0.4}},
            "clip_low: 0.1 and loss_options.clip_low: 0.4 differ",
        ),
        (
            {"dual_clip": 3.0, "loss_options": {"dual_clip": None}},
            "dual_clip: 3.0 and loss_options.dual_clip: None differ",
        ),
        ({"loss": "nowhere:loss"}, "cannot be imported"),
        ({"loss": "kl_cov", "clip_low": 0.1}, "kl_cov.*clip_low"),
        ({"loss": "reinforce", "dual_clip": 4.0}, "reinforce.*dual_clip"),
    ],
)
def test_wrong_losses_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_loss(settled(**changes))


@pytest.mark.parametrize("loss", ["auto", "ppo_clip", "gspo", "clip_cov", "kl_cov", "reinforce"])
@pytest.mark.parametrize("estimator", ["grpo", "gspo", "ppo", "dr_grpo"])
def test_every_loss_goes_with_every_estimator(loss: str, estimator: str) -> None:
    check_loss(settled(loss=loss, estimator=estimator))


def test_options_that_a_loss_can_use() -> None:
    for options in (
        {"clip_low": 0, "clip_high": 0.28, "dual_clip": None, "kl_weighted": True},
        {"clip_low": 1, "dual_clip": 2, "value_coef": 0, "constant": 32768},
    ):
        found = LossSettings.of(settled(loss_options=options))
        of_all = {
            key: getattr(found, key, None) for key in ("kl_weighted", "value_coef", "constant")
        }
        assert options.items() <= {**found.options, **of_all}.items()
    same = LossSettings.of(settled(clip_low=0.1, loss_options={"clip_low": 0.1}))
    assert same.options["clip_low"] == 0.1


def test_unknown_losses_are_unknown_names() -> None:
    with pytest.raises(UnknownNameError):
        LossSettings.of(settled(loss="nothing"))
