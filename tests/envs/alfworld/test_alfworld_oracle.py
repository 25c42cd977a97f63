"""The oracle wins, from text alone, whoever interferes; its demonstrations can be imitated."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from aem_gym.envs.alfworld.classes import TASK_TYPES
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.engine import Engine
from aem_gym.envs.alfworld.env import ALFWorldEnv
from aem_gym.envs.alfworld.game import Receptacle
from aem_gym.envs.alfworld.generator import draw_task, make_game
from aem_gym.envs.alfworld.oracle import Belief, HouseholdOracle, read_task
from aem_gym.envs.alfworld.text import TEMPLATES
from tests.envs.alfworld.alfworld_rooms import kitchen


def win_rate(env: ALFWorldEnv, episodes: int, noise: float = 0.0) -> tuple[float, float]:
    """(share won, mean turns); noise: the share of turns that a random action takes."""
    rng = np.random.default_rng(0)
    won = turns = 0
    for seed in range(episodes):
        _, info = env.reset(seed=seed)
        over = False
        while not over:
            _, action = env.expert()
            if rng.random() < noise:
                action = info["admissible_actions"][rng.integers(len(info["admissible_actions"]))]
            _, _, terminated, truncated, info = env.step(action)
            assert info["action_valid"], action
            over = terminated or truncated
            turns += 1
        won += info["won"]
    return won / episodes, turns / episodes


@pytest.mark.parametrize("split", ["train", "valid_seen", "valid_unseen"])
@pytest.mark.parametrize("dialect", ["0.4", "0.3"])
@pytest.mark.parametrize(("difficulty", "episodes"), [("small", 300), ("full", 200)])
def test_it_wins(difficulty: str, episodes: int, dialect: str, split: str) -> None:
    env = ALFWorldEnv(difficulty=difficulty, dialect=dialect, split=split, expert_search="likely")
    assert win_rate(env, episodes)[0] >= 0.99


@pytest.mark.parametrize(("difficulty", "least"), [("small", 0.98), ("full", 0.98)])
def test_it_recovers_from_actions_of_others(difficulty: str, least: float) -> None:
    assert (
        win_rate(
            ALFWorldEnv(difficulty=difficulty, max_turns=50, expert_search="likely"),
            300,
            noise=0.08,
        )[0]
        >= least
    )
    patient = ALFWorldEnv(difficulty=difficulty, max_turns=200)
    assert win_rate(patient, 150, noise=0.4)[0] == 1.0


def test_the_better_it_knows_where_to_look_the_sooner_it_wins() -> None:
    turns = {
        search: win_rate(ALFWorldEnv(difficulty="full", expert_search=search), 150)[1]
        for search in ("privileged", "likely", "random")
    }
    assert turns["privileged"] < turns["likely"] < turns["random"]


@pytest.mark.parametrize("search", ["likely", "random"])
def test_it_never_peeks(search: str) -> None:
    def peek() -> dict[str, list[str]]:
        raise AssertionError("looked behind the text")

    for number, task_type in enumerate(TASK_TYPES):
        spec = draw_task(np.random.default_rng(number), "train", "small", task_type)
        engine = Engine(make_game(spec))
        oracle = HouseholdOracle(search, Draws("test", number), peek)
        oracle.read(engine.reset())
        for _ in range(20):
            oracle.read(engine.step(oracle.choose(engine.admissible())[1])[0])
            if engine.won:
                break
        assert engine.won


def test_its_randomness_is_its_own() -> None:
    """Asking the expert changes nothing about this or later episodes."""
    asked, silent = ALFWorldEnv(difficulty="small"), ALFWorldEnv(difficulty="small")
    asked.reset(seed=3)
    silent.reset(seed=3)
    asked.expert()
    assert asked.reset()[0] == silent.reset()[0]


def test_asking_twice_gives_the_same_answer() -> None:
    env = ALFWorldEnv(difficulty="small")
    for seed in range(20):
        env.reset(seed=seed)
        assert env.expert() == env.expert()


def test_thoughts_are_short_and_few() -> None:
    env = ALFWorldEnv(difficulty="small")
    lengths: list[int] = []
    templates: Counter[str] = Counter()
    nouns = set(env.lexicon)
    for seed in range(200):
        env.reset(seed=seed)
        over = False
        while not over:
            thought, action = env.expert()
            lengths.append(len(thought.split()))
            words = [w.strip(".,") for w in thought.split()]
            templates[" ".join("N" if w in nouns or w.isdigit() else w for w in words)] += 1
            over = any(env.step(action)[2:4])
    assert 4 <= sum(lengths) / len(lengths) <= 8
    assert len(templates) < 30


def test_it_does_something_where_it_knows_neither_task_nor_room() -> None:
    oracle = HouseholdOracle("likely", Draws("test"), dict)
    oracle.read("Your task is to: make me a sandwich.")
    assert oracle.choose(["look", "go to desk 1"])[1] == "look"


def play(engine: Engine, oracle: HouseholdOracle, *before: str) -> int:
    """Steps that the oracle takes after somebody else's commands (50: not won)."""
    oracle.read(engine.reset())
    for command in before:
        answer, admissible = engine.step(command)
        assert admissible, command
        oracle.read(answer)
    for step in range(50):
        if engine.won:
            return step
        oracle.read(engine.step(oracle.choose(engine.admissible())[1])[0])
    return 50


