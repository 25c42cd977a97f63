"""The dataset as a source of episodes: draw a game, load it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from aem_gym.envs.alfworld.classes import SPLITS, TASK_TYPES
from aem_gym.envs.alfworld.dataset.gamefile import GAME, human_goals, read_game
from aem_gym.envs.alfworld.dataset.index import IndexEntry, data_root, load_index
from aem_gym.envs.alfworld.game import GOALS, LoadedGame
from aem_gym.errors import ConfigError, UnknownNameError, check_name


class DatasetGames:
    """The games of one split of the official dataset.

    The arguments are the environment's; `kept` is how many loaded games to keep in memory (about
    20 KB each). With `goals="human"` a person's sentence is drawn again for each `load`.

    Raises:
        ConfigError: the data is not there, or holds no such game.
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        split: str = "train",
        task_types: Sequence[str] = TASK_TYPES,
        goals: str = "template",
        num_games: int | None = None,
        kept: int = 256,
    ) -> None:
        check_name("goals", goals, GOALS)
        if num_games is not None and num_games < 1:
            raise ConfigError(f"num_games: expected at least 1 (or none for all), got {num_games}")
        self.root, self.split, self.goals = data_root(data_dir), split, goals
        index = load_index(self.root, split)
        entries = [entry for entry in index.entries if entry.task_type in task_types]
        self.entries: tuple[IndexEntry, ...] = tuple(entries[:num_games])
        if not self.entries:
            raise ConfigError(
                f"split: {self.root / split} has no playable game of {', '.join(task_types)} "
                f"({len(index.entries)} of any type, {len(index.problems)} damaged or partial "
                "folders). See what is there with: aem-gym data alfworld"
            )
        self._entries_of = lru_cache(maxsize=len(TASK_TYPES))(self._of_types)
        self._file = lru_cache(maxsize=kept)(self._read)
        self._sentences = lru_cache(maxsize=kept)(human_goals)
        self._worded = lru_cache(maxsize=kept)(self._reword)
        self.dialect = self._file(self.entries[0].task_id).game.dialect
        """Of the first game: a download has the same in all."""

    def draw(self, rng: np.random.Generator, task_types: Sequence[str] = TASK_TYPES) -> str:
        """The id of a game, all games of these types equally likely.

        Raises:
            UnknownNameError: there is no game of any of these types here.
        """
        entries = self._entries_of(tuple(task_types))
        return entries[int(rng.integers(len(entries)))].task_id

    def draw_game(self, rng: np.random.Generator, task_types: Sequence[str]) -> LoadedGame:
        return self.load(self.draw(rng, task_types), rng)

    def _of_types(self, task_types: tuple[str, ...]) -> tuple[IndexEntry, ...]:
        entries = tuple(entry for entry in self.entries if entry.task_type in task_types)
        if not entries:
            known = {entry.task_type for entry in self.entries}
            raise UnknownNameError("task type", ", ".join(task_types), known)
        return entries

    def load(self, task_id: str, rng: np.random.Generator) -> LoadedGame:
        """The game with an id, of this split or of another one of the same data.

        While a game is kept in memory, the same id and sentence give the same `Game` object. With
        `goals="template"` nothing is drawn from `rng`.

        Raises:
            ConfigError: there is no such game (GameFileError: it cannot be read).
        """
        file = self._file(task_id)
        if self.goals == "template":
            return file
        assert file.path is not None
        sentences = self._sentences(file.path.parent)
        # With its own full stop: the original adds another one, too.
        return self._worded(task_id, sentences[int(rng.integers(len(sentences)))])

    def digest(self) -> str:
        """Of the ids and sizes of the games in use, and of the kind of goals."""
        parts = (self.goals, *((entry.task_id, entry.size) for entry in self.entries))
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def _read(self, task_id: str) -> LoadedGame:
        return read_game(self._path(task_id), task_id=task_id)

    def _reword(self, task_id: str, sentence: str) -> LoadedGame:
        file = self._file(task_id)
        return replace(file, game=replace(file.game, sentence=sentence))

    def _path(self, task_id: str) -> Path:
        parts = task_id.split("/")
        if len(parts) == 2 and not {"", ".", ".."} & set(parts) and "\0" not in task_id:
            for split in (self.split, *SPLITS):
                path = self.root / split / task_id / GAME
                with contextlib.suppress(OSError):  # a name too long for a file
                    if path.is_file():
                        return path
        from rapidfuzz import process

        similar = process.extract(task_id, [entry.task_id for entry in self.entries], limit=3)
        raise ConfigError(
            f"task_id: there is no game {task_id!r} in {self.root}. "
            f"The most similar: {', '.join(found for found, _, _ in similar)}"
        )


shared_games = lru_cache(maxsize=16)(DatasetGames)
"""`DatasetGames`, the same object for the same arguments: the environments of a process hold one
index, and the rollouts of a task one `Game`. Files that change later are not noticed."""


def game_from_file(path: str) -> LoadedGame:
    """The game of any game file, read again only when the file has changed. Raises ConfigError."""
    try:
        place = Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"game: expected a path, got {path!r}: {error}") from error
    try:
        stamp = place.stat()
    except (OSError, ValueError):  # no such file, or no path at all: reading it says why
        return read_game(place)
    return _read(place, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=256)
def _read(path: Path, changed: int, size: int) -> LoadedGame:
    return read_game(path)
