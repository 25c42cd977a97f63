"""Game files: read as they are; whatever is wrong is named, file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aem_gym.envs.alfworld.dataset.gamefile import GameFileError, human_goals, read_game
from aem_gym.envs.alfworld.env import ALFWorldEnv
from aem_gym.envs.alfworld.generator import make_game, parse_task_id
from aem_gym.envs.alfworld.text import printed_sentence
from aem_gym.errors import ConfigError
from tests.envs.alfworld.official_data import GRAMMAR, TEMPLATES, make_data, sample


@pytest.fixture(scope="module")
def game_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = make_data(tmp_path_factory.mktemp("data"), games=1)
    return next(data.rglob("game.tw-pddl"))


def changed(path: Path, folder: Path, **keys: Any) -> Path:
    content = json.loads(path.read_text()) | keys
    new = folder / "game.tw-pddl"
    new.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return new


def test_a_written_game_is_read_again(game_file: Path) -> None:
    file = read_game(game_file)
    assert file.game == make_game(parse_task_id(file.game.task_id))
    assert file.solvable and file.walkthrough
    assert human_goals(game_file.parent) == (f"{file.game.sentence}.",)


def test_the_real_sample(test_data: Path) -> None:
    file = read_game(sample(test_data) / "game.tw-pddl")
    assert file.game.sentence == "put a hot potato in sinkbasin"
    assert file.game.dialect == "0.4"
    assert file.game.task_id.startswith("pick_heat_then_place_in_recep-Potato-None-SinkBasin-14/")
    assert len(human_goals(sample(test_data))) == 3
    env = ALFWorldEnv()
    env.reset(options={"game": str(file.path)})
    for command in file.walkthrough:
        *_, info = env.step(command)
    assert info["won"]


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"pddl_problem": ...}, "pddl_problem"),
        ({"grammar": ...}, "grammar"),
        ({"grammar": "nothing"}, "grammar"),
        ({"grammar": 'template :: "move {o} to {r}"'}, "grammar"),
        ({"pddl_problem": 3}, "pddl_problem"),
        ({"pddl_problem": "(define"}, "pddl_problem"),
        ({"walkthrough": "go"}, "walkthrough"),
        ({"solvable": "yes"}, "solvable"),
        ({"grammar": "\\ud800".join(['"Your task is to: ', '."'])}, "grammar"),
        ({"pddl_problem": "(define (:objects) (:init) (:goal " + "(and " * 9999}, "pddl_problem"),
    ],
)
def test_a_wrong_key_is_named(
    game_file: Path, tmp_path: Path, keys: dict[str, Any], named: str
) -> None:
    path = changed(game_file, tmp_path, **keys)
    with pytest.raises(GameFileError, match=named) as raised:
        read_game(path)
    assert raised.value.key == named and str(path) in str(raised.value)
    with pytest.raises(GameFileError):
        ALFWorldEnv().reset(options={"game": str(path)})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_one_kind_of_error(game_file: Path, tmp_path: Path, data: Any) -> None:
    content = game_file.read_bytes()
    at = data.draw(st.integers(0, len(content)))
    new = data.draw(st.binary(max_size=4))
    path = tmp_path / "game.tw-pddl"
    path.write_bytes(content[:at] + new + content[at + data.draw(st.integers(0, 500)) :])
    try:
        read_game(path)
    except GameFileError as error:
        assert str(path) in str(error)


def test_missing_files_and_goals(tmp_path: Path) -> None:
    with pytest.raises(GameFileError, match="cannot be read"):
        read_game(tmp_path / "game.tw-pddl")
    with pytest.raises(GameFileError, match="traj_data.json"):
        human_goals(tmp_path)
    (tmp_path / "traj_data.json").write_text('{"turk_annotations": {"anns": []}}')
    with pytest.raises(GameFileError, match="expected human goals"):
        human_goals(tmp_path)


@pytest.mark.parametrize(
    ("sentence", "printed"),
    [
        ("put a mug in desk", "put a mug in desk."),
        ("Put it there.", "Put it there.."),
        ("find it; leave", "find it"),
        ('say "hi" there', "say hi there."),
        ('say "hi there', "say "),
        ("a [b] c", "a "),
    ],
)
def test_a_task_is_printed_as_the_original_prints_it(sentence: str, printed: str) -> None:
    assert printed_sentence(sentence) == printed


@pytest.mark.parametrize(
    "path", ["a\0b", "/" + "a" * 5000, "/", "~nobody-of-this-name/game.tw-pddl"]
)
def test_no_path_breaks_anything(path: str) -> None:
    with pytest.raises(ConfigError):
        ALFWorldEnv().reset(options={"game": path})
    with pytest.raises(GameFileError, match="cannot be read"):
        read_game(Path(path))
    with pytest.raises(GameFileError, match="cannot be read"):
        human_goals(Path(path))


@pytest.mark.parametrize("content", ["", "null", "[" * 99_999, '{"x":' + "[" * 99_999, "\ufeff{}"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "game.tw-pddl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(GameFileError, match="is not JSON|Expected `object`"):
        read_game(path)


def test_a_sentence_and_an_id_may_be_given(game_file: Path) -> None:
    file = read_game(game_file, task_id="mine", sentence="Tidy up.")
    assert (file.game.task_id, file.game.sentence) == ("mine", "Tidy up.")


def test_unknown_words_in_the_grammar_are_told_once(
    game_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grammar = f"// {tmp_path}\n{GRAMMAR % TEMPLATES['0.3']}"
    for sentence in ("put a mug in desk", "put a pen in desk"):
        printed_sentence = grammar.replace("UNKNOWN GOAL", sentence)
        file = read_game(changed(game_file, tmp_path, grammar=printed_sentence))
        assert (file.game.dialect, file.game.sentence) == ("0.3", sentence)
    assert caplog.text.count("backend='textworld'") == 1
