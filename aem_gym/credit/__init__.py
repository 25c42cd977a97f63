"""Credit assignment: advantages, their modulation by entropy, and the losses that use them.

Pure functions on tensors, no I/O. A step runs: estimator -> modulator -> loss -> aggregate.
"""

from aem_gym.credit.batch import ResponseBatch
from aem_gym.credit.estimators import EstimatorNeeds, SplitAdvantages, estimator
from aem_gym.credit.losses import LossOutput, aggregate
from aem_gym.credit.modulators import Modulated, aem, aem_coefficients

__all__ = [
    "EstimatorNeeds",
    "LossOutput",
    "Modulated",
    "ResponseBatch",
    "SplitAdvantages",
    "aem",
    "aem_coefficients",
    "aggregate",
    "estimator",
]
