"""check_text_env: does an environment keep the contract? For engineers who write their own.

The report lists every broken rule, so that one run tells all there is to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym

from aem_gym.contract import RULES, Subject
from aem_gym.contract_play import TextGym
from aem_gym.errors import AemGymError, ConfigError, describe
from aem_gym.registry import find_env

__all__ = ["ContractError", "Violation", "check_text_env"]


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule."""

    rule: str
    seen: str
    mend: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.seen}\n    Mend: {self.mend}"


class ContractError(AemGymError, AssertionError):
    """An environment breaks the contract; `violations` says where."""

    def __init__(self, name: str, violations: Sequence[Violation]) -> None:
        listed = "\n".join(f"  {violation}" for violation in violations)
        super().__init__(f"{name} breaks {len(violations)} rule(s) of the contract:\n{listed}")
        self.violations = tuple(violations)


def check_text_env(
    env: str | TextGym | Callable[..., TextGym], *, steps: int = 30, seeds: Sequence[int] = (0, 1)
) -> None:
    """Check the whole contract of a text environment.

    Args:
        env: an id, an environment made by `gym.make`, or a class (or function) that makes one and
            takes `render_mode`.
        steps: how many actions to play in each episode, at most.
        seeds: which episodes to play.

    Raises:
        ContractError: lists every broken rule with what was seen and how to mend it.
        ConfigError: `env` is none of the above, or no such id exists.
    """
    subject = _subject(env, steps, tuple(seeds))
    made: list[TextGym] = []

    def make(**kwargs: Any) -> TextGym:
        made.append(subject.make(**kwargs))
        return made[-1]

    try:
        violations = _violations(replace(subject, make=make))
    finally:
        for each in made:
            with contextlib.suppress(Exception):
                each.close()
    if violations:
        raise ContractError(subject.name, violations)


def _violations(subject: Subject) -> list[Violation]:
    try:
        subject.make()
    except Exception as error:
        seen = f"making it raised {describe(error)}"
        mend = "it must be made without arguments, offline, right after install"
        return [Violation("make", seen, mend)]
    violations = []
    for name, rule in RULES.items():
        try:
            found = rule(subject)
        except Exception as error:
            found = f"raised {describe(error)}", "mend what raised, or what an earlier rule names"
        if found is not None:
            violations.append(Violation(name, *found))
    return violations


def _subject(env: Any, steps: int, seeds: tuple[int, ...]) -> Subject:
    if isinstance(env, gym.Env):
        if env.spec is None:
            raise ConfigError(
                f"expected an id, a class, or an environment made by gym.make; got {env!r}, which "
                "cannot be made a second time. Pass its class"
            )
        spec = env.spec
        return Subject(spec.id, lambda **kwargs: spec.make(**kwargs), steps, seeds)
    if isinstance(env, str):
        env_id = find_env(env)
        return Subject(env_id, lambda **kwargs: gym.make(env_id, **kwargs), steps, seeds)
    if callable(env):
        return Subject(getattr(env, "__name__", repr(env)), env, steps, seeds)
    raise ConfigError(f"expected an id, an environment or a class, got {type(env).__name__}")
