"""Reads and writes the problem part of official game files, for tests (regular expressions)."""

from __future__ import annotations

import re

from aem_gym.envs.alfworld.constants import TREATMENT
from aem_gym.envs.alfworld.game import Game, Goal, Receptacle, Thing, printed_names
from aem_gym.envs.alfworld.generator import parse_task_id
from aem_gym.envs.alfworld.tasks import TEMPLATES

_FACT = re.compile(r"\((\w+) ([^()]+)\)")


def read_problem(problem: str, goal: Goal, sentence: str, dialect: str) -> Game:
    """The game that a PDDL problem describes."""
    facts: dict[str, list[list[str]]] = {}
    for name, arguments in _FACT.findall(
        problem[problem.index("(:init") : problem.index("(:goal")]
    ):
        facts.setdefault(name, []).append(arguments.split())

    def ones(name: str) -> set[str]:
        return {fact[0] for fact in facts.get(name, [])}

    kinds = {thing: cls.removesuffix("Type") for thing, cls in facts["objectType"]}
    receptacle_kinds = {r: cls.removesuffix("Type") for r, cls in facts["receptacleType"]}
    spots = dict(facts["receptacleAtLocation"])
    start = facts["atLocation"][0][1]
    places = sorted(
        {start, *spots.values(), *(fact[1] for fact in facts["objectAtLocation"])}, key=str.lower
    )
    names = printed_names([*kinds, *receptacle_kinds, *places])
    objects = sorted(kinds, key=str.lower)
    receptacles = sorted(spots, key=str.lower)
    flags = {
        "pickupable": "pickupable",
        "cleanable": "cleanable",
        "heatable": "heatable",
        "coolable": "coolable",
        "sliceable": "sliceable",
        "toggleable": "toggleable",
        "holds_things": "isReceptacleObject",
    }
    sets = {field: ones(predicate) for field, predicate in flags.items()}
    return Game(
        task_id="official",
        goal=goal,
        sentence=sentence,
        objects=tuple(
            Thing(o, kinds[o], names[o], **{field: o in sets[field] for field in flags})
            for o in objects
        ),
        receptacles=tuple(
            Receptacle(
                r, receptacle_kinds[r], names[r], places.index(spots[r]), r in ones("openable")
            )
            for r in receptacles
        ),
        locations=tuple(names[place] for place in places),
        start=places.index(start),
        contents=tuple(
            tuple(objects.index(o) for o, where in facts["inReceptacle"] if where == r)
            for r in receptacles
        ),
        can_contain=frozenset(
            (r.removesuffix("Type"), o.removesuffix("Type")) for r, o in facts["canContain"]
        ),
        object_locations=frozenset(
            (objects.index(o), places.index(where))
            for o, where in facts["objectAtLocation"]
            if o in kinds
        ),
        inside=tuple(
            tuple(
                sorted(
                    objects.index(i)
                    for i, outer in facts.get("inReceptacleObject", [])
                    if outer == o
                )
            )
            for o in objects
        ),
        opened=frozenset(receptacles.index(r) for r in ones("opened")),
        dialect=dialect,
        location_ids=tuple(places),
    )


def write_problem(game: Game) -> str:
    """A PDDL problem that describes a generated game."""
    objects = [thing.id for thing in game.objects]
    lines = ["(define (problem p) (:domain alfred)", "(:objects", "agent1 - agent"]
    lines += [f"{thing.id} - object" for thing in game.objects]
    lines += [f"{receptacle.id} - receptacle" for receptacle in game.receptacles]
    lines += [f"{place} - location" for place in game.location_ids]
    kinds = {t.cls for t in game.objects} | {cls for _, cls in game.can_contain} | {game.goal.obj}
    lines += [f"{cls}Type - otype" for cls in sorted(kinds)]
    machines = {"SinkBasin", "Microwave", "Fridge"}
    knives = {"Knife", "ButterKnife"} - kinds
    lines += [f"{cls}Type - otype" for cls in sorted(knives)]
    rtypes = {r.cls for r in game.receptacles} | machines
    lines += [f"{cls}Type - rtype" for cls in sorted(rtypes)]
    lines += [")", "(:init"]
    lines += [f"(receptacleType {r.id} {r.cls}Type)" for r in game.receptacles]
    lines += [f"(openable {r.id})" for r in game.receptacles if r.openable]
    lines += [
        f"(receptacleAtLocation {r.id} {game.location_ids[r.location]})" for r in game.receptacles
    ]
    lines += [f"(opened {game.receptacles[r].id})" for r in sorted(game.opened)]
    lines += [f"(canContain {r}Type {o}Type)" for r, o in sorted(game.can_contain)]
    for thing in game.objects:
        lines.append(f"(objectType {thing.id} {thing.cls}Type)")
        for predicate in ("pickupable", "cleanable", "heatable", "coolable", "sliceable"):
            if getattr(thing, predicate):
                lines.append(f"({predicate} {thing.id})")
        lines += [f"(toggleable {thing.id})"] * thing.toggleable
        lines += [f"(isReceptacleObject {thing.id})"] * thing.holds_things
    for receptacle, contents in zip(game.receptacles, game.contents, strict=True):
        lines += [f"(inReceptacle {objects[o]} {receptacle.id})" for o in contents]
    for outer, inner in zip(objects, game.inside, strict=False):
        lines += [f"(inReceptacleObject {objects[i]} {outer})" for i in inner]
    lines += [
        f"(objectAtLocation {objects[o]} {game.location_ids[place]})"
        for o, place in sorted(game.object_locations)
    ]
    lines.append(f"(atLocation agent1 {game.location_ids[game.start]})")
    lines += [")", f"(:goal (and {_goal(game.goal)}))", ")"]
    return "\n".join(lines)


def _goal(goal: Goal) -> str:
    is_obj, is_target = f"(objectType ?o {goal.obj}Type)", f"(receptacleType ?r {goal.target}Type)"
    if goal.task_type == "look_at_obj_in_light":
        return (
            "(exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and "
            f"(objectType ?ot {goal.target}Type) (toggleable ?ot) (isToggled ?ot) "
            "(receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))"
            f"(exists (?o - object ?a - agent) (and {is_obj} (holds ?a ?o)))"
        )
    if goal.task_type == "pick_two_obj_and_place":
        first, second = (is_obj.replace("?o", f"?o{n}") for n in (1, 2))
        return (
            f"(exists (?r - receptacle) (exists (?o1 - object) (and {first} {is_target} "
            f"(inReceptacle ?o1 ?r) (exists (?o2 - object) (and (not (= ?o1 ?o2)) {second} "
            "(inReceptacle ?o2 ?r))))))"
        )
    extra = {
        "": "",
        "clean": "(cleanable ?o) (isClean ?o)",
        "heat": "(heatable ?o) (isHot ?o)",
        "cool": "(coolable ?o) (isCool ?o)",
    }[TREATMENT.get(goal.task_type, "")]
    return (
        f"(exists (?r - receptacle) (exists (?o - object) (and {extra} (inReceptacle ?o ?r) "
        f"{is_obj} {is_target})))"
    )


__all__ = ["TEMPLATES", "parse_task_id", "read_problem", "write_problem"]
