"""What an environment answered, checked and completed: the pool's side of the contract."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aem_gym.errors import EnvironmentFailure
from aem_gym.types import INFO_DEFAULTS


@dataclass(frozen=True, slots=True)
class CheckedStep:
    """What came back from `reset` or `step`, or why nothing did.

    `info` always holds the keys of `INFO_DEFAULTS`. Where an environment does not report `won`,
    it is taken as won when it terminates with a positive reward.
    """

    observation: str
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @staticmethod
    def failed(error: BaseException) -> CheckedStep:
        """The answer of an environment that gave none: the episode ends here."""
        info = copy.deepcopy(dict(INFO_DEFAULTS))
        message = describe(error)
        if type(error) is not EnvironmentFailure:
            message = f"EnvironmentFailure: {message}"
        return CheckedStep("", truncated=True, info=info, error=message)


def observed_reset(answer: Any) -> CheckedStep:
    """Read what `env.reset` returned. Raises TypeError on anything but text and a dict."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise TypeError(f"reset: expected (observation, info), got {_short(answer)}")
    observation, info = answer
    return CheckedStep(_text(observation), info=_info(info, won=False))


def observed_step(answer: Any) -> CheckedStep:
    """Read what `env.step` returned. Raises TypeError or ValueError on a broken contract."""
    if not isinstance(answer, tuple) or len(answer) != 5:
        raise TypeError(
            "step: expected (observation, reward, terminated, truncated, info), "
            f"got {_short(answer)}"
        )
    observation, reward, terminated, truncated, info = answer
    value = float(reward)
    if not math.isfinite(value):
        raise ValueError(f"step: expected a finite reward, got {value}")
    filled = _info(info, won=bool(terminated) and value > 0)
    error = filled.get("error") if truncated and not terminated else None
    if error and isinstance(error, str):
        # What the environment runs on has failed (a container, a server), and it says so.
        return CheckedStep("", truncated=True, info=filled, error=f"EnvironmentFailure: {error}")
    return CheckedStep(_text(observation), value, bool(terminated), bool(truncated), filled)


def _text(observation: Any) -> str:
    if not isinstance(observation, str):
        raise TypeError(f"expected a str observation, got {_short(observation)}")
    return well_formed(str(observation))


def _info(info: Any, *, won: bool) -> dict[str, Any]:
    """`info` with every key of the contract, in its type; `won` is used where it has none."""
    if not isinstance(info, Mapping):
        raise TypeError(f"expected info to be a dict, got {_short(info)}")
    filled: dict[str, Any] = dict(info)
    for key, default in INFO_DEFAULTS.items():
        value = filled.get(key)
        if value is not None:
            filled[key] = _coerced(key, value, default)
        elif key == "won":
            filled[key] = won
        elif key == "score":
            filled[key] = float(filled["won"])
        else:
            filled[key] = copy.copy(default)
    return filled


def _coerced(key: str, value: Any, default: Any) -> Any:
    try:
        if isinstance(default, list):
            if isinstance(value, str):
                raise TypeError("a str is not a list")
            return [well_formed(str(item)) for item in value]
        return well_formed(str(value)) if isinstance(default, str) else type(default)(value)
    except (TypeError, ValueError) as error:
        wanted = type(default).__name__
        raise TypeError(f"info[{key!r}]: expected {wanted}, got {_short(value)}") from error


def well_formed(text: str) -> str:
    """`text` with lone surrogates, which no file can hold, replaced by `?`; else unchanged."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def describe(error: BaseException) -> str:
    """The error in one line, with its type."""
    message = well_formed(str(error))
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:80]}{'...' if len(text) > 80 else ''}"
