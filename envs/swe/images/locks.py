"""One build of an image at a time on this machine: the others wait, and find it done."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator

from aem_gym.envs.swe.images.workshop import Log
from aem_gym.io import cache_folder


@contextlib.contextmanager
def one_at_a_time(name: str, log: Log) -> Iterator[None]:
    """Wait until no other process builds an image of that name, and let none begin.

    It saves work only: images appear under their name at once, so two builds do no harm. Where no
    lock can be had, there is none. A process that dies lets go of its lock.
    """
    folder = cache_folder() / "swe" / "locks"
    file = folder / hashlib.sha256(name.encode()).hexdigest()[:16]
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(file.open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log(f"wait for another process that builds {name}")
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield
