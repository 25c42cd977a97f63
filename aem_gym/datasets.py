"""What an environment can tell about data it needs from elsewhere, and write for others.

An environment class that can defines the classmethods `data_report` (for `aem-gym data`),
`import_data` (for `aem-gym data ENV import`) and `export_games` (for `aem-gym export`); they are
found by name, so environments of other packages have them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class DataPart:
    """One part of a data set, and how much of it is there."""

    name: str
    found: int
    expected: int | None = None
    """None where the whole size is not known."""
    note: str = ""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, as far as is known."""
        return self.found >= (1 if self.expected is None else self.expected)


@dataclass(frozen=True, slots=True)
class DataReport:
    """What is there of an environment's data."""

    title: str
    place: str
    """Where it was looked for."""
    parts: tuple[DataPart, ...]
    damaged: tuple[str, ...] = ()
    """One line for each thing that is there and cannot be used."""
    mend: str = ""
    """How to get what is missing."""

    @property
    def complete(self) -> bool:
        """Whether all of it is there and in order."""
        return not self.damaged and all(part.complete for part in self.parts)


@runtime_checkable
class HasData(Protocol):
    """An environment class that needs data."""

    def data_report(self, data_dir: str | None = None) -> DataReport:
        """What is there, in `data_dir` or where the environment looks without being told.

        A classmethod. Raises nothing because of data that is missing or damaged.
        """


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export of generated tasks came to."""

    place: str
    """The folder with the tasks."""
    written: int
    kept: int
    """Tasks that were there already."""
    by_type: Mapping[str, int]
    use: str = ""
    """How to use it."""


@runtime_checkable
class HasExport(Protocol):
    """An environment class that can write its generated tasks in the original's format."""

    def export_games(
        self,
        folder: Path,
        *,
        games: int,
        split: str = "train",
        seed: int = 0,
        logic: Path | None = None,
        env_args: Mapping[str, Any] | None = None,
    ) -> Exported:
        """Write so many tasks. A classmethod.

        Args:
            folder: becomes a data folder.
            games: how many; those that are there already count.
            split: of the environment.
            seed: names the choice of tasks.
            logic: folder with what the original's format needs besides the task, if anything.
            env_args: as for `gym.make`.

        Raises:
            ConfigError: a bad value, or what the format needs is not there.
            OutputError: the folder cannot be written.
        """


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import came to."""

    place: str
    """The folder with the imported data."""
    items: int
    skipped: int
    """Items that could not be used."""
    made: bool = True
    """False if all of it was there already."""
    note: str = ""
    """What else there is to know, such as where the skipped items are listed."""
    use: str = ""
    """How to use it."""


@runtime_checkable
class HasImport(Protocol):
    """An environment class that can turn downloaded data into what it opens quickly."""

    def import_data(self, source: Path, folder: Path | None = None, **options: Any) -> Imported:
        """Import once; if stopped, the same call goes on where it was. A classmethod.

        Args:
            source: the folder with the data as they are downloaded.
            folder: where the result goes; None for a folder in the cache.
            options: the environment's own; its signature names them.

        Raises:
            ConfigError: data are missing or damaged, or an option is wrong.
            OutputError: the folder cannot be written.
        """
