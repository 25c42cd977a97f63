"""Writes generated games as folders in the official format, which the original engine plays."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tqdm.auto import tqdm

from aem_gym.datasets import Exported
from aem_gym.envs.alfworld.authoring.logic import Logic, find_logic, join_grammar
from aem_gym.envs.alfworld.authoring.problem_writer import write_problem
from aem_gym.envs.alfworld.classes import TASK_TYPES
from aem_gym.envs.alfworld.dataset.gamefile import GAME, PROBLEM, TRAJECTORY, decode, dialect_of
from aem_gym.envs.alfworld.dataset.index import LAYOUT
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.engine import Engine
from aem_gym.envs.alfworld.env import ALFWorldEnv
from aem_gym.envs.alfworld.game import Game
from aem_gym.envs.alfworld.generator import GameSpec, draw_task, make_game
from aem_gym.envs.alfworld.oracle import HouseholdOracle
from aem_gym.errors import AemGymError, ConfigError, OutputError, UnknownNameError
from aem_gym.io import replace_file
from aem_gym.seeding import generator

_PATIENCE = 200
"""Draws in a row that may bring nothing new before the tasks are said to be used up."""
_LONGEST = 100
_ARGUMENTS = ("difficulty", "dialect", "task_types")


def export_games(
    folder: Path,
    *,
    games: int,
    split: str = "train",
    seed: int = 0,
    logic: Path | None = None,
    env_args: Mapping[str, Any] | None = None,
) -> Exported:
    """Write `games` different generated games to `folder/json_2.1.1/<split>`.

    The same arguments give the same files; games that are there already are kept, so an
    interrupted export goes on where it stopped. Damaged ones are written again.

    Args:
        folder: becomes a data folder (`data_dir`, `ALFWORLD_DATA`).
        games: how many.
        split: of the generator.
        seed: names the choice of tasks.
        logic: folder with the original's rules; default: see `logic.find_logic`.
        env_args: `difficulty`, `dialect` and `task_types`, as for the environment.

    Raises:
        ConfigError: the rules are not found, there are fewer tasks than asked for, or the folder
            holds the same games in the other dialect.
        OutputError: the folder cannot be written.
    """
    for name in env_args or {}:
        if name not in _ARGUMENTS:
            raise UnknownNameError("argument of generated games", name, _ARGUMENTS)
    env = ALFWorldEnv(split=split, **(env_args or {}))
    rules = find_logic(env.dialect, logic)
    target = folder / LAYOUT / split
    rng = generator("alfworld", "export", split, env.difficulty, seed)
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    written = 0
    with tqdm(total=games, unit="game", desc=f"exporting {split}") as bar:
        idle = 0
        while len(seen) < games:
            task_type = env.task_types[int(rng.integers(len(env.task_types)))]
            spec = draw_task(rng, split, env.difficulty, task_type)
            if spec.task_id in seen:
                idle += 1
                if idle > _PATIENCE:
                    raise ConfigError(f"games: there are no more than {len(seen)} such tasks")
                continue
            idle = 0
            seen.add(spec.task_id)
            counts[task_type] += 1
            written += _export(spec, target, rules)
            bar.update()
    in_order = {name: counts[name] for name in TASK_TYPES if counts[name]}
    use = f"gym.make('aem_gym/ALFWorld-v0', data_dir={str(folder)!r}), or ALFWORLD_DATA={folder}"
    return Exported(str(target), written, games - written, in_order, use)


def _export(spec: GameSpec, target: Path, logic: Logic) -> bool:
    """Write one game unless it is there; whether it was written."""
    if _is_there(target / spec.task_id, logic.dialect):
        return False
    game = make_game(spec, logic.dialect)
    export_game(game, target, logic, walkthrough(game))
    return True


class _OnlyGrammar(msgspec.Struct):
    grammar: str


def _is_there(trial: Path, dialect: str) -> bool:
    """Whether a game need not be written.

    Raises:
        ConfigError: it is there in another dialect: task ids do not tell dialects apart.
    """
    if not all((trial / name).is_file() for name in (PROBLEM, TRAJECTORY, GAME)):
        return False
    try:
        found = dialect_of(decode(trial / GAME, _OnlyGrammar).grammar)
    except ConfigError:
        return False
    if found != dialect:
        raise ConfigError(
            f"{trial}: expected dialect {dialect!r}, found this game in dialect {found!r}. "
            "Export each dialect to a folder of its own"
        )
    return True


def walkthrough(game: Game) -> list[str]:
    """Commands that win a game, by the oracle that knows where everything is.

    Raises:
        AemGymError: the oracle does not win; that would be a bug of the oracle or the generator.
    """
    engine = Engine(game)
    draws = Draws("alfworld", "walkthrough")
    oracle = HouseholdOracle("privileged", draws, engine.contained, goal=game.goal)
    oracle.read(engine.reset())
    commands: list[str] = []
    while not engine.won:
        if len(commands) == _LONGEST:
            raise AemGymError(f"the oracle does not win {game.task_id}; please report this task id")
        _, command = oracle.choose(engine.admissible())
        oracle.read(engine.step(command)[0])
        commands.append(command)
    return commands


def export_game(game: Game, folder: Path, logic: Logic, commands: Sequence[str]) -> Path:
    """Write one game. The game file comes last: without it a folder is not a game.

    Args:
        game: its `task_id` names the two folders.
        folder: the split's.
        logic: the original's rules, of the game's dialect.
        commands: the walkthrough.

    Returns:
        the trial's folder.

    Raises:
        OutputError: it cannot be written.
    """
    final = folder / game.task_id
    problem = write_problem(game)
    content = {
        "pddl_domain": logic.domain,
        "grammar": join_grammar(logic.grammar, game.sentence),
        "pddl_problem": problem,
        "solvable": True,
        "walkthrough": list(commands),
    }
    files = {PROBLEM: problem, TRAJECTORY: json.dumps(_trajectory(game)), GAME: json.dumps(content)}
    try:
        final.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            replace_file(final / name, text.encode())
    except OSError as error:
        raise OutputError(f"cannot write {final}: {error.strerror or error}") from error
    return final


def _trajectory(game: Game) -> dict[str, Any]:
    """The part of `traj_data.json` that the original reads; pictures and plans are left empty."""
    goal, floorplan = game.goal, int(game.task_id.partition("/")[0].rpartition("-")[2])
    look = goal.task_type == "look_at_obj_in_light"
    return {
        "task_id": game.task_id.partition("/")[2],
        "task_type": goal.task_type,
        "pddl_params": {
            "mrecep_target": "",
            "object_sliced": False,
            "object_target": goal.obj,
            "parent_target": "" if look else goal.target,
            "toggle_target": goal.target if look else "",
        },
        "scene": {
            "scene_num": floorplan,
            "floor_plan": f"FloorPlan{floorplan}",
            "object_poses": [],
            "object_toggles": [],
            "dirty_and_empty": False,
        },
        "turk_annotations": {"anns": [{"task_desc": f"{game.sentence}.", "high_descs": []}]},
        "plan": {"high_pddl": [], "low_actions": []},
        "images": [],
    }
