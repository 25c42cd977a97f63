"""The index of the official games: the original's choice, and what is remembered of it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aem_gym.envs.alfworld.classes import TASK_TYPES
from aem_gym.envs.alfworld.dataset import index
from aem_gym.envs.alfworld.dataset.index import GameIndex, load_index
from aem_gym.errors import ConfigError
from aem_gym.io import cache_folder
from tests.envs.alfworld.official_data import sample

COMBINATION = "pick_heat_then_place_in_recep-Potato-None-SinkBasin-14"
MEND = 'needs the real ALFWorld: pip install "aem-gym[alfworld]"'


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "none"))  # importing alfworld changes it


def write(
    data: Path, task_id: str, trajectory: object = None, game: object = None, split: str = "train"
) -> Path:
    """A game folder; the index needs no more of a game than this."""
    trial = data / "json_2.1.1" / split / task_id
    trial.mkdir(parents=True, exist_ok=True)
    if trajectory is None:
        trajectory = {"task_type": "pick_heat_then_place_in_recep", "scene": [1, {}]}
    game = {"solvable": True} if game is None else game
    contents = {"traj_data.json": trajectory, "game.tw-pddl": game}
    for name, content in contents.items():
        if content != "absent":
            (trial / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return trial


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(5):
        write(tmp_path / "data", f"{COMBINATION}/trial_{number}")
    return tmp_path / "data"


def names(found: GameIndex) -> str:
    return "".join(entry.task_id[-1] for entry in found.entries)


def read_files(data: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which folders a start reads files of."""
    read: list[str] = []
    real = index._judge

    def judge(folder: Path, record: index._Record) -> None:
        read.append(record.task_id[-1])
        real(folder, record)

    with monkeypatch.context() as patch:
        patch.setattr(index, "_judge", judge)
        load_index(data, "train")
    return read


