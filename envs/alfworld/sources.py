"""Where an environment's games come from: the generator, or the official data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from aem_gym.envs.alfworld.game import Game
from aem_gym.envs.alfworld.generator import draw_task, make_game, parse_task_id
from aem_gym.errors import ConfigError

if TYPE_CHECKING:
    from aem_gym.envs.alfworld.official.source import OfficialGames

KINDS = ("generated", "official")


@dataclass(frozen=True, slots=True)
class Found:
    """A game to play."""

    game: Game
    path: Path | None = None
    """Its file, if it comes from one."""


class GameSource(Protocol):
    """What an environment asks of a source."""

    @property
    def dialect(self) -> str:
        """Of its games; of the first one, should they differ."""

    def draw(self, rng: np.random.Generator, task_types: Sequence[str]) -> str:
        """The id of a game of one of these types."""

    def load(self, task_id: str, rng: np.random.Generator) -> Found:
        """The game with an id. Raises ConfigError if there is none."""


@dataclass(frozen=True, slots=True)
class GeneratedSource:
    """Games of the generator: the types evenly, then floorplans, then what they allow."""

    split: str
    difficulty: str
    dialect: str

    def draw(self, rng: np.random.Generator, task_types: Sequence[str]) -> str:
        """The id of a game of one of these types."""
        task_type = task_types[int(rng.integers(len(task_types)))]
        return draw_task(rng, self.split, self.difficulty, task_type).task_id

    def load(self, task_id: str, rng: np.random.Generator) -> Found:
        """The game with an id, whatever its split and difficulty."""
        return Found(make_game(parse_task_id(task_id), self.dialect))


class OfficialSource:
    """Official games: each one of the asked types equally likely, as in the original."""

    def __init__(self, games: OfficialGames) -> None:
        self._games = games
        first = games.load(games.entries[0].task_id, np.random.default_rng(0))
        self.dialect = first.game.dialect

    def draw(self, rng: np.random.Generator, task_types: Sequence[str]) -> str:
        """The id of a game of one of these types."""
        return self._games.draw(rng, task_types)

    def load(self, task_id: str, rng: np.random.Generator) -> Found:
        """The game with an id, of any split of the data."""
        file = self._games.load(task_id, rng)
        return Found(file.game, file.path)


def game_from_file(path: str) -> Found:
    """The game of any game file. Read again only when the file has changed.

    Raises:
        ConfigError: the path's `~name` is nobody's.
        GameFileError: it cannot be read.
    """
    try:
        place = Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"game: expected a path, got {path!r}: {error}") from error
    try:
        stamp = place.stat()
    except (OSError, ValueError):  # no such file, or no path at all
        return _read(place, 0, 0)  # says why
    return _read(place, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=256)
def _read(path: Path, changed: int, size: int) -> Found:
    from aem_gym.envs.alfworld.official.gamefile import read_game

    file = read_game(path)
    return Found(file.game, file.path)


def open_source(
    kind: str,
    split: str,
    difficulty: str,
    dialect: str,
    task_types: tuple[str, ...],
    data_dir: str | None,
    goals: str,
    num_games: int | None,
) -> GameSource:
    """The source an environment draws from; the arguments are the environment's."""
    if kind == "generated":
        return GeneratedSource(split, difficulty, dialect)
    from aem_gym.envs.alfworld.official.source import shared_games

    return OfficialSource(shared_games(data_dir, split, task_types, goals, num_games))
