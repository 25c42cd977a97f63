"""An index of the dataset's playable games, kept on disk between runs.

The filters are the original's, so the counts are too (3,553 / 140 / 134 in the release): both
files are there, the path names neither movable receptacles nor sliced objects, the task is of one
of the six types, and the game is marked as solvable.
"""

from __future__ import annotations

import contextlib
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
"""The original looks for them in the absolute path. Here only the part below the split counts:
where a user keeps the data (`/mnt/movable/...`) says nothing about a game."""
PARTIAL, DAMAGED, UNSOLVABLE, OTHER_TYPE = "partial", "damaged", "unsolvable", "other task type"

_Stamp = tuple[int, int, int]
"""mtime and ctime of a file in ns, and its size. A copy may keep the mtime, but not the ctime."""
_ABSENT: _Stamp = (0, 0, -1)
_UNSURE: _Stamp = (0, 0, -2)
"""No file has this stamp: a record with it is examined again."""
_VERSION = 2
"""Of the file in the cache; files of another version are ignored."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A game that can be played."""

    task_id: str
    """`<combination>/<trial>`: the path of its folder below the split."""
    task_type: str
    path: Path
    """Its `game.tw-pddl`."""
    size: int
    """Of that file, in bytes."""


@dataclass(frozen=True, slots=True)
class SkippedFolder:
    """A folder that should be a game and is none."""

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
    task_id: str
    trajectory: _Stamp
    game: _Stamp
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


def place_of_data(data_dir: str | Path | None = None) -> Path:
    """`data_dir`, else `$ALFWORLD_DATA`, else `~/.cache/alfworld` as in the original."""
    chosen = data_dir or os.environ.get(DATA_VARIABLE) or "~/.cache/alfworld"
    return Path(os.path.expandvars(chosen)).expanduser()


def data_root(data_dir: str | Path | None = None) -> Path:
    """The folder of the splits: `json_2.1.1` in `place_of_data`, or that itself. ConfigError."""
    place = place_of_data(data_dir)
    for root in (place / LAYOUT, place):
        if any((root / split).is_dir() for split in SPLITS):
            return root
    raise ConfigError(
        f"data_dir: expected ALFWorld's data ({LAYOUT}/train, ...) in {place}, found none. "
        f"Name its folder with data_dir= or {DATA_VARIABLE}; to get it: {DOWNLOAD}"
    )


def load_index(data_dir: str | Path | None, split: str, *, quiet: bool = False) -> GameIndex:
    """The index of a split. Reads only files that are new or have changed since the last time.

    Raises:
        ConfigError: the data or the split is not there.
    """
    root = data_root(data_dir)
    folder = root / split
    if not folder.is_dir():
        present = ", ".join(name for name in SPLITS if (root / name).is_dir())
        raise ConfigError(
            f"split: {split!r} is not in {root}, which has {present or 'none'}. "
            f"To get it: {DOWNLOAD}"
        )
    stored = _path_of(folder)
    old = _recall(stored, folder)
    records = _examine(folder, old)
    if len(records) != len(old) or any(old.get(record.task_id) is not record for record in records):
        _remember(stored, folder, records)
    index = _index(root, split, folder, records)
    if index.problems and not quiet:
        _report(index)
    return index


def _scan(folder: Path) -> Iterator[_Record]:
    """The game folders of a split, in order of their ids, with two `stat` calls for each.

    Links to folders are followed. Raises ConfigError if the split's folder cannot be listed.
    """
    try:
        tasks = _folders_in(folder)
    except OSError as error:
        raise ConfigError(
            f"split: {folder} cannot be listed: {error.strerror}. Make it readable for this user"
        ) from error
    for task in tasks:
        try:
            trials = _folders_in(folder / task)
        except OSError as error:
            reason = f"cannot be listed: {error.strerror}"
            yield _Record(task, _UNSURE, _UNSURE, "", DAMAGED, reason)
            continue
        for trial in trials:
            inner = f"{folder}/{task}/{trial}"
            stamps = _stamp(f"{inner}/{TRAJECTORY}"), _stamp(f"{inner}/{GAME}")
            yield _Record(f"{task}/{trial}", *stamps)


def _folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder that are not excluded, sorted."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # a link in a circle
                if entry.is_dir() and not any(word in entry.name for word in _EXCLUDED):
                    names.append(entry.name)
    return sorted(names)


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return _ABSENT
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
        return _ABSENT
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _examine(folder: Path, old: Mapping[str, _Record]) -> list[_Record]:
    """A record for each folder: the one of the cache where the files are the same."""
    records, new = [], []
    for record in _scan(folder):
        known = old.get(record.task_id)
        if known and (known.trajectory, known.game) == (record.trajectory, record.game):
            record = known if not record.verdict else record
        elif not record.verdict:
            new.append(record)
        records.append(record)
    hide = None if len(new) > 100 else True  # None: hidden unless on a terminal
    for record in tqdm(new, desc=f"reading {folder.name} once", unit="game", disable=hide):
        _judge(folder, record)
    return records


def _judge(folder: Path, record: _Record) -> None:
    """Read a folder's files as far as needed to fill in its record."""
    place = folder / record.task_id
    for name, stamp in ((TRAJECTORY, record.trajectory), (GAME, record.game)):
        if stamp == _ABSENT:
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
    """A warning if something is damaged; folders without a game are normal."""
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


def _path_of(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return cache_folder() / "alfworld" / f"index-{folder.name}-{name}.msgpack"


def _recall(stored: Path, folder: Path) -> dict[str, _Record]:
    """The records in the cache; none if there are none or they cannot be used."""
    try:
        content = msgspec.msgpack.decode(stored.read_bytes(), type=_Stored)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    if content.version != _VERSION or content.folder != str(folder.resolve()):
        return {}
    return {record.task_id: record for record in content.records}


def _remember(stored: Path, folder: Path, records: list[_Record]) -> None:
    """Write the records to the cache; a cache that cannot be written is a warning."""
    try:
        content = msgspec.msgpack.encode(_Stored(_VERSION, str(folder.resolve()), records))
        stored.parent.mkdir(parents=True, exist_ok=True)
        replace_file(stored, content)
    except (OSError, UnicodeEncodeError) as error:  # names on a disk may be no Unicode
        logger.warning(
            "the index of %s cannot be kept in %s (%s): every start reads all files. "
            "Set AEM_GYM_CACHE to a folder that can be written",
            folder,
            stored.parent,
            error,
        )
