"""Every error a user can meet, by the boundary it belongs to.

Configuration errors stop at once. Environment and agent failures during a rollout are recorded
on the episode (`Episode.error`) and never crash a run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AemGymError(Exception):
    """Base of all errors raised by aem_gym on purpose."""


class ConfigError(AemGymError, ValueError):
    """A setting is wrong; nothing has been started."""


class UnknownNameError(ConfigError, LookupError):
    """A name (environment, estimator, key, ...) that does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        message = f"unknown {kind} {name!r}."
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        if near:
            message += f" Did you mean {near[0]!r}?"
        message += f" Known: {', '.join(known) or 'none'}."
        if hint:
            message += f" {hint}"
        super().__init__(message)
        self.kind, self.name, self.known = kind, name, tuple(known)


def check_name(kind: str, name: str, names: Iterable[str]) -> None:
    """Raise UnknownNameError if `name` is not one of `names`."""
    if name not in tuple(names):
        raise UnknownNameError(kind, str(name), names)


class MissingDependencyError(AemGymError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f'Install it with: pip install "aem-gym[{extra}]"'
        )


class ModelError(AemGymError, ValueError):
    """A model could not be found or loaded."""


class MissingEngineError(ConfigError):
    """What an environment runs on, a container engine say, does not answer."""


class CheckpointError(AemGymError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to another configuration."""


class OutputError(AemGymError, OSError):
    """The output folder cannot be used (exists already, read-only, full)."""


class EnvironmentFailure(AemGymError, RuntimeError):
    """The environment raised in `reset` or `step`."""


class InfrastructureError(EnvironmentFailure):
    """The backend of an environment failed: a container engine, a server."""


class EnvironmentTimeout(EnvironmentFailure, TimeoutError):
    """The environment did not answer in time."""


class BrokenEnvironmentError(AemGymError, TypeError):
    """An environment's own code is wrong; the message names its class, file and line."""


class NoExpertError(AemGymError, LookupError):
    """The environment has no expert, and a warm start needs demonstrations."""


class ComponentError(AemGymError, ValueError):
    """A component (estimator, modulator, loss, ...) returned something else than it has to."""


class BadCredit(ComponentError):
    """A component returned advantages that are not finite.

    `component` names it ("estimator 'grpo'"); `kind` is "nan" or "inf".
    """

    def __init__(self, component: str, kind: str, bad: int, total: int) -> None:
        super().__init__(f"{component}: {bad} of {total} values are not finite ({kind})")
        self.component, self.kind = component, kind


class NotFiniteError(ComponentError):
    """A component gave NaN or inf. `what` says in which role: `values`, `scores`, ..."""

    def __init__(self, what: str, message: str) -> None:
        super().__init__(f"{message} (bad_{what}:nan)")
        self.what = what


class NotLearningError(AemGymError, RuntimeError):
    """The run was ended because it was not learning; says why, and how to go on."""


class WorldError(AemGymError, RuntimeError):
    """A process of a run with several ended, or is not like the others."""


class SamplerMismatchError(AemGymError, RuntimeError):
    """Sampler and learner disagree about the log-probabilities of the same tokens."""


def describe(error: BaseException) -> str:
    """The error in one line, with its type."""
    message = str(error).encode(errors="replace").decode()  # no lone surrogates
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
