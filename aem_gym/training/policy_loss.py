"""The policy loss of a run: the estimator's published settings under the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aem_gym.credit.losses import LOSSES, aggregate
from aem_gym.credit.losses import LossOutput
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.registry import import_object
from aem_gym.training.assignment import estimator_defaults
from aem_gym.training.config import Config
from aem_gym.training.config_check import check_options

_OF_ALL = ("aggregation", "constant", "value_coef")
"""Options that go with every loss."""
_CLIPPING = ("clip_low", "clip_high", "dual_clip")
"""Settings that go to the loss, those of the estimator only if the loss takes them."""


@dataclass(frozen=True)
class LossSettings:
    """What a run minimises.

    Besides the loss's own options `loss_options` may hold `aggregation` (mode of
    `aem_gym.credit.losses.aggregate`), `constant` (its length; default: max_new_tokens) and
    `value_coef` (weight of the value loss of PPO; default 0.5).
    """

    name: str
    function: Callable[..., LossOutput]
    options: dict[str, Any]
    aggregation: str
    kl_coef: float
    constant: float
    value_coef: float

    @staticmethod
    def of(config: Config) -> LossSettings:
        """Resolve what the configuration leaves to the estimator.

        Raises:
            UnknownNameError: no loss of that name.
        """
        defaults = estimator_defaults(config.estimator)
        name = defaults.loss if config.loss == "auto" else config.loss
        options = dict(config.loss_options)
        aggregation = str(options.pop("aggregation", defaults.aggregation))
        constant = float(options.pop("constant", config.max_new_tokens))
        value_coef = float(options.pop("value_coef", 0.5))
        function = _find(name)
        for key in _CLIPPING:
            chosen = getattr(config, key)
            if chosen is not None:
                options[key] = chosen  # refused by `check_loss` if the loss does not take it
            elif key in inspect.signature(function).parameters:
                options.setdefault(key, getattr(defaults, key))
        kl = defaults.kl_coef if config.kl_coef is None else config.kl_coef
        return LossSettings(name, function, options, aggregation, kl, constant, value_coef)

    def total(self, per_token: Tensor, mask: Tensor, tokens: float, rows: float) -> Tensor:
        """The loss of (n, T) `per_token` as its part of a mini-batch of `tokens` and `rows`."""
        return aggregate(
            per_token,
            mask,
            self.aggregation,
            total_tokens=tokens,
            total_rows=rows,
            constant=self.constant,
        )


def check_loss(config: Config) -> None:
    """Try the loss and its options on two made-up responses, before any model loads.

    Raises:
        ConfigError: an option that the loss does not take or cannot use.
    """
    some = torch.tensor([[-0.1, -0.9], [-0.5, -0.2]])
    mask = torch.ones_like(some, dtype=torch.bool)
    try:
        settings = LossSettings.of(config)
        check_options("loss_options", settings.function, config.loss_options, also=_OF_ALL)
        output = settings.function(some, some, torch.ones_like(some), mask, **settings.options)
        settings.total(output.per_token, mask, 4.0, 2.0)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"loss_options: {error}. Options of the losses: aem_gym.credit.losses; of all: "
            "aggregation, constant, value_coef"
        ) from error


def _find(name: str) -> Callable[..., LossOutput]:
    if name in LOSSES:
        return LOSSES[name]
    if ":" in name:
        loss: Callable[..., LossOutput] = import_object(name, "loss")
        return loss
    raise UnknownNameError("loss", name, LOSSES, "Your own: write module:attribute.")
