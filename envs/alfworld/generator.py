"""The generator: which tasks exist, the split of each, and the game of a task.

`valid_unseen` has floorplans that training never sees, as in the original; `valid_seen` has new
combinations of task type, object, receptacle and floorplan in rooms of training, where the original
has known ones with things in other places; `train` has neither. Membership depends on the
combination's name alone, so the splits never overlap. A combination and a trial number make a game.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from aem_gym.envs.alfworld.classes import (
    AFFORDANCES,
    APPLIANCE,
    CAN_CONTAIN,
    TOGGLEABLE,
    TREATABLE,
    TREATMENT,
)
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.game import Game, GameGoal, LoadedGame, Thing, printed_names
from aem_gym.envs.alfworld.rooms import (
    COPIES,
    ROOMS,
    SMALL_ROOMS,
    Layout,
    layout,
    place_weight,
    room_objects,
    room_of,
    thing_id,
)
from aem_gym.envs.alfworld.text import TEMPLATES
from aem_gym.errors import ConfigError
from aem_gym.io import digest_files
from aem_gym.seeding import derive

_PUBLISHED_UNSEEN = frozenset({10, 219, 308, 424})
_HELD_OUT_FIRST = 6
"""The original's constants list the first six floorplans of each room as test scenes."""
_SEEN_ONE_IN = 12

_TASK_ROOMS: Mapping[str, tuple[str, ...]] = {
    "pick_and_place_simple": tuple(ROOMS),
    "look_at_obj_in_light": ("LivingRoom", "Bedroom"),
    "pick_clean_then_place_in_recep": ("Kitchen", "Bathroom"),
    "pick_heat_then_place_in_recep": ("Kitchen",),
    "pick_cool_then_place_in_recep": ("Kitchen",),
    "pick_two_obj_and_place": tuple(ROOMS),
}


@dataclass(frozen=True, slots=True)
class Combination:
    """A kind of task in one room: the first half of a task id."""

    task_type: str
    obj: str
    target: str
    floorplan: int

    @property
    def name(self) -> str:
        """The original's folder name: `<type>-<Object>-None-<Receptacle or lamp>-<floorplan>`."""
        return f"{self.task_type}-{self.obj}-None-{self.target}-{self.floorplan}"


def is_held_out(floorplan: int) -> bool:
    """Whether a floorplan belongs to `valid_unseen`."""
    return floorplan % 100 <= _HELD_OUT_FIRST or floorplan in _PUBLISHED_UNSEEN


def split_of(combination: Combination) -> str:
    if is_held_out(combination.floorplan):
        return "valid_unseen"
    seen = derive("alfworld", "split", combination.name) % _SEEN_ONE_IN == 0
    return "valid_seen" if seen else "train"


def floorplans(split: str, task_type: str, difficulty: str) -> list[int]:
    """The floorplans in which a split may set a task of this type."""
    small, unseen = difficulty == "small", split == "valid_unseen"
    rooms = [room for room in _TASK_ROOMS[task_type] if not small or room in SMALL_ROOMS]
    return [number for room in rooms for number in ROOMS[room] if is_held_out(number) == unseen]


@lru_cache(maxsize=512)
def combinations(split: str, task_type: str, difficulty: str, plan: int) -> Sequence[Combination]:
    """All tasks of a type that a split may set in one floorplan (may be none)."""
    pairs = feasible(task_type, layout(plan, difficulty))
    found = (Combination(task_type, obj, target, plan) for obj, target in pairs)
    return tuple(combination for combination in found if split_of(combination) == split)


@lru_cache(maxsize=4096)
def exists(combination: Combination, difficulty: str) -> bool:
    room, rooms = room_of(combination.floorplan), _TASK_ROOMS.get(combination.task_type, ())
    if room not in rooms or (difficulty == "small" and room not in SMALL_ROOMS):
        return False
    plan = layout(combination.floorplan, difficulty)
    return (combination.obj, combination.target) in feasible(combination.task_type, plan)


