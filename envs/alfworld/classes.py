"""The classes of things, and what can be done with each.

Names are the original's (`SinkBasin`); what is printed is the lower-case form. The tables are in
`classes.json`: which receptacle holds what, and which objects can be heated, cooled, cleaned,
sliced and toggled (facts of alfworld 0.4.2's class lists).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TASK_TYPES: tuple[str, ...] = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
"""The six task types, in the order in which results are published."""
SPLITS = ("train", "valid_seen", "valid_unseen")

_TABLES: Mapping[str, Any] = json.loads(Path(__file__).with_name("classes.json").read_text())

CAN_CONTAIN: Mapping[str, frozenset[str]] = {
    place: frozenset(objects) for place, objects in _TABLES["can_contain"].items()
}
"""Receptacle class -> the object classes that may be put into it."""
AFFORDANCES: Mapping[str, frozenset[str]] = {
    "cleanable": frozenset(_TABLES["cleanable"]),
    "heatable": frozenset(_TABLES["heatable"]),
    "coolable": frozenset(_TABLES["coolable"]),
    "sliceable": frozenset(_TABLES["sliceable"]),
    "toggleable": frozenset(_TABLES["toggleable"]),
    "holds_things": frozenset(_TABLES["movable_receptacles"]),
}
"""Attribute of a `Thing` -> the object classes that have it."""
TOGGLEABLE, KNIVES = AFFORDANCES["toggleable"], frozenset[str](_TABLES["knives"])
OPENABLE = frozenset[str](_TABLES["openable"])
"""Receptacle classes that have a door. Of cabinets and drawers, not every one can be opened."""
LAMP_STANDS: tuple[str, ...] = tuple(_TABLES["lamp_stands"])
"""What a lamp may stand on, most usual first."""

APPLIANCE: Mapping[str, str] = {"clean": "SinkBasin", "heat": "Microwave", "cool": "Fridge"}
"""Treatment -> the receptacle class that does it."""
TREATMENT: Mapping[str, str] = {
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
}
"""Task type -> what has to be done to the object first."""
TREATABLE: Mapping[str, frozenset[str]] = {
    treatment: AFFORDANCES[f"{treatment}able"] for treatment in APPLIANCE
}
OBJECT_CLASSES: tuple[str, ...] = tuple(
    sorted(frozenset().union(*CAN_CONTAIN.values()) | TOGGLEABLE)
)
RECEPTACLE_CLASSES: tuple[str, ...] = tuple(sorted(CAN_CONTAIN))

PLACE_WEIGHT: Mapping[str, float] = _TABLES["place_weight"]
"""How often things lie there, per receptacle, relative to `USUAL_WEIGHT` for the classes not
listed (tables and other open surfaces). Shared by the generator and the oracle."""
USUAL_WEIGHT: float = _TABLES["usual_weight"]
