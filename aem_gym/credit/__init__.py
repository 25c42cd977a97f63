"""Credit assignment: advantages, their modulation by entropy, and the losses that use them.

Pure functions on tensors, no I/O. A step runs: estimator -> modulator -> loss -> aggregate.
"""

from aem_gym.credit.advantages import ESTIMATOR_DEFAULTS, EstimatorDefaults, gae, gigpo_parts
from aem_gym.credit.batch import ResponseBatch
from aem_gym.credit.entropy import linear_logprob_and_entropy, logprob_and_entropy
from aem_gym.credit.losses import (
    LOSSES,
    aggregate,
    kl_k3,
    overlong_penalty,
    value_loss,
)
from aem_gym.credit.metrics import credit_metrics
from aem_gym.credit.modulation import Modulated, aem, aem_coefficients
from aem_gym.credit.surrogate import LossOutput

__all__ = [
    "ESTIMATOR_DEFAULTS",
    "LOSSES",
    "EstimatorDefaults",
    "LossOutput",
    "Modulated",
    "ResponseBatch",
    "aem",
    "aem_coefficients",
    "aggregate",
    "credit_metrics",
    "gae",
    "gigpo_parts",
    "kl_k3",
    "linear_logprob_and_entropy",
    "logprob_and_entropy",
    "overlong_penalty",
    "value_loss",
]
