"""`aem-gym data` and `aem-gym export` as a user meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aem_gym.envs.alfworld.authoring import report
from tests.envs.alfworld.official_data import make_data, rules
from tests.test_cli import run


def test_data_tells_what_is_there_and_how_to_get_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("WEBSHOP_DATA", str(tmp_path / "no shop"))
    status, out, _ = run(capsys, "data", "alfworld")
    assert status == 1 and "0 of 3,553" in out and "alfworld-download" in out
    make_data(tmp_path, games=3)
    (next(tmp_path.rglob("traj_data.json"))).write_text("{")
    status, out, _ = run(capsys, "data", "alfworld", "--data-dir", str(tmp_path))
    assert status == 1 and "2 of 3,553" in out and "traj_data.json" in out
    assert "damaged  train/" in out and "dialect 0.4" in out and "--force" in out
    status, out, _ = run(capsys, "data")
    assert status == 0 and out.splitlines() == [
        f"--  aem_gym/ALFWorld-v0  official games: 0 of 3,827 in {tmp_path / 'nowhere'}",
        f"--  aem_gym/WebShop-v0   official shop: 0 of 3 in {tmp_path / 'no shop'}",
    ]


def test_complete_data_is_a_success_and_damage_is_listed_in_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"train": 12, "valid_seen": 1, "valid_unseen": 2}
    for split, count in counts.items():
        make_data(tmp_path, games=count, split=split)
    capsys.readouterr()
    monkeypatch.setattr(report, "RELEASED", counts)
    command = ("data", "alfworld", "--data-dir", str(tmp_path))
    status, out, err = run(capsys, *command)
    lines = out.splitlines()
    assert (status, err, len(lines)) == (0, "", 4) and all(line[:2] == "ok" for line in lines[1:])
    for path in tmp_path.rglob("train/*/*/game.tw-pddl"):
        path.write_text("{}" if "heat" in path.parts[-3] else "[")
    status, out, err = run(capsys, *command)
    assert (status, err) == (1, "") and "0 of 12" in out
    all_of_it = run(capsys, *command, "--all")[1].count("damaged  ")
    partial = 12 - all_of_it
    assert 0 < partial < 12 and f"{partial} x game.tw-pddl does not say" in out
    assert out.count("damaged  ") == min(10, all_of_it)


def test_a_first_game_that_cannot_be_played_is_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path, games=1)
    (path,) = tmp_path.rglob("game.tw-pddl")
    path.write_text(path.read_text().replace("move {o} to {r}", "throw {o} at {r}"))
    status, out, _ = run(capsys, "data", "alfworld", "--data-dir", str(tmp_path))
    assert status == 1 and "key 'grammar'" in out and str(path) in out


def test_data_of_an_environment_without_any(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "data", "gymnasium:CartPole-v1")
    assert status == 2 and "aem_gym/ALFWorld-v0" in err
    status, _, err = run(capsys, "data", "--data-dir", "x")
    assert status == 2 and "aem-gym data ENV" in err


def test_export_then_play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logic = rules(tmp_path / "logic")
    command = ("export", "alfworld", str(tmp_path / "data"), "--games", "4", "--logic", str(logic))
    status, out, _ = run(capsys, *command)
    assert status == 0 and out.startswith("4 written, 0 there already") and "data_dir=" in out
    status, out, _ = run(capsys, *command)
    assert status == 0 and out.startswith("0 written, 4 there already")
    play = ("play", "alfworld", "--agent", "expert", "--env-arg", f"data_dir={tmp_path / 'data'}")
    status, out, _ = run(capsys, *play)
    assert status == 0 and "[won" in out
    status, _, err = run(capsys, "export", "gymnasium:CartPole-v1", str(tmp_path))
    assert status == 2 and "export_games" in err
    status, _, err = run(capsys, *command, "--env-arg", "data_dir=x")
    assert status == 2 and "Known: dialect, difficulty, task_types" in err
