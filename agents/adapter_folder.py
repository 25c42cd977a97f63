"""Which run the adapters in a folder for servers belong to: those of killed runs are removed.

A run prunes its own versions as it goes, and the last ones when it ends. One that was killed leaves
them; it goes on under a name of its own, so nobody would ever use or remove them.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import IO

_MARK = ".owner"


class Ownership:
    """The adapters `NAME-v*` in a folder are this process's, until `release` or its end.

    Another process knows by the lock on a mark file beside them. Where there are no POSIX locks,
    nothing is marked and nothing removed.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._mark = folder / f"{name}{_MARK}"
        self._lock = _locked(self._mark)
        if self._lock is not None:  # only now: a mark without a host is nobody's
            self._lock.write(socket.gethostname())
            self._lock.flush()

    def release(self) -> None:
        """Remove the mark."""
        if self._lock is not None:
            self._mark.unlink(missing_ok=True)
            self._lock.close()


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the adapters of runs of this host that were killed; the folders that were removed.

    Those of other hosts stay: whether they live cannot be seen from here.
    """
    removed: list[Path] = []
    for mark in folder.glob(f"*{_MARK}"):
        try:
            if mark.read_text() != socket.gethostname() or (lock := _locked(mark)) is None:
                continue
        except OSError:  # its owner has just removed it
            continue
        with lock:
            adapters = list(folder.glob(f"{mark.stem}-v*"))
            for adapter in adapters:
                shutil.rmtree(adapter, ignore_errors=True)
            mark.unlink(missing_ok=True)
        removed += adapters
    return removed


def _locked(mark: Path) -> IO[str] | None:
    """The mark file, opened and locked; None where another process holds it."""
    try:
        import fcntl
    except ImportError:
        return None
    stream = mark.open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    return stream
