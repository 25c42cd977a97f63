"""The engine: plays a `Game` by the original's rules, with the original's words.

The set of admissible commands is the ground truth: a command does something if and only if it is
one of them, exactly as in the original, where they are the applicable planning operators.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping

from aem_gym.envs.alfworld.constants import APPLIANCE, KNIVES
from aem_gym.envs.alfworld.game import Game
from aem_gym.envs.alfworld.tasks import GoalTest
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


class _Rules:
    """What the engine derives from a game once: names, neighbours, commands to go."""

    def __init__(self, game: Game) -> None:
        self.dialect = DIALECTS[game.dialect]
        self.goal = GoalTest(game)
        self.names = tuple(thing.name for thing in game.objects)
        self.places = tuple(receptacle.name for receptacle in game.receptacles)
        self.at: dict[int, list[int]] = {}
        for index, receptacle in enumerate(game.receptacles):
            self.at.setdefault(receptacle.location, []).append(index)
        self.treatments = {
            index: tuple(verb for verb, cls in APPLIANCE.items() if cls == receptacle.cls)
            for index, receptacle in enumerate(game.receptacles)
        }
        self._game = game
        self._go: dict[int, Mapping[str, _Command]] = {}

    def standing_commands(self, location: int) -> Mapping[str, _Command]:
        """The commands that depend on nothing but where the agent stands."""
        commands = self._go.get(location)
        if commands is None:
            commands = {verb: (verb, -1, -1) for verb in ("look", "inventory")}
            if self.dialect.has_help:
                commands["help"] = ("help", -1, -1)
            for index, receptacle in enumerate(self._game.receptacles):
                if receptacle.location == location:
                    commands[f"examine {receptacle.name}"] = ("examine receptacle", index, -1)
                else:  # going where one is changes nothing, and so is not an operator
                    commands[f"go to {receptacle.name}"] = ("go", index, -1)
            self._go[location] = commands
        return commands


class Engine:
    """One running game.

    The attributes are the state, in indices of the game; change them only through `step`.
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self._rules = _Rules(game)
        self.reset()

    def reset(self) -> str:
        """Back to the first state; returns the first observation."""
        game = self.game
        self.location = game.start
        self.holding = -1
        self.contents = [sorted(objects) for objects in game.contents]
        self.opened = set(game.opened)
        self.toggled, self.sliced = set(game.toggled), set(game.sliced)
        self.clean, self.hot, self.cool = set(game.clean), set(game.hot), set(game.cool)
        self.object_locations = set(game.object_locations)
        self._left: set[tuple[int, int]] = set()
        self._commands: Mapping[str, _Command] | None = None
        self.won = self._rules.goal(self)
        return introduction(self._surroundings(seen=True), game.sentence)

    def step(self, command: str) -> tuple[str, bool]:
        """Answer a command. Returns the text, and whether the command was admissible."""
        meaning = self._meanings().get(command.strip())
        if meaning is None:
            return NOTHING_HAPPENS, False
        verb, first, second = meaning
        answer = _VERBS[verb](self, first, second)
        if verb in _CHANGING:
            self._commands = None
            self.won = self._rules.goal(self)
        return answer, True

    def admissible(self) -> list[str]:
        """The commands that would do something now, sorted."""
        return sorted(self._meanings())

    # Which commands there are --------------------------------------------------------------

    def _meanings(self) -> Mapping[str, _Command]:
        if self._commands is None:
            commands = dict(self._rules.standing_commands(self.location))
            here = self._rules.at.get(self.location, ())
            for receptacle in here:
                self._add_receptacle(commands, receptacle)
            if self.holding >= 0:
                self._add_held(commands, here)
            self._commands = commands
        return self._commands

    def _accessible(self, receptacle: int) -> bool:
        return not self.game.receptacles[receptacle].openable or receptacle in self.opened

    def _add_receptacle(self, commands: dict[str, _Command], receptacle: int) -> None:
        objects, names = self.game.objects, self._rules.names
        place = self._rules.places[receptacle]
        if self.game.receptacles[receptacle].openable:
            verb = "close" if receptacle in self.opened else "open"
            commands[f"{verb} {place}"] = (verb, receptacle, -1)
        accessible = self._accessible(receptacle)
        for index in self.contents[receptacle]:
            if accessible and self.holding < 0 and objects[index].pickupable:
                commands[f"take {names[index]} from {place}"] = ("take", index, receptacle)
            if objects[index].toggleable:  # a lamp's switch is found even behind a door
                commands[f"use {names[index]}"] = ("use", index, -1)

    def _add_held(self, commands: dict[str, _Command], here: list[int] | tuple[()]) -> None:
        held, thing = self.holding, self.game.objects[self.holding]
        # Only what is held: for things that lie about, the original's rule has a misprint (the
        # type `location,`) that makes it apply to nothing.
        commands[f"examine {thing.name}"] = ("examine object", held, -1)
        can = {"clean": thing.cleanable, "heat": thing.heatable, "cool": thing.coolable}
        for receptacle in here:
            place = self._rules.places[receptacle]
            kind = self.game.receptacles[receptacle].cls
            if self._accessible(receptacle) and (kind, thing.cls) in self.game.can_contain:
                put = self._rules.dialect.put.format(thing.name, place)
                commands[put] = ("put", held, receptacle)
            for verb in self._rules.treatments[receptacle]:
                if can[verb]:
                    commands[f"{verb} {thing.name} with {place}"] = (verb, held, receptacle)
        if thing.cls in KNIVES:
            for index, location in self.object_locations:
                other = self.game.objects[index]
                if location == self.location and other.sliceable:
                    commands[f"slice {other.name} with {thing.name}"] = ("slice", index, held)

    # What they do --------------------------------------------------------------------------

    def _look(self, _first: int, _second: int) -> str:
        return self._surroundings(seen=False)

    def _surroundings(self, seen: bool) -> str:
        here = self._rules.at.get(self.location, [])
        if not here:  # only the first look lists the room; later ones from here see nothing
            around = listing(self._rules.places if seen else ())
            return f"You are in the middle of a room. Looking quickly around you, you see {around}."
        facing = enumeration([self._rules.places[receptacle] for receptacle in here])
        beside = [
            self._rules.names[index]
            for index, location in sorted(self.object_locations)
            if location == self.location
            for receptacle in here
            if (index, receptacle) in self._left
        ]
        return f"You are facing the {facing}. Next to it, you see {listing(beside)}."

    def _inventory(self, _first: int, _second: int) -> str:
        if self.holding < 0:
            return "You are not carrying anything."
        return f"You are carrying: {listing([self._rules.names[self.holding]])}."

    def _help(self, _first: int, _second: int) -> str:
        return HELP

    def _go(self, receptacle: int, _second: int) -> str:
        self.location = self.game.receptacles[receptacle].location
        named = self._rules.dialect.arrive_at_location
        where = self.game.locations[self.location] if named else self._rules.places[receptacle]
        return f"You arrive at {where}. {self._examine_receptacle(receptacle, -1)}"

    def _examine_receptacle(self, receptacle: int, _second: int) -> str:
        place = self._rules.places[receptacle]
        openable = self.game.receptacles[receptacle].openable
        if openable and receptacle not in self.opened:
            return f"The {place} is closed."
        inside = listing([self._rules.names[index] for index in self.contents[receptacle]])
        if openable:
            return f"The {place} is open. In it, you see {inside}."
        return f"On the {place}, you see {inside}."

    def _examine_object(self, index: int, _second: int) -> str:
        thing = self.game.objects[index]
        if thing.holds_things:
            inside = self.game.inside[index] if self.game.inside else ()
            held = listing([self._rules.names[inner] for inner in inside])
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
        self.opened.add(receptacle)
        place = self._rules.places[receptacle]
        return f"You open the {place}. {self._examine_receptacle(receptacle, -1)}"

    def _close(self, receptacle: int, _second: int) -> str:
        self.opened.discard(receptacle)
        return f"You close the {self._rules.places[receptacle]}."

    def _take(self, index: int, receptacle: int) -> str:
        self.contents[receptacle].remove(index)
        self._left.add((index, receptacle))
        self.holding = index
        self.object_locations.discard((index, self.location))
        return (
            f"You pick up the {self._rules.names[index]} from the {self._rules.places[receptacle]}."
        )

    def _put(self, index: int, receptacle: int) -> str:
        if index not in self.contents[receptacle]:
            insort(self.contents[receptacle], index)
        self._left.discard((index, receptacle))
        self.holding = -1
        self.object_locations.add((index, self.location))
        answer = self._rules.dialect.put_answer
        return answer.format(self._rules.names[index], self._rules.places[receptacle])

    def _clean(self, index: int, receptacle: int) -> str:
        self.clean.add(index)
        return self._treated("clean", index, receptacle)

    def _heat(self, index: int, receptacle: int) -> str:
        self.hot.add(index)
        self.cool.discard(index)
        return self._treated("heat", index, receptacle)

    def _cool(self, index: int, receptacle: int) -> str:
        self.cool.add(index)
        self.hot.discard(index)
        return self._treated("cool", index, receptacle)

    def _treated(self, verb: str, index: int, receptacle: int) -> str:
        name, place = self._rules.names[index], self._rules.places[receptacle]
        return f"You {verb} the {name} using the {place}."

    def _use(self, index: int, _second: int) -> str:
        self.toggled.add(index)  # never removed: the original's domain has no such effect
        return f"You turn on the {self._rules.names[index]}."

    def _slice(self, index: int, knife: int) -> str:
        self.sliced.add(index)
        return f"You sliced the {self._rules.names[index]} with the {self._rules.names[knife]}."


_VERBS: Mapping[str, Callable[[Engine, int, int], str]] = {
    "look": Engine._look,
    "inventory": Engine._inventory,
    "help": Engine._help,
    "go": Engine._go,
    "examine receptacle": Engine._examine_receptacle,
    "examine object": Engine._examine_object,
    "open": Engine._open,
    "close": Engine._close,
    "take": Engine._take,
    "put": Engine._put,
    "clean": Engine._clean,
    "heat": Engine._heat,
    "cool": Engine._cool,
    "use": Engine._use,
    "slice": Engine._slice,
}
_CHANGING = frozenset({"go", "open", "close", "take", "put", "clean", "heat", "cool", "use"})
