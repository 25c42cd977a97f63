"""Who deserves the credit: base estimator, then modulator, as configured, with its time taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aem_gym.credit.estimators import ESTIMATOR_DEFAULTS, EstimatorDefaults, gae, gigpo_parts
from aem_gym.credit.batch import ResponseBatch
from aem_gym.credit.modulators import Modulated, aem
from aem_gym.errors import ConfigError
from aem_gym.registry import ESTIMATORS, MODULATORS
from aem_gym.seeding import derive
from aem_gym.training.config import Config
from aem_gym.training.config_check import check_options


@dataclass(frozen=True)
class Credit:
    """The advantages of one step."""

    base: Tensor
    """(N,) of the estimator."""
    modulated: Modulated
    value_targets: Tensor | None
    """(N,) what the value head learns; None without one."""
    seconds: float
    """Wall time of the modulator alone."""


class Assigner:
    """Estimator and modulator by name, with their options.

    Raises:
        UnknownNameError, ConfigError: a name or an option that does not exist.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.estimator: Callable[..., Tensor] = ESTIMATORS.load(config.estimator)
        self.modulator: Callable[..., Modulated] = MODULATORS.load(config.modulator)
        self.estimator_options = dict(config.estimator_options)
        self.modulator_options = dict(config.modulator_options)
        # GiGPO's step part can be left as it is: "apply AEM to A_E only".
        self.part = str(self.modulator_options.pop("part", "both"))
        if self.part not in ("both", "episode"):
            raise ConfigError(f"modulator_options.part: expected both or episode, got {self.part}")

    def __call__(self, batch: ResponseBatch, step: int) -> Credit:
        """Advantages of a batch. `step` names the random draws of modulators that have any."""
        options = dict(self.modulator_options)
        if self.part == "episode" and self.config.estimator == "gigpo":
            base, options["unmodulated"] = gigpo_parts(batch, **self.estimator_options)
        else:
            base = self.estimator(batch, **self.estimator_options)
        if options.get("shuffle") and self.modulator is aem:
            options["generator"] = derive(self.config.seed, "shuffle", step)
        clock = time.perf_counter()
        modulated = self.modulator(batch, base, **options)
        seconds = time.perf_counter() - clock
        targets = None
        if batch.values is not None:
            keys = ("gamma", "lam", "penalty")
            chosen = {k: v for k, v in self.estimator_options.items() if k in keys}
            targets = gae(batch, **chosen)[1]
        return Credit(base, modulated, targets, seconds)


def estimator_defaults(name: str) -> EstimatorDefaults:
    """The published loss settings of an estimator; PPO's for one that is not ours."""
    return ESTIMATOR_DEFAULTS.get(name, EstimatorDefaults())


def check_assignment(config: Config) -> None:
    """Try estimator, modulator and loss options on four made-up responses, before any model loads.

    Raises:
        ConfigError: an option that the component does not take or cannot use.
    """
    estimator, modulator = ESTIMATORS.load(config.estimator), MODULATORS.load(config.modulator)
    check_options("estimator_options", estimator, config.estimator_options)
    check_options("modulator_options", modulator, config.modulator_options, also=("part",))
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
    try:
        Assigner(config)(batch, 0)
    except TypeError as error:
        raise ConfigError(
            f"estimator_options or modulator_options: {error}. Options of {config.estimator!r}: "
            f"aem_gym.credit.estimators; of {config.modulator!r}: aem_gym.credit.modulators"
        ) from error
