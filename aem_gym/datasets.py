"""Return values of an environment's tools for the commands of `aem-gym`.

An environment class names its tools in `tools`, as `module:function` by name
(`aem_gym.registry.env_tool`):

- `data_report(data_dir: str | None = None) -> DataReport` for `aem-gym data`: the data in
  `data_dir`, or where the environment looks by default. Missing or damaged data are no error.
- `import_data(source: Path, folder: Path | None = None, **options) -> Imported` for
  `aem-gym data ENV import`: makes downloaded data quick to open; the same call continues an import
  that was stopped. `folder` None is a folder in the cache.
- `export_games(folder: Path, *, games: int, split: str, seed: int, logic: Path | None, env_args) ->
  Exported` for `aem-gym export`: writes generated tasks in the original's format.
- `page_app(env, *, seed: int = 0) -> WSGIApplication` for `aem-gym play --web`: the page of an
  environment as `gym.make` gave it. One thread calls it, a request at a time, behind the checks of
  `aem_gym.loopback`; a request that changes anything should be a POST with a token.
- `doctor() -> Iterator[(fine, what was checked, what was found or what fixes it)]` for
  `aem-gym doctor`.
- `preflight(env_args: Mapping)`: raises ConfigError where what the environment runs on is missing;
  called once before a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataPart:
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
    title: str
    place: str
    """The folder that was searched."""
    parts: tuple[DataPart, ...]
    damaged: tuple[str, ...] = ()
    """One line for each thing that cannot be used."""
    advice: str = ""
    """How to get what is missing."""

    @property
    def complete(self) -> bool:
        """Whether all of it is there and in order."""
        return not self.damaged and all(part.complete for part in self.parts)


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export of generated tasks."""

    place: str
    """The folder with the tasks."""
    written: int
    kept: int
    """Tasks that were there already."""
    by_type: Mapping[str, int]
    use: str = ""
    """How to use it."""


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import."""

    place: str
    """The folder with the imported data."""
    items: int
    skipped: int
    """Items that could not be used."""
    made: bool = True
    """False if all of it was there already."""
    note: str = ""
    """Further remarks, such as where the skipped items are listed."""
    use: str = ""
    """How to use it."""
