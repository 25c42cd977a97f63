"""The episodes of a run on disk: one file of JSON lines, or a folder with a file for each step.

The folder is for large runs. Each of its files appears whole or not at all, is one gzip member if
compressed, and can be replaced by one without texts and tokens when its step is old.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from aem_gym.errors import ConfigError, OutputError
from aem_gym.io import explained, replace_file

logger = logging.getLogger(__name__)

EPISODES, FOLDER = "episodes.jsonl", "episodes"
"""Of a run: one of them, or the file with the first steps and the folder with those after."""
BULKY = (
    *("observation", "response", "thought", "action"),
    *("prompt_ids", "response_ids", "logprobs", "entropies"),
)
"""What `keep_episodes` removes from the turns of old steps: texts and token arrays."""
_PRUNED = "pruned"
LEVEL = 6
"""Of gzip: 4 takes half of the time or more, and 2 to 13% more bytes."""
_NAME = re.compile(r"step-(\d+)(?:-(\d+))?\.jsonl(\.gz)?")
_DAMAGED = (OSError, EOFError, zlib.error, ValueError)
_STEP = msgspec.json.Decoder(type=msgspec.defstruct("_Step", [("step", int)]))


@dataclass(frozen=True, order=True)
class StepFile:
    """A file of the folder: the episodes of one attempt at one step."""

    step: int
    attempt: int
    """From 1. A step is taken again after a failure of the infrastructure (`breaker`)."""
    path: Path

    def lines(self) -> Iterator[bytes]:
        """Its lines. Raises OSError, EOFError or zlib.error where it is damaged."""
        if not self.path.stat().st_size:
            raise EOFError("the file is empty")
        with gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb") as stream:
            yield from stream

    def replace(self, lines: Iterable[bytes]) -> None:
        """Write it, whole or not at all. Equal lines give equal bytes."""
        buffer = io.BytesIO()
        if self.path.suffix == ".gz":
            # Neither a name nor a time in the header.
            with gzip.GzipFile("", "wb", LEVEL, buffer, mtime=0) as stream:
                stream.writelines(lines)
        else:
            buffer.writelines(lines)
        with explained(self.path), buffer.getbuffer() as data:
            replace_file(self.path, data, durable=True)


def step_files(run: Path) -> list[StepFile]:
    """The files in the folder of a run, in the order in which they were written."""
    folder = run / FOLDER
    names = [(path, _NAME.fullmatch(path.name)) for path in folder.glob("step-*")]
    return sorted(StepFile(int(m[1]), int(m[2] or 1), path) for path, m in names if m)


def has_episodes(run: Path) -> bool:
    """Whether there is a place for episodes: the run has begun."""
    return (run / EPISODES).exists() or (run / FOLDER).exists()


def read_episodes(run: Path, step: int | None = None) -> Iterator[dict[str, Any]]:
    """The records of a run's episodes in their order, those of one step or of all.

    Reads both forms, compressed or not, also while the run is going on.

    Raises:
        ConfigError: there are none, or a file is damaged; names it and the line.
    """
    files = step_files(run)
    plain = run / EPISODES
    if plain.exists() or not files:
        try:
            with plain.open("rb") as stream:
                for record in _decoded(plain, stream, growing=True):
                    if step is None or record["step"] == step:
                        yield record
        except OSError as error:
            raise ConfigError(f"{plain}: {error.strerror}. Is this the folder of a run?") from error
    for file in files:
        if step in (None, file.step):
            yield from _decoded(file.path, file.lines())


def _decoded(path: Path, lines: Iterable[bytes], growing: bool = False) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        for line in lines:
            number += 1
            try:
                yield json.loads(line)
            except ValueError as error:
                if growing and not line.endswith(b"\n"):
                    return  # being written just now
                raise ConfigError(f"{path}, line {number}: not JSON: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"{path}: cannot be read after line {number}: {error}. Restore it, or take another step"
        ) from error


class EpisodeFolder:
    """Writes a file for each step; can be cut back to a checkpoint. Takes the place of `JsonLines`.

    Args:
        run: the run's folder.
        offset: files to keep, from `sync` at the checkpoint; later ones are removed.
        compress: whether new files are compressed.
        keep: newest steps whose episodes stay whole; 0: all.

    Raises:
        OutputError: files are missing, or the folder cannot be written.
    """

    def __init__(self, run: Path, offset: int = 0, *, compress: bool, keep: int = 0) -> None:
        self.run, self.compress, self.keep = run, compress, keep
        folder = run / FOLDER
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".step-*.tmp"):  # of a process that was killed
                leftover.unlink()
            files = step_files(run)
            if len(files) < offset:
                raise OutputError(
                    f"{folder} has {len(files)} files of steps, but the checkpoint was made when "
                    f"it had {offset}: restore the others, or start a new run with --out"
                )
            for file in reversed(files[offset:]):  # the rest is whole at every moment
                file.path.unlink()
        self._files = files[:offset]
        self._whole = [file for file in self._files if keep and not _is_pruned(file)]

    def write(self, *lines: bytes) -> None:
        """Add the episodes of one step, as lines without their newlines; prune what is old."""
        if not lines:
            return
        step: int = _STEP.decode(lines[0]).step  # type: ignore[attr-defined]
        attempt = 1 + sum(file.step == step for file in self._files)
        again = "" if attempt == 1 else f"-{attempt}"
        name = f"step-{step:06d}{again}.jsonl{'.gz' if self.compress else ''}"
        file = StepFile(step, attempt, self.run / FOLDER / name)
        file.replace(line + b"\n" for line in lines)
        self._files.append(file)
        if self.keep:
            self._whole.append(file)
            self._prune(step - self.keep)

    def _prune(self, last: int) -> None:
        """Drop texts and tokens of the steps up to `last`."""
        for file in [file for file in self._whole if file.step <= last]:
            self._whole.remove(file)
            try:
                records = [pruned(msgspec.json.decode(line)) for line in file.lines()]
            except _DAMAGED as error:
                logger.warning("%s was not pruned: it cannot be read (%s)", file.path, error)
            else:
                file.replace(msgspec.json.encode(record) + b"\n" for record in records)

    def sync(self) -> int:
        """The number of files (a checkpoint's offset): each is on the disk already."""
        return len(self._files)

    def close(self) -> None:
        """Nothing is open."""


def _is_pruned(file: StepFile) -> bool:
    try:
        return _PRUNED in json.loads(next(file.lines(), b"{}"))
    except _DAMAGED:
        return False


def pruned(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what is large: `BULKY` in its turns. Its figures stay, and `pruned` is true.

    Pruning it again changes nothing.
    """
    turns: Sequence[Mapping[str, Any]] = record["turns"]
    short = [{name: turn[name] for name in turn if name not in BULKY} for turn in turns]
    return {**record, "turns": short, _PRUNED: True}
