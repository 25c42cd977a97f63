"""The rules and the words, one by one; and what the real alfworld answered to the same games."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.alfworld.dataset.problem import parse_problem
from aem_gym.envs.alfworld.engine import Engine
from aem_gym.envs.alfworld.game import GameGoal, printed_names
from aem_gym.envs.alfworld.generator import make_game, parse_task_id
from aem_gym.envs.alfworld.text import HELP, listing
from tests.envs.alfworld.alfworld_rooms import kitchen

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))


def play(engine: Engine, *commands: str) -> list[str]:
    return [engine.step(command)[0] for command in commands]


@pytest.fixture
def engine() -> Engine:
    return Engine(kitchen())


def test_introduction(engine: Engine) -> None:
    assert engine.reset() == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly "
        "around you, you see a sinkbasin 1, a countertop 1, a coffeemachine 1, a fridge 1, and a "
        "microwave 1.\n\nYour task is to: put a hot potato in fridge."
    )


def test_introduction_where_the_agent_stands_at_something() -> None:
    assert Engine(kitchen(start=1)).reset() == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are facing the countertop 1, and "
        "coffeemachine 1. Next to it, you see nothing.\n\nYour task is to: put a hot potato in "
        "fridge."
    )


def test_a_whole_heating_task(engine: Engine) -> None:
    assert play(
        engine,
        "go to fridge 1",
        "open fridge 1",
        "take potato 1 from fridge 1",
        "close fridge 1",
        "go to microwave 1",
        "heat potato 1 with microwave 1",
        "examine potato 1",
        "go to fridge 1",
        "move potato 1 to fridge 1",
        "open fridge 1",
    ) == [
        "You arrive at fridge 1. The fridge 1 is closed.",
        "You open the fridge 1. The fridge 1 is open. In it, you see a potato 1.",
        "You pick up the potato 1 from the fridge 1.",
        "You close the fridge 1.",
        "You arrive at microwave 1. The microwave 1 is closed.",
        "You heat the potato 1 using the microwave 1.",
        "This is a hot potato 1.",
        "You arrive at fridge 1. The fridge 1 is closed.",
        "Nothing happens.",
        "You open the fridge 1. The fridge 1 is open. In it, you see nothing.",
    ]
    assert not engine.won
    assert play(engine, "move potato 1 to fridge 1") == ["You move the potato 1 to the fridge 1."]
    assert engine.won


def test_the_older_dialect() -> None:
    engine = Engine(kitchen(dialect="0.3"))
    assert play(
        engine,
        "go to countertop 1",
        "take mug 1 from countertop 1",
        "move mug 1 to countertop 1",
        "put mug 1 in/on coffeemachine 1",
        "help",
    ) == [
        "You arrive at loc 4. On the countertop 1, you see a knife 1, a mug 1, and a desklamp 1.",
        "You pick up the mug 1 from the countertop 1.",
        "Nothing happens.",
        "You put the mug 1 in/on the coffeemachine 1.",
        "Nothing happens.",
    ]


def test_a_location_can_hold_several_receptacles(engine: Engine) -> None:
    play(engine, "go to coffeemachine 1")
    assert engine.admissible() == [
        "examine coffeemachine 1",
        "examine countertop 1",
        "go to fridge 1",
        "go to microwave 1",
        "go to sinkbasin 1",
        "help",
        "inventory",
        "look",
        "take knife 1 from countertop 1",
        "take mug 1 from countertop 1",
        "use desklamp 1",
    ]
    assert play(engine, "go to countertop 1", "look", "take mug 1 from countertop 1") == [
        "Nothing happens.",  # it is where the agent stands already
        "You are facing the countertop 1, and coffeemachine 1. Next to it, you see nothing.",
        "You pick up the mug 1 from the countertop 1.",
    ]
    # What was taken from one receptacle and put into its neighbour lies "next to it".
    assert play(engine, "move mug 1 to coffeemachine 1", "look") == [
        "You move the mug 1 to the coffeemachine 1.",
        "You are facing the countertop 1, and coffeemachine 1. Next to it, you see a mug 1.",
    ]


def test_looking_around_from_the_middle_of_the_room_sees_nothing(engine: Engine) -> None:
    assert play(engine, "look") == [
        "You are in the middle of a room. Looking quickly around you, you see nothing."
    ]


def test_one_thing_in_hand(engine: Engine) -> None:
    assert play(
        engine,
        "inventory",
        "go to countertop 1",
        "take knife 1 from countertop 1",
        "inventory",
        "take mug 1 from countertop 1",
    ) == [
        "You are not carrying anything.",
        "You arrive at countertop 1. On the countertop 1, you see a knife 1, a mug 1, and a "
        "desklamp 1.",
        "You pick up the knife 1 from the countertop 1.",
        "You are carrying: a knife 1.",
        "Nothing happens.",
    ]


def test_only_what_is_held_can_be_examined(engine: Engine) -> None:
    play(engine, "go to countertop 1")
    assert play(engine, "examine mug 1", "examine", "examine countertop 1") == [
        "Nothing happens.",
        "Nothing happens.",
        "On the countertop 1, you see a knife 1, a mug 1, and a desklamp 1.",
    ]
    assert play(engine, "take mug 1 from countertop 1", "examine mug 1")[1] == (
        "This is a normal mug 1. In it, you see nothing."
    )


@pytest.mark.parametrize(
    ("treatments", "words"),
    [
        ((), "There's nothing special about potato 1."),
        (("heat",), "This is a hot potato 1."),
        (("cool",), "This is a cold potato 1."),
        (("clean",), "This is a clean potato 1."),
        (("heat", "cool"), "This is a cold potato 1."),
        (("cool", "heat"), "This is a hot potato 1."),
        (("clean", "heat"), "This is a hot and clean potato 1."),
        (("clean", "cool"), "This is a cool and clean potato 1."),
        (("slice",), "This is a sliced potato 1."),
        (("slice", "heat"), "This is a hot sliced potato 1."),
        (("slice", "cool"), "This is a cool sliced potato 1."),
        (("slice", "clean"), "This is a clean sliced potato 1."),
        (("slice", "clean", "cool"), "This is a cool and clean sliced potato 1."),
    ],
)
def test_what_was_done_to_a_thing_is_told(treatments: tuple[str, ...], words: str) -> None:
    engine = Engine(kitchen())
    if "slice" in treatments:
        play(engine, "go to countertop 1", "take knife 1 from countertop 1", "go to fridge 1")
        assert play(engine, "slice potato 1 with knife 1") == [
            "You sliced the potato 1 with the knife 1."
        ]
        play(engine, "go to countertop 1", "move knife 1 to countertop 1")
    play(engine, "go to fridge 1", "open fridge 1", "take potato 1 from fridge 1")
    machines = {"heat": "microwave 1", "cool": "fridge 1", "clean": "sinkbasin 1"}
    for verb in treatments:
        if verb in machines:
            play(engine, f"go to {machines[verb]}")
            assert play(engine, f"{verb} potato 1 with {machines[verb]}") == [
                f"You {verb} the potato 1 using the {machines[verb]}."
            ]
    assert play(engine, "examine potato 1") == [words]


def test_a_lamp_stays_on_and_can_be_used_again(engine: Engine) -> None:
    play(engine, "go to countertop 1")
    assert play(engine, "use desklamp 1", "use desklamp 1") == ["You turn on the desklamp 1."] * 2


def test_help_is_printed_whole(engine: Engine) -> None:
    assert play(engine, "help") == [HELP]
    assert HELP.startswith("Available commands:\n  look: ") and HELP.endswith("sharp object\n")


def test_a_light_task_is_won_by_holding_the_thing_where_the_lamp_is() -> None:
    engine = Engine(kitchen("look_at_obj_in_light", "Potato", "DeskLamp"))
    play(engine, "go to countertop 1", "use desklamp 1", "go to fridge 1", "open fridge 1")
    play(engine, "take potato 1 from fridge 1")
    assert not engine.won
    play(engine, "go to coffeemachine 1")  # the same location
    assert engine.won


def test_two_things_have_to_be_in_the_same_receptacle() -> None:
    spec = parse_task_id("pick_two_obj_and_place-Pen-None-Drawer-301/trial_5")
    engine = Engine(make_game(spec))
    game = engine.game
    pens = [i for i, thing in enumerate(game.objects) if thing.cls == "Pen"][:2]
    drawers = [i for i, r in enumerate(game.receptacles) if r.cls == "Drawer"][:2]
    for places, won in ((drawers, False), ([drawers[1]] * 2, True)):
        engine.reset()
        for pen, drawer in zip(pens, places, strict=True):
            source = next(i for i, held in enumerate(engine.contents) if pen in held)
            for place, verb in ((source, "take {} from {}"), (drawer, "move {} to {}")):
                name = game.receptacles[place].name
                play(engine, f"go to {name}", f"open {name}")
                play(engine, verb.format(game.objects[pen].name, name))
        assert engine.won is won


def test_numbers_count_down_in_the_order_of_identifiers() -> None:
    ids = ["Pot_bar_2", "Potato_bar_1", "Pot_bar_1", "Sink_bar_9_bar_SinkBasin", "agent1"]
    assert printed_names(ids) == {
        "Pot_bar_1": "pot 2",
        "Pot_bar_2": "pot 1",
        "Potato_bar_1": "potato 1",
        "Sink_bar_9_bar_SinkBasin": "sinkbasin 1",
        "agent1": "agent1",
    }


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "nothing"),
        (["egg 1"], "a egg 1"),
        (["egg 1", "cup 2"], "a egg 1, and a cup 2"),
        (["a 1", "b 1", "c 1"], "a a 1, a b 1, and a c 1"),
    ],
)
def test_listings(names: list[str], words: str) -> None:
    assert listing(names) == words


@given(st.data())
def test_a_command_does_something_if_and_only_if_it_is_admissible(data: st.DataObject) -> None:
    engine = Engine(kitchen())
    for _ in range(12):
        before = engine.admissible()
        assert before == sorted(set(before))
        command = data.draw(st.sampled_from(before) | st.text(max_size=20))
        answer, valid = engine.step(command)
        assert valid is (command.strip() in before)
        assert valid is (answer != "Nothing happens.")
        assert valid or engine.admissible() == before


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_real_alfworld_answered_the_same(path: Path) -> None:
    """Transcripts of alfworld 0.4.2 (or the 0.3.3 rules) on textworld 1.7.0, word for word."""
    record = json.loads(path.read_text())
    game = parse_problem(
        record["problem"], task_id="", sentence=record["sentence"], dialect=record["dialect"]
    )
    assert game.goal == GameGoal(**record["goal"])
    engine = Engine(game)
    for command, observation, admissible, won in record["steps"]:
        text = engine.reset() if command is None else engine.step(command)[0]
        assert (text, engine.admissible(), engine.won) == (observation, admissible, won)


def test_there_are_golden_transcripts() -> None:
    assert len(GOLDEN) >= 4
