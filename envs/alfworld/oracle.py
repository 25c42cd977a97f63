"""The oracle: a competent agent that reads texts and admissible commands, and needs no planner.

It is given the goal. It searches for things in some order and keeps a belief of what it has read,
so it copes with actions that somebody else (noise, another policy) takes between its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from aem_gym.envs.alfworld.classes import (
    APPLIANCE,
    OBJECT_CLASSES,
    OPENABLE,
    RECEPTACLE_CLASSES,
    TREATMENT,
)
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.game import GameGoal
from aem_gym.envs.alfworld.rooms import place_weight
from aem_gym.envs.alfworld.text import TEMPLATES

SEARCHES = ("likely", "random", "privileged")
"""`likely`: first where such things usually are, for the steps it takes, then at random.
`random`: any order. `privileged`: knows where everything is."""

Choice = tuple[str, str]
"""(thought, action)"""

_SEEN = re.compile(r"On the (\w+ \d+), you see ([^.]*)\.")
_INSIDE = re.compile(r"The (\w+ \d+) is open\. In it, you see ([^.]*)\.")
_CLOSED = re.compile(r"The (\w+ \d+) is closed\.")
_CLOSE = re.compile(r"You close the (\w+ \d+)\.")
_TAKE = re.compile(r"You pick up the (\w+ \d+) from the (\w+ \d+)\.")
_PUT = re.compile(r"You (?:move the (\w+ \d+) to|put the (\w+ \d+) in/on) the (\w+ \d+)\.")
_TREAT = re.compile(r"You (clean|heat|cool) the (\w+ \d+) using")
_CARRY = re.compile(r"You are carrying: a (\w+ \d+)\.")
_ROOM = re.compile(r"Looking quickly around you, you see ([^.]*)\.")
_TASK = re.compile(r"Your task is to: ([^\n]*?)\.?\s*$")
_ITEM = re.compile(r"\ban? (\w+ \d+)")

_SENTENCES = [
    (task_type, re.compile(template.format(obj=r"(\w+)", target=r"(\w+)")))
    for task_type, templates in TEMPLATES.items()
    for template in templates
]


def kind(name: str) -> str:
    """The class in a printed name: `potato` of `potato 2`."""
    return name.partition(" ")[0]


def read_task(sentence: str) -> tuple[str, str, str] | None:
    """(task type, object class, target class) of a templated sentence; None for other words."""
    for task_type, pattern in _SENTENCES:
        match = pattern.fullmatch(sentence)
        if match:
            return task_type, match[1], match[2]
    return None


@dataclass(slots=True)
class Belief:
    """What an agent knows from what it has read in one episode; both dialects."""

    task: tuple[str, str, str] | None = None
    """(task type, object class, target class)."""
    receptacles: list[str] = field(default_factory=list)
    contents: dict[str, list[str]] = field(default_factory=dict)
    """Receptacle -> what was last seen in it. Absent: never looked inside."""
    closed: set[str] = field(default_factory=set)
    holding: str | None = None
    treated: dict[str, set[str]] = field(default_factory=dict)
    """Object -> what has been done to it (`clean`, `heat`, `cool`)."""

    def read(self, text: str) -> None:
        room = _ROOM.search(text)
        if room and not self.receptacles:
            self.receptacles = _ITEM.findall(room[1])
        task = _TASK.search(text)
        if task:
            self.task = read_task(task[1])
        self._read_places(text)
        self._read_hands(text)

    def _read_places(self, text: str) -> None:
        for pattern in (_SEEN, _INSIDE):
            seen = pattern.search(text)
            if seen:
                self.contents[seen[1]] = _ITEM.findall(seen[2])
                self.closed.discard(seen[1])
        shut = _CLOSED.search(text) or _CLOSE.match(text)
        if shut:
            self.closed.add(shut[1])

    def _read_hands(self, text: str) -> None:
        if match := _TAKE.match(text):
            self.holding = match[1]
            inside = self.contents.get(match[2], [])
            if match[1] in inside:
                inside.remove(match[1])
        elif match := _PUT.match(text):
            self.contents.setdefault(match[3], []).append(match[1] or match[2])
            self.holding = None
        elif match := _TREAT.match(text):
            done = self.treated.setdefault(match[2], set())
            done -= {"heat", "cool"} if match[1] != "clean" else set()
            done.add(match[1])
        elif match := _CARRY.match(text):
            self.holding = match[1]


_FULL_NAME = {name.lower(): name for name in (*OBJECT_CLASSES, *RECEPTACLE_CLASSES)}
_DOORS = frozenset(cls.lower() for cls in OPENABLE)
_ADJECTIVE = {"clean": "clean", "heat": "hot", "cool": "cool"}


class HouseholdOracle:
    """Chooses actions in one episode.

    `draws` is its own randomness. `peek` gives, for `privileged`, receptacle name -> names of the
    objects in it. Without `goal` the task is read from the first observation, which works for the
    original's templates and not for the words of people. `noise` is how often a random admissible
    action is taken instead (0 to 1).
    """

    def __init__(
        self,
        search: str,
        draws: Draws,
        peek: Callable[[], Mapping[str, Sequence[str]]],
        *,
        goal: GameGoal | None = None,
        noise: float = 0.0,
    ) -> None:
        self.belief = Belief()
        self._noise = noise
        self._chosen: Choice | None = None
        self._refused: set[tuple[str, str]] = set()
        self._task = goal and (goal.task_type, goal.obj.lower(), goal.target.lower())
        self._search, self._draws, self._peek = search, draws, peek
        self._jitter: dict[str, float] = {}
        self._can: Collection[str] = ()
        self._here: set[str] = set()

    def read(self, observation: str) -> None:
        """Read an observation (all of them, in order)."""
        self.belief.read(observation)
        self._chosen = None

    def choose(self, admissible: Collection[str]) -> Choice:
        """The (thought, action) for the current state; the same until something new is read."""
        if self._chosen is None:
            if self._noise and self._draws.chance(self._noise):
                self._chosen = "I try something.", self._draws.pick(sorted(admissible))
            else:
                self._chosen = self._decide(admissible)
        return self._chosen

    def _decide(self, admissible: Collection[str]) -> Choice:
        belief, self._can = self.belief, frozenset(admissible)
        if not belief.receptacles:
            heads = ("go to ", "examine ")
            found = [c.removeprefix(h) for c in admissible for h in heads if c.startswith(h)]
            belief.receptacles = [name for name in found if name != belief.holding]
        task = self._task or belief.task
        if task is None:
            return "I do not know this task.", "look"
        if self._search == "privileged":
            belief.contents = {place: list(names) for place, names in self._peek().items()}
        belief.closed.update(c.removeprefix("open ") for c in admissible if c.startswith("open "))
        self._here = {c.removeprefix("examine ") for c in admissible if c.startswith("examine ")}
        return self._pursue(*task)

    def _pursue(self, task_type: str, obj: str, target: str) -> Choice:
        held = self.belief.holding
        if held is None:
            return self._fetch(task_type, obj, target)
        if kind(held) != obj:
            return self._drop(held)
        if task_type == "look_at_obj_in_light":
            return self._use_lamp(obj, target)
        treatment = TREATMENT.get(task_type)
        if treatment and treatment not in self.belief.treated.get(held, ()):
            return self._treat(held, treatment)
        goal = self._goal_place(obj, target)
        if goal is None:
            return self._find(f"I need a {target}.", target)
        word = f"{_ADJECTIVE[treatment]} " if treatment else ""
        thought = f"I have {word}{obj}, now put it in {target}."
        return self._at(goal, thought, [self._put(held, goal)])

    def _fetch(self, task_type: str, obj: str, target: str) -> Choice:
        two = task_type == "pick_two_obj_and_place"
        goal = self._goal_place(obj, target) if two else None
        done = goal is not None and any(kind(name) == obj for name in self._known(goal))
        thought = f"I need another {obj}." if done else f"I need a {obj}."
        for place in self._nearest(self.belief.receptacles):
            if place == goal and two:
                continue
            for name in self._known(place):
                if kind(name) == obj:
                    far = f"go to {place}" in self._can
                    seen = f"I saw {obj} in {place}." if far else f"I see {obj}, now take it."
                    return self._at(place, seen, [f"take {name} from {place}"])
        return self._find(thought, obj)

    def _treat(self, held: str, treatment: str) -> Choice:
        appliance = APPLIANCE[treatment].lower()
        thought = f"I have {kind(held)}, now {treatment} it."
        for place in self._nearest(self._called(appliance)):
            action = f"{treatment} {held} with {place}"
            if action in self._can:
                return thought, action
            if place in self._here:
                self._refused.add((held, place))  # a basin of another class
            elif (held, place) not in self._refused:
                return thought, f"go to {place}"
        return thought, "look"

    def _use_lamp(self, obj: str, lamp: str) -> Choice:
        thought = f"I have {obj}, now use the {lamp}."
        for place in self._nearest(self.belief.receptacles):
            for name in self._known(place):
                if kind(name) == lamp:
                    return self._at(place, thought, [f"use {name}"])
        return self._find(f"I have {obj}, now find the {lamp}.", lamp)

    def _drop(self, held: str) -> Choice:
        thought = f"I do not need {kind(held)}."
        nearest = self._nearest(self.belief.receptacles)
        for place in nearest:
            if self._put(held, place) in self._can:
                return thought, self._put(held, place)
        for place in sorted(nearest, key=lambda p: place_weight(_name(p), _name(held)) <= 0):
            if place in self._here and f"open {place}" not in self._can:
                self._refused.add((held, place))  # here, open, and yet it cannot be put there
            elif (held, place) not in self._refused:
                return self._at(place, thought, [self._put(held, place)])
        return thought, "look"

    def _at(self, place: str, thought: str, actions: Sequence[str]) -> Choice:
        """Go to a place, then do the first of the actions that is possible there."""
        for action in actions:
            if action in self._can:
                return thought, action
        if f"go to {place}" in self._can:
            return thought, f"go to {place}"
        if f"open {place}" in self._can:
            return thought, f"open {place}"
        self.belief.contents.pop(place, None)  # not as remembered: look again
        return thought, f"examine {place}"

    def _find(self, thought: str, wanted: str) -> Choice:
        """One step of the search for an object or receptacle class."""
        unseen = [p for p in self.belief.receptacles if p not in self.belief.contents]
        if not unseen:  # everything was seen, and yet it is nowhere: look at all of it again
            self.belief.contents.clear()
            unseen = list(self.belief.receptacles)
        here = [p for p in unseen if p in self._here]
        likely = [p for p in here if _rank(kind(p), wanted) > 0 or self._search == "random"]
        place = likely[0] if likely else max(unseen, key=lambda p: self._order(p, wanted))
        return self._at(place, thought, [f"open {place}"])

    def _order(self, place: str, wanted: str) -> tuple[float, float]:
        if place not in self._jitter:
            self._jitter[place] = self._draws.uniform()
        rank = 0.0 if self._search == "random" else _rank(kind(place), wanted)
        return rank, self._jitter[place]

    def _goal_place(self, obj: str, target: str) -> str | None:
        """The receptacle to bring things to: where most are, then the nearest."""
        return max(
            self._nearest(self._called(target)),
            key=lambda p: sum(kind(name) == obj for name in self._known(p)),
            default=None,
        )

    def _nearest(self, places: Sequence[str]) -> list[str]:
        """The places here first, then the open ones, then the others."""
        return sorted(places, key=lambda p: (p not in self._here, p in self.belief.closed))

    def _called(self, cls: str) -> list[str]:
        """The places of a class; if none has its name and it is a basin, any basin.

        Basins are printed after what they are part of: in floorplan 420 a sinkbasin is called
        `bathtubbasin`.
        """
        places = [p for p in self.belief.receptacles if kind(p) == cls]
        if not places and cls.endswith("basin"):
            places = [p for p in self.belief.receptacles if kind(p).endswith("basin")]
        return places

    def _known(self, place: str) -> Sequence[str]:
        return self.belief.contents.get(place, ())

    def _put(self, held: str, place: str) -> str:
        older = f"put {held} in/on {place}"
        return older if older in self._can else f"move {held} to {place}"


def _name(printed: str) -> str:
    return _FULL_NAME.get(kind(printed), "")


@cache
def _rank(place: str, wanted: str) -> float:
    """How likely a class of things is in a class of places, for each step that looking takes."""
    return place_weight(_name(place), _name(wanted)) / (2 if place in _DOORS else 1)
