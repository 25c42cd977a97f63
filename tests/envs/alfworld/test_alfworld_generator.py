"""Generated tasks: solvable, reproducible, and split as the original's are."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.envs.alfworld.classes import CAN_CONTAIN, SPLITS, TASK_TYPES, TREATMENT
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.generator import (
    combinations,
    draw_task,
    floorplans,
    is_held_out,
    make_game,
    parse_task_id,
    split_of,
)
from aem_gym.envs.alfworld.rooms import DIFFICULTIES, ROOMS, layout
from aem_gym.errors import ConfigError

tasks = st.builds(
    lambda seed, split, difficulty, task_type: draw_task(
        np.random.default_rng(seed), split, difficulty, task_type
    ),
    st.integers(0, 2**32),
    st.sampled_from(SPLITS),
    st.sampled_from(DIFFICULTIES),
    st.sampled_from(TASK_TYPES),
)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_splits_are_disjoint_and_none_is_empty(difficulty: str) -> None:
    names: dict[str, set[str]] = {}
    rooms: dict[str, set[int]] = {}
    for split in SPLITS:
        for task_type in TASK_TYPES:
            found = [
                combination
                for plan in floorplans(split, task_type, difficulty)
                for combination in combinations(split, task_type, difficulty, plan)
            ]
            assert found, (split, task_type)
            names.setdefault(split, set()).update(c.name for c in found)
            rooms.setdefault(split, set()).update(c.floorplan for c in found)
            assert all(split_of(c) == split for c in found)
    assert not names["train"] & names["valid_seen"]
    assert not names["train"] & names["valid_unseen"]
    assert rooms["valid_seen"] <= rooms["train"]
    assert not rooms["valid_unseen"] & rooms["train"]
    assert 0.04 < len(names["valid_seen"]) / len(names["train"]) < 0.16


def test_the_published_unseen_floorplans_are_held_out() -> None:
    assert all(is_held_out(number) for number in (10, 219, 308, 424))
    for numbers in ROOMS.values():
        assert 5 < sum(map(is_held_out, numbers)) < 10


def test_small_games_stay_as_they_were_when_results_were_measured_on_them() -> None:
    rng, digest = np.random.default_rng(0), hashlib.sha256()
    for split in SPLITS:
        for task_type in TASK_TYPES:
            for _ in range(10):
                spec = draw_task(rng, split, "small", task_type)
                game = make_game(spec)
                for part in (spec.task_id, game.sentence, game.start, game.contents):
                    digest.update(repr(part).encode())
                for thing in (*game.objects, *game.receptacles):
                    digest.update(repr((thing.id, thing.name, thing.cls)).encode())
                for place in game.receptacles:
                    digest.update(repr((place.location, place.openable)).encode())
    assert digest.hexdigest() == "c7b44bcfbc38c397216b0080833a4f5a46282ff806c6833449b8571a4e139903"


@settings(max_examples=150, deadline=None)
@given(tasks)
def test_a_task_id_gives_the_same_game_back(spec) -> None:
    again = parse_task_id(spec.task_id)
    assert again == spec
    assert make_game(again) == make_game(spec)


@settings(max_examples=200, deadline=None)
@given(tasks)
def test_a_game_can_be_solved_and_is_not_solved_yet(spec) -> None:
    game, task = make_game(spec), spec.combination
    wanted = [i for i, thing in enumerate(game.objects) if thing.cls == task.obj]
    assert len(wanted) >= (2 if task.task_type == "pick_two_obj_and_place" else 1)
    assert sorted(i for held in game.contents for i in held) == list(range(len(game.objects)))
    for receptacle, held in zip(game.receptacles, game.contents, strict=True):
        for index in held:
            thing = game.objects[index]
            assert thing.toggleable or thing.cls in CAN_CONTAIN[receptacle.cls]
            if task.task_type not in TREATMENT and index in wanted:
                assert receptacle.cls != task.target
    if task.task_type == "look_at_obj_in_light":
        assert any(thing.cls == task.target and thing.toggleable for thing in game.objects)
    else:
        assert (task.target, task.obj) in game.can_contain
        assert task.target in {receptacle.cls for receptacle in game.receptacles}


@settings(max_examples=100, deadline=None)
@given(tasks)
def test_names_and_identifiers_are_unique_and_sorted(spec) -> None:
    game = make_game(spec)
    for things in (game.objects, game.receptacles):
        ids = [thing.id.lower() for thing in things]
        assert ids == sorted(set(ids))
        assert len({thing.name for thing in things}) == len(things)


def test_small_rooms_have_six_to_eight_receptacles_and_few_doors() -> None:
    for room in ("Kitchen", "Bedroom"):
        for number in ROOMS[room]:
            receptacles = layout(number, "small").receptacles
            assert 6 <= len(receptacles) <= 8
            # Looking into everything takes at most 11 of the 14 turns.
            assert len(receptacles) + sum(r.openable for r in receptacles) <= 11
            assert len({r.location for r in receptacles}) == len(receptacles)


def test_full_rooms_are_furnished_as_the_original_floorplans() -> None:
    counts = {
        room: Counter(
            receptacle.cls
            for number in numbers
            for receptacle in layout(number, "full").receptacles
        )
        for room, numbers in ROOMS.items()
    }
    # Totals over the 30 floorplans of the original: cabinets 342, beds 34, ...
    assert 220 < counts["Kitchen"]["Cabinet"] < 440
    assert counts["Kitchen"]["Fridge"] == counts["Kitchen"]["Microwave"] == 30
    assert 20 < counts["LivingRoom"]["CoffeeTable"] < 42
    assert 24 < counts["Bedroom"]["Bed"] < 46
    assert counts["Bathroom"]["SinkBasin"] > 30


@pytest.mark.parametrize(
    "task_id",
    [
        "",
        "nonsense",
        "pick_heat_then_place_in_recep-Potato-None-SinkBasin-14",
        "pick_heat_then_place_in_recep-Potato-None-SinkBasin-14/trial_x",
        "pick_heat_then_place_in_recep-Potato-None-Microwave-14/trial_1",
        "pick_heat_then_place_in_recep-Pen-None-SinkBasin-14/trial_1",
        "pick_heat_then_place_in_recep-Potato-None-SinkBasin-999/trial_1",
        "pick_heat_then_place_in_recep-Potato-None-SinkBasin-301/trial_1",
        "paint_it_black-Potato-None-SinkBasin-14/trial_1",
        "pick_clean_then_place_in_recep-SoapBar-None-Toilet-407/trial_small_1",
    ],
)
def test_an_impossible_task_id_is_refused(task_id: str) -> None:
    with pytest.raises(ConfigError, match="task_id: expected"):
        parse_task_id(task_id)


def test_draws_follow_their_weights() -> None:
    draws = Draws("test")
    picked = Counter(draws.weighted("abc", (1.0, 0.0, 3.0)) for _ in range(4000))
    assert picked["b"] == 0 and 0.2 < picked["a"] / 4000 < 0.3
    assert sorted(draws.sample("abcd", 4)) == list("abcd")
    assert len(set(draws.sample(range(10), 5))) == 5
    assert [Draws("x", 1).uniform()] == [Draws("x", 1).uniform()] != [Draws("x", 2).uniform()]
