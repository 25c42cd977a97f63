"""Writes the planning problem of a game, as the original's translator reads it."""

from __future__ import annotations

from collections.abc import Iterator

from aem_gym.envs.alfworld.classes import APPLIANCE, KNIVES, TREATMENT
from aem_gym.envs.alfworld.game import Game, GameGoal

_THING_FLAGS = (
    ("pickupable", "pickupable"),
    ("cleanable", "cleanable"),
    ("heatable", "heatable"),
    ("coolable", "coolable"),
    ("sliceable", "sliceable"),
    ("toggleable", "toggleable"),
    ("holds_things", "isReceptacleObject"),
)
"""(attribute of `Thing`, predicate)."""


def write_problem(game: Game) -> str:
    """The PDDL problem of a game; `parse_problem` gives the same game back.

    The game's sentence, id and dialect are not part of a problem. A location without a receptacle
    and without an object is lost.
    """
    lines = ["(define (problem game)", "(:domain alfred)", "(:objects", *_objects(game), ")"]
    lines += ["(:init", *_layout(game), *_things(game), *_positions(game), *_states(game), ")"]
    lines += ["(:goal (and", write_goal(game.goal), "))", ")", ""]
    return "\n".join(lines)


def _objects(game: Game) -> Iterator[str]:
    yield "agent1 - agent"
    for thing in game.objects:
        yield f"{thing.id} - object"
    for receptacle in game.receptacles:
        yield f"{receptacle.id} - receptacle"
    for place in game.location_ids:
        yield f"{place} - location"
    goal, look = game.goal, game.goal.task_type == "look_at_obj_in_light"
    # Those that the domain itself mentions must be there, whether the room has them or not.
    objects = {thing.cls for thing in game.objects} | {cls for _, cls in game.can_contain} | KNIVES
    places = {receptacle.cls for receptacle in game.receptacles} | set(APPLIANCE.values())
    places |= {cls for cls, _ in game.can_contain}
    objects |= {goal.obj, goal.target} if look else {goal.obj}
    places |= set() if look else {goal.target}
    for cls in sorted(objects - {""}):
        yield f"{cls}Type - otype"
    for cls in sorted(places - {""}):
        yield f"{cls}Type - rtype"


def _layout(game: Game) -> Iterator[str]:
    for receptacle in game.receptacles:
        if receptacle.cls:
            yield f"(receptacleType {receptacle.id} {receptacle.cls}Type)"
        yield f"(receptacleAtLocation {receptacle.id} {game.location_ids[receptacle.location]})"
        if receptacle.openable:
            yield f"(openable {receptacle.id})"
    for place, obj in sorted(game.can_contain):
        yield f"(canContain {place}Type {obj}Type)"


def _things(game: Game) -> Iterator[str]:
    for thing in game.objects:
        if thing.cls:
            yield f"(objectType {thing.id} {thing.cls}Type)"
        for attribute, predicate in _THING_FLAGS:
            if getattr(thing, attribute):
                yield f"({predicate} {thing.id})"


def _positions(game: Game) -> Iterator[str]:
    ids = [thing.id for thing in game.objects]
    yield f"(atLocation agent1 {game.location_ids[game.start]})"
    for receptacle, contents in zip(game.receptacles, game.contents, strict=True):
        for index in contents:
            yield f"(inReceptacle {ids[index]} {receptacle.id})"
    for outer, inside in zip(ids, game.inside, strict=False):
        for index in inside:
            yield f"(inReceptacleObject {ids[index]} {outer})"
    for index, place in sorted(game.object_locations):
        yield f"(objectAtLocation {ids[index]} {game.location_ids[place]})"


def _states(game: Game) -> Iterator[str]:
    for index in sorted(game.opened):
        yield f"(opened {game.receptacles[index].id})"
    states = (
        ("isToggled", game.toggled),
        ("isClean", game.clean),
        ("isHot", game.hot),
        ("isCool", game.cool),
        ("isSliced", game.sliced),
    )
    for predicate, indices in states:
        for index in sorted(indices):
            yield f"({predicate} {game.objects[index].id})"


def write_goal(goal: GameGoal) -> str:
    """The goal as PDDL, in the original's words."""
    is_obj, is_target = f"(objectType ?o {goal.obj}Type)", f"(receptacleType ?r {goal.target}Type)"
    if goal.task_type == "look_at_obj_in_light":
        return (
            "(exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and "
            f"(objectType ?ot {goal.target}Type) (toggleable ?ot) (isToggled ?ot) "
            "(receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))\n"
            f"(exists (?o - object ?a - agent) (and {is_obj} (holds ?a ?o)))"
        )
    if goal.task_type == "pick_two_obj_and_place":
        first, second = (is_obj.replace("?o", f"?o{number}") for number in (1, 2))
        return (
            f"(exists (?r - receptacle) (exists (?o1 - object) (and {first} {is_target} "
            f"(inReceptacle ?o1 ?r) (exists (?o2 - object) (and (not (= ?o1 ?o2)) {second} "
            f"{is_target} (inReceptacle ?o2 ?r))))))"
        )
    treated = {
        "": "",
        "clean": "(cleanable ?o) (isClean ?o) ",
        "heat": "(heatable ?o) (isHot ?o) ",
        "cool": "(coolable ?o) (isCool ?o) ",
    }[TREATMENT.get(goal.task_type, "")]
    return (
        f"(exists (?r - receptacle) (exists (?o - object) (and {treated}{is_obj} {is_target} "
        "(inReceptacle ?o ?r))))"
    )