def feasible(task_type: str, plan: Layout) -> list[tuple[str, str]]:
    """(object class, receptacle or lamp class) pairs that can be solved in a room."""
    objects = sorted(room_objects(plan.room, plan.difficulty))
    present = sorted(plan.classes())
    if task_type == "look_at_obj_in_light":
        lamps = sorted({lamp for lamp, _ in plan.lamps})
        return [(obj, lamp) for obj in objects for lamp in lamps if _places(obj, present)]
    treatment = TREATMENT.get(task_type)
    if treatment and APPLIANCE[treatment] not in present:
        return []
    objects = [obj for obj in objects if not treatment or obj in TREATABLE[treatment]]
    targets = [cls for cls in present if cls != APPLIANCE.get(treatment or "")]
    pairs = [(obj, target) for obj in objects for target in targets if obj in CAN_CONTAIN[target]]
    # The object needs another place, too, to be taken from.
    return [(obj, target) for obj, target in pairs if len(_places(obj, present)) > 1]


def _places(obj: str, present: Sequence[str]) -> list[str]:
    return [cls for cls in present if obj in CAN_CONTAIN[cls]]


_TASK_ID = re.compile(r"(\w+)-(\w+)-None-(\w+)-(\d{1,3})/trial_(small_)?(\d{1,10})")


@dataclass(frozen=True, slots=True)
class GameSpec:
    """All that a generated episode depends on; `task_id` is its written form."""

    combination: Combination
    difficulty: str
    trial: int

    @property
    def task_id(self) -> str:
        mark = "small_" if self.difficulty == "small" else ""
        return f"{self.combination.name}/trial_{mark}{self.trial}"


def parse_task_id(task_id: str) -> GameSpec:
    """The inverse of `GameSpec.task_id`. Raises ConfigError if there is no such task."""
    match = _TASK_ID.fullmatch(task_id)
    if match:
        task_type, obj, target, number, small, trial = match.groups()
        combination = Combination(task_type, obj, target, int(number))
        difficulty = "small" if small else "full"
        if exists(combination, difficulty):
            return GameSpec(combination, difficulty, int(trial))
    raise ConfigError(
        f"task_id: expected '<type>-<Object>-None-<Receptacle>-<floorplan>/trial_[small_]<number>' "
        f"of a task that can be generated, got {task_id!r}. Take one from info['task_id']."
    )


def draw_task(rng: np.random.Generator, split: str, difficulty: str, task_type: str) -> GameSpec:
    """A task of the split, at random: uniform over floorplans, then over what they allow."""
    plans = floorplans(split, task_type, difficulty)
    for index in rng.permutation(len(plans)).tolist():
        found = combinations(split, task_type, difficulty, plans[index])
        if found:
            chosen = found[int(rng.integers(len(found)))]
            return GameSpec(chosen, difficulty, int(rng.integers(2**31)))
    raise ConfigError(f"split {split!r} has no task of type {task_type!r} in {difficulty!r} rooms")


@dataclass(frozen=True, slots=True)
class GeneratedGames:
    """A source of episodes: the types evenly, then floorplans, then what they allow."""

    split: str
    difficulty: str
    dialect: str

    def draw_game(self, rng: np.random.Generator, task_types: Sequence[str]) -> LoadedGame:
        task_type = task_types[int(rng.integers(len(task_types)))]
        spec = draw_task(rng, self.split, self.difficulty, task_type)
        return LoadedGame(make_game(spec, self.dialect))

    def load(self, task_id: str, rng: np.random.Generator) -> LoadedGame:
        """The game with an id, whatever its split and difficulty. Raises ConfigError."""
        return LoadedGame(make_game(parse_task_id(task_id), self.dialect))

    def digest(self) -> str:
        return _digest()


@cache
def _digest() -> str:
    names = ("classes", "draws", "game", "generator", "rooms", "text")
    files = [Path(__file__).with_name(f"{name}.py") for name in names]
    tables = [*Path(__file__).parent.glob("*.json"), Path(__file__).with_name("texts.yaml")]
    return digest_files([*files, *tables])


