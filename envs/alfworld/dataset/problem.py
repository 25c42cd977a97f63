"""Reads the planning problem of a game: things, first facts, and which kind of goal it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations

from aem_gym.envs.alfworld.classes import OBJECT_CLASSES, RECEPTACLE_CLASSES, TASK_TYPES
from aem_gym.envs.alfworld.dataset.pddl import (
    Node,
    ProblemError,
    Sections,
    read_sections,
    show,
    typed_list,
)
from aem_gym.envs.alfworld.game import Game, GameGoal, Receptacle, Thing, printed_names

_Literal = tuple[str, ...]

_ROLES: Mapping[str, str] = {"object": "op", "receptacle": "r", "location": "l", "agent": "a"}
"""Type of a variable -> the names it may get below. All agents are one: there is only one."""

_IN: _Literal = ("inreceptacle", "o", "r")
_MEANINGS: Mapping[frozenset[_Literal], str] = {
    frozenset({_IN}): "pick_and_place_simple",
    frozenset({_IN, ("cleanable", "o"), ("isclean", "o")}): "pick_clean_then_place_in_recep",
    frozenset({_IN, ("heatable", "o"), ("ishot", "o")}): "pick_heat_then_place_in_recep",
    frozenset({_IN, ("coolable", "o"), ("iscool", "o")}): "pick_cool_then_place_in_recep",
    frozenset({_IN, ("inreceptacle", "p", "r"), ("!=", "o", "p")}): "pick_two_obj_and_place",
    frozenset(
        {
            ("holds", "a", "o"),
            ("toggleable", "p"),
            ("istoggled", "p"),
            ("inreceptacle", "p", "r"),
            ("receptacleatlocation", "r", "l"),
            ("atlocation", "a", "l"),
        }
    ): "look_at_obj_in_light",
}
"""The conditions of each goal, without types: o is the object, p the second one or the lamp."""


def recognize(goal: Node) -> tuple[str, str, str]:
    """The task type of a goal, and the types (`potatotype`) of its object and target.

    The order of conditions, the names of variables and the nesting of `and` and `exists` do not
    matter. Expects lower case. Raises ProblemError.
    """
    conditions = _Conditions()
    conditions.add(goal, {})
    for roles in conditions.roles():
        classes, rest = conditions.renamed(roles)
        task_type = _MEANINGS.get(rest)
        if task_type is None:
            continue
        look, two = task_type == "look_at_obj_in_light", task_type == "pick_two_obj_and_place"
        found = classes.pop("o", ""), classes.pop("p" if look else "r", "")
        if two and classes.pop("p", "") != found[0]:
            continue
        if all(found) and not classes:
            return task_type, *found
    raise ProblemError(
        f":goal: expected a goal of one of the task types {', '.join(TASK_TYPES)}; "
        f"got {show(goal, 400)}"
    )


@dataclass(slots=True)
class _Conditions:
    """A conjunction; its variables are numbered, so that `exists` no longer matters."""

    literals: set[_Literal] = field(default_factory=set)
    variables: dict[str, list[str]] = field(default_factory=dict)
    """Type -> variables."""
    count: int = 0

    def add(self, node: Node, scope: Mapping[str, str]) -> None:
        """Add a part of the goal; `scope` holds the numbers of the variables' names."""
        if isinstance(node, str) or not node or not isinstance(node[0], str):
            raise ProblemError(f":goal: expected a condition, got {show(node)}")
        head, rest = node[0], node[1:]
        if head == "and":
            for part in rest:
                self.add(part, scope)
        elif head == "exists" and len(rest) == 2:
            self.add(rest[1], {**scope, **self._declare(rest[0])})
        elif head == "not" and len(rest) == 1 and _is_equality(rest[0]):
            names = (scope.get(str(name), str(name)) for name in rest[0][1:])
            self.literals.add(("!=", *sorted(names)))
        else:
            if not all(isinstance(part, str) for part in rest):
                raise ProblemError(f":goal: expected a fact, got {show(node)}")
            words = [part for part in rest if isinstance(part, str)]
            self.literals.add((head, *(scope.get(word, word) for word in words)))

    def _declare(self, node: Node) -> dict[str, str]:
        """The names of a list of typed variables, each with a number of its own."""
        if isinstance(node, str) or not all(isinstance(part, str) for part in node):
            raise ProblemError(f":goal: expected variables after 'exists', got {show(node)}")
        declared: dict[str, str] = {}
        for name, kind in typed_list([str(part) for part in node]):
            self.count += 1
            declared[name] = f"?{self.count}"
            self.variables.setdefault(kind, []).append(declared[name])
        return declared

    def roles(self) -> Iterator[dict[str, str]]:
        """Every assignment of roles to the variables."""
        roles: dict[str, str] = {}
        for kind, variables in self.variables.items():
            names = _ROLES.get(kind, "")
            if kind == "agent":
                roles.update(dict.fromkeys(variables, names))
            elif len(variables) > len(names):
                return
            elif kind != "object":
                roles.update(zip(variables, names, strict=False))
        objects = self.variables.get("object", [])
        for order in permutations("op"[: len(objects)]):
            yield {**roles, **dict(zip(objects, order, strict=True))}

    def renamed(self, roles: Mapping[str, str]) -> tuple[dict[str, str], frozenset[_Literal]]:
        """Role -> type, and the other conditions."""
        classes: dict[str, str] = {}
        rest: set[_Literal] = set()
        for name, *arguments in self.literals:
            parts = [roles.get(argument, argument) for argument in arguments]
            if name in ("objecttype", "receptacletype") and len(parts) == 2:
                # A second, different type of one thing leaves a type without a role behind.
                role = parts[0] if classes.get(parts[0], parts[1]) == parts[1] else f"{parts[0]}'"
                classes[role] = parts[1]
            else:
                rest.add((name, *(sorted(parts) if name == "!=" else parts)))
        return classes, frozenset(rest)


