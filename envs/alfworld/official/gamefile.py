"""Game files (`game.tw-pddl`) of the original, and the human goals that lie beside them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import msgspec

from aem_gym.envs.alfworld.game import Game
from aem_gym.envs.alfworld.official.logic import (
    dialect_of,
    find_logic,
    is_known,
    join_grammar,
    split_grammar,
)
from aem_gym.envs.alfworld.official.problem import parse_problem, write_problem
from aem_gym.errors import ConfigError

logger = logging.getLogger(__name__)

GAME, TRAJECTORY, PROBLEM = "game.tw-pddl", "traj_data.json", "initial_state.pddl"
_MEND = (
    "The file is damaged or not ALFWorld's: get it again with alfworld-download --force, or leave "
    "its folder out"
)


class GameFileError(ConfigError):
    """A file of the data set cannot be read; the message names the file and the key."""

    def __init__(self, path: Path, key: str, reason: str) -> None:
        where = f"{path}, key {key!r}" if key else str(path)
        super().__init__(f"{where}: {reason}. {_MEND}")
        self.path, self.key, self.reason = path, key, reason


@dataclass(frozen=True, slots=True)
class GameFile:
    """A game as it was read."""

    game: Game
    walkthrough: tuple[str, ...]
    """Commands that win; empty where the file has none."""
    solvable: bool | None
    """What the file says; None if it does not."""
    path: Path


class _Raw(msgspec.Struct):
    pddl_problem: str
    grammar: str
    pddl_domain: str = ""
    solvable: bool | None = None
    walkthrough: list[str] | None = None


class _Annotation(msgspec.Struct):
    task_desc: str


class _Annotations(msgspec.Struct):
    anns: list[_Annotation]


class _Trajectory(msgspec.Struct):
    turk_annotations: _Annotations


def read_game(path: Path, *, task_id: str | None = None, sentence: str | None = None) -> GameFile:
    """The game of a `game.tw-pddl` file.

    Args:
        path: the file.
        task_id: its id; default: the names of its two folders, `<combination>/<trial>`.
        sentence: put in the place of the file's task in words (without the final full stop).

    Raises:
        GameFileError: the file cannot be read, or says something that is not ALFWorld.
    """
    raw = decode(path, _Raw)
    try:
        grammar, told = split_grammar(raw.grammar)
        dialect = _known_dialect(grammar)
    except ConfigError as error:
        raise GameFileError(path, "grammar", str(error)) from error
    if task_id is None:
        task_id = f"{path.parent.parent.name}/{path.parent.name}"
    try:
        game = parse_problem(
            raw.pddl_problem,
            task_id=task_id,
            sentence=told if sentence is None else sentence,
            dialect=dialect,
        )
    except ConfigError as error:
        raise GameFileError(path, "pddl_problem", str(error)) from error
    return GameFile(game, tuple(raw.walkthrough or ()), raw.solvable, path)


@lru_cache(maxsize=16)
def _known_dialect(grammar: str) -> str:
    """`dialect_of`, remembered: the games of a data set have one grammar. Warns once of others."""
    dialect = dialect_of(grammar)
    if not is_known(grammar):
        logger.warning(
            "a game's grammar is neither that of alfworld 0.4.x nor that of 0.3.x, but like %s.x; "
            "answers may read otherwise than in the original. Play it with the original engine to "
            "be sure: backend='textworld'",
            dialect,
        )
    return dialect


def game_data(game: Game, path: Path | None, logic: Path | None = None) -> dict[str, str]:
    """What a game file holds, with the game's own words for its task.

    Args:
        game: generated, or read from `path`.
        path: its file, whose problem and rules are taken as they are.
        logic: folder of the original's rules; else see `find_logic`.
    """
    if path is not None:
        raw = decode(path, _Raw)
        domain, problem = raw.pddl_domain, raw.pddl_problem
        grammar = split_grammar(raw.grammar)[0]
    else:
        rules = find_logic(game.dialect, logic)
        domain, grammar, problem = rules.domain, rules.grammar, write_problem(game)
    grammar = join_grammar(grammar, game.sentence)
    return {"pddl_domain": domain, "grammar": grammar, "pddl_problem": problem}


def with_sentence(file: GameFile, sentence: str) -> GameFile:
    """The same game, its task in other words."""
    return replace(file, game=replace(file.game, sentence=sentence))


def human_goals(folder: Path) -> tuple[str, ...]:
    """What people called the task of a game folder, from its `traj_data.json`.

    Raises:
        GameFileError: there is no such file, or it has none.
    """
    path = folder / TRAJECTORY
    found = decode(path, _Trajectory).turk_annotations.anns
    if not found:
        raise GameFileError(path, "turk_annotations.anns", "expected human goals, got none")
    return tuple(annotation.task_desc for annotation in found)


_T = TypeVar("_T")


def decode(path: Path, kind: type[_T]) -> _T:
    """A JSON file as a `msgspec.Struct`; keys that the struct does not name are skipped.

    Raises:
        GameFileError: it cannot be read, is not JSON, or a key is missing or of another type.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise GameFileError(path, "", f"cannot be read: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise GameFileError(path, _key(error), str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GameFileError(path, "", f"is not JSON: {error}") from error
    except ValueError as error:  # a path with a null character
        raise GameFileError(path, "", f"cannot be read: {error}") from error


def _key(error: msgspec.ValidationError) -> str:
    """The key a complaint is about: "... missing required field `x`", "... at `$.x`"."""
    text = str(error)
    if "missing required field" in text:
        return text.split("`")[1]
    return text.rpartition("`$")[2].strip("`.") if "`$" in text else ""