@lru_cache(maxsize=256)
def make_game(spec: GameSpec, dialect: str = "0.4") -> Game:
    return fill_layout(spec, layout(spec.combination.floorplan, spec.difficulty), dialect)


def fill_layout(spec: GameSpec, plan: Layout, dialect: str) -> Game:
    """The game of a task in any layout, objects placed as the generator places them."""
    task = spec.combination
    draws = Draws("alfworld", "trial", spec.task_id)
    placed = _place_objects(draws, spec, plan)
    placed += plan.lamps
    made = [(thing_id(cls, n, draws), cls, where) for n, (cls, where) in enumerate(placed)]
    made.sort(key=lambda item: item[0].lower())
    names = printed_names(item[0] for item in made)
    contents: list[list[int]] = [[] for _ in plan.receptacles]
    for index, (*_, where) in enumerate(made):
        contents[where].append(index)
    places = [plan.receptacles[where].location for *_, where in made]
    template = draws.pick(TEMPLATES[task.task_type])
    return Game(
        task_id=spec.task_id,
        goal=GameGoal(task.task_type, task.obj, task.target),
        sentence=template.format(obj=task.obj.lower(), target=task.target.lower()),
        objects=tuple(Thing(name, cls, names[name], **_flags(cls)) for name, cls, _ in made),
        receptacles=plan.receptacles,
        locations=_location_names(plan),
        start=plan.start,
        contents=tuple(tuple(objects) for objects in contents),
        can_contain=_pairs(frozenset(plan.classes())),
        object_locations=frozenset(_pair(index, place) for index, place in enumerate(places)),
        dialect=dialect,
        location_ids=plan.location_ids,
    )


def _place_objects(draws: Draws, spec: GameSpec, plan: Layout) -> list[tuple[str, int]]:
    """(object class, receptacle) for everything that lies about, the task's objects first."""
    task, small = spec.combination, spec.difficulty == "small"
    # Where treatment or light is needed, an object in the target place gives nothing away.
    avoid = "" if task.task_type in TREATMENT else task.target
    least = 2 if task.task_type == "pick_two_obj_and_place" else 1
    count = least + draws.below(2 if small else 3)
    placed = [(task.obj, _place(draws, plan, task.obj, avoid)) for _ in range(count)]
    for cls, probability in room_objects(plan.room, plan.difficulty).items():
        if cls == task.obj or not draws.chance(probability):
            continue
        for _ in range(1 if small else draws.weighted(*COPIES)):
            if any(cls in CAN_CONTAIN[receptacle] for receptacle in plan.classes()):
                placed.append((cls, _place(draws, plan, cls, "")))
    return placed


def _place(draws: Draws, plan: Layout, cls: str, avoid: str) -> int:
    weights = _weights(plan, cls, avoid)
    return draws.weighted(range(len(weights)), weights)


@lru_cache(maxsize=8192)
def _weights(plan: Layout, cls: str, avoid: str) -> tuple[float, ...]:
    places = [receptacle.cls for receptacle in plan.receptacles]
    return tuple(0.0 if place == avoid else place_weight(place, cls) for place in places)


@cache
def _flags(cls: str) -> dict[str, bool]:
    flags = {flag: cls in having for flag, having in AFFORDANCES.items()}
    return {"pickupable": cls not in TOGGLEABLE, **flags}


@lru_cache(maxsize=256)
def _pairs(classes: frozenset[str]) -> frozenset[tuple[str, str]]:
    return frozenset((cls, obj) for cls in classes for obj in CAN_CONTAIN[cls])


@lru_cache(maxsize=16384)
def _pair(index: int, location: int) -> tuple[int, int]:
    """The pair itself, one in memory for all games."""
    return index, location


@lru_cache(maxsize=256)
def _location_names(plan: Layout) -> tuple[str, ...]:
    names = printed_names(plan.location_ids)
    return tuple(names[identifier] for identifier in plan.location_ids)
