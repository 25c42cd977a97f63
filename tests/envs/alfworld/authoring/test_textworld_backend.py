"""The real engine behind our interface, and the native one against it, step by step."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import cache

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aem_gym  # noqa: F401
from aem_gym.envs.alfworld.authoring.logic import Logic, find_logic
from aem_gym.envs.alfworld.authoring.textworld_backend import TextWorldEngine, start_engine
from aem_gym.envs.alfworld.engine import Engine
from aem_gym.envs.alfworld.env import ALFWorldEnv
from aem_gym.envs.alfworld.generator import make_game, parse_task_id
from aem_gym.errors import ConfigError, MissingDependencyError

MEND = 'needs the real ALFWorld: pip install "aem-gym[alfworld]"'


def test_without_the_package_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textworld", None)
    monkeypatch.setitem(sys.modules, "textworld.envs", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "aem-gym\[alfworld\]"'):
        TextWorldEngine({})


@cache
def logics() -> list[Logic]:
    """The rules that are at hand; the older ones are no part of the package."""
    pytest.importorskip("textworld.envs", reason=MEND)
    found = [find_logic("0.4")]
    try:
        found.append(find_logic("0.3"))
    except ConfigError:
        assert "CI" not in os.environ, "CI installs the older rules, see .ci/run"
    return found


@cache
def pair(number: int) -> tuple[TextWorldEngine, Engine]:
    """The same scenario in both engines, read from the same content."""
    from benchmarks.alfworld.scenarios import generated
    from benchmarks.alfworld.transcripts import native_game, remember_parses

    remember_parses()
    scenario = generated(7, number, logics())
    from msgspec import json

    return TextWorldEngine(json.decode(scenario.content)), Engine(native_game(scenario, None))


@settings(max_examples=12)
@given(st.integers(0, 5), st.lists(st.integers(0, 10_000) | st.text(), max_size=8))
def test_both_engines_answer_the_same(number: int, choices: list[int | str]) -> None:
    logics()
    real, native = pair(number)
    assert native.reset() == real.reset()
    for choice in choices:
        possible = real.admissible()
        assert native.admissible() == possible and native.won == real.won
        near = [command for command in possible if not command.startswith("go to ")]
        among = near if isinstance(choice, int) and choice % 3 else possible
        command = choice if isinstance(choice, str) else among[choice % len(among)]
        assert native.step(command) == real.step(command)
    assert native.admissible() == real.admissible() and native.won == real.won
    in_order = {place: sorted(things) for place, things in native.contained().items()}
    assert {place: sorted(things) for place, things in real.contained().items()} == in_order


def test_the_parity_check_finds_no_difference_and_would_find_one(tmp_path: object) -> None:
    from dataclasses import replace

    from benchmarks.alfworld.scenarios import generated
    from benchmarks.alfworld.transcripts import compare, record, remember_parses

    rules = logics()
    remember_parses()
    for number in (11, 12):
        scenario = generated(7, number, rules)
        transcript = record(scenario, 8)
        assert len(transcript.states) > 4 and compare(scenario, transcript) == []
        spoiled = [replace(state, won=not state.won) for state in transcript.states]
        assert len(compare(scenario, replace(transcript, states=spoiled))) == len(spoiled)


def test_chosen_task_types_meet_many_floorplans() -> None:
    """In turn, each floorplan meets one type only: choosing types is what mixes them."""
    from benchmarks.alfworld.scenarios import generated

    rules = logics()
    chosen = ["pick_cool_then_place_in_recep", "look_at_obj_in_light"]
    games = [generated(3, number, rules, chosen) for number in range(40)]
    assert {kind: sum(g.task_type == kind for g in games) for kind in chosen} == dict.fromkeys(
        chosen, 20
    )
    assert all(game.task_type in game.name for game in games)
    assert len({game.name.partition("/trial")[0].rpartition("-")[2] for game in games}) > 20
    assert games[:5] == [generated(3, number, rules, chosen) for number in range(5)]


@pytest.mark.parametrize("dialect", ["0.4", "0.3"])
def test_the_environment_with_either_backend(dialect: str) -> None:
    if dialect not in {logic.dialect for logic in logics()}:
        pytest.skip("needs alfworld 0.3.x's rules: set AEM_ALFWORLD_LOGIC_03 to their folder")
    before = (sys.argv[:], dict(os.environ))
    make = {"dialect": dialect, "difficulty": "small", "shuffle_numbers": True}
    native = gym.make("aem_gym/ALFWorld-v0", **make).unwrapped
    real = gym.make("aem_gym/ALFWorld-v0", backend="textworld", **make).unwrapped
    assert isinstance(native, ALFWorldEnv) and isinstance(real, ALFWorldEnv)
    assert native.reset(seed=5) == real.reset(seed=5)
    over = False
    while not over:
        thought, action = native.expert()
        assert real.expert() == (thought, action)
        answer = native.step(action)
        assert real.step(action) == answer
        over = answer[2] or answer[3]
    assert answer[4]["won"]
    real.close()
    assert before == (sys.argv, dict(os.environ))


def test_engines_are_isolated_and_leave_nothing_open() -> None:
    logics()
    one, two = pair(0)[0], pair(1)[0]
    first = one.reset()
    two.reset()
    opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for text in ("", "go to", "\x00", "🙂" * 1000, "take {0} from #x#", "help" * 5000):
        answer, known = one.step(text)
        assert answer == "Nothing happens." and not known
    two.step(next(c for c in two.admissible() if c.startswith("go to")))
    assert one.reset() == first
    assert not opened or len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize("sentence", ["a {1/0} b", "put it [x]", "#r# it", "plain; cut", "fine"])
def test_sentences_of_people_are_not_run_as_code(sentence: str) -> None:
    logics()
    spec = parse_task_id("pick_and_place_simple-Mug-None-Cabinet-10/trial_3")
    game = replace(make_game(spec), sentence=sentence)
    assert start_engine(game).reset() == Engine(game).reset()
