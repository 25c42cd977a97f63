"""The engine: plays a `Game` by the original's rules, with the original's words.

The set of admissible commands is the ground truth: a command does something if and only if it is
one of them, exactly as in the original, where they are the applicable planning operators.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from aem_gym.envs.alfworld.classes import APPLIANCE, KNIVES, TREATMENT
from aem_gym.envs.alfworld.game import Game, Receptacle
from aem_gym.envs.alfworld.text import (
    DIALECTS,
    HELP,
    NOTHING_HAPPENS,
    enumeration,
    introduction,
    listing,
)

_Command = tuple[str, int, int]
"""What a command means: verb, object or receptacle, receptacle (-1: none)."""


class PlayableEngine(Protocol):
    """An engine as the environment uses it: `Engine`, or the original one."""

    won: bool

    def reset(self) -> str:
        """Go back to the first state. Returns the first observation."""

    def step(self, command: str) -> tuple[str, bool]:
        """Answer a command. Returns the text, and whether the command was admissible."""

    def admissible(self) -> list[str]:
        """The commands that would do something now, sorted."""

    def contained(self) -> Mapping[str, list[str]]:
        """Printed name of each receptacle -> those of the objects in it now."""

    def close(self) -> None:
        """Release the engine's resources."""


class Furniture:
    """Names, neighbours and commands of a room's receptacles, shared by all games in the room.

    Tuples hold one element per receptacle, in the order of the receptacles.
    """

    def __init__(self, receptacles: tuple[Receptacle, ...]) -> None:
        self.names = tuple(receptacle.name for receptacle in receptacles)
        self.go = {f"go to {name}": index for index, name in enumerate(self.names)}
        """Command -> receptacle."""
        self.examine = tuple(f"examine {name}" for name in self.names)
        self.open = tuple(f"open {name}" for name in self.names)
        self.close = tuple(f"close {name}" for name in self.names)
        self.treatments = tuple(
            tuple(verb for verb, cls in APPLIANCE.items() if cls == receptacle.cls)
            for receptacle in receptacles
        )
        at: dict[int, list[int]] = {}
        for index, receptacle in enumerate(receptacles):
            at.setdefault(receptacle.location, []).append(index)
        self.at: Mapping[int, tuple[int, ...]] = {place: tuple(here) for place, here in at.items()}
        self._sorted_go = sorted(self.go)
        self._go_from: dict[int, list[str]] = {}

    def go_from(self, location: int) -> list[str]:
        """The commands that lead away from a location, sorted. Not to be changed."""
        commands = self._go_from.get(location)
        if commands is None:  # going where one is changes nothing, and so is not an operator
            here = self.at.get(location, ())
            commands = [command for command in self._sorted_go if self.go[command] not in here]
            self._go_from[location] = commands
        return commands


@lru_cache(maxsize=1024)
def furniture(receptacles: tuple[Receptacle, ...]) -> Furniture:
    return Furniture(receptacles)


class GoalTest:
    """Whether a game's goal is reached in a state."""

    def __init__(self, game: Game) -> None:
        goal, things = game.goal, list(enumerate(game.objects))
        self._game = game
        self._look = goal.task_type == "look_at_obj_in_light"
        self._treatment = TREATMENT.get(goal.task_type, "")
        self._needed = 2 if goal.task_type == "pick_two_obj_and_place" else 1
        flag = f"{self._treatment}able"  # `cleanable`, `heatable`, `coolable`
        asked = [(i, thing) for i, thing in things if thing.cls == goal.obj]
        fits = (i for i, thing in asked if not self._treatment or getattr(thing, flag))
        self._objects = frozenset(fits)
        self._places = [i for i, r in enumerate(game.receptacles) if r.cls == goal.target]
        self._lamps = frozenset(i for i, t in things if t.cls == goal.target and t.toggleable)

    def __call__(self, state: Engine) -> bool:
        if self._look:
            return state.holding in self._objects and self._by_lamp(state)
        wanted = self._objects
        if self._treatment:
            done = {"clean": state.clean, "heat": state.hot, "cool": state.cool}[self._treatment]
            wanted = wanted & done
        counts = (len(wanted.intersection(state.contents[place])) for place in self._places)
        return any(count >= self._needed for count in counts)

    def _by_lamp(self, state: Engine) -> bool:
        lit = self._lamps & state.toggled
        return bool(lit) and any(
            obj in lit
            for receptacle, contents in zip(self._game.receptacles, state.contents, strict=True)
            if receptacle.location == state.location
            for obj in contents
        )


