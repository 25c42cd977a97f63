"""Credit of a step: estimator and modulator as configured, with what they return checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from aem_gym.credit import Modulated, SplitAdvantages, aem, estimator
from aem_gym.credit.batch import ResponseBatch
from aem_gym.credit.estimators import gae, gigpo_parts
from aem_gym.credit.modulators import identity
from aem_gym.errors import BadCredit, ComponentError, ConfigError
from aem_gym.registry import ESTIMATORS
from aem_gym.settings import settle
from aem_gym.training.credit import Credit, CreditRule, check_credit
from tests.credit.cases import make_rows, shipped, to_batch

HERE = "tests.training.test_credit"


def assigned(batch: ResponseBatch, step: int = 0, **given: Any) -> Credit:
    return CreditRule.of(settle(given).config).assign(batch, step)


@pytest.fixture
def batch() -> ResponseBatch:
    return to_batch(make_rows(2, 3, 4))


@pytest.mark.parametrize("name", shipped(ESTIMATORS))
def test_the_default_is_the_estimator_and_aem(name: str, batch: ResponseBatch) -> None:
    credit = assigned(batch, estimator=name)
    base = ESTIMATORS.load(name)(batch)
    assert torch.equal(credit.base, base)
    assert torch.equal(credit.modulated.advantages, aem(batch, base).advantages)
    assert credit.seconds >= 0
    plain = assigned(batch, estimator=name, modulator="none")
    assert torch.equal(plain.modulated.advantages, identity(batch, base).advantages)


def test_only_the_episode_part_of_gigpo_is_modulated(batch: ResponseBatch) -> None:
    episode, step = gigpo_parts(batch)
    given: dict[str, Any] = {"estimator": "gigpo", "estimator_options": {"modulate": "episode"}}
    off = assigned(batch, **given, modulator_options={"lam": 0.0})
    base = identity(batch, ESTIMATORS.load("gigpo")(batch))
    assert torch.equal(off.modulated.advantages, base.advantages)
    on = assigned(batch, **given)
    assert torch.equal(on.base, episode)
    expected = (on.modulated.alpha * episode + step)[:, None] * batch.mask
    torch.testing.assert_close(on.modulated.advantages, expected)
    assert not torch.allclose(on.modulated.advantages, base.advantages)
    old = assigned(batch, estimator="gigpo", modulator_options={"part": "episode"})
    assert torch.equal(old.modulated.advantages, on.modulated.advantages)


def test_value_targets_are_those_of_the_estimators_options(batch: ResponseBatch) -> None:
    credit = assigned(batch, estimator="ppo", estimator_options={"gamma": 0.9, "lam": 0.5})
    assert credit.value_targets is not None
    assert torch.equal(credit.value_targets, gae(batch, 0.9, 0.5)[1])
    without = assigned(replace(batch, values=None))
    assert without.value_targets is None


@estimator(needs_values=True, compares=False)
def short_sighted(
    batch: ResponseBatch, *, gamma: float = 0.5, lam: float = 0.9, penalty: str = "reward"
) -> torch.Tensor:
    return gae(batch, gamma, lam, penalty=penalty)[0]


def other_meaning(
    batch: ResponseBatch, *, gamma: float | None = None, lam: str = "auto", penalty: str = "mine"
) -> torch.Tensor:
    return batch.returns


def test_value_targets_follow_the_defaults_of_an_own_estimator(batch: ResponseBatch) -> None:
    name = f"{HERE}:short_sighted"
    found = assigned(batch, estimator=name).value_targets
    assert found is not None
    assert torch.equal(found, gae(batch, 0.5, 0.9, penalty="reward")[1])
    found = assigned(batch, estimator=name, estimator_options={"lam": 0}).value_targets
    assert found is not None
    assert torch.equal(found, gae(batch, 0.5, 0.0, penalty="reward")[1])
    for options in ({}, {"gamma": None, "penalty": "yours"}):
        given = {"estimator": f"{HERE}:other_meaning", "estimator_options": options}
        found = assigned(batch, **given).value_targets
        assert found is not None and torch.equal(found, gae(batch)[1])
        check_credit(settle(given).config)


def test_draws_of_a_modulator_come_from_seed_and_step(batch: ResponseBatch) -> None:
    given: dict[str, Any] = {"modulator_options": {"shuffle": True, "scope": "batch"}}
    first = assigned(batch, step=3, **given).modulated.alpha
    assert torch.equal(assigned(batch, step=3, **given).modulated.alpha, first)
    assert not torch.equal(assigned(batch, step=4, **given).modulated.alpha, first)
    assert not torch.equal(assigned(batch, step=3, seed=1, **given).modulated.alpha, first)


NAN = float("nan")


@pytest.mark.parametrize(
    ("given", "wrong", "message"),
    [
        ({"estimator": "gigpo"}, {"gamma": NAN}, "estimator_options.gamma: .* at most 1, got nan"),
        ({"estimator": "gigpo"}, {"gamma": 5}, "estimator_options.gamma: .*got 5"),
        ({"estimator": "gigpo"}, {"omega": NAN}, "estimator_options.omega: expected a finite"),
        ({"estimator": "gigpo"}, {"normalise_step": "off"}, "normalise_step: expected true or fal"),
        ({"estimator": "ppo"}, {"lam": 3}, "estimator_options.lam: .*got 3"),
        *(
            ({"estimator": name}, *each)
            for name in ("grpo", "dapo", "gspo")
            for each in (
                ({"epsilon": -1}, "estimator_options.epsilon: .*at least 0, got -1"),
                ({"normalise": "false"}, "estimator_options.normalise: expected true or false"),
            )
        ),
        ({"modulator": "aem"}, {"shuffle": "false"}, "modulator_options.shuffle: .*got 'false'"),
        ({"modulator": "aem"}, {"recentre": "no"}, "modulator_options.recentre: .*got 'no'"),
        ({"modulator": "aem"}, {"threshold": NAN}, "modulator_options.threshold: .*got nan"),
        ({"modulator": "aem"}, {"lam": "1"}, "modulator_options.lam: .*number, got '1'"),
        ({"modulator": "empg"}, {"centre": "no"}, "modulator_options.centre: .*got 'no'"),
        ({"modulator": "empg"}, {"zeta": NAN}, "modulator_options.zeta: .*got nan"),
        ({"modulator": "entropy_shaping"}, {"kappa": 0}, "kappa: .*above 0, got 0"),
    ],
)
def test_options_are_of_the_right_type_and_in_range(
    given: dict[str, Any], wrong: dict[str, Any], message: str
) -> None:
    [key] = given
    with pytest.raises(ConfigError, match=message):
        check_credit(settle({**given, f"{key}_options": wrong}).config)


def test_an_epsilon_of_0_leaves_equal_groups_at_0(batch: ResponseBatch) -> None:
    equal = replace(
        batch, returns=batch.group_ids.float(), penalties=torch.zeros_like(batch.returns)
    )
    base = assigned(equal, estimator_options={"epsilon": 0}).base
    assert torch.equal(base, torch.zeros_like(base))


def test_what_an_estimator_needs_is_in_range() -> None:
    for needs, message in (
        ({"dual_clip": 0.5}, "above 1 or null, got 0.5"),
        ({"clip_low": 5}, "at most 1, got 5"),
        ({"kl_coef": NAN}, "at least 0, got nan"),
        ({"drops_equal_groups": "no"}, "true or false, got 'no'"),
    ):
        with pytest.raises(ConfigError, match=rf"@estimator\.{next(iter(needs))}: .*{message}"):
            estimator(**needs)


# Own components ----------------------------------------------------------------------------------


@estimator(needs_values=True, drops_equal_groups=True, clip_high=0.5, loss="reinforce")
def needy(batch: ResponseBatch) -> Any:
    assert batch.values is not None
    return SplitAdvantages(batch.returns - batch.values, batch.step_rewards)


def late_shape(batch: ResponseBatch) -> torch.Tensor:
    """Right on the four responses it is tried with, wrong on others."""
    return batch.returns if len(batch.returns) == 4 else batch.returns[:-1]


def late_modulator(batch: ResponseBatch, advantages: torch.Tensor) -> Any:
    if len(batch.returns) == 4:
        return identity(batch, advantages)
    return Modulated(advantages[:, None] / 0, torch.ones_like(advantages))


def test_an_own_estimator_with_needs_of_its_own(batch: ResponseBatch) -> None:
    config = settle({"estimator": f"{HERE}:needy", "modulator": "none"}).config
    rule = CreditRule.of(config)
    assert rule.needs.needs_values and rule.needs.loss == "reinforce"
    assert config.drop_equal_groups, "it asks for dynamic sampling"
    credit = rule.assign(batch, 0)
    assert batch.values is not None
    expected = (batch.returns - batch.values + batch.step_rewards)[:, None] * batch.mask
    torch.testing.assert_close(credit.modulated.advantages, expected)


WRITES: dict[str, tuple[Callable[[ResponseBatch, torch.Tensor], Any], str]] = {
    "logprobs": (lambda b, a: b.logprobs.mul_(0.0), "batch.logprobs"),
    "returns": (lambda b, a: b.returns.sub_(b.returns.mean()), "batch.returns"),
    "numpy": (
        lambda b, a: np.multiply(b.entropies.numpy(), 2, out=b.entropies.numpy()),
        "entropies",
    ),
    "a view": (lambda b, a: b.penalties[:2].fill_(0.0), "batch.penalties"),
    "cached": (lambda b, a: b.response_entropy.neg_(), "batch.response_entropy"),
    "advantages": (lambda b, a: a.mul_(2.0), "advantages"),
}


def writes(batch: ResponseBatch, *, what: str) -> torch.Tensor:
    WRITES[what][0](batch, torch.zeros(4))
    return batch.returns.clone()


def modulator_writes(batch: ResponseBatch, advantages: torch.Tensor, *, what: str) -> Modulated:
    WRITES[what][0](batch, advantages)
    return identity(batch, advantages)


@pytest.mark.parametrize("what", WRITES)
def test_components_may_only_read_what_they_are_given(what: str) -> None:
    message = WRITES[what][1]
    for role, function in (("estimator", "writes"), ("modulator", "modulator_writes")):
        if (role, what) == ("estimator", "advantages"):
            continue
        name = f"{HERE}:{function}"
        given = {role: name, f"{role}_options": {"what": what}}
        pattern = rf"{role} '{name}' changed .*{message} in place.*{message}\.clone\(\)"
        with pytest.raises(ConfigError, match=pattern):
            check_credit(settle(given).config)


RETURNS: dict[str, tuple[Callable[[ResponseBatch], Any], str]] = {
    "short": (lambda b: b.returns[:3], r"expected \(N,\) = \({n},\), got \(3,\)"),
    "column": (lambda b: b.returns[:, None], r"expected \(N,\) = \({n},\), got \({n}, 1\)"),
    "scalar": (lambda b: b.returns.mean(), r"expected \(N,\) = \({n},\), got \(\)"),
    "float": (lambda b: 1.0, r"expected a tensor \(N,\) = \({n},\), got float"),
    "none": (lambda b: None, r"expected a tensor \(N,\) = \({n},\), got None"),
    "list": (lambda b: b.returns.tolist(), r"expected a tensor \(N,\) = \({n},\), got list"),
    "numpy": (lambda b: b.returns.numpy(), r"expected a tensor .*, got numpy.ndarray \({n},\)"),
    "long": (lambda b: b.returns.long(), "expected floating-point numbers, got torch.int64"),
    "bool": (lambda b: b.returns > 0, "expected floating-point numbers, got torch.bool"),
    "complex": (lambda b: b.returns + 0j, "expected floating-point numbers, got torch.complex"),
    "meta": (lambda b: b.returns.to("meta"), "expected a tensor on cpu, got one on meta"),
    "gradient": (lambda b: b.returns.clone().requires_grad_(), r"without gradient.*\.detach\(\)"),
    "nan": (lambda b: b.returns * float("nan"), r"{n} of {n} values are not finite \(nan\)"),
}


def returned(batch: ResponseBatch, *, what: str) -> Any:
    return RETURNS[what][0](batch)


def split(batch: ResponseBatch, *, what: str) -> Any:
    return SplitAdvantages(batch.returns, RETURNS[what][0](batch))


def modulated(batch: ResponseBatch, advantages: torch.Tensor, *, what: str) -> Any:
    return Modulated(identity(batch, advantages).advantages, RETURNS[what][0](batch))


def modulated_tokens(batch: ResponseBatch, advantages: torch.Tensor, *, what: str) -> Any:
    full = replace(batch, returns=batch.returns.clone())
    found = RETURNS[what][0](full)
    return Modulated(found, torch.ones_like(advantages))


@pytest.mark.parametrize("what", RETURNS)
def test_what_own_components_return_is_checked(batch: ResponseBatch, what: str) -> None:
    """In the run, and with the same words before any model loads."""
    message = RETURNS[what][1]
    options = {"what": what}
    for made, n in ((batch, len(batch.returns)), (None, 4)):
        expected = message.format(n=n)
        for role, function, part in (
            ("estimator", "returned", ""),
            ("estimator", "split", ", unmodulated"),
            ("modulator", "modulated", ", alpha"),
        ):
            name = f"{HERE}:{function}"
            given = {role: name, f"{role}_options": options}
            pattern = rf"{role} '{name}'{part}: .*{expected}"
            if made is None:
                with pytest.raises(ConfigError, match=rf"{pattern}.*four made-up responses"):
                    check_credit(settle(given).config)
            else:
                with pytest.raises(ComponentError, match=pattern):
                    assigned(made, **given)


def test_advantages_of_tokens_have_the_shape_of_the_mask(batch: ResponseBatch) -> None:
    n, t = batch.mask.shape
    for what, got in (("column", rf"\({n}, 1\)"), ("none", "None"), ("short", r"\(3,\)")):
        given = {"modulator": f"{HERE}:modulated_tokens", "modulator_options": {"what": what}}
        pattern = rf"advantages: expected .*\(N, T\) = \({n}, {t}\), got {got}"
        with pytest.raises(ComponentError, match=pattern):
            assigned(batch, **given)


def bare_tensor(batch: ResponseBatch, advantages: torch.Tensor) -> Any:
    return advantages[:, None] * batch.mask


def bad_info(batch: ResponseBatch, advantages: torch.Tensor) -> Any:
    return replace(identity(batch, advantages), info={"share": torch.ones(3)})  # type: ignore


def test_a_modulator_returns_a_modulated(batch: ResponseBatch) -> None:
    n, t = batch.mask.shape
    pattern = rf"expected a Modulated .*, got torch.Tensor \({n}, {t}\)"
    with pytest.raises(ComponentError, match=pattern):
        assigned(batch, modulator=f"{HERE}:bare_tensor")
    with pytest.raises(ComponentError, match="expected numbers by name in info, got .*share"):
        assigned(batch, modulator=f"{HERE}:bad_info")


def single_precision(batch: ResponseBatch) -> torch.Tensor:
    return batch.returns.float()


def test_any_floating_point_numbers_will_do(batch: ResponseBatch) -> None:
    found = assigned(batch, estimator=f"{HERE}:single_precision")
    assert found.base.dtype == torch.float32


def test_a_component_that_returns_the_wrong_thing_is_named(batch: ResponseBatch) -> None:
    n, t = batch.mask.shape
    with pytest.raises(ComponentError, match=rf"estimator '{HERE}:late_shape'.*\({n},\)"):
        assigned(batch, estimator=f"{HERE}:late_shape")
    with pytest.raises(ComponentError, match=rf"modulator '{HERE}:late_m.*advantages.*\({n}, {t}"):
        assigned(batch, modulator=f"{HERE}:late_modulator")


def broken_estimator(batch: ResponseBatch, *, value: str) -> torch.Tensor:
    return torch.where(batch.returns == batch.returns.max(), float(value), 1.0)


def broken_modulator(batch: ResponseBatch, advantages: torch.Tensor, *, value: str) -> Modulated:
    return Modulated(torch.full(batch.mask.shape, float(value)), torch.ones_like(advantages))


@pytest.mark.parametrize(("value", "kind"), [("nan", "nan"), ("inf", "inf"), ("-inf", "inf")])
def test_credit_that_is_not_finite_names_component_and_kind(
    batch: ResponseBatch, value: str, kind: str
) -> None:
    for role in ("estimator", "modulator"):
        name = f"{HERE}:broken_{role}"
        with pytest.raises(BadCredit, match=rf"not finite \({kind}\)") as caught:
            assigned(batch, **{role: name, f"{role}_options": {"value": value}})
        assert caught.value.component.startswith(f"{role} '{name}'")
        assert caught.value.kind == kind
