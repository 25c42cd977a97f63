"""Games for the comparison of both engines: real layouts, and everything that official files hold.

A scenario is a number; the same number gives the same game file and the same commands.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aem_gym.envs.alfworld.authoring.logic import Logic, join_grammar
from aem_gym.envs.alfworld.authoring.problem_writer import write_problem
from aem_gym.envs.alfworld.classes import TASK_TYPES
from aem_gym.envs.alfworld.game import Game
from aem_gym.envs.alfworld.generator import Combination, GameSpec, feasible, fill_layout
from aem_gym.envs.alfworld.rooms import Layout, layout
from benchmarks.alfworld.layouts import numbers, real_layout

SENTENCES = (
    "Put a heated potato, then leave",
    "place the cup - a clean one - on the shelf!",
    "Move it. It's heavy.",
    "find THE thing; look at it under 2 lamps",
    'place the "blue" cup [not the red one] on the shelf',
    "Put it in the cabinet | or the drawer.",
    "take the 1st <cup> and a knife",
)
"""Tasks in the words of people: punctuation, capitals, more than one sentence."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One game file and how to play it."""

    name: str
    content: str
    """JSON of the game file."""
    task_type: str
    dialect: str
    shuffle: bool
    seed: str
    """Names the commands, and the shuffling of numbers."""


def generated(
    seed: int, index: int, logics: Sequence[Logic], task_types: Sequence[str] = ()
) -> Scenario:
    """The scenario of a number: floorplans, task types and dialects in turn.

    In turn, a floorplan always meets the same task type, and rooms without an appliance leave
    theirs to the next. Given `task_types`, only these have their turn, each in floorplans at random
    among those that allow it.
    """
    rng = random.Random(f"{seed}/{index}")
    logic = logics[index % len(logics)]
    turn = index // len(logics)
    if task_types:
        task_type, game = _game_of(rng, task_types[turn % len(task_types)], logic.dialect)
    else:
        plans = numbers()
        task_type, game = _game(rng, _plan(rng, plans[turn % len(plans)]), turn, logic.dialect)
    problem = varied(rng, game)
    sentence = rng.choice(SENTENCES) if rng.random() < 0.1 else game.sentence
    return Scenario(
        name=f"{seed}/{index} {game.task_id}",
        content=_content(logic, problem, sentence),
        task_type=task_type,
        dialect=logic.dialect,
        shuffle=rng.random() < 0.25,
        seed=f"{seed}/{index}",
    )


def official(data: Path, seed: int) -> Iterator[Scenario]:
    """The game files of a folder, each with its own numbers and with shuffled ones."""
    from aem_gym.envs.alfworld.dataset.gamefile import read_game

    for path in sorted(data.rglob("game.tw-pddl")):
        game = read_game(path).game
        for index in range(10):
            yield Scenario(
                name=f"{path} {index}",
                content=path.read_text(),
                task_type=game.goal.task_type,
                dialect=game.dialect,
                shuffle=index % 2 == 1,
                seed=f"{seed}/{path.parent.name}/{index}",
            )


def _content(logic: Logic, problem: str, sentence: str) -> str:
    grammar = join_grammar(logic.grammar, sentence)
    game = {"pddl_domain": logic.domain, "grammar": grammar, "pddl_problem": problem}
    return json.dumps(game | {"solvable": True})


def _plan(rng: random.Random, number: int) -> Layout:
    """A floorplan of the installed package, or ours of the same number."""
    return real_layout(number) if rng.random() < 0.75 else layout(number, "full")


def _game(rng: random.Random, plan: Layout, turn: int, dialect: str) -> tuple[str, Game]:
    """A task of the type whose turn it is, or of the next one that the room allows."""
    for offset in range(len(TASK_TYPES)):
        task_type = TASK_TYPES[(turn + offset) % len(TASK_TYPES)]
        game = _task(rng, task_type, plan, dialect)
        if game:
            return task_type, game
    raise AssertionError(f"floorplan {plan.number} allows no task at all")


def _game_of(rng: random.Random, task_type: str, dialect: str) -> tuple[str, Game]:
    """A task of this type, in the first of the floorplans in random order that allows it."""
    plans = numbers()
    for number in rng.sample(plans, len(plans)):
        game = _task(rng, task_type, _plan(rng, number), dialect)
        if game:
            return task_type, game
    raise AssertionError(f"no floorplan allows {task_type}")


def _task(rng: random.Random, task_type: str, plan: Layout, dialect: str) -> Game | None:
    """A task of this type, if the room allows one."""
    pairs = feasible(task_type, plan)
    if not pairs:
        return None
    obj, target = rng.choice(pairs)
    spec = GameSpec(Combination(task_type, obj, target, plan.number), "full", rng.randrange(2**31))
    return fill_layout(spec, plan, dialect)


def varied(rng: random.Random, game: Game) -> str:
    """The game's problem with facts added and taken away, as real files have them and beyond."""
    lines = write_problem(game).split("\n")
    objects = [thing.id for thing in game.objects]
    places = [receptacle.id for receptacle in game.receptacles]
    spots = [place for place in game.location_ids[: max(len(game.location_ids) - 1, 1)]]
    vessels = [thing.id for thing in game.objects if thing.holds_things]
    doors = [receptacle.id for receptacle in game.receptacles if receptacle.openable]
    facts = [f"(opened {door})" for door in doors if rng.random() < 0.15]
    for state, chance in (("isHot", 0.03), ("isCool", 0.03), ("isClean", 0.05), ("isSliced", 0.04)):
        facts += [f"({state} {thing})" for thing in objects if rng.random() < chance]
    facts += [f"(isToggled {t.id})" for t in game.objects if t.toggleable and rng.random() < 0.1]
    for thing in rng.sample(objects, min(3, len(objects))):  # at home in two places
        facts.append(f"(inReceptacle {thing} {rng.choice(places)})")
    for _ in range(3 if vessels else 0):
        inner, outer = rng.choice(objects), rng.choice(vessels)
        facts += [f"(inReceptacleObject {inner} {outer})"] if inner != outer else []
    facts += [f"(wasInReceptacle {rng.choice(objects)} {rng.choice(places)})"]
    facts += [f"(checked {rng.choice(places)})", f"(full {rng.choice(places)})"]
    furniture = [
        f"{cls}_bar__plus_0{n}_dot_11_bar__plus_00_dot_00_bar__minus_0{n}_dot_22"
        for n, cls in enumerate(rng.choices(("Chair", "Window", "StoveKnob", "Sink"), k=5), 1)
    ]
    facts += [f"(objectAtLocation {thing} {rng.choice(spots)})" for thing in furniture]
    lines = [line for line in lines if not (_droppable(line) and rng.random() < 0.02)]
    start = lines.index("(:init") + 1
    head = lines.index("agent1 - agent") + 1
    return "\n".join(
        [
            *lines[:head],
            *(f"{thing} - object" for thing in furniture),
            *lines[head:start],
            *facts,
            *lines[start:],
        ]
    )


def _droppable(line: str) -> bool:
    return line.startswith(("(pickupable", "(openable", "(canContain", "(heatable", "(cleanable"))
