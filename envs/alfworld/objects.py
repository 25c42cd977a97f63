"""Which objects lie about in which kind of room, and how many."""

from __future__ import annotations

from collections.abc import Mapping


def _each(probability: float, classes: str) -> dict[str, float]:
    return dict.fromkeys(classes.split(), probability)


_FULL: Mapping[str, Mapping[str, float]] = {
    "Kitchen": {
        **_each(
            1.0,
            "Apple Bowl Bread ButterKnife Cup DishSponge Egg Fork Knife Lettuce Mug Pan "
            "PepperShaker Plate Pot Potato SaltShaker SoapBottle Spatula Spoon Tomato",
        ),
        **{"Kettle": 0.5, "WineBottle": 0.33, "Ladle": 0.33, "Glassbottle": 0.23},
        **{"Statue": 0.13, "Vase": 0.13, "CellPhone": 0.13, "CreditCard": 0.1},
        **{"Book": 0.07, "Pen": 0.07, "Pencil": 0.07, "SprayBottle": 0.07},
    },
    "LivingRoom": {
        **_each(1.0, "Box CreditCard KeyChain Laptop Pillow RemoteControl Statue"),
        **{"Newspaper": 0.6, "Vase": 0.6, "Watch": 0.53, "WateringCan": 0.43, "Plate": 0.33},
        **{"TissueBox": 0.3, "Book": 0.23, "CellPhone": 0.23, "Pen": 0.17, "Bowl": 0.13},
        **{"Pencil": 0.13, "Candle": 0.1},
    },
    "Bedroom": {
        **_each(1.0, "AlarmClock Book CD CellPhone CreditCard KeyChain Laptop Pen Pencil Pillow"),
        **{"Mug": 0.53, "Bowl": 0.43, "BaseballBat": 0.43, "Box": 0.4, "BasketBall": 0.37},
        **{"TennisRacket": 0.33, "Cloth": 0.17, "Statue": 0.13, "TissueBox": 0.13, "Vase": 0.1},
        **{"RemoteControl": 0.1, "Watch": 0.07},
    },
    "Bathroom": {
        **_each(1.0, "Candle Cloth HandTowel SoapBar SoapBottle SprayBottle ToiletPaper Towel"),
        **{"Plunger": 0.5, "TissueBox": 0.3, "DishSponge": 0.2},
    },
}
"""Share of the 30 floorplans of a room kind in which the class occurs (alfworld 0.4.2)."""

_SMALL: Mapping[str, Mapping[str, float]] = {
    "Kitchen": _each(0.35, "Apple Bowl Bread Cup Egg Knife Mug Pan Plate Potato Tomato"),
    "Bedroom": _each(
        0.35, "AlarmClock Book CD CellPhone CreditCard KeyChain Laptop Pen Pencil Pillow"
    ),
}


def room_objects(room: str, difficulty: str) -> Mapping[str, float]:
    """Object class -> probability that a room of this kind holds some."""
    return (_SMALL if difficulty == "small" else _FULL)[room]


COPIES = ((1, 2, 3), (0.55, 0.3, 0.15))
"""How many of a class a full-size room holds, and how often (the original makes up to three)."""
