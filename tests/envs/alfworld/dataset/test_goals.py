"""Goals: recognized by what they mean, in any form; nothing else passes for one."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.alfworld.authoring.problem_writer import write_goal
from aem_gym.envs.alfworld.classes import TASK_TYPES
from aem_gym.envs.alfworld.dataset.pddl import Node, ProblemError, parse, show, typed_list
from aem_gym.envs.alfworld.dataset.problem import recognize
from aem_gym.envs.alfworld.game import GameGoal


def goal_of(task_type: str) -> tuple[Node, tuple[str, str, str]]:
    """A goal as the parser gives it, and what it means."""
    target = "DeskLamp" if task_type == "look_at_obj_in_light" else "Fridge"
    text = write_goal(GameGoal(task_type, "Mug", target))
    return parse(f"(and {text})".lower()), (task_type, "mugtype", f"{target}Type".lower())


def changed(node: Node, change: Callable[[list[Node]], Node]) -> Node:
    """A tree with each list changed, the innermost first."""
    return node if isinstance(node, str) else change([changed(part, change) for part in node])


class Forms:
    """Rewrites that keep the meaning, chosen by Hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw

    def __call__(self, node: list[Node]) -> Node:
        if node[0] == "and":
            node = ["and", *self._draw(st.permutations(node[1:]))]
        elif node[0] == "exists":
            node = self._split(node)
        elif node[0] == "=":
            node = ["=", *self._draw(st.permutations(node[1:]))]
        elif node[0] in ("inreceptacle", "objecttype", "holds") and self._draw(st.booleans()):
            node = ["and", node, ["and"]]
        return node

    def _split(self, node: list[Node]) -> list[Node]:
        """Its variables one by one, in any order."""
        words, inner = node[1], node[2]
        assert isinstance(words, list)
        pairs = list(typed_list([str(word) for word in words]))
        for name, kind in self._draw(st.permutations(pairs)):
            inner = ["exists", [name, "-", kind], inner]
        assert isinstance(inner, list)
        return inner


@given(st.sampled_from(TASK_TYPES), st.data())
def test_the_form_of_a_goal_does_not_matter(task_type: str, data: st.DataObject) -> None:
    goal, meaning = goal_of(task_type)
    names = data.draw(st.permutations(["x", "y", "o", "o1", "r", "l", "a"]))
    numbers = {"?o": 0, "?o1": 1, "?o2": 2, "?r": 3, "?l": 4, "?a": 5, "?ot": 6}
    text = show(changed(goal, Forms(data)), 10_000)
    text = re.sub(r"\?\w+", lambda found: f"?{names[numbers[found[0]]]}", text)
    assert recognize(parse(text)) == meaning


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_no_condition_may_be_missing_or_added(task_type: str) -> None:
    goal, _ = goal_of(task_type)
    text = show(goal, 10_000)
    facts = {fact for fact in re.findall(r"\([a-z]+ \?[^()]*\)", text) if " - " not in fact}
    assert len(facts) >= 3
    for fact in facts:  # what is said twice (of pick_two's receptacle) goes twice
        with pytest.raises(ProblemError, match="expected a goal of one of the task types"):
            recognize(parse(text.replace(fact, "(and)")))
        with pytest.raises(ProblemError, match="expected a fact"):
            recognize(parse(text.replace(fact, f"(not {fact})")))
    for more in ("(opened x)", "(exists (?z - object) (ishot ?z))"):
        with pytest.raises(ProblemError):
            recognize(["and", goal, parse(more)])


def test_two_things_must_be_two_and_of_one_kind() -> None:
    text = show(goal_of("pick_two_obj_and_place")[0], 10_000)
    for old, new in (
        ("(not (= ?o1 ?o2))", "(and)"),
        ("(not (= ?o1 ?o2))", "(= ?o1 ?o2)"),
        ("(objecttype ?o2 mugtype)", "(objecttype ?o2 cuptype)"),
        ("(inreceptacle ?o2 ?r)", "(inreceptacle ?o1 ?r)"),
    ):
        assert old in text
        with pytest.raises(ProblemError, match="expected a goal"):
            recognize(parse(text.replace(old, new)))


def test_other_goals_are_refused() -> None:
    text = show(goal_of("pick_and_place_simple")[0], 10_000)
    for old, new in (
        ("exists", "forall"),
        ("(and", "(or"),
        ("?o - object", "?o - receptacle"),
        ("?o - object", "?o - "),
        ("?o - object", "(?o)"),
        ("(inreceptacle ?o ?r)", "(inreceptacle ?r ?o)"),
        ("(inreceptacle ?o ?r)", "(inreceptacle (f ?o) ?r)"),
        ("(inreceptacle ?o ?r)", "()"),
    ):
        assert old in text
        with pytest.raises(ProblemError, match="goal|type"):
            recognize(parse(text.replace(old, new)))


@given(st.lists(st.sampled_from(["a", "b", "-", "object", "?x"]), max_size=9))
def test_typed_lists_have_a_type_for_each_name(words: list[str]) -> None:
    try:
        pairs = list(typed_list(words))
    except ProblemError:
        assert words[-1] == "-"
        return
    expected: list[str] = []
    index = 0
    while index < len(words):  # names are the words that are no dash and do not follow one
        if words[index] == "-":
            index += 1
        else:
            expected.append(words[index])
        index += 1
    assert [name for name, _ in pairs] == expected