class Engine:
    """One running game.

    The attributes are the state, in indices of the game; change them only through `step`. Sets and
    rows are replaced, never changed, so that what an episode has not touched stays the game's own:
    an engine takes hundreds of bytes, not thousands.
    """

    __slots__ = (
        *("game", "location", "holding", "contents", "opened", "toggled", "sliced", "clean"),
        *("hot", "cool", "object_locations", "won", "_dialect", "_room", "_goal", "_left"),
        "_local",
    )

    def __init__(self, game: Game) -> None:
        self.game = game
        self._dialect = DIALECTS[game.dialect]
        self._room = furniture(game.receptacles)
        self._goal = GoalTest(game)
        self.reset()

    def reset(self) -> str:
        game = self.game
        self.location = game.start
        self.holding = -1
        self.contents = list(game.contents)
        self.opened, self.toggled, self.sliced = game.opened, game.toggled, game.sliced
        self.clean, self.hot, self.cool = game.clean, game.hot, game.cool
        self.object_locations = game.object_locations
        self._left: frozenset[tuple[int, int]] = frozenset()
        self._local: dict[str, _Command] | None = None
        self.won = self._goal(self)
        return introduction(self._surroundings(seen=True), game.sentence)

    def step(self, command: str) -> tuple[str, bool]:
        command = command.strip()
        place = self._room.go.get(command)
        meaning = self._local_commands().get(command) if place is None else ("go", place, -1)
        stays = place is not None and self.game.receptacles[place].location == self.location
        if meaning is None or stays:
            return NOTHING_HAPPENS, False
        verb, first, second = meaning
        answer = _VERBS[verb](self, first, second)
        if verb in _CHANGING:
            self._local = None
            self.won = self._goal(self)
        return answer, True

    def admissible(self) -> list[str]:
        local = sorted(self._local_commands())
        middle = bisect(local, "go to ")
        return [*local[:middle], *self._room.go_from(self.location), *local[middle:]]

    def contained(self) -> dict[str, list[str]]:
        return {
            place: [self._name(index) for index in contents]
            for place, contents in zip(self._room.names, self.contents, strict=True)
        }

    def close(self) -> None:
        pass

    def _local_commands(self) -> Mapping[str, _Command]:
        """All commands but those to go somewhere, with what they mean."""
        if self._local is None:
            commands = dict(_ALWAYS if self._dialect.has_help else _ALWAYS_OLDER)
            here = self._room.at.get(self.location, ())
            for receptacle in here:
                self._add_receptacle(commands, receptacle)
            if self.holding >= 0:
                self._add_held(commands, here)
            self._local = commands
        return self._local

    def _accessible(self, receptacle: int) -> bool:
        return not self.game.receptacles[receptacle].openable or receptacle in self.opened

    def _add_receptacle(self, commands: dict[str, _Command], receptacle: int) -> None:
        room, objects = self._room, self.game.objects
        place = room.names[receptacle]
        commands[room.examine[receptacle]] = ("examine receptacle", receptacle, -1)
        if self.game.receptacles[receptacle].openable:
            if receptacle in self.opened:
                commands[room.close[receptacle]] = ("close", receptacle, -1)
            else:
                commands[room.open[receptacle]] = ("open", receptacle, -1)
        take = self.holding < 0 and self._accessible(receptacle)
        for index in self.contents[receptacle]:
            thing = objects[index]
            if take and thing.pickupable:
                commands[f"take {thing.name} from {place}"] = ("take", index, receptacle)
            if thing.toggleable:  # a lamp's switch is found even behind a door
                commands[f"use {thing.name}"] = ("use", index, -1)

    def _add_held(self, commands: dict[str, _Command], here: tuple[int, ...]) -> None:
        held, thing = self.holding, self.game.objects[self.holding]
        # Only what is held: for things that lie about, the original's rule has a misprint (the
        # type `location,`) that makes it apply to nothing.
        commands[f"examine {thing.name}"] = ("examine object", held, -1)
        can = {"clean": thing.cleanable, "heat": thing.heatable, "cool": thing.coolable}
        for receptacle in here:
            place = self._room.names[receptacle]
            kind = self.game.receptacles[receptacle].cls
            if self._accessible(receptacle) and (kind, thing.cls) in self.game.can_contain:
                commands[self._dialect.put.format(thing.name, place)] = ("put", held, receptacle)
            for verb in self._room.treatments[receptacle]:
                if can[verb]:
                    commands[f"{verb} {thing.name} with {place}"] = (verb, held, receptacle)
        if thing.cls in KNIVES:
            for index, location in self.object_locations:
                other = self.game.objects[index]
                if location == self.location and other.sliceable:
                    commands[f"slice {other.name} with {thing.name}"] = ("slice", index, held)

    def _name(self, index: int) -> str:
        return self.game.objects[index].name

    def _look(self, _first: int, _second: int) -> str:
        return self._surroundings(seen=False)

    def _surroundings(self, seen: bool) -> str:
        here = self._room.at.get(self.location, ())
        if not here:  # only the first look lists the room; later ones from here see nothing
            around = listing(self._room.names if seen else ())
            return f"You are in the middle of a room. Looking quickly around you, you see {around}."
        return self._facing(here)

    def _facing(self, here: Sequence[int]) -> str:
        facing = enumeration([self._room.names[receptacle] for receptacle in here])
        near = [i for i, location in sorted(self.object_locations) if location == self.location]
        beside = [self._name(i) for i in near for place in here if (i, place) in self._left]
        return f"You are facing the {facing}. Next to it, you see {listing(beside)}."

    def _inventory(self, _first: int, _second: int) -> str:
        if self.holding < 0:
            return "You are not carrying anything."
        return f"You are carrying: {listing([self._name(self.holding)])}."

    def _help(self, _first: int, _second: int) -> str:
        return HELP

    def _go(self, receptacle: int, _second: int) -> str:
        self.location = self.game.receptacles[receptacle].location
        named = self._dialect.arrive_at_location
        where = self.game.locations[self.location] if named else self._room.names[receptacle]
        return f"You arrive at {where}. {self._examine_receptacle(receptacle, -1)}"

    def _examine_receptacle(self, receptacle: int, _second: int) -> str:
        place = self._room.names[receptacle]
        openable = self.game.receptacles[receptacle].openable
        if openable and receptacle not in self.opened:
            return f"The {place} is closed."
        inside = listing([self._name(index) for index in self.contents[receptacle]])
        if openable:
            return f"The {place} is open. In it, you see {inside}."
        return f"On the {place}, you see {inside}."

    def _examine_object(self, index: int, _second: int) -> str:
        thing = self.game.objects[index]
        if thing.holds_things:
            inside = self.game.inside[index] if self.game.inside else ()
            held = listing([self._name(inner) for inner in inside])
            return f"This is a normal {thing.name}. In it, you see {held}."
        clean, hot, cool = index in self.clean, index in self.hot, index in self.cool
        sliced = "sliced " if index in self.sliced else ""
        if clean and (hot or cool):
            return f"This is a {'hot' if hot else 'cool'} and clean {sliced}{thing.name}."
        if sliced and (clean or hot or cool):
            word = "clean" if clean else "hot" if hot else "cool"
            return f"This is a {word} sliced {thing.name}."
        if hot or clean or cool:
            return f"This is a {'hot' if hot else 'clean' if clean else 'cold'} {thing.name}."
        if thing.toggleable and index in self.toggled:
            return f"This {thing.name} is on."
        if sliced and thing.sliceable:
            return f"This is a sliced {thing.name}."
        return f"There's nothing special about {thing.name}."

    def _open(self, receptacle: int, _second: int) -> str:
        self.opened |= {receptacle}
        place = self._room.names[receptacle]
        return f"You open the {place}. {self._examine_receptacle(receptacle, -1)}"

    def _close(self, receptacle: int, _second: int) -> str:
        self.opened -= {receptacle}
        return f"You close the {self._room.names[receptacle]}."

    def _take(self, index: int, receptacle: int) -> str:
        self.contents[receptacle] = tuple(i for i in self.contents[receptacle] if i != index)
        self._left |= {(index, receptacle)}
        self.holding = index
        self.object_locations -= {(index, self.location)}
        return f"You pick up the {self._name(index)} from the {self._room.names[receptacle]}."

    def _put(self, index: int, receptacle: int) -> str:
        if index not in self.contents[receptacle]:
            self.contents[receptacle] = tuple(sorted((*self.contents[receptacle], index)))
        self._left -= {(index, receptacle)}
        self.holding = -1
        self.object_locations |= {(index, self.location)}
        answer = self._dialect.put_answer
        return answer.format(self._name(index), self._room.names[receptacle])

    def _clean(self, index: int, receptacle: int) -> str:
        self.clean |= {index}
        return self._treated("clean", index, receptacle)

    def _heat(self, index: int, receptacle: int) -> str:
        self.hot |= {index}
        self.cool -= {index}
        return self._treated("heat", index, receptacle)

    def _cool(self, index: int, receptacle: int) -> str:
        self.cool |= {index}
        self.hot -= {index}
        return self._treated("cool", index, receptacle)

    def _treated(self, verb: str, index: int, receptacle: int) -> str:
        name, place = self._name(index), self._room.names[receptacle]
        return f"You {verb} the {name} using the {place}."

    def _use(self, index: int, _second: int) -> str:
        self.toggled |= {index}  # never removed: the original's domain has no such effect
        return f"You turn on the {self._name(index)}."

    def _slice(self, index: int, knife: int) -> str:
        self.sliced |= {index}
        return f"You sliced the {self._name(index)} with the {self._name(knife)}."


_CHANGING = frozenset({"go", "open", "close", "take", "put", "clean", "heat", "cool", "use"})
_VERBS: Mapping[str, Callable[[Engine, int, int], str]] = {
    verb: getattr(Engine, f"_{verb.replace(' ', '_')}")
    for verb in (
        *("look", "inventory", "help", "slice", "examine receptacle", "examine object"),
        *sorted(_CHANGING),
    )
}
_ALWAYS_OLDER: Mapping[str, _Command] = {verb: (verb, -1, -1) for verb in ("look", "inventory")}
_ALWAYS: Mapping[str, _Command] = {**_ALWAYS_OLDER, "help": ("help", -1, -1)}
