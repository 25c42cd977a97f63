"""What kinds of things there are and what can be done with them.

The tables restate facts of the original's class lists (alfworld 0.4.2, `gen/constants.py`):
which receptacle holds what, and which objects can be heated, cooled, cleaned, sliced, toggled.
Names are the original's (`SinkBasin`); what is printed is the lower-case form.
"""

from __future__ import annotations

from collections.abc import Mapping

TASK_TYPES: tuple[str, ...] = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
"""The six task types, in the order in which results are published."""


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TABLE = _set(
    "AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle CellPhone "
    "Cloth CreditCard Cup DishSponge Egg Fork Glassbottle HandTowel Kettle KeyChain Knife Ladle "
    "Laptop Lettuce Mug Newspaper Pan PaperTowel Pen Pencil PepperShaker Plate Pot Potato "
    "RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle Statue TennisRacket "
    "TissueBox ToiletPaper ToiletPaperRoll Tomato Vase Watch WateringCan WineBottle"
)
_SEAT = _set(
    "BasketBall Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"
)
_DRESSER = _set(
    "AlarmClock BasketBall Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup Glassbottle "
    "KeyChain Laptop Mug Newspaper Pen Pencil Plate RemoteControl SprayBottle Statue TennisRacket "
    "TissueBox ToiletPaper ToiletPaperRoll Vase Watch WateringCan WineBottle"
)

CAN_CONTAIN: Mapping[str, frozenset[str]] = {
    "ArmChair": _SEAT,
    "BathtubBasin": _set("Cloth DishSponge HandTowel SoapBar"),
    "Bed": _set("BaseballBat BasketBall Book CellPhone Laptop Newspaper Pillow TennisRacket"),
    "Cabinet": _set(
        "Book Bowl Box CD Candle Cloth Cup DishSponge Glassbottle HandTowel Kettle Ladle Mug "
        "Newspaper Pan PepperShaker Plate Plunger Pot SaltShaker SoapBar SoapBottle SprayBottle "
        "TissueBox ToiletPaper ToiletPaperRoll Vase WateringCan WineBottle"
    ),
    "Cart": _set(
        "Candle Cloth DishSponge HandTowel Mug PaperTowel Plunger SoapBar SoapBottle SprayBottle "
        "Statue TissueBox ToiletPaper ToiletPaperRoll Vase"
    ),
    "CoffeeMachine": _set("Mug"),
    "CoffeeTable": _TABLE,
    "CounterTop": _TABLE,
    "Desk": _DRESSER | {"SoapBottle"},
    "DiningTable": _TABLE,
    "Drawer": _set(
        "Book ButterKnife CD Candle CellPhone Cloth CreditCard DishSponge Fork HandTowel KeyChain "
        "Knife Ladle Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker SoapBar SoapBottle "
        "Spatula Spoon SprayBottle TissueBox ToiletPaper ToiletPaperRoll Watch WateringCan"
    ),
    "Dresser": _DRESSER,
    "Fridge": _set(
        "Apple Bowl Bread Cup Egg Glassbottle Lettuce Mug Pan Plate Pot Potato Tomato WineBottle"
    ),
    "GarbageCan": _set(
        "Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper PaperTowel Pen Pencil "
        "Potato SoapBar SoapBottle SprayBottle TissueBox ToiletPaper ToiletPaperRoll Tomato "
        "WineBottle"
    ),
    "HandTowelHolder": _set("HandTowel"),
    "LaundryHamper": _set("Cloth"),
    "Microwave": _set("Apple Bowl Bread Cup Egg Glassbottle Mug Plate Potato Tomato"),
    "Ottoman": _SEAT,
    "Safe": _set("CD CellPhone CreditCard KeyChain Statue Vase Watch"),
    "Shelf": _set(
        "AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup DishSponge Glassbottle "
        "HandTowel Kettle KeyChain Mug Newspaper PaperTowel Pen Pencil PepperShaker Plate Pot "
        "RemoteControl SaltShaker SoapBar SoapBottle SprayBottle Statue TissueBox ToiletPaper "
        "ToiletPaperRoll Vase Watch WateringCan WineBottle"
    ),
    "SideTable": _TABLE,
    "SinkBasin": _set(
        "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Glassbottle HandTowel Kettle Knife "
        "Ladle Lettuce Mug Pan Plate Pot Potato SoapBar Spatula Spoon Tomato"
    ),
    "Sofa": _SEAT,
    "StoveBurner": _set("Kettle Pan Pot"),
    "Toaster": frozenset(),
    "Toilet": _set(
        "Candle Cloth DishSponge HandTowel Newspaper PaperTowel SoapBar SoapBottle SprayBottle "
        "TissueBox ToiletPaper ToiletPaperRoll"
    ),
    "ToiletPaperHanger": _set("ToiletPaper ToiletPaperRoll"),
    "TowelHolder": _set("Towel"),
    "TVStand": _set("TissueBox"),
}
"""Receptacle class -> the object classes that may be put into it."""