def test_it_gets_rid_of_a_thing_that_only_one_place_takes_and_no_table_lists() -> None:
    game = kitchen(target="SinkBasin")
    bear = replace(game.objects[1], id="zz", cls="TeddyBear", name="teddybear 1")
    game = replace(
        game,
        objects=(*game.objects, bear),
        contents=((), (0, 1, 3), (4,), (2,), ()),
        object_locations=game.object_locations | {(4, 1)},
        can_contain=game.can_contain | {("CounterTop", "TeddyBear")},
    )
    take = ("go to coffeemachine 1", "take teddybear 1 from coffeemachine 1", "go to fridge 1")
    oracle = HouseholdOracle("likely", Draws("test"), dict, goal=game.goal)
    assert play(Engine(game), oracle, *take) < 20


@pytest.mark.parametrize("tub", [1, 2])
def test_a_sinkbasin_that_is_printed_as_a_bathtubbasin(tub: int) -> None:
    """The real floorplan 420 has one; beside it may stand a basin of the other class."""
    game = kitchen("pick_clean_then_place_in_recep", "Mug", "CoffeeMachine")
    sink, *others = game.receptacles
    sink = replace(sink, id="Bathtub_bar_1_bar_SinkBasin", name=f"bathtubbasin {3 - tub}")
    bath = Receptacle("Bathtub_bar_2_bar_BathtubBasin", "BathtubBasin", f"bathtubbasin {tub}", 3)
    game = replace(game, receptacles=(sink, *others, bath), contents=(*game.contents, ()))
    oracle = HouseholdOracle("likely", Draws("test"), dict, goal=game.goal)
    assert play(Engine(game), oracle) < 20


def test_a_thing_in_two_places_is_not_taken_for_two() -> None:
    game = kitchen("pick_two_obj_and_place", "Mug", "Fridge")
    second = replace(game.objects[1], id="mm", name="mug 2")
    game = replace(
        game,
        objects=(*game.objects, second),  # mug 1 is on the counter and in the coffee machine
        contents=((), (0, 1, 3), (1,), (2,), (4,)),
        object_locations=game.object_locations | {(4, 3)},
    )
    see = ("go to coffeemachine 1", "examine countertop 1")
    oracle = HouseholdOracle("likely", Draws("test"), dict, goal=game.goal)
    assert play(Engine(game), oracle, *see) < 30


def test_its_own_noise_is_admissible_and_stays_until_something_is_read() -> None:
    engine = Engine(kitchen())
    oracle = HouseholdOracle("likely", Draws("test"), dict, goal=engine.game.goal, noise=0.5)
    oracle.read(engine.reset())
    noisy = 0
    for _ in range(200):
        admissible = engine.admissible()
        thought, action = oracle.choose(admissible)
        assert action in admissible
        assert all(oracle.choose(admissible) == (thought, action) for _ in range(5))
        noisy += thought == "I try something."
        oracle.read(engine.step("look")[0])
    assert 60 < noisy < 140


def test_every_sentence_is_understood() -> None:
    for task_type, templates in TEMPLATES.items():
        for template in templates:
            sentence = template.format(obj="potato", target="sinkbasin")
            assert read_task(sentence) == (task_type, "potato", "sinkbasin")
    assert read_task("do as you please") is None


def test_belief_follows_the_text() -> None:
    belief = Belief()
    for text in (
        "You are in the middle of a room. Looking quickly around you, you see a desk 1, and a "
        "fridge 1.\n\nYour task is to: put a cool mug in desk.",
        "You arrive at loc 3. On the desk 1, you see a mug 1, and a pen 2.",
        "You pick up the mug 1 from the desk 1.",
        "You arrive at fridge 1. The fridge 1 is closed.",
        "You cool the mug 1 using the fridge 1.",
    ):
        belief.read(text)
    assert belief.task == ("pick_cool_then_place_in_recep", "mug", "desk")
    assert belief.receptacles == ["desk 1", "fridge 1"]
    assert belief.contents == {"desk 1": ["pen 2"]}
    assert (belief.holding, belief.closed) == ("mug 1", {"fridge 1"})
    assert belief.treated == {"mug 1": {"cool"}}
    belief.read("You open the fridge 1. The fridge 1 is open. In it, you see nothing.")
    belief.read("You put the mug 1 in/on the fridge 1.")
    assert belief.contents == {"desk 1": ["pen 2"], "fridge 1": ["mug 1"]}
    assert belief.holding is None and not belief.closed


def test_the_held_thing_is_no_place() -> None:
    """Where the first text was not read, places are found in the admissible commands."""
    oracle = HouseholdOracle("likely", Draws(0), dict)
    oracle.belief.holding = "mug 1"
    oracle.choose(["go to shelf 1", "examine desk 1", "examine mug 1", "look"])
    assert oracle.belief.receptacles == ["shelf 1", "desk 1"]


def test_win_rates_of_all_types_are_counted() -> None:
    """The draw gives every task type its share."""
    env, seen = ALFWorldEnv(difficulty="small"), defaultdict(int)
    for seed in range(600):
        seen[env.reset(seed=seed)[1]["task_type"]] += 1
    assert set(seen) == set(TASK_TYPES)
    assert min(seen.values()) > 60
