"""The real layouts: the 120 floorplans that the alfworld package ships, as our `Layout`s."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from aem_gym.envs.alfworld.classes import CAN_CONTAIN, LAMP_STANDS, OPENABLE
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.game import Receptacle, printed_names
from aem_gym.envs.alfworld.rooms import ROOMS, Layout, room_of
from aem_gym.errors import MissingDependencyError

_SIGNS: Mapping[str, str] = {"|": "_bar_", "+": "_plus_", "-": "_minus_", ".": "_dot_"}
_SEVERAL: Mapping[str, int] = {"StoveBurner": 4}
_GRID = 0.25
"""Metres between the points an agent can stand on."""


def numbers() -> list[int]:
    """The floorplans there are."""
    return [number for plans in ROOMS.values() for number in plans]


def folder() -> Path:
    """Where the installed package keeps its layouts. Found without importing it."""
    spec = importlib.util.find_spec("alfworld")
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    if not places:
        raise MissingDependencyError("alfworld", "alfworld", "reading the real layouts")
    return places[0] / "gen" / "layouts"


def poses(number: int) -> dict[str, tuple[float, ...]]:
    """Receptacle -> where one stands to use it, of one floorplan."""
    text = (folder() / f"FloorPlan{number}-openable.json").read_text()
    return {name: tuple(pose) for name, pose in json.loads(text).items()}


def object_classes(number: int) -> list[str]:
    """The classes of what is in a floorplan (furniture among them)."""
    names: list[str] = json.loads((folder() / f"FloorPlan{number}-objects.json").read_text())
    return names


@cache
def real_layout(number: int, furnished: bool = False) -> Layout:
    """A floorplan as it is; where doors are, and what lamps stand on, is not shipped: drawn.

    Args:
        number: of the floorplan.
        furnished: also what a floorplan has according to its list of classes, but not according to
            its list of poses (coffee machines, stove burners, ...), each at a place of its own.
    """
    room = room_of(number)
    assert room is not None
    draws = Draws("alfworld", "real layout", number)
    found = {name: pose for name, pose in poses(number).items() if _class(name) in CAN_CONTAIN}
    if furnished:
        missing = set(object_classes(number)) & set(CAN_CONTAIN) - {_class(name) for name in found}
        for index, cls in enumerate(sorted(missing)):
            for copy in range(_SEVERAL.get(cls, 1)):
                spot = f"+{index:02d}.00|+{copy:02d}.00|+00.00"
                whole = cls.removesuffix("Basin")  # a basin is a part, and named after the whole
                name = f"{cls}|{spot}" if whole == cls else f"{whole}|{spot}|{cls}"
                found[name] = (9.0, index, copy, 0.0)
    where = sorted(set(found.values()))
    ids = {name: mangled(name) for name in found}
    names = printed_names(ids.values())
    made = [
        Receptacle(
            id=ids[name],
            cls=_class(name),
            name=names[ids[name]],
            location=where.index(pose),
            openable=_class(name) in OPENABLE and draws.chance(0.9),
        )
        for name, pose in found.items()
    ]
    made.sort(key=lambda receptacle: receptacle.id.lower())
    locations = (*(_location_id(pose) for pose in where), "loc_bar_99_bar_99_bar_0_bar_30")
    lamps: list[tuple[str, int]] = []
    stands = [i for i, receptacle in enumerate(made) if receptacle.cls in LAMP_STANDS]
    if room in ("Bedroom", "LivingRoom") and stands:
        lamps = [(draws.pick(("DeskLamp", "FloorLamp")), draws.pick(stands)) for _ in range(2)]
    return Layout(number, room, "full", tuple(made), locations, len(where), tuple(lamps))


def mangled(name: str) -> str:
    """`Sink|-00.58|+00.93|+04.87|SinkBasin` as it is written in problem files."""
    return "".join(_SIGNS.get(letter, letter) for letter in name)


def _class(name: str) -> str:
    parts = name.split("|")
    return parts[4] if len(parts) > 4 else parts[0]


def _location_id(pose: tuple[float, ...]) -> str:
    x, z, rotation, horizon = pose
    numbers = (round(x / _GRID), round(z / _GRID), round(rotation / 90), round(horizon))
    return "loc" + "".join(
        f"_bar_{'_minus_' if number < 0 else ''}{abs(number)}" for number in numbers
    )