HEATABLE = _set("Apple Bread Cup Egg Mug Plate Potato Tomato")
COOLABLE = HEATABLE | _set("Bowl Lettuce Pan Pot WineBottle")
CLEANABLE = _set(
    "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate "
    "Pot Potato SoapBar Spatula Spoon Tomato"
)
SLICEABLE = _set("Apple Bread Egg Lettuce Potato Tomato")
TOGGLEABLE = _set("DeskLamp FloorLamp")
MOVABLE_RECEPTACLES = _set("Bowl Box Cup Mug Pan Plate Pot")
KNIVES = _set("Knife ButterKnife")
OPENABLE = _set("Cabinet Drawer Fridge Microwave Safe")
"""Receptacle classes that have a door. Of cabinets and drawers, not every one can be opened."""

APPLIANCE: Mapping[str, str] = {"clean": "SinkBasin", "heat": "Microwave", "cool": "Fridge"}
"""Treatment -> the receptacle class that does it."""
TREATMENT: Mapping[str, str] = {
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
}
"""Task type -> what has to be done to the object first."""
TREATABLE: Mapping[str, frozenset[str]] = {
    "clean": CLEANABLE,
    "heat": HEATABLE,
    "cool": COOLABLE,
}

OBJECT_CLASSES: tuple[str, ...] = tuple(
    sorted(frozenset().union(*CAN_CONTAIN.values()) | TOGGLEABLE)
)
RECEPTACLE_CLASSES: tuple[str, ...] = tuple(sorted(CAN_CONTAIN))

PLACE_WEIGHT: Mapping[str, float] = {
    "Cabinet": 0.5,
    "Drawer": 0.5,
    "Microwave": 0.7,
    "GarbageCan": 0.7,
    "Safe": 0.7,
    "Shelf": 1.5,
    "SinkBasin": 2.0,
    "CoffeeMachine": 1.0,
    "StoveBurner": 1.5,
    "Toilet": 2.0,
    "BathtubBasin": 1.0,
    "Fridge": 2.5,
}
"""How often things lie there, per receptacle, relative to `USUAL_WEIGHT` for the classes not
listed (tables and other open surfaces). Common sense, shared by the generator and the oracle."""
USUAL_WEIGHT = 4.0


def place_weight(receptacle: str, obj: str) -> float:
    """How likely an object of class `obj` lies in one receptacle of a class (0: cannot)."""
    if obj in TOGGLEABLE:
        return float(receptacle in LAMP_STANDS)
    if obj not in CAN_CONTAIN.get(receptacle, ()):
        return 0.0
    return PLACE_WEIGHT.get(receptacle, USUAL_WEIGHT)


LAMP_STANDS = ("Desk", "SideTable", "Dresser", "Shelf", "CoffeeTable", "DiningTable", "TVStand")
"""What a lamp may stand on, most usual first."""