def _is_equality(node: Node) -> bool:
    return (
        isinstance(node, list)
        and len(node) == 3
        and node[0] == "="
        and all(isinstance(part, str) for part in node)
    )


_FLAGS = ("pickupable", "cleanable", "heatable", "coolable", "sliceable", "toggleable")
"""Predicates that are attributes of a `Thing`."""
_STATES = {
    **{"toggled": "istoggled", "clean": "isclean", "hot": "ishot", "cool": "iscool"},
    "sliced": "issliced",
}
"""Attribute of a `Game` -> predicate."""
_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "objecttype": ("object", ""),
    "receptacletype": ("receptacle", ""),
    "cancontain": ("", ""),
    "atlocation": ("agent", "location"),
    "receptacleatlocation": ("receptacle", "location"),
    "objectatlocation": ("object", "location"),
    "inreceptacle": ("object", "receptacle"),
    "inreceptacleobject": ("object", "object"),
    "isreceptacleobject": ("object",),
    **dict.fromkeys(("openable", "opened"), ("receptacle",)),
    **dict.fromkeys((*_FLAGS, *_STATES.values()), ("object",)),
    "holds": ("agent", "object"),
    "holdsany": ("agent",),
}
"""The facts that matter -> the types of their arguments ("" is any)."""
_KNOWN = {name.lower(): name for name in (*OBJECT_CLASSES, *RECEPTACLE_CLASSES)}

_Facts = Mapping[str, Sequence[Sequence[str]]]


def parse_problem(text: str, *, task_id: str, sentence: str, dialect: str) -> Game:
    """The game that a PDDL problem describes.

    Case does not distinguish names, as in the original. Facts that no rule of the game uses are
    skipped. Only things that some fact mentions exist: so it is in the original, and the numbers in
    printed names depend on it.

    `sentence` is the task in words, without the final full stop; a problem does not contain it.

    Raises:
        ProblemError: not PDDL, a part is missing, a fact does not fit, or an unknown goal.
    """
    sections = read_sections(text)
    scene = _Scene(sections)
    task_type, obj, target = recognize(sections.goal)
    goal = GameGoal(task_type, scene.class_of(obj), scene.class_of(target))
    return scene.game(task_id, goal, sentence, dialect)


