"""Game files (`game.tw-pddl`) of the dataset, and the human goals in the same folder."""

from __future__ import annotations

import hashlib
import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import msgspec

from aem_gym.envs.alfworld.dataset.problem import parse_problem
from aem_gym.envs.alfworld.game import LoadedGame
from aem_gym.envs.alfworld.text import DIALECTS
from aem_gym.errors import ConfigError

logger = logging.getLogger(__name__)

GAME, TRAJECTORY, PROBLEM = "game.tw-pddl", "traj_data.json", "initial_state.pddl"
GOAL_PLACEHOLDER = "UNKNOWN GOAL"
"""In the place of the task in a fresh grammar."""
_TASK = re.compile(r'(?<="Your task is to: )(?:[^"\\\n]|\\.)*(?="\s*(?:[,}\]]|$))')
"""The task in a rule of the grammar, up to the end of the JSON string."""
_FINGERPRINTS = {
    "0.4": "3baad91dea283d190a0adaf5fe9734b17c045812a1dd602076933148d49cb754",
    "0.3": "786a9c381cde0dea0747ea6f57485057c0f66bce94d09add91d8e1cdd21a4fc3",
}
"""SHA-256 of the known grammars without white space and task: alfworld 0.4.0-0.4.2 and 0.3.x."""
_FIX = (
    "The file is damaged or not ALFWorld's: get it again with alfworld-download --force, or leave "
    "its folder out"
)


class GameFileError(ConfigError):
    """A file of the data set cannot be read; the message names the file and the key."""

    def __init__(self, path: Path, key: str, reason: str) -> None:
        where = f"{path}, key {key!r}" if key else str(path)
        super().__init__(f"{where}: {reason}. {_FIX}")
        self.path, self.key, self.reason = path, key, reason


class GameContent(msgspec.Struct):
    """The keys of a game file that are used."""

    pddl_problem: str
    grammar: str
    pddl_domain: str = ""
    solvable: bool | None = None
    walkthrough: list[str] | None = None


class _Annotation(msgspec.Struct):
    task_desc: str


class _Annotations(msgspec.Struct):
    anns: list[_Annotation]


class _HumanGoals(msgspec.Struct):
    turk_annotations: _Annotations


def split_grammar(grammar: str) -> tuple[str, str]:
    """(the grammar with `GOAL_PLACEHOLDER`, the task sentence without its full stop).

    Raises ConfigError if the grammar has no task sentence.
    """
    found = _TASK.search(grammar)
    if found is None:
        raise ConfigError(
            'grammar: expected a rule "Your task is to: ...", found none: this is not '
            "ALFWorld's grammar"
        )
    try:  # the rules of a grammar are JSON
        sentence = msgspec.json.decode(f'"{found[0]}"', type=str).removesuffix(".")
    except msgspec.MsgspecError as error:
        raise ConfigError(f"grammar: the task sentence is not a JSON string: {error}") from error
    fresh = f"{grammar[: found.start()]}{GOAL_PLACEHOLDER}.{grammar[found.end() :]}"
    return fresh, sentence


def dialect_of(grammar: str) -> str:
    """`0.4` or `0.3`, by the command that puts things down. Raises ConfigError if it is neither."""
    for name, dialect in DIALECTS.items():
        put = dialect.put.format("{o}", "{r}")
        if f'template :: "{put}"' in grammar:
            return name
    raise ConfigError(
        "grammar: expected the template 'move {o} to {r}' (alfworld 0.4.x) or 'put {o} in/on {r}' "
        "(up to 0.3.x), found neither"
    )


def is_known(grammar: str) -> bool:
    """Whether a grammar without its task is one of the two this engine was compared with."""
    fresh = split_grammar(grammar)[0]
    found = hashlib.sha256("".join(fresh.split()).encode()).hexdigest()
    return found == _FINGERPRINTS[dialect_of(fresh)]


def read_game(path: Path, *, task_id: str | None = None, sentence: str | None = None) -> LoadedGame:
    """The game of a `game.tw-pddl` file. Raises GameFileError.

    `task_id` defaults to the names of its two folders, `<combination>/<trial>`; `sentence` replaces
    the file's task in words (without the final full stop).
    """
    raw = decode(path, GameContent)
    try:
        grammar, sentence_in_file = split_grammar(raw.grammar)
        dialect = _known_dialect(grammar)
    except ConfigError as error:
        raise GameFileError(path, "grammar", str(error)) from error
    if task_id is None:
        task_id = f"{path.parent.parent.name}/{path.parent.name}"
    try:
        game = parse_problem(
            raw.pddl_problem,
            task_id=task_id,
            sentence=sentence_in_file if sentence is None else sentence,
            dialect=dialect,
        )
    except ConfigError as error:
        raise GameFileError(path, "pddl_problem", str(error)) from error
    return LoadedGame(game, path, tuple(raw.walkthrough or ()), raw.solvable)


@lru_cache(maxsize=16)
def _known_dialect(grammar: str) -> str:
    """`dialect_of`, with one warning for each grammar that is not known."""
    dialect = dialect_of(grammar)
    if not is_known(grammar):
        logger.warning(
            "a game's grammar is neither that of alfworld 0.4.x nor that of 0.3.x, but like %s.x; "
            "answers may read otherwise than in the original. Play it with the original engine to "
            "be sure: backend='textworld'",
            dialect,
        )
    return dialect


def human_goals(folder: Path) -> tuple[str, ...]:
    """People's words for the task of a game folder, from `traj_data.json`. Raises GameFileError."""
    path = folder / TRAJECTORY
    found = decode(path, _HumanGoals).turk_annotations.anns
    if not found:
        raise GameFileError(path, "turk_annotations.anns", "expected human goals, got none")
    return tuple(annotation.task_desc for annotation in found)


_T = TypeVar("_T")


def decode(path: Path, kind: type[_T]) -> _T:
    """A JSON file as a `msgspec.Struct`; keys that it does not name are skipped. GameFileError."""
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
