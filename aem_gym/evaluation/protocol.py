"""What an evaluation is, and how its figures are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aem_gym.types import Episode


@dataclass(frozen=True, slots=True)
class EvalSpec:
    """Everything an evaluation's score depends on besides the agent."""

    env: str
    env_args: dict[str, object]
    split: str
    episodes: int
    seed: int
    """Task i is `env.reset(seed=seed + i)`."""
    temperature: float
    max_turns: int | None
    recipe: str
    context: str
    tasks: Mapping[str, object] = field(default_factory=dict)
    """What the environment says its scores depend on besides: sizes, bounds, sources."""

    @property
    def task_seeds(self) -> range:
        """The seeds of the tasks."""
        return range(self.seed, self.seed + self.episodes)


@dataclass(frozen=True, slots=True)
class TypeScore:
    """Figures of one task type."""

    episodes: int
    success: float


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one evaluation. Fractions are 0..1."""

    episodes: int
    """Episodes that count: those that did not fail for infrastructure reasons."""
    success: float
    low: float
    """Lower end of the 95% Wilson interval of the success rate."""
    high: float
    """Upper end."""
    score: float
    """Mean graded score."""
    turns: float
    """Mean number of turns."""
    invalid_format: float
    """Share of responses that could not be parsed."""
    invalid_action: float
    """Share of actions that the environment did not admit."""
    by_type: dict[str, TypeScore]
    errors: int
    """Episodes that failed (environment raised or hung); not counted above."""


def summarise(episodes: Sequence[Episode], task_types: Sequence[str] = ()) -> Result:
    """Figures of finished episodes.

    Args:
        episodes: finished ones.
        task_types: the order of `by_type`; others follow by name.
    """
    order = {name: number for number, name in enumerate(task_types)}
    counted = [e for e in episodes if e.error is None]
    turns = [turn for e in counted for turn in e.turns]
    wins = sum(e.won for e in counted)
    low, high = wilson_interval(wins, len(counted))
    types: dict[str, list[bool]] = {}
    for episode in counted:
        types.setdefault(episode.task_type, []).append(episode.won)
    return Result(
        episodes=len(counted),
        success=_mean([e.won for e in counted]),
        low=low,
        high=high,
        score=_mean([e.score for e in counted]),
        turns=_mean([len(e.turns) for e in counted]),
        invalid_format=_mean([not t.format_valid for t in turns]),
        invalid_action=_mean([not t.action_valid for t in turns]),
        by_type={
            name: TypeScore(len(types[name]), _mean(types[name]))
            for name in sorted(types, key=lambda name: (order.get(name, len(order)), name))
        },
        errors=len(episodes) - len(counted),
    )


def wilson_interval(wins: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95% interval of a success rate (JASA 1927); (0, 1) without episodes."""
    if total == 0:
        return 0.0, 1.0
    rate = wins / total
    centre = rate + z * z / (2 * total)
    spread = z * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # The ends 0 and 1 are exact; rounding would miss them by an ulp.
    low = (centre - spread) / scale if wins else 0.0
    high = (centre + spread) / scale if wins < total else 1.0
    return low, high


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