def test_a_second_start_reads_only_what_has_changed(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_files(data, monkeypatch) == list("01234")
    assert read_files(data, monkeypatch) == []
    write(data, f"{COMBINATION}/trial_3", game={"solvable": False})
    write(data, f"{COMBINATION}/trial_9")
    shutil.rmtree(data / "json_2.1.1" / "train" / COMBINATION / "trial_0")
    assert read_files(data, monkeypatch) == ["3", "9"]
    assert read_files(data, monkeypatch) == []
    assert names(load_index(data, "train")) == "1249"


def test_a_copy_with_the_same_size_and_time_is_noticed(data: Path) -> None:
    path = write(data, f"{COMBINATION}/trial_2", game='{"solvable": true}') / "game.tw-pddl"
    assert names(load_index(data, "train")) == "01234"
    before = path.stat()
    path.write_text('{"solvable":false}')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert names(load_index(data, "train")) == "0134"


def test_moved_data_has_an_index_of_its_own(data: Path, tmp_path: Path) -> None:
    first = load_index(data, "train")
    data.rename(tmp_path / "moved")
    write(data, f"{COMBINATION}/trial_7")
    assert names(load_index(data, "train")) == "7"
    moved = load_index(tmp_path / "moved", "train")
    assert names(moved) == names(first)
    assert all(entry.path.is_file() for entry in moved.entries)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_spoiled_cache_is_made_anew(data: Path, choices: st.DataObject) -> None:
    expected = load_index(data, "train")
    (stored,) = (cache_folder() / "alfworld").iterdir()
    good = stored.read_bytes()
    kind = choices.draw(st.sampled_from(("cut", "bytes", "shape", "nested")))
    if kind == "cut":
        content = good[: choices.draw(st.integers(0, len(good) - 1))]
    elif kind == "bytes":
        content = choices.draw(st.binary(max_size=100))
    elif kind == "shape":
        value = choices.draw(st.recursive(st.none() | st.text() | st.integers(0, 9), st.lists))
        content = msgspec.msgpack.encode({"version": 2, "folder": "x", "records": value})
    else:
        content = b"\x91" * 100_000
    stored.write_bytes(content)
    assert load_index(data, "train") == expected
    assert stored.read_bytes() == good


def build(data: str) -> str:
    return names(load_index(data, "train"))


def test_builders_at_the_same_time_agree_and_leave_one_file(data: Path) -> None:
    for number in range(5, 10):
        write(data, f"{COMBINATION}/trial_{number}")
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert set(pool.map(build, [str(data)] * 12)) == {"0123456789"}
    (stored,) = (cache_folder() / "alfworld").iterdir()
    assert stored.suffix == ".msgpack"


def test_a_full_disk_is_a_warning_and_leaves_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert names(load_index(data, "train")) == "01234"
    assert "No space left" in caplog.text and "Set AEM_GYM_CACHE" in caplog.text
    assert not any((cache_folder() / "alfworld").iterdir())


def test_what_could_not_be_read_is_tried_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.parent.name == "trial_2" and path.name == "game.tw-pddl":
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        found = load_index(data, "train")
    assert names(found) == "0134" and "Permission denied" in found.problems[0].reason
    assert names(load_index(data, "train")) == "01234"


def test_folders_that_cannot_be_listed_are_named(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(data, "pick_cool_then_place_in_recep-Mug-None-Shelf-1/trial_8")
    whole = load_index(data, "train")
    real, closed = os.scandir, data / "json_2.1.1" / "train" / COMBINATION

    def refuse(path: Path) -> object:
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        found = load_index(data, "train")
        assert names(found) == "8" and [p.path for p in found.problems] == [closed]
        assert found == load_index(data, "train")
        closed = closed.parent
        with pytest.raises(ConfigError, match="cannot be listed: Permission denied"):
            load_index(data, "train")
    assert load_index(data, "train") == whole


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_are_followed_and_odd_files_are_no_games(data: Path, tmp_path: Path) -> None:
    shutil.move(data / "json_2.1.1" / "train" / COMBINATION / "trial_0", tmp_path / "far")
    train = data / "json_2.1.1" / "train"
    (train / COMBINATION / "trial_0").symlink_to(tmp_path / "far")
    (train / COMBINATION / "trial_5").symlink_to(tmp_path / "nowhere")
    (train / COMBINATION / "trial_6").symlink_to("trial_6")
    (train / "readme.txt").write_text("not a folder")
    pipe = write(data, f"{COMBINATION}/trial_7", game="absent")
    os.mkfifo(pipe / "game.tw-pddl")
    (write(data, f"{COMBINATION}/trial_8", game="absent") / "game.tw-pddl").mkdir()
    dangling = write(data, f"{COMBINATION}/trial_9", game="absent")
    (dangling / "game.tw-pddl").symlink_to(tmp_path / "nowhere")
    found = load_index(data, "train")
    assert names(found) == "01234"
    assert {(p.path.name[-1], p.kind) for p in found.problems} == {(n, "partial") for n in "789"}
    (tmp_path / "link").symlink_to(data)
    assert names(load_index(tmp_path / "link", "train")) == "01234"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_unicode_only_cost_the_cache(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(data, f"{COMBINATION}/trial_\udcff9")
    assert names(load_index(data, "train")) == "012349"
    assert "every start reads all files" in caplog.text
    assert names(load_index(data, "train")) == "012349"


def test_damage_is_one_warning_and_what_the_release_lacks_is_none(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(data, f"{COMBINATION}/trial_5", game="absent")
    write(data, f"{COMBINATION}/trial_6", game={"walkthrough": []})
    load_index(data, "train")
    assert [(r.levelname, "2 partial" in r.getMessage()) for r in caplog.records] == [
        ("INFO", True)
    ]
    caplog.clear()
    write(data, f"{COMBINATION}/trial_7", game='{"x":' + "[" * 100_000)
    write(data, f"{COMBINATION}/trial_8", trajectory='{"task_type": 5}')
    load_index(data, "train")
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "2 damaged, 2 partial" in record.getMessage()
    assert "trial_7: game.tw-pddl: is not JSON" in record.getMessage()


def test_where_the_data_lies_says_nothing_about_its_games(tmp_path: Path) -> None:
    write(tmp_path / "movable" / "Sliced", f"{COMBINATION}/trial_1")
    assert names(load_index(tmp_path / "movable" / "Sliced", "train")) == "1"


GAMES = st.sampled_from(
    ("absent", {}, {"solvable": False}, {"solvable": None}, {"solvable": True, "walkthrough": []})
)
FOLDERS = st.sampled_from(
    (COMBINATION, "pick_cool-BreadSliced-None-Shelf-3", "pick_with_movable_recep-Pen-Bowl-Bed-4")
)
TYPES = st.sampled_from((*TASK_TYPES, "pick_and_place_with_movable_recep", "another"))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(FOLDERS, TYPES, GAMES), min_size=1, max_size=12))
def test_the_choice_is_the_originals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cases: list[tuple[str, str, object]]
) -> None:
    theirs = pytest.importorskip("alfworld.agents.environment.alfred_tw_env", reason=MEND)
    data = tmp_path / "data"
    shutil.rmtree(data, ignore_errors=True)
    for number, (folder, task_type, game) in enumerate(cases):
        write(data, f"{folder}/trial_{number}", {"task_type": task_type}, game)
    config = {
        "env": {"task_types": [1, 2, 3, 4, 5, 6], "goal_desc_human_anns_prob": 0},
        "dataset": {"data_path": str(data / "json_2.1.1" / "train"), "num_train_games": -1},
    }
    files = theirs.AlfredTWEnv(config).game_files
    capsys.readouterr()
    try:
        found = [str(entry.path) for entry in load_index(data, "train").entries]
    finally:
        shutil.rmtree(data)
    assert found == sorted(files)


def test_the_real_game_is_found(test_data: Path) -> None:
    trial = sample(test_data)
    found = load_index(trial.parents[3], "train")
    assert trial / "game.tw-pddl" in [entry.path for entry in found.entries]
    assert not found.problems
