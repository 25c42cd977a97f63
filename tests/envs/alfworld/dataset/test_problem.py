"""Planning problems: what is written is read again, and nothing else passes for a game."""

from __future__ import annotations

import importlib.util
import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.alfworld.authoring.problem_writer import write_goal, write_problem
from aem_gym.envs.alfworld.classes import SPLITS, TASK_TYPES
from aem_gym.envs.alfworld.dataset.problem import ProblemError, parse_problem
from aem_gym.envs.alfworld.game import Game, GameGoal
from aem_gym.envs.alfworld.generator import draw_task, make_game
from tests.envs.alfworld.official_data import sample


def generated(seed: int, split: str = "train", difficulty: str = "small") -> Game:
    rng = np.random.default_rng(seed)
    types = [t for t in TASK_TYPES if difficulty == "full" or t != "look"]
    return make_game(draw_task(rng, split, difficulty, types[seed % len(types)]))


def read(text: str, like: Game | None = None) -> Game:
    game = like or generated(0)
    return parse_problem(text, task_id=game.task_id, sentence=game.sentence, dialect=game.dialect)


def installed_goals() -> dict[str, str]:
    """The original's own goals. Its module is run alone: its package changes the environment."""
    package = importlib.util.find_spec("alfworld")
    if package is None or not package.submodule_search_locations:
        pytest.skip('needs pip install "aem-gym[alfworld]"')
    library = runpy.run_path(f"{package.submodule_search_locations[0]}/gen/goal_library.py")
    return {task_type: library["gdict"][task_type]["pddl"] for task_type in TASK_TYPES}


def with_goal(task_type: str) -> Game:
    target = "DeskLamp" if task_type == "look_at_obj_in_light" else "Fridge"
    return replace(generated(0), goal=GameGoal(task_type, "Mug", target))


@given(st.integers(0, 10_000), st.sampled_from(SPLITS), st.sampled_from(["small", "full"]))
def test_what_is_written_is_read_again(seed: int, split: str, difficulty: str) -> None:
    game = generated(seed, split, difficulty)
    assert read(write_problem(game), game) == game


@given(st.integers(0, 200), st.data())
def test_a_damaged_problem_is_refused_or_still_a_game(seed: int, data: st.DataObject) -> None:
    text = write_problem(generated(seed))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 200)))
    new = data.draw(st.sampled_from(["", "(", ")", ";", " x ", "((", "(:init", "- object", "\x00"]))
    damaged = text[:start] + new + text[end:]
    try:
        assert isinstance(read(damaged), Game)
    except ProblemError as error:
        assert str(error)


def test_the_layout_of_the_text_does_not_matter() -> None:
    game = generated(3)
    text = write_problem(game)
    spread = re.sub(r"([()])", r"\n\t \1 ; a comment (with parentheses\n", text)
    assert read(spread, game) == game
    # Names are told apart without regard to case; they stay spelled as they are listed.
    head, init, rest = text.partition("(:init")
    assert read(head + (init + rest).upper(), game) == game


def test_the_order_of_facts_does_not_matter() -> None:
    game = generated(4)
    head, _, rest = write_problem(game).partition("(:init\n")
    facts, _, tail = rest.partition("\n)\n(:goal")
    lines = sorted(facts.split("\n"))
    assert read(f"{head}(:init\n" + "\n".join(lines) + f"\n)\n(:goal{tail}", game) == game


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_goals_are_recognized_by_what_they_mean(task_type: str) -> None:
    game = with_goal(task_type)
    goal = write_goal(game.goal)
    text = write_problem(game)
    assert read(text).goal == game.goal
    renamed = re.sub(r"\?(\w+)", r"?new_\1", goal)
    assert read(text.replace(goal, f"(and (and {renamed}))")).goal == game.goal


@pytest.mark.parametrize("section", ["(:objects apple - object)", "(:init (opened x))"])
def test_a_section_twice_is_refused(section: str) -> None:
    text = write_problem(generated(0))
    for before in ("(:objects", "(:init", "(:goal"):
        with pytest.raises(ProblemError):
            read(text.replace(before, f"{section} {before}", 1))
    for before in ("(:domain", "(:objects", "(:goal"):  # the first of these is read first
        with pytest.raises(ProblemError):
            read(text.replace(before, f"{before} {section}", 1))


def test_nesting_has_an_end() -> None:
    text = write_problem(generated(0))
    for before in ("(:init", "(:goal"):
        deep = "(not " * 9999 + ")" * 9999
        with pytest.raises(ProblemError, match="inside one another"):
            read(text.replace(before, f"{before} {deep}", 1))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("(inReceptacle ?o ?r)", "", "expected a goal of one of the task types"),
        ("(exists", "(forall", ":goal"),
        ("(:init", "(:start", "init"),
        ("(atLocation agent1 ", "(atLocation agent2 ", "agent2 is not listed"),
        ("agent1 - agent", "", "agent1"),
        ("(openable ", "(openable x ", "openable"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, complaint: str) -> None:
    text = write_problem(generated(0))
    assert old in text
    with pytest.raises(ProblemError, match=re.escape(complaint)):
        read(text.replace(old, new, 1))


def test_full_hands_at_first_are_refused() -> None:
    game = generated(0)
    text = write_problem(game).replace("(:init", f"(:init (holds agent1 {game.objects[0].id})")
    with pytest.raises(ProblemError, match="expected empty hands"):
        read(text)


def test_facts_that_no_rule_asks_for_are_skipped() -> None:
    game = generated(1)
    place = game.receptacles[0].id
    more = (
        f"(:init (= (distance a b) 3) (not (opened {place})) (checked {place}) (= (total-cost) 0)"
    )
    assert read(write_problem(game).replace("(:init", more), game) == game


def test_the_real_sample(test_data: Path) -> None:
    text = (sample(test_data) / "initial_state.pddl").read_text()
    game = read(text)
    assert game.goal == GameGoal("pick_heat_then_place_in_recep", "Potato", "SinkBasin")
    assert (len(game.objects), len(game.receptacles)) == (53, 20)
    assert read(write_problem(game)) == game


def test_goals_of_the_installed_original() -> None:
    for task_type, template in installed_goals().items():
        game = with_goal(task_type)
        goal = template.replace(" # ", " - ").strip()
        for name, cls in {"obj": "Mug", "recep": "Fridge", "toggle": "DeskLamp"}.items():
            goal = goal.replace(f"{{{name}}}", cls)
        text = write_problem(game)
        text = text[: text.index("(:goal")] + goal
        assert read(text + ")" * (text.count("(") - text.count(")"))).goal == game.goal
