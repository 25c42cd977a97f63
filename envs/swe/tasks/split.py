"""Which split a generated task belongs to.

`test` holds whole packages that training never sees; `eval` holds functions of the packages of
training. As there is one task for a function, no function is in two splits.
"""

from __future__ import annotations

from collections.abc import Collection

from aem_gym.seeding import derive

SPLITS = ("train", "eval", "test")
_HELD_OUT = 4
"""One package in so many is for tests."""
_EVAL = 6
"""One function in so many is for evaluation."""


def test_packages(packages: Collection[str], seed: int) -> frozenset[str]:
    """The packages that are for tests; none if there are less than three."""
    if len(packages) < 3:
        return frozenset()
    drawn = sorted(packages, key=lambda name: derive("swe", "split", seed, name))
    return frozenset(drawn[: max(1, len(drawn) // _HELD_OUT)])


def split_of(package: str, path: str, function: str, seed: int, held_out: Collection[str]) -> str:
    """The split of a function's task.

    Where no package is held out (`held_out` is empty), functions are: as many as for evaluation.
    """
    if package in held_out:
        return "test"
    drawn = derive("swe", "split", seed, package, path, function) % _EVAL
    if drawn == 0:
        return "eval"
    return "test" if drawn == 1 and not held_out else "train"
