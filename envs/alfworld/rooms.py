"""Floorplans: which furniture and which objects a room has.

Numbered as the original's 120 floorplans. Each number has one fixed layout, drawn once from its
own seed. The statistics of full-size rooms (`rooms.json`) were counted over the layouts shipped
with alfworld 0.4.2; the small rooms are made for learning on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from aem_gym.envs.alfworld.classes import (
    CAN_CONTAIN,
    LAMP_STANDS,
    OPENABLE,
    PLACE_WEIGHT,
    TOGGLEABLE,
    USUAL_WEIGHT,
)
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.game import Receptacle, printed_names

ROOMS: Mapping[str, range] = {
    "Kitchen": range(1, 31),
    "LivingRoom": range(201, 231),
    "Bedroom": range(301, 331),
    "Bathroom": range(401, 431),
}
SMALL_ROOMS = ("Kitchen", "Bedroom")
"""With these two alone, all six task types occur."""
DIFFICULTIES = ("full", "small")

_TABLES: Mapping[str, Any] = json.loads(Path(__file__).with_name("rooms.json").read_text())
"""`full`: room -> receptacle class -> (how many, in how many of 30 floorplans; none in the others).
`small`: room -> what is always there, and of which classes two to four more are.
`objects`: difficulty -> room -> object class -> share of the floorplans in which it occurs."""
COPIES = ((1, 2, 3), (0.55, 0.3, 0.15))
"""How many of an object class a full-size room holds, and how often."""
_SHARED = 0.1
"""How often a receptacle stands at the same location as the one before (2 of 20 in a real game)."""
_DOORLESS = 0.2
"""How often a cabinet or drawer of a full-size room cannot be opened (it lies open)."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The furniture of one floorplan."""

    number: int
    room: str
    difficulty: str
    receptacles: tuple[Receptacle, ...]
    location_ids: tuple[str, ...]
    start: int
    lamps: tuple[tuple[str, int], ...]
    """(lamp class, receptacle it stands on)."""

    def classes(self) -> frozenset[str]:
        return frozenset(receptacle.cls for receptacle in self.receptacles)


def room_of(number: int) -> str | None:
    return next((room for room, numbers in ROOMS.items() if number in numbers), None)


def room_objects(room: str, difficulty: str) -> Mapping[str, float]:
    """Object class -> probability that a room holds some."""
    objects: Mapping[str, float] = _TABLES["objects"][difficulty][room]
    return objects


@cache
def place_weight(receptacle: str, obj: str) -> float:
    """How likely an object of class `obj` lies in one receptacle of a class (0: cannot)."""
    if obj in TOGGLEABLE:
        return float(receptacle in LAMP_STANDS)
    if obj not in CAN_CONTAIN.get(receptacle, ()):
        return 0.0
    return PLACE_WEIGHT.get(receptacle, USUAL_WEIGHT)


@lru_cache(maxsize=256)
def layout(number: int, difficulty: str) -> Layout:
    """The layout of a floorplan: always the same for the same number and difficulty."""
    room = room_of(number) or "Kitchen"
    draws = Draws("alfworld", "layout", difficulty, number)
    small = difficulty == "small"
    classes = _small_classes(draws, room) if small else _full_classes(draws, room)
    ids = [receptacle_id(cls, index, draws) for index, cls in enumerate(classes)]
    names = printed_names(ids)
    places = _locations(draws, len(classes), 0.0 if small else _SHARED)
    made = []
    for identifier, cls, place in zip(ids, classes, places, strict=True):
        doorless = not small and cls in ("Cabinet", "Drawer") and draws.chance(_DOORLESS)
        openable = cls in OPENABLE and not doorless
        made.append(Receptacle(identifier, cls, names[identifier], place, openable))
    made.sort(key=lambda receptacle: receptacle.id.lower())
    count = max(places) + 2
    location_ids = tuple(_location_id(index, draws) for index in range(count))
    lamps = _lamps(draws, room, [receptacle.cls for receptacle in made])
    return Layout(number, room, difficulty, tuple(made), location_ids, count - 1, lamps)


def _small_classes(draws: Draws, room: str) -> list[str]:
    table = _TABLES["small"][room]
    return [*table["always"], *draws.sample(table["extra"], 2 + draws.below(3))]


def _full_classes(draws: Draws, room: str) -> list[str]:
    classes: list[str] = []
    for cls, counts in _TABLES["full"][room].items():
        drawn = draws.below(30)
        for count, plans in counts:
            drawn -= plans
            if drawn < 0:
                classes += [cls] * count
                break
    return classes


def _locations(draws: Draws, count: int, shared: float) -> list[int]:
    places = [0]
    for _ in range(count - 1):
        places.append(places[-1] + (not draws.chance(shared)))
    return places


def _lamps(draws: Draws, room: str, classes: list[str]) -> tuple[tuple[str, int], ...]:
    if room not in ("Bedroom", "LivingRoom"):
        return ()
    lamp = "DeskLamp" if room == "Bedroom" or draws.chance(0.3) else "FloorLamp"
    stands = [index for cls in LAMP_STANDS for index, c in enumerate(classes) if c == cls]
    return ((lamp, stands[0] if draws.chance(0.7) else draws.pick(stands)),) if stands else ()


def receptacle_id(cls: str, index: int, draws: Draws) -> str:
    """An identifier in the original's form; basins are part of their furniture."""
    if cls.endswith("Basin"):
        return f"{thing_id(cls.removesuffix('Basin'), index, draws)}_bar_{cls}"
    return thing_id(cls, index, draws)


def thing_id(cls: str, index: int, draws: Draws) -> str:
    """`Class_bar_x_bar_y_bar_z` with made-up coordinates; `index` keeps it unique."""
    x, z = draws.below(400) - 200, draws.below(400) - 200
    return f"{cls}{_coordinate(x)}{_coordinate(index)}{_coordinate(z)}"


def _coordinate(hundredths: int) -> str:
    sign = "minus" if hundredths < 0 else "plus"
    whole, part = divmod(abs(hundredths), 100)
    return f"_bar__{sign}_{whole:02d}_dot_{part:02d}"


def _location_id(index: int, draws: Draws) -> str:
    return (
        f"loc_bar_{index}_bar_{draws.below(12)}_bar_{draws.below(4)}_bar_{draws.pick((30, 45, 60))}"
    )
