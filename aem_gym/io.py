"""Files: the cache folder, atomic writes, locks, JSON lines.

Every failure of the disk becomes an OutputError that says what to do about it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from secrets import token_hex

from aem_gym.errors import AemGymError, OutputError

logger = logging.getLogger(__name__)

_FIXES = {
    errno.ENOSPC: "the disk is full. Free some space, then continue with --resume",
    errno.EDQUOT: "your disk quota is used up. Free some space, then continue with --resume",
    errno.EFBIG: "files may not grow that far (ulimit -f). Raise it, then continue with --resume",
    errno.EROFS: "the file system is read-only. Choose another folder with --out",
    errno.EACCES: "you may not write there. Choose another folder with --out",
    errno.EPERM: "you may not write there. Choose another folder with --out",
    errno.ENOTDIR: "part of this path is a file, not a folder. Choose another folder with --out",
    errno.EEXIST: "it is a file, not a folder. Choose another folder with --out",
}


def cache_folder() -> Path:
    """`AEM_GYM_CACHE` if it is set, else `aem_gym` in the user's cache folder. Not created."""
    chosen = os.environ.get("AEM_GYM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "aem_gym"
    root = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(root) if root else Path.home() / ".cache") / "aem_gym"


def digest_files(paths: Iterable[Path]) -> str:
    """Hex digest of the names and contents of files, whatever their order and folder."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(paths, key=lambda path: (path.name, str(path))):
        data = path.read_bytes()
        digest.update(f"{path.name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def sample_files(paths: Iterable[Path], pieces: int = 16, size: int = 1 << 16) -> str:
    """Hex digest of the names, sizes and `pieces` parts of large files, evenly spaced."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(paths, key=lambda path: path.name):
        total = path.stat().st_size
        digest.update(f"{path.name}\0{total}\0".encode())
        with path.open("rb") as stream:
            for piece in range(pieces):
                stream.seek(piece * max(0, total - size) // max(1, pieces - 1))
                digest.update(stream.read(size))
    return digest.hexdigest()


def replace_file(path: Path, data: bytes | memoryview, *, durable: bool = False) -> None:
    """Write a file so that any reader, at any time, finds the old content or the new.

    Several processes may do so at the same time: each writes beside it under a name of its own.

    Args:
        path: in a folder that is there.
        data: the new content.
        durable: return only when it is on the disk itself, safe from a power cut.

    Raises:
        OSError: the disk does not take it; the old file, if any, is untouched.
    """
    part = path.with_name(f".{path.name}.{token_hex(8)}.tmp")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file or folder to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _errno_in(error: Exception) -> int | None:
    """The error number in a message: of shutil's collected errors, of libraries in Rust."""
    found = re.search(r"\[Errno (\d+)\]|\(os error (\d+)\)", str(error))
    return int(found[1] or found[2]) if found else None


def output_error(path: Path, error: Exception) -> OutputError:
    """The OutputError for an error of the disk at `path`, with the way to fix it."""
    number = getattr(error, "errno", None) or _errno_in(error) or 0
    fix = _FIXES.get(number, f"{getattr(error, 'strerror', None) or error}. Is --out right?")
    return OutputError(f"cannot write {path}: {fix}")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise any error of the disk in the block as an OutputError about `path`."""
    try:
        yield
    except Exception as error:
        if _is_of_disk(error):
            raise output_error(path, error) from error
        raise


def _is_of_disk(error: Exception) -> bool:
    """Also those of safetensors: in Rust, it has errors of its own for it."""
    if isinstance(error, AemGymError):
        return False
    return isinstance(error, OSError) or _errno_in(error) is not None


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Like a durable `replace_file`, but raises OutputError where the disk does not take it."""
    path = Path(path)
    with explained(path):
        replace_file(path, data.encode() if isinstance(data, str) else data, durable=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block has ended well.

    Yields an empty sibling to write into. An older folder of that name is replaced.

    Raises:
        OutputError: the disk does not take it; an older folder is untouched.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.tmp")
    with explained(path):
        tidy_folder(path)
        part.mkdir(parents=True)
        try:
            yield part
            settle_folder(part, path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def settle_folder(part: Path, path: Path) -> None:
    """Bring a finished folder `part` to the disk itself, then give it the name `path`.

    A folder that is already called `path` is replaced.

    Raises:
        OSError: the disk does not take it.
    """
    for folder, _, names in os.walk(part):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.replace(old)
    part.replace(path)
    shutil.rmtree(old, ignore_errors=True)
    sync(path.parent)


def tidy_folder(path: Path) -> None:
    """Undo what an interrupted `atomic_folder(path)` left behind."""
    part, old = (path.with_name(f".{path.name}.{kind}") for kind in ("tmp", "old"))
    if old.exists() and not path.exists():
        old.replace(path)
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Only one process at a time is inside, for one `path` (a lock file; made if missing).

    Waits for its turn. On systems without POSIX locks there is no waiting.

    Raises:
        OutputError: the file cannot be made.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    with stream:
        try:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        except ImportError:
            pass
        yield


class JsonLines:
    """A file of JSON lines that can be cut back to where a checkpoint left it.

    Args:
        path: the file; made if missing.
        offset: bytes to keep; the rest, written after the last checkpoint, is removed.

    Raises:
        OutputError: the file is shorter than `offset`, or cannot be written.
    """

    def __init__(self, path: str | Path, offset: int = 0) -> None:
        self.path = Path(path)
        with explained(self.path):
            self._stream = self.path.open("ab")
            size = self._stream.seek(0, os.SEEK_END)
            if size < offset:
                self._stream.close()
                raise OutputError(
                    f"{self.path} has {size} bytes, but the checkpoint was made when it had "
                    f"{offset}: lines are missing. Restore the file, or start a new run with --out"
                )
            self._stream.truncate(offset)

    def write(self, *lines: bytes) -> None:
        """Append lines (given without their newlines), and let other programs see them."""
        with explained(self.path):
            self._stream.writelines(line + b"\n" for line in lines)
            self._stream.flush()

    def sync(self) -> int:
        """Bring everything to the disk; the file's size in bytes (a checkpoint's offset)."""
        with explained(self.path):
            self._stream.flush()
            os.fsync(self._stream.fileno())
            return self._stream.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Flush and close."""
        with explained(self.path):
            self._stream.close()
