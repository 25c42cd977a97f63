"""Exported games: whole or absent, the same again, and the real engine wins them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from aem_gym.envs.alfworld.authoring import export
from aem_gym.envs.alfworld.authoring.export import export_games, walkthrough
from aem_gym.envs.alfworld.authoring.logic import find_logic
from aem_gym.envs.alfworld.authoring.report import data_report
from aem_gym.envs.alfworld.classes import TASK_TYPES
from aem_gym.envs.alfworld.dataset.gamefile import read_game
from aem_gym.envs.alfworld.generator import make_game, parse_task_id
from aem_gym.errors import ConfigError, OutputError
from tests.envs.alfworld.official_data import rules


def games(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "json_2.1.1").rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("difficulty", ["small", "full"])
@pytest.mark.parametrize("dialect", ["0.4", "0.3"])
def test_what_is_exported_is_what_the_environment_plays(
    tmp_path: Path, difficulty: str, dialect: str
) -> None:
    logic = rules(tmp_path / "logic", dialect)
    done = export_games(
        tmp_path, games=8, logic=logic, env_args={"difficulty": difficulty, "dialect": dialect}
    )
    assert (done.written, done.kept, sum(done.by_type.values())) == (8, 0, 8)
    paths = sorted(tmp_path.rglob("game.tw-pddl"))
    assert len(paths) == 8
    for path in paths:
        file = read_game(path)
        assert file.game == make_game(parse_task_id(file.game.task_id), dialect)
        assert list(file.walkthrough) == walkthrough(file.game)
    assert {part.found for part in data_report(tmp_path).parts} == {8, 0}


def test_an_interrupted_export_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logic = rules(tmp_path / "logic")
    export_games(tmp_path / "whole", games=6, logic=logic)
    write, calls = export.export_game, []

    def interrupted(*args: object) -> Path:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "export_game", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_games(tmp_path / "part", games=6, logic=logic)
    monkeypatch.undo()
    done = export_games(tmp_path / "part", games=6, logic=logic)
    assert (done.written, done.kept) == (3, 3)
    assert games(tmp_path / "part") == games(tmp_path / "whole")
    again = export_games(tmp_path / "part", games=6, logic=logic)
    assert (again.written, again.kept) == (0, 6)


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    logic = rules(tmp_path / "logic")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        export_games(tmp_path / "file", games=1, logic=logic)
    with pytest.raises(ConfigError, match="expected the grammar of dialect '0.3'"):
        export_games(tmp_path, games=1, logic=logic, env_args={"dialect": "0.3"})
    with pytest.raises(ConfigError, match="dialects"):
        export_games(tmp_path, games=1, logic=logic, env_args={"dialects": "0.3"})


def test_the_real_alfworld_finds_loads_and_wins_them(tmp_path: Path) -> None:
    pytest.importorskip("textworld.envs", reason='needs pip install "aem-gym[alfworld]"')
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    from aem_gym.envs.alfworld.authoring.textworld_backend import TextWorldEngine
    from benchmarks.alfworld.transcripts import remember_parses

    remember_parses()
    for task_type in TASK_TYPES:
        export_games(tmp_path, games=1, env_args={"task_types": task_type})
    config = {
        "env": {"task_types": [1, 2, 3, 4, 5, 6], "goal_desc_human_anns_prob": 0},
        "dataset": {"data_path": str(tmp_path / "json_2.1.1" / "train"), "num_train_games": -1},
    }
    found = AlfredTWEnv(config).game_files
    assert len(found) == 6
    for name in found:
        engine = TextWorldEngine(Path(name))
        engine.reset()
        for command in json.loads(Path(name).read_text())["walkthrough"]:
            assert not engine.won
            assert engine.step(command)[1]
        assert engine.won
    assert find_logic("0.4").dialect == "0.4" and os.path.exists(found[0])
