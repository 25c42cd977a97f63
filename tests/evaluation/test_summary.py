"""Figures of an evaluation, against known values and plain counting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.evaluation.protocol import EvalSpec, summarise, wilson_interval
from aem_gym.types import Episode, Turn


@pytest.mark.parametrize(
    ("wins", "total", "low", "high"),
    [  # as R's prop.test(correct=FALSE) and the formula by hand give them
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (1, 2, 0.0945312, 0.9054688),
        (128, 256, 0.4392056, 0.5607944),
    ],
)
def test_wilson_against_known_values(wins: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(wins, total) == pytest.approx((low, high), abs=1e-6)


@given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate(case: tuple[int, int]) -> None:
    wins, total = case
    low, high = wilson_interval(wins, total)
    assert 0 <= low <= high <= 1
    if total:
        assert low <= wins / total <= high
        mirrored = wilson_interval(total - wins, total)
        assert mirrored == pytest.approx((1 - high, 1 - low))
        wider = wilson_interval(wins, total, z=3.0)
        assert wider[0] <= low and high <= wider[1]
    else:
        assert (low, high) == (0.0, 1.0)


def episode(kind: str, won: bool, error: str | None = None, turns: int = 2) -> Episode:
    some = tuple(
        Turn("o", "r", "", "a", format_valid=i > 0, action_valid=won) for i in range(turns)
    )
    score = 1.0 if won else 0.25
    return Episode("t", kind, "g", 0, 0, some, won=won, score=score, error=error)


def test_figures_by_hand() -> None:
    result = summarise(
        [
            episode("pick", True),
            episode("pick", False, turns=4),
            episode("cool", True),
            episode("cool", True, turns=0),
            episode("heat", True, error="EnvironmentFailure"),
        ]
    )
    assert (result.episodes, result.errors) == (4, 1)
    assert result.success == 0.75
    assert (result.low, result.high) == wilson_interval(3, 4)
    assert result.score == (3 + 0.25) / 4
    assert result.turns == 2.0
    assert result.invalid_format == 3 / 8 and result.invalid_action == 4 / 8
    assert {k: (v.episodes, v.success) for k, v in result.by_type.items()} == {
        "cool": (2, 1.0),
        "pick": (2, 0.5),
    }


def test_nothing_that_counts() -> None:
    for episodes in ([], [episode("pick", True, error="failed")]):
        result = summarise(episodes)
        assert (result.episodes, result.success, result.low, result.high) == (0, 0.0, 0.0, 1.0)
        assert result.errors == len(episodes) and result.by_type == {}


def test_tasks_are_named_by_the_seed_alone() -> None:
    protocol = EvalSpec("env", {}, "test", 3, 100, 1.0, None, "default", "transcript")
    assert list(protocol.task_seeds) == [100, 101, 102]


def test_task_types_are_shown_in_the_order_of_the_environment() -> None:
    episodes = [episode(kind, True) for kind in ("b", "a", "z", "c")]
    assert list(summarise(episodes, ("z", "b")).by_type) == ["z", "b", "a", "c"]
