"""Shows how much of the official dataset is installed: `aem-gym data alfworld`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from aem_gym.datasets import DataPart, DataReport
from aem_gym.envs.alfworld.dataset.gamefile import read_game
from aem_gym.envs.alfworld.dataset.index import (
    DAMAGED,
    DATA_VARIABLE,
    GameIndex,
    data_root,
    load_index,
    place_of_data,
)
from aem_gym.envs.alfworld.text import DIALECTS
from aem_gym.errors import ConfigError

RELEASED: Mapping[str, int] = {"train": 3553, "valid_seen": 140, "valid_unseen": 134}
"""Playable games of each split in the release (json_2.1.1 with the games of json_2.1.2)."""

_GET = f"""\
To get what is missing (into ${DATA_VARIABLE}; default ~/.cache/alfworld):
  pip install "aem-gym[alfworld]"
  alfworld-download
If it is elsewhere: set {DATA_VARIABLE}, or use --data-dir.
Generated games, the default, need none of it."""
_REPAIR = """\
Damaged folders are skipped. To download them again: alfworld-download --force"""


def data_report(data_dir: str | Path | None = None) -> DataReport:
    """Playable games per split against the release, and the folders that cannot be used."""
    place, parts, damaged = place_of_data(data_dir), [], []
    try:
        place = data_root(data_dir)
    except ConfigError:
        parts = [DataPart(split, 0, count) for split, count in RELEASED.items()]
    else:
        for split in RELEASED:
            part, lines = _examine(place, split)
            parts.append(part)
            damaged += lines
    missing = not all(part.complete for part in parts)
    advice = [_REPAIR] * bool(damaged) + [_GET] * missing
    return DataReport("official games", str(place), tuple(parts), tuple(damaged), "\n".join(advice))


def _examine(root: Path, split: str) -> tuple[DataPart, list[str]]:
    """A split, and a line for each of its folders that is damaged."""
    count = RELEASED[split]
    if not (root / split).is_dir():
        return DataPart(split, 0, count, "the folder is missing"), []
    try:
        index = load_index(root, split, quiet=True)
    except ConfigError as error:
        return DataPart(split, 0, count), [str(error)]
    problems = [problem for problem in index.problems if problem.kind == DAMAGED]
    damaged = [f"{problem.path.relative_to(root)}: {problem.reason}" for problem in problems]
    notes = []
    try:
        notes.append(_dialect(index))
    except ConfigError as error:
        damaged.append(str(error))
    if len(index.entries) > count:
        notes.append("more than the release has")
    notes += _left_out(index)
    note = "; ".join(note for note in notes if note)
    return DataPart(split, len(index.entries), count, note), damaged


def _dialect(index: GameIndex) -> str:
    """That of the first game: a download has the same in all."""
    if not index.entries:
        return ""
    dialect = read_game(index.entries[0].path).game.dialect
    put = DIALECTS[dialect].put.format("X", "Y")
    return f"dialect {dialect}: {put}"


def _left_out(index: GameIndex) -> list[str]:
    """The kinds of the other folders of a split, with their numbers."""
    counts = Counter(problem.reason for problem in index.problems if problem.kind != DAMAGED)
    notes = [f"{count:,} x {reason}" for reason, count in sorted(counts.items())]
    if index.left_out:
        notes.append(f"{index.left_out:,} x not solvable, or of another task type")
    return notes
