"""A game: everything about a scene and its task that does not change while it is played.

`Engine` plays any `Game`, generated or read from an official file. Things are referred to by their
index; objects and receptacles are sorted by identifier, as the original lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from sys import intern

import numpy as np

GOALS = ("template", "human")
"""The task in the words of the game file, or in those of a person."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object that can lie in a receptacle."""

    id: str
    """`Class_bar_x_bar_y_bar_z`, as in the original's problem files."""
    cls: str
    name: str
    """What is printed: `potato 2`."""
    pickupable: bool = True
    cleanable: bool = False
    heatable: bool = False
    coolable: bool = False
    sliceable: bool = False
    toggleable: bool = False
    holds_things: bool = False
    """A bowl, cup, ...: `examine` lists its contents."""


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A place for objects. Several may share one location."""

    id: str
    cls: str
    name: str
    location: int
    openable: bool = False


@dataclass(frozen=True, slots=True)
class GameGoal:
    task_type: str
    obj: str
    """Class of the object."""
    target: str
    """Class of the receptacle, or of the lamp in `look_at_obj_in_light`."""


@dataclass(frozen=True, slots=True)
class Game:
    """A scene, its first state, and a goal."""

    task_id: str
    goal: GameGoal
    sentence: str
    """The task in words, without the final full stop."""
    objects: tuple[Thing, ...]
    receptacles: tuple[Receptacle, ...]
    locations: tuple[str, ...]
    """Printed names (`loc 15`); the older dialect shows them."""
    start: int
    """Location of the agent at first."""
    contents: tuple[tuple[int, ...], ...]
    """Per receptacle, the objects in it, in ascending order. An object may be in more than one."""
    can_contain: frozenset[tuple[str, str]]
    """Pairs (receptacle class, object class)."""
    object_locations: frozenset[tuple[int, int]] = frozenset()
    """Pairs (object, location)."""
    inside: tuple[tuple[int, ...], ...] = ()
    """Per object, the objects inside it (empty: none anywhere). Only `examine` uses them."""
    opened: frozenset[int] = frozenset()
    toggled: frozenset[int] = frozenset()
    clean: frozenset[int] = frozenset()
    hot: frozenset[int] = frozenset()
    cool: frozenset[int] = frozenset()
    sliced: frozenset[int] = frozenset()
    dialect: str = "0.4"
    location_ids: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class LoadedGame:
    """A game to play, and what else its file says."""

    game: Game
    path: Path | None = None
    """Its file; None for a generated game."""
    walkthrough: tuple[str, ...] = ()
    """Commands that win; empty where the file has none."""
    solvable: bool | None = None
    """As the file says; None if it does not."""


def printed_names(ids: Iterable[str]) -> dict[str, str]:
    """Identifier -> printed name: the class, and a number counted down in sorted order."""
    return numbered(sorted(ids, key=str.lower))


def numbered(ids: Sequence[str]) -> dict[str, str]:
    """Printed names, numbers counted down in the given order; without `_bar_` there is none."""
    counts = Counter(_base(identifier) for identifier in ids)
    names: dict[str, str] = {}
    for identifier in ids:
        base = _base(identifier)
        if "_bar_" not in identifier:
            names[identifier] = base
            continue
        names[identifier] = intern(f"{base} {counts[base]}")  # thousands of games share few names
        counts[base] -= 1
    return names


def _base(identifier: str) -> str:
    """The text before the first `_bar_`; a basin is named after its furniture (`sinkbasin`)."""
    lower = identifier.lower()
    head, bar, _ = lower.partition("_bar_")
    return head + "basin" if bar and "basin" in lower else head


def shuffle_numbers(game: Game, rng: np.random.Generator) -> Game:
    """The game with the numbers of each class dealt out again (`potato 1` and `potato 2` swap)."""
    ids = [thing.id for thing in game.objects] + [place.id for place in game.receptacles]
    ids += game.location_ids
    return renamed(game, numbered([ids[i] for i in rng.permutation(len(ids)).tolist()]))


def renamed(game: Game, names: Mapping[str, str]) -> Game:
    """The game with other printed names, by identifier."""
    return replace(
        game,
        objects=tuple(replace(thing, name=names[thing.id]) for thing in game.objects),
        receptacles=tuple(replace(place, name=names[place.id]) for place in game.receptacles),
        locations=tuple(names[place] for place in game.location_ids),
    )
