"""Credit assignment of a step: the estimator, then the modulator, as configured."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aem_gym.config import Config
from aem_gym.credit.batch import ResponseBatch
from aem_gym.credit.estimators import EstimatorNeeds, SplitAdvantages, gae, needs_of
from aem_gym.credit.modulators import Modulated
from aem_gym.errors import ComponentError, ConfigError
from aem_gym.registry import ESTIMATORS, MODULATORS, check_options
from aem_gym.seeding import derive

_GIVEN = ("generator",)
"""Keyword arguments that `assign` gives to a modulator that takes them: not options."""


@dataclass(frozen=True)
class Credit:
    """The advantages of one step."""

    base: Tensor
    """(N,) of the estimator; the part that is modulated."""
    modulated: Modulated
    value_targets: Tensor | None
    """(N,) what the value head learns; None without one."""
    seconds: float
    """Wall time of the modulator alone."""


@dataclass(frozen=True)
class CreditRule:
    """Estimator and modulator of a run, with their options."""

    config: Config
    estimator: Callable[..., Tensor | SplitAdvantages]
    needs: EstimatorNeeds
    modulator: Callable[..., Modulated]
    estimator_options: dict[str, Any]
    modulator_options: dict[str, Any]

    @staticmethod
    def of(config: Config) -> CreditRule:
        """Load the components by name.

        Raises:
            UnknownNameError, ConfigError: a name or an option that does not exist.
        """
        estimator, modulator = ESTIMATORS.load(config.estimator), MODULATORS.load(config.modulator)
        of_estimator, of_modulator = dict(config.estimator_options), dict(config.modulator_options)
        if config.modulator == "aem" and "part" in of_modulator:  # GiGPO's `modulate`, as it was
            part = of_modulator.pop("part")
            if config.estimator == "gigpo":
                of_estimator.setdefault("modulate", part)
        check_options("estimator_options", estimator, of_estimator)
        check_options("modulator_options", modulator, of_modulator, _GIVEN)
        return CreditRule(
            config, estimator, needs_of(estimator), modulator, of_estimator, of_modulator
        )

    def assign(self, batch: ResponseBatch, step: int) -> Credit:
        """Advantages of a batch. `step` seeds the draws of modulators that have any.

        Raises:
            ComponentError: a component returned something else than it has to; names it.
        """
        base, unmodulated = self._estimate(batch)
        options = dict(self.modulator_options)
        if "generator" in inspect.signature(self.modulator).parameters:
            options["generator"] = derive(self.config.seed, "shuffle", step)
        clock = time.perf_counter()
        modulated = self.modulator(batch, base, **options)
        seconds = time.perf_counter() - clock
        self._check_modulated(modulated, batch)
        if unmodulated is not None:
            more = unmodulated[:, None].expand(batch.mask.shape).masked_fill(~batch.mask, 0)
            modulated = replace(modulated, advantages=modulated.advantages + more)
        return Credit(base, modulated, self._value_targets(batch), seconds)

    def _estimate(self, batch: ResponseBatch) -> tuple[Tensor, Tensor | None]:
        found = self.estimator(batch, **self.estimator_options)
        parts = (
            (found.modulated, found.unmodulated)
            if isinstance(found, SplitAdvantages)
            else (found, None)
        )
        for part in parts:
            if part is not None:
                _check_tensor(f"estimator {self.config.estimator!r}", part, batch.returns.shape)
        return parts

    def _check_modulated(self, found: object, batch: ResponseBatch) -> None:
        name = f"modulator {self.config.modulator!r}"
        if not isinstance(found, Modulated):
            raise ComponentError(
                f"{name}: expected a Modulated (aem_gym.credit), got {type(found).__name__}"
            )
        _check_tensor(f"{name}, advantages", found.advantages, batch.mask.shape)
        _check_tensor(f"{name}, alpha", found.alpha, batch.returns.shape)

    def _value_targets(self, batch: ResponseBatch) -> Tensor | None:
        if batch.values is None:
            return None
        keys = ("gamma", "lam", "penalty")
        chosen = {k: v for k, v in self.estimator_options.items() if k in keys}
        return gae(batch, **chosen)[1]


def _check_tensor(name: str, found: object, shape: torch.Size) -> None:
    if not isinstance(found, Tensor):
        raise ComponentError(f"{name}: expected a tensor, got {type(found).__name__}")
    if found.shape != shape:
        raise ComponentError(f"{name}: expected shape {tuple(shape)}, got {tuple(found.shape)}")
    if not bool(torch.isfinite(found).all()):
        bad = int((~torch.isfinite(found)).sum())
        raise ComponentError(f"{name}: {bad} of {found.numel()} values are not finite")


def check_credit(config: Config) -> None:
    """Try estimator and modulator on four made-up responses, before any model loads.

    Raises:
        ConfigError: an option that a component does not take or cannot use.
    """
    ids = torch.tensor([0, 0, 1, 1])
    some = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.3, 0.3], [0.8, 0.1]])
    batch = ResponseBatch(
        returns=torch.tensor([1.0, 1.0, 0.0, 0.0]),
        step_rewards=torch.tensor([0.0, 1.0, 0.0, 0.0]),
        penalties=torch.zeros(4),
        group_ids=torch.zeros(4, dtype=torch.long),
        trajectory_ids=ids,
        turns=torch.tensor([0, 1, 0, 1]),
        anchor_ids=torch.tensor([0, 1, 0, 2]),
        mask=torch.ones(4, 2, dtype=torch.bool),
        logprobs=-some,
        entropies=some,
        values=torch.zeros(4),
    )
    rule = CreditRule.of(config)
    if config.group_size == 1 and rule.needs.compares:
        raise ConfigError(
            f"group_size 1 leaves nothing to compare with: the estimator {config.estimator!r} "
            "needs group_size >= 2 (ppo and reinforce_pp do not)"
        )
    try:
        rule.assign(batch, 0)
    except ConfigError:
        raise
    except Exception as error:  # a user's own component raises whatever it likes
        raise ConfigError(
            f"estimator {config.estimator!r} or modulator {config.modulator!r}, with the options "
            f"given, failed on four made-up responses: {type(error).__name__}: {error}"
        ) from error
