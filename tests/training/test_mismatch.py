"""Sampler and learner compared: what is noticed, what is said of it, and what is corrected."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from aem_gym.errors import NotFiniteError, SamplerMismatchError
from aem_gym.training.credit import TrainBatch
from aem_gym.training.mismatch import importance, refuse_mismatch
from aem_gym.training.update import Updater, _up_to
from tests.tiny import Tiny


def test_the_same_policy_is_not_far_from_itself(
    tiny: Tiny, rollout: tuple[str, TrainBatch]
) -> None:
    context, step = rollout
    updater = Updater(tiny.agent(context=context).learner, tiny.changed(context=context))
    for number in range(3):
        figures = updater.check_sampler(step, number)
        assert 0 < figures["mismatch/mean"] <= figures["mismatch/max"] <= 1e-4
    scores, figures = updater.compare(step)
    assert torch.equal(scores.mask, step.batch.mask)
    assert figures["mismatch/max"] <= 1e-4


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("agent", "config", "cause"),
    [
        ({"adapted": False}, {}, "weights or tokens differ"),
        ({}, {"temperature": 0.3}, "agree at temperature 1"),
        ({}, {"temperature": 2.5}, "agree at temperature 1"),
    ],
)
def test_a_sampler_that_is_another_policy_is_noticed_and_explained(
    tiny: Tiny,
    rollout: tuple[str, TrainBatch],
    exact: bool,
    agent: dict[str, Any],
    config: dict[str, Any],
    cause: str,
) -> None:
    context, step = rollout
    learner = tiny.agent(context=context, **agent).learner
    if "temperature" in config:
        step = spread_out(step, learner)
    updater = Updater(learner, tiny.changed(context=context, **config), exact=exact)
    with pytest.raises(SamplerMismatchError, match=cause):
        updater.compare(step)
    with pytest.raises(SamplerMismatchError, match=cause):
        for number in range(5):
            updater.check_sampler(step, number)


def spread_out(step: TrainBatch, learner: Any) -> TrainBatch:
    """The step with the learner's own log-probabilities at temperature 1."""
    scores = learner.score(step.rows, temperature=1.0)
    return replace(step, batch=replace(step.batch, logprobs=scores.logprobs.detach()))


def test_dropout_of_the_model_is_noticed(tiny: Tiny, rollout: tuple[str, TrainBatch]) -> None:
    """The learner's evaluation mode hides it; the update would be of another policy."""
    context, step = rollout
    agent = tiny.agent(context=context)
    agent.learner.compact = None  # its own pass calls no layer
    for layer in agent.learner.model.model.layers:
        layer.mlp.register_forward_hook(
            lambda _, args, out: torch.nn.functional.dropout(out, 0.5, torch.is_grad_enabled())
        )
    updater = Updater(agent.learner, tiny.changed(context=context))
    with pytest.raises(SamplerMismatchError, match="dropout"):
        updater.check_sampler(step, 0)
    # An adapter's own dropout is a setting: the run was told that the two differ.
    Updater(agent.learner, tiny.changed(context=context, lora_dropout=0.1)).check_sampler(step, 0)


@pytest.mark.parametrize("rollout", ["transcript"], indirect=True)  # a window's prompts are short
def test_a_window_shows_in_the_position(tiny: Tiny, rollout: tuple[str, TrainBatch]) -> None:
    """Tokens up to a position agree, all later ones do not."""
    context, step = rollout
    learner = tiny.agent(context=context).learner
    sampled = step.batch.logprobs.clone()
    edge = sorted(span.start for row in step.rows for span in row.spans)[len(sampled) // 2]
    starts = torch.tensor([span.start for row in step.rows for span in row.spans])
    beyond = starts[:, None] + torch.arange(sampled.shape[1]) >= edge
    sampled[beyond & step.batch.mask] -= 3.0
    updater = Updater(learner, tiny.changed(context=context, micro_batch=8))
    broken = replace(step, batch=replace(step.batch, logprobs=sampled))
    with pytest.raises(SamplerMismatchError, match=f"up to position {edge} "):
        refuse_mismatch(
            learner,
            [_up_to(broken, i) for i in range(len(sampled))],
            sampled,
            updater.config,
            1e-3,
        )


def test_weights_from_the_beginning_are_told(tiny: Tiny, rollout: tuple[str, TrainBatch]) -> None:
    """The sampler still has what the reference has."""
    context, step = rollout
    agent = tiny.agent(context=context)
    agent.learner.freeze_reference()
    with torch.no_grad():
        for name, weight in agent.learner.parameters().items():
            if "lora_B" in name:
                weight *= -3
    with pytest.raises(SamplerMismatchError, match="weights RL began with"):
        Updater(agent.learner, tiny.changed(context=context)).check_sampler(step, 0)


def test_nan_on_either_side_is_named(tiny: Tiny, rollout: tuple[str, TrainBatch]) -> None:
    context, step = rollout
    agent = tiny.agent(context=context)
    updater = Updater(agent.learner, tiny.changed(context=context))
    broken = replace(step.batch, logprobs=step.batch.logprobs * float("nan"))
    for call in (updater.compare, lambda step: updater.check_sampler(step, 0)):
        with pytest.raises(NotFiniteError, match="sampler 'hf'.*bad_scores:nan"):
            call(replace(step, batch=broken))
    with torch.no_grad():
        next(iter(agent.learner.parameters().values())).fill_(float("nan"))
    for call in (updater.compare, lambda step: updater.check_sampler(step, 0)):
        with pytest.raises(NotFiniteError, match="learner 'hf'.*bad_scores:nan"):
            call(step)


@pytest.mark.parametrize("name", ["entropies", "values"])
def test_other_scores_that_are_nan_are_named(
    tiny: Tiny, rollout: tuple[str, TrainBatch], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    context, step = rollout
    updater = Updater(tiny.agent(context=context).learner, tiny.changed(context=context))
    scores = updater.score(step)
    broken = replace(scores, **{name: torch.full((len(scores.mask),), float("nan"))})
    monkeypatch.setattr(updater, "score", lambda step: broken)
    with pytest.raises(NotFiniteError, match=rf"learner 'hf': {name} are NaN.*bad_{name}:nan"):
        updater.compare(step)


def test_importance_weights_are_bounded() -> None:
    learner, sampler = torch.tensor([[-1.0, -1.0, 0.0]]), torch.tensor([[-1.1, -3.0, -9.0]])
    mask = torch.tensor([[True, True, False]])
    weights = importance(learner, sampler, mask, 2.0)
    assert weights[0].tolist() == pytest.approx([math.exp(0.1), 2.0, 1.0])
