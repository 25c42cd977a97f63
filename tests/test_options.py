"""Options of a component are of the types and in the ranges that its signature says."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import pytest

from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.options import AboveOne, Share, check_options

if TYPE_CHECKING:
    from somewhere import Thing  # type: ignore[import-not-found]


def typed(
    batch: Any,
    *,
    flag: bool = True,
    maybe: bool | None = None,
    weight: float = 1.0,
    share: Share = 0.5,
    bound: AboveOne | None = 3.0,
    count: int = 2,
    name: str = "a",
    mode: Literal["x", "y"] = "x",
    cap: float = math.inf,
) -> None: ...


def untyped(batch, *, flag=True, weight=1.0, name="a", thing=None) -> None: ...


def unusual(
    batch: Any,
    *,
    thing: Thing,
    other: Thing | float = 1.0,
    pair: tuple[int, int] = (0, 1),
    n: int = 1,
) -> None: ...


class Callable_:
    def __call__(self, batch: Any, *, share: Share = 0.5) -> None: ...


NAN, INF = math.nan, math.inf
WRONG: list[tuple[Callable[..., Any], str, list[Any], str]] = [
    (typed, "flag", ["false", "no", 0, 1, None, 1.0], "expected true or false, got"),
    (typed, "maybe", ["off", 1], "expected true or false or null"),
    (typed, "weight", ["1", True, None, NAN, INF, -INF, [1.0]], "expected a finite number, got"),
    (
        typed,
        "share",
        [-0.1, 1.1, 5, NAN, "0.5"],
        "expected a finite number at least 0 and at most 1",
    ),
    (typed, "bound", [1, 0.5, -3, NAN, INF, "off"], "expected a finite number above 1 or null"),
    (typed, "count", [1.5, True, "1", None], "expected a whole number"),
    (typed, "name", [1, True, None], "expected a text"),
    (typed, "mode", ["z", None], "expected 'x' or 'y'"),
    (typed, "cap", [NAN, -INF], "expected a finite number"),
    (untyped, "flag", ["false", 1], "expected true or false or null"),
    (untyped, "weight", ["1", NAN, True], "expected a finite number or null"),
    (unusual, "n", ["1"], "expected a whole number"),
    (Callable_(), "share", [2], "at most 1"),
    (functools.partial(typed, flag=False), "flag", ["no"], "true or false"),
]


@pytest.mark.parametrize(("function", "option", "values", "message"), WRONG)
def test_what_an_option_cannot_be_is_refused(
    function: Callable[..., Any], option: str, values: list[Any], message: str
) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"some_options\.{option}: .*{message}"):
            check_options("some_options", function, {option: value})


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (typed, {"flag": False, "maybe": None, "weight": 1, "share": 1, "bound": None}),
        (typed, {"maybe": True, "weight": -2.5, "share": 0, "bound": 10**400, "count": 7}),
        (typed, {"cap": INF, "mode": "y", "name": ""}),
        (untyped, {"flag": None, "weight": 2, "name": 3, "thing": "anything"}),
        (unusual, {"thing": NAN, "other": "text", "pair": [0, 1]}),
        (lambda batch, **more: None, {"anything": "goes"}),
    ],
)
def test_what_an_option_may_be(function: Callable[..., Any], options: dict[str, Any]) -> None:
    check_options("some_options", function, options)


def test_names_are_checked_beside_values() -> None:
    with pytest.raises(UnknownNameError, match=r"some_options \(of typed\) 'flog'.*'flag'"):
        check_options("some_options", typed, {"flog": True})
    with pytest.raises(UnknownNameError, match="'flag'"):
        check_options("some_options", typed, {"flag": True}, ["flag"])