class _Scene:
    """The facts of a problem, sorted by predicate, and the things they are about."""

    def __init__(self, sections: Sections) -> None:
        self._spelled, self._kinds = sections.spelled, sections.kinds
        self._facts = self._sorted(sections.facts)
        mentioned = {name for facts in self._facts.values() for fact in facts for name in fact}
        # In the order of the problem; `locations` keeps it, the others are listed by name.
        self.locations = self._all("location", mentioned)
        self.objects = sorted(self._all("object", mentioned))
        located = {name: place for name, place in self._facts.get("receptacleatlocation", ())}
        self._located: Mapping[str, str] = located
        # One without a place is out of reach; it counts for the numbers in names only.
        self.receptacles = [r for r in sorted(self._all("receptacle", mentioned)) if r in located]
        self._names = printed_names(name for name in mentioned if "_bar_" in name)

    def _sorted(self, init: Sequence[Sequence[str]]) -> _Facts:
        facts: defaultdict[str, list[Sequence[str]]] = defaultdict(list)
        for fact in init:
            facts[fact[0]].append(fact[1:])
        facts.pop("=", None)
        for head, rows in facts.items():
            if head in _ARGUMENTS:
                self._check(head, rows, _ARGUMENTS[head])
            else:
                facts[head] = [[name for name in row if name in self._kinds] for row in rows]
        return facts

    def _check(self, head: str, rows: Sequence[Sequence[str]], expected: Sequence[str]) -> None:
        """Every fact of a predicate has as many names as expected, listed and of the right type."""
        for row in rows:
            if len(row) != len(expected):
                raise ProblemError(
                    f"{show([head, *row])}: expected {len(expected)} names, got {len(row)}"
                )
        for column, kind in zip(zip(*rows, strict=True), expected, strict=True):
            for name in set(column):
                found = self._kinds.get(name)
                if found is None:
                    raise ProblemError(f"({head} ...): {name} is not listed in (:objects ...)")
                if kind and found != kind:
                    raise ProblemError(
                        f"({head} ...): expected a name of type {kind}, {name} is {found}"
                    )

    def _all(self, kind: str, mentioned: set[str]) -> list[str]:
        return [name for name, of in self._kinds.items() if of == kind and name in mentioned]

    def class_of(self, kind: str) -> str:
        """`potatotype` -> `Potato`: as this package writes it, else as the problem does."""
        stem = kind.removesuffix("type")
        return _KNOWN.get(stem) or self._spelled.get(kind, kind)[: len(stem)]

    def game(self, task_id: str, goal: GameGoal, sentence: str, dialect: str) -> Game:
        objects, receptacles = _numbers(self.objects), _numbers(self.receptacles)
        places = _numbers(self.locations)
        within = self._pairs("inreceptacle", objects, receptacles)
        inner = self._pairs("inreceptacleobject", objects, objects)
        return Game(
            task_id=task_id,
            goal=goal,
            sentence=sentence,
            objects=self._things(),
            receptacles=self._receptacles(places),
            locations=tuple(self._name(place) for place in self.locations),
            start=places[self._start()],
            contents=_listed(within, len(receptacles)),
            can_contain=self._can_contain(),
            object_locations=self._pairs("objectatlocation", objects, places),
            inside=_listed(inner, len(objects)) if inner else (),
            opened=self._ones("opened", receptacles),
            **{state: self._ones(head, objects) for state, head in _STATES.items()},
            dialect=dialect,
            location_ids=tuple(self._spelled[place] for place in self.locations),
        )

    def _start(self) -> str:
        agents = [name for name, kind in self._kinds.items() if kind == "agent"]
        at = self._facts.get("atlocation", ())
        if len(agents) != 1 or len(at) != 1:
            raise ProblemError(
                f"(atLocation ...): expected one agent at one location, "
                f"got {len(agents)} agents and {len(at)} such facts"
            )
        for head in ("holds", "holdsany"):
            if head in self._facts:
                raise ProblemError(
                    f"({head} {' '.join(self._facts[head][0])}): expected empty hands at first"
                )
        return at[0][1]

    def _things(self) -> tuple[Thing, ...]:
        kinds, vessels = self._types("objecttype"), self._names_of("isreceptacleobject")
        flags = {head: self._names_of(head) for head in _FLAGS}
        return tuple(
            Thing(
                id=self._spelled[name],
                cls=kinds.get(name, ""),
                name=self._name(name),
                holds_things=name in vessels,
                **{flag: name in having for flag, having in flags.items()},
            )
            for name in self.objects
        )

    def _receptacles(self, places: Mapping[str, int]) -> tuple[Receptacle, ...]:
        for name, place in self._facts.get("receptacleatlocation", ()):
            if self._located[name] != place:
                raise ProblemError(
                    f"(receptacleAtLocation {name} {place}): it is at {self._located[name]} "
                    f"already; expected one location for each receptacle"
                )
        kinds, openable = self._types("receptacletype"), self._names_of("openable")
        return tuple(
            Receptacle(
                id=self._spelled[name],
                cls=kinds.get(name, ""),
                name=self._name(name),
                location=places[self._located[name]],
                openable=name in openable,
            )
            for name in self.receptacles
        )

    def _types(self, head: str) -> dict[str, str]:
        return {name: self.class_of(kind) for name, kind in self._facts.get(head, ())}

    def _names_of(self, head: str) -> set[str]:
        return {fact[0] for fact in self._facts.get(head, ())}

    def _name(self, name: str) -> str:
        return self._names.get(name, name)

    def _ones(self, head: str, numbers: Mapping[str, int]) -> frozenset[int]:
        return frozenset(numbers[name] for name in self._names_of(head) if name in numbers)

    def _pairs(
        self, head: str, first: Mapping[str, int], second: Mapping[str, int]
    ) -> frozenset[tuple[int, int]]:
        facts = self._facts.get(head, ())
        return frozenset(
            (first[one], second[other]) for one, other in facts if one in first and other in second
        )

    def _can_contain(self) -> frozenset[tuple[str, str]]:
        facts = self._facts.get("cancontain", ())
        classes = {kind: self.class_of(kind) for kind in {kind for fact in facts for kind in fact}}
        return _shared(frozenset((classes[one], classes[other]) for one, other in facts))


@lru_cache(maxsize=128)
def _shared(pairs: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """The first set seen that equals this one: nearly all games of the dataset have the same."""
    return pairs


def _numbers(names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _listed(pairs: frozenset[tuple[int, int]], count: int) -> tuple[tuple[int, ...], ...]:
    """Per second number, the first ones that go with it, ascending."""
    lists: list[list[int]] = [[] for _ in range(count)]
    for one, other in sorted(pairs):
        lists[other].append(one)
    return tuple(map(tuple, lists))
