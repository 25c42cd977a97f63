"""Which games of the dataset can be played, remembered on disk between runs.

The filters are the original's, so the counts are too (3,553 / 140 / 134 in the release): both
files are there, the path names neither movable receptacles nor sliced objects, the task is of one
of the six types, and the game is marked as solvable.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tqdm.auto import tqdm

from aem_gym.envs.alfworld.classes import SPLITS, TASK_TYPES
from aem_gym.envs.alfworld.dataset.gamefile import GAME, TRAJECTORY, GameFileError, decode
from aem_gym.errors import ConfigError
from aem_gym.io import cache_folder, replace_file

logger = logging.getLogger(__name__)

DATA_VARIABLE = "ALFWORLD_DATA"
LAYOUT = "json_2.1.1"
"""The folder of the releases that holds the splits."""
DOWNLOAD = (
    'pip install "aem-gym[alfworld]", then alfworld-download, which writes to $ALFWORLD_DATA '
    "(default ~/.cache/alfworld)"
)
_EXCLUDED = ("movable", "Sliced")

Stamp = tuple[int, int, int]
"""(time of the last change of a file's content and of its entry, both in ns, size).

The second of the times tells copies that keep the first one, and changed permissions.
"""
ABSENT: Stamp = (0, 0, -1)
"""There is no such file."""
_VERSION = 2
"""Of the file on disk; another number makes it new."""
PARTIAL, DAMAGED, UNSOLVABLE, OTHER_TYPE = "partial", "damaged", "unsolvable", "other task type"
_UNSURE: Stamp = (0, 0, -2)
"""Like that of no file: what is remembered with it is looked at again."""


@dataclass(frozen=True, slots=True)
class GameFolder:
    """A game folder, by what tells whether it has changed."""

    task_id: str
    """`<combination>/<trial>`: its path below the split."""
    trajectory: Stamp
    game: Stamp
    fault: str = ""
    """Why its content cannot be listed; then `task_id` is `<combination>` alone."""


def place_of_data(data_dir: str | Path | None = None) -> Path:
    """`data_dir`, else `$ALFWORLD_DATA`, else `~/.cache/alfworld` as in the original."""
    chosen = data_dir or os.environ.get(DATA_VARIABLE) or "~/.cache/alfworld"
    return Path(os.path.expandvars(chosen)).expanduser()


def data_root(data_dir: str | Path | None = None) -> Path:
    """The folder that holds the splits: `json_2.1.1` below the place of the data, or that itself.

    Raises:
        ConfigError: it is not there; says how to get the data.
    """
    place = place_of_data(data_dir)
    for root in (place / LAYOUT, place):
        if any((root / split).is_dir() for split in SPLITS):
            return root
    raise ConfigError(
        f"data_dir: expected ALFWorld's data ({LAYOUT}/train, ...) in {place}, found none. "
        f"Name its folder with data_dir= or {DATA_VARIABLE}; to get it: {DOWNLOAD}"
    )


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split.

    Raises:
        ConfigError: it is not there; names those that are.
    """
    folder = root / split
    if not folder.is_dir():
        present = ", ".join(name for name in SPLITS if (root / name).is_dir())
        raise ConfigError(
            f"split: {split!r} is not in {root}, which has {present or 'none'}. "
            f"To get it: {DOWNLOAD}"
        )
    return folder


def is_excluded(task_id: str) -> bool:
    """Whether the original leaves a folder out for its name: sliced objects, movable receptacles.

    The original looks at the absolute path. Here it is the part below the split: where a user
    keeps the data (`/mnt/movable/...`) says nothing about a game.
    """
    return any(word in task_id for word in _EXCLUDED)


def scan(folder: Path) -> Iterator[GameFolder]:
    """The game folders of a split, in order of their ids, with two `stat` calls for each.

    Folders whose names are excluded are left out. Links to folders are followed.

    Raises:
        ConfigError: the split's folder cannot be listed.
    """
    try:
        tasks = _folders_in(folder)
    except OSError as error:
        raise ConfigError(
            f"split: {folder} cannot be listed: {error.strerror}. Make it readable for this user"
        ) from error
    for task in tasks:
        if is_excluded(task):
            continue
        try:
            trials = _folders_in(folder / task)
        except OSError as error:
            yield GameFolder(task, ABSENT, ABSENT, f"cannot be listed: {error.strerror}")
            continue
        for trial in trials:
            task_id = f"{task}/{trial}"
            if not is_excluded(trial):
                inner = f"{folder}/{task_id}"
                yield GameFolder(
                    task_id, _stamp(f"{inner}/{TRAJECTORY}"), _stamp(f"{inner}/{GAME}")
                )


def _folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if _is_folder(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return ABSENT
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
        return ABSENT
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size


# The index --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A game that can be played."""

    task_id: str
    task_type: str
    path: Path
    """Its `game.tw-pddl`."""
    size: int
    """Of that file, in bytes."""


@dataclass(frozen=True, slots=True)
class SkippedFolder:
    """A folder that is no game although it should be one."""

    path: Path
    reason: str
    kind: str
    """`damaged` (a file cannot be read) or `partial` (a file or a mark is missing)."""


@dataclass(frozen=True, slots=True)
class GameIndex:
    """The games of a split, in order of their ids."""

    root: Path
    split: str
    entries: tuple[IndexEntry, ...]
    problems: tuple[SkippedFolder, ...] = ()
    left_out: int = 0
    """Whole folders that the original leaves out too: not solvable, or of another task type."""


class _Record(msgspec.Struct, array_like=True):
    """What is remembered of a folder."""

    task_id: str
    trajectory: Stamp
    game: Stamp
    task_type: str = ""
    verdict: str = ""
    """Empty for a game that can be played."""
    reason: str = ""


class _Stored(msgspec.Struct):
    version: int
    folder: str
    records: list[_Record]


class _TaskType(msgspec.Struct):
    task_type: str


class _Solvable(msgspec.Struct):
    solvable: bool | None | msgspec.UnsetType = msgspec.UNSET


def load_index(
    data_dir: str | Path | None, split: str, *, progress: bool = True, quiet: bool = False
) -> GameIndex:
    """The index of a split. Reads only what is new or has changed since the last time.

    Args:
        data_dir: the folder that holds `json_2.1.1`, or that folder; None for `$ALFWORLD_DATA`.
        split: `train`, `valid_seen` or `valid_unseen`.
        progress: whether to show a bar while files are read (never where nobody watches).
        quiet: whether to keep silent about folders that are skipped.

    Raises:
        ConfigError: the data or the split is not there.
    """
    root = data_root(data_dir)
    folder = split_folder(root, split)
    stored = _path_of(folder)
    old = _recall(stored, folder)
    found = list(scan(folder))
    records = _examine(folder, found, old, progress)
    if len(records) != len(old) or any(old.get(record.task_id) is not record for record in records):
        _remember(stored, folder, records)
    index = _index(root, split, folder, records)
    if not quiet:
        _report(index)
    return index


def _examine(
    folder: Path, found: Iterable[GameFolder], old: Mapping[str, _Record], progress: bool
) -> list[_Record]:
    """A record for each folder: the remembered one where the files are the same."""
    records: list[_Record] = []
    new: list[int] = []
    for item in found:
        record = old.get(item.task_id)
        if item.fault:
            record = _Record(item.task_id, _UNSURE, _UNSURE, "", DAMAGED, item.fault)
        elif record is None or (record.trajectory, record.game) != (item.trajectory, item.game):
            record = _Record(item.task_id, item.trajectory, item.game)
            new.append(len(records))
        records.append(record)
    hide = None if progress and len(new) > 100 else True  # None: hidden unless on a terminal
    for number in tqdm(new, desc=f"reading {folder.name} once", unit="game", disable=hide):
        _judge(folder, records[number])
    return records


def _judge(folder: Path, record: _Record) -> None:
    """Read a folder's files as far as needed to fill in its record."""
    place = folder / record.task_id
    for name, stamp in ((TRAJECTORY, record.trajectory), (GAME, record.game)):
        if stamp == ABSENT:
            record.verdict, record.reason = PARTIAL, f"{name} is missing"
            return
    try:
        record.task_type = decode(place / TRAJECTORY, _TaskType).task_type
        if record.task_type not in TASK_TYPES:
            record.verdict = OTHER_TYPE
            return
        solvable = decode(place / GAME, _Solvable).solvable
        if solvable is msgspec.UNSET:  # the original skips these, too: never tried
            record.verdict, record.reason = PARTIAL, f"{GAME} does not say whether it is solvable"
        elif not solvable:
            record.verdict = UNSOLVABLE
    except GameFileError as error:
        if isinstance(error.__cause__, OSError):  # may be better next time
            record.trajectory = _UNSURE
        key = f"key {error.key!r}: " if error.key else ""
        record.verdict, record.reason = DAMAGED, f"{error.path.name}: {key}{error.reason}"


def _index(root: Path, split: str, folder: Path, records: Iterable[_Record]) -> GameIndex:
    entries, problems, left_out = [], [], 0
    prefix = str(folder)
    for record in records:
        if not record.verdict:
            path = Path(f"{prefix}/{record.task_id}/{GAME}")
            entries.append(IndexEntry(record.task_id, record.task_type, path, record.game[2]))
        elif record.reason:
            problems.append(SkippedFolder(folder / record.task_id, record.reason, record.verdict))
        else:
            left_out += 1
    return GameIndex(root, split, tuple(entries), tuple(problems), left_out)


def _report(index: GameIndex) -> None:
    """One line about folders that are no games, if there are any.

    A warning only if something is damaged: folders without a game belong to the release.
    """
    if index.problems:
        counts = Counter(problem.kind for problem in index.problems)
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        first = min(index.problems, key=lambda problem: problem.kind != DAMAGED)
        logger.log(
            logging.WARNING if DAMAGED in counts else logging.INFO,
            "%s: skipped %s game folders (%s: %s). See: aem-gym data alfworld",
            index.root / index.split,
            kinds,
            first.path.relative_to(index.root / index.split),
            first.reason,
        )


# What is remembered ------------------------------------------------------------------------


def _path_of(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return cache_folder() / "alfworld" / f"index-{folder.name}-{name}.msgpack"


def _recall(stored: Path, folder: Path) -> dict[str, _Record]:
    """The records of the last time; none if there are none or they cannot be used."""
    try:
        content = msgspec.msgpack.decode(stored.read_bytes(), type=_Stored)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    if content.version != _VERSION or content.folder != str(folder.resolve()):
        return {}
    return {record.task_id: record for record in content.records}


def _remember(stored: Path, folder: Path, records: list[_Record]) -> None:
    """Write the records, whole or not at all; a cache that cannot be written is a warning."""
    try:
        content = msgspec.msgpack.encode(_Stored(_VERSION, str(folder.resolve()), records))
        stored.parent.mkdir(parents=True, exist_ok=True)
        replace_file(stored, content)
    except (OSError, UnicodeEncodeError) as error:  # names on a disk may be no Unicode
        logger.warning(
            "the index of %s cannot be kept in %s (%s): it is made anew each time. "
            "Set AEM_GYM_CACHE to a folder that can be written",
            folder,
            stored.parent,
            error,
        )
