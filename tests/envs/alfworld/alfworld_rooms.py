"""A small hand-made game that shows every rule, for the tests."""

from __future__ import annotations

from aem_gym.envs.alfworld.classes import CAN_CONTAIN
from aem_gym.envs.alfworld.game import Game, GameGoal, Receptacle, Thing

SINK, TABLE, MACHINE, FRIDGE, MICROWAVE = range(5)
KNIFE, MUG, POTATO, LAMP = range(4)


def kitchen(
    task_type: str = "pick_heat_then_place_in_recep",
    obj: str = "Potato",
    target: str = "Fridge",
    dialect: str = "0.4",
    start: int = 4,
) -> Game:
    """Five receptacles at four locations: the coffee machine stands on the counter."""
    receptacles = (
        Receptacle("Sink_bar_1_bar_SinkBasin", "SinkBasin", "sinkbasin 1", 0),
        Receptacle("b", "CounterTop", "countertop 1", 1),
        Receptacle("c", "CoffeeMachine", "coffeemachine 1", 1),
        Receptacle("d", "Fridge", "fridge 1", 2, openable=True),
        Receptacle("e", "Microwave", "microwave 1", 3, openable=True),
    )
    return Game(
        task_id="test",
        goal=GameGoal(task_type, obj, target),
        sentence="put a hot potato in fridge",
        objects=(
            Thing("k", "Knife", "knife 1", cleanable=True),
            Thing("m", "Mug", "mug 1", cleanable=True, heatable=True, holds_things=True),
            Thing(
                "p",
                "Potato",
                "potato 1",
                cleanable=True,
                heatable=True,
                coolable=True,
                sliceable=True,
            ),
            Thing("z", "DeskLamp", "desklamp 1", pickupable=False, toggleable=True),
        ),
        receptacles=receptacles,
        locations=("loc 5", "loc 4", "loc 3", "loc 2", "loc 1"),
        start=start,
        contents=((), (KNIFE, MUG, LAMP), (), (POTATO,), ()),
        can_contain=frozenset((r.cls, o) for r in receptacles for o in CAN_CONTAIN[r.cls]),
        object_locations=frozenset({(KNIFE, 1), (MUG, 1), (LAMP, 1), (POTATO, 2)}),
        dialect=dialect,
    )
