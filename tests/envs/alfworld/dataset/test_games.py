"""Official games as a source of episodes, and the index that finds them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from aem_gym.envs.alfworld.authoring.report import data_report
from aem_gym.envs.alfworld.classes import TASK_TYPES
from aem_gym.envs.alfworld.dataset.gamefile import read_game
from aem_gym.envs.alfworld.dataset.games import DatasetGames
from aem_gym.envs.alfworld.dataset.index import GameIndex, load_index
from aem_gym.envs.alfworld.engine import Engine
from aem_gym.envs.alfworld.env import ALFWorldEnv
from aem_gym.envs.alfworld.game import shuffle_numbers
from aem_gym.envs.alfworld.generator import GeneratedGames
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.io import cache_folder
from tests.envs.alfworld.official_data import make_data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


def trials(data: Path) -> list[Path]:
    return sorted((data / "json_2.1.1" / "train").glob("*/*"))


def ids(index: GameIndex) -> list[str]:
    return [entry.task_id for entry in index.entries]


def test_the_index_lists_what_is_there_in_order(data: Path) -> None:
    index = load_index(data, "train")
    assert ids(index) == [str(path.relative_to(path.parents[1])) for path in trials(data)]
    assert not index.problems and load_index(data / "json_2.1.1", "train") == index


def test_the_index_follows_every_change(data: Path) -> None:
    first, second, third, fourth, *_ = trials(data)
    before = load_index(data, "train")
    shutil.rmtree(first)
    (second / "game.tw-pddl").unlink()
    content = json.loads((third / "game.tw-pddl").read_text())
    (third / "game.tw-pddl").write_text(json.dumps(content | {"solvable": False}))
    shutil.copytree(fourth, fourth.with_name("trial_new"))
    after = load_index(data, "train")
    gone = {str(path.relative_to(path.parents[1])) for path in (first, second, third)}
    new = f"{fourth.parent.name}/trial_new"
    assert set(ids(after)) == set(ids(before)) - gone | {new}
    assert [problem.kind for problem in after.problems] == ["partial"] and after.left_out == 1


@pytest.mark.parametrize("name", ["game.tw-pddl", "traj_data.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"solvable": "maybe"}'])
def test_damaged_folders_are_named_and_skipped(data: Path, name: str, content: bytes) -> None:
    spoiled = trials(data)[0]
    (spoiled / name).write_bytes(content)
    index = load_index(data, "train")
    assert len(index.entries) == 11 and len(index.problems) == 1
    assert index.problems[0].path == spoiled and name in index.problems[0].reason
    report = data_report(data)
    assert not report.complete and len(report.damaged) == 1 and name in report.damaged[0]


def test_the_original_filters(data: Path) -> None:
    kept = trials(data)[0]
    root = data / "json_2.1.1" / "train"
    for name in ("pick_and_place_with_movable_recep-A-B-C-1", "pick_two-SlicedApple-None-C-1"):
        shutil.copytree(kept, root / name / "trial_1")
    assert len(load_index(data, "train").entries) == 12
    other = json.loads((kept / "traj_data.json").read_text()) | {"task_type": "pick_another"}
    (kept / "traj_data.json").write_text(json.dumps(other))
    index = load_index(data, "train")
    assert len(index.entries) == 11 and index.left_out == 1


def test_a_spoiled_or_unwritable_cache_only_costs_time(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = load_index(data, "train")
    (stored,) = (cache_folder() / "alfworld").glob("index-*")
    stored.write_bytes(b"\x93spoiled")
    assert load_index(data, "train") == index
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path / "file"))
    assert load_index(data, "train") == index
    assert "Set AEM_GYM_CACHE" in caplog.text


def test_draws_are_uniform_over_games_and_seeded(data: Path) -> None:
    games = DatasetGames(data)
    rng = np.random.default_rng(0)
    counts = Counter(games.draw(rng) for _ in range(3000))
    assert len(counts) == 12 and min(counts.values()) > 150
    again = np.random.default_rng(0)
    assert games.draw(again) == games.draw(np.random.default_rng(0))
    task_type = games.entries[0].task_type
    assert games.draw(rng, [task_type]).startswith(task_type)
    assert len(DatasetGames(data, num_games=3).entries) == 3


def test_draws_of_some_types_are_uniform_over_their_games(data: Path) -> None:
    games, rng = DatasetGames(data), np.random.default_rng(0)
    types = sorted({entry.task_type for entry in games.entries})
    some = {entry.task_id for entry in games.entries if entry.task_type in types[1:]}
    counts = Counter(games.draw(rng, types[1:]) for _ in range(250 * len(some)))
    assert set(counts) == some and min(counts.values()) > 150
    env = ALFWorldEnv(data_dir=str(data))
    options = {"task_type": ",".join(types[1:])}
    drawn = {env.reset(seed=seed, options=options)[1]["task_type"] for seed in range(100)}
    assert drawn == set(types[1:])


def test_types_without_a_game_are_passed_over_or_named(data: Path) -> None:
    games, rng = DatasetGames(data), np.random.default_rng(0)
    there = games.entries[0].task_type
    only = DatasetGames(data, task_types=[there])
    other = next(name for name in TASK_TYPES if name != there)
    assert only.draw(rng, [other, there]).startswith(there)
    with pytest.raises(UnknownNameError, match=f"{other}.*Known: {there}"):
        only.draw(rng, [other])


def test_rollouts_of_a_task_share_its_game(data: Path) -> None:
    games, rng = DatasetGames(data), np.random.default_rng(0)
    task_id = games.entries[0].task_id
    assert games.load(task_id, rng).game is games.load(task_id, rng).game
    worded = DatasetGames(data, goals="human")  # the exporter writes one sentence for each game
    assert worded.load(task_id, rng).game is worded.load(task_id, rng).game


def test_no_more_games_are_kept_than_asked_for(data: Path) -> None:
    games, rng = DatasetGames(data, kept=1), np.random.default_rng(0)
    first, second = (entry.task_id for entry in games.entries[:2])
    before = games.load(first, rng).game
    assert games.load(first, rng).game is before
    games.load(second, rng)
    after = games.load(first, rng).game
    assert after == before and after is not before


def test_what_is_not_there_is_said(data: Path, tmp_path: Path) -> None:
    games, rng = DatasetGames(data), np.random.default_rng(0)
    near = games.entries[0].task_id[:-1]
    with pytest.raises(ConfigError, match=games.entries[0].task_id):
        games.load(near, rng)
    with pytest.raises(ConfigError, match="there is no game"):
        games.load("../../etc/passwd", rng)
    with pytest.raises(ConfigError, match="which has train"):
        DatasetGames(data, split="valid_seen")
    with pytest.raises(ConfigError, match="alfworld-download"):
        DatasetGames(tmp_path / "nowhere")
    with pytest.raises(UnknownNameError):
        DatasetGames(data, goals="poems")


def test_the_environment_plays_official_games(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env = ALFWorldEnv(data_dir=str(data))
    first, info = env.reset(seed=3)
    assert (first, info["task_id"]) == (env.reset(seed=3)[0], info["task_id"])
    assert env.reset(options={"task_id": info["task_id"]})[0] == first
    over = False
    while not over:
        *_, terminated, truncated, info = env.step(env.expert()[1])
        over = terminated or truncated
    assert info["won"]
    monkeypatch.setenv("ALFWORLD_DATA", str(data))
    assert ALFWorldEnv(games="official").reset(seed=3)[0] == first
    assert isinstance(ALFWorldEnv()._source, GeneratedGames)  # the variable alone changes nothing
    older = make_data(tmp_path / "older", games=2, dialect="0.3")
    assert "put <object> in/on <receptacle>" in ALFWorldEnv(data_dir=str(older)).instructions


def test_the_oracle_wins_in_the_words_of_people(data: Path) -> None:
    for path in trials(data):
        content = json.loads((path / "traj_data.json").read_text())
        content["turk_annotations"]["anns"] = [{"task_desc": "Do the thing; you know which."}]
        (path / "traj_data.json").write_text(json.dumps(content))
    env = ALFWorldEnv(data_dir=str(data), goals="human")
    for seed in range(12):
        observation, info = env.reset(seed=seed)
        assert observation.endswith("Your task is to: Do the thing")
        assert info["goal"] == "Do the thing"
        while not info["won"]:
            *_, truncated, info = env.step(env.expert()[1])
            assert not truncated


def test_shuffled_numbers_are_a_permutation_within_each_class(data: Path) -> None:
    game = read_game(trials(data)[0] / "game.tw-pddl").game
    new = shuffle_numbers(game, np.random.default_rng(1))
    assert [thing.id for thing in new.objects] == [thing.id for thing in game.objects]

    for before, after in (
        ([t.name for t in game.objects], [t.name for t in new.objects]),
        ([r.name for r in game.receptacles], [r.name for r in new.receptacles]),
        (list(game.locations), list(new.locations)),
    ):
        assert sorted(before) == sorted(after)
    assert [r.name for r in new.receptacles] != [r.name for r in game.receptacles]
    assert Engine(new).reset() != Engine(game).reset()


def test_shuffling_is_the_environments_own_randomness(data: Path) -> None:
    env = ALFWorldEnv(data_dir=str(data), shuffle_numbers=True)
    first = trials(data)[0]
    options = {"task_id": f"{first.parent.name}/{first.name}"}
    texts = {env.reset(seed=seed, options=options)[0] for seed in range(5)}
    assert len(texts) > 1
    assert env.reset(seed=7)[0] == env.reset(seed=7)[0]
