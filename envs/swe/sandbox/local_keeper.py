"""Keeps one program of a sandbox without container: `python local_keeper.py PARENT MB MB PROGRAM`.

Everything that the program starts, however it detaches itself, stays below its keeper, which kills
all of it when the program ends, or the process that started the keeper. It runs as a file of its
own, so it imports the standard library only; the engine imports it, too, to kill what is below it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Collection, Iterator, Sequence

_LOOK = 0.5
"""Seconds between checks of the parent."""
_SUBREAPER = 36
"""`PR_SET_CHILD_SUBREAPER`: orphans become children of the keeper, not of process 1."""
_ROUNDS = 1000
_FILES = 4096


def below(root: int) -> dict[int, int]:
    """Process -> parent of all that live below a process."""
    found: dict[int, int] = {}
    rest = [root]
    while rest:
        parent = rest.pop()
        for pid in _children(parent):
            if pid not in found and _lives(pid):
                found[pid] = parent
                rest.append(pid)
    return found


def kill_below(root: int, spared: Collection[int] = ()) -> bool:
    """Kill all processes below one, but those that are spared; False: some still run.

    They are stopped first: what is stopped starts no others. It has to find none twice in a row: a
    list of children that end while it is read may be too short.
    """
    stopped: set[int] = set()
    quiet = 0
    for _ in range(_ROUNDS):
        found = set(below(root)) - set(spared)
        quiet = 0 if found else quiet + 1
        if quiet == 2:
            return True
        new = found - stopped
        for pid in new or found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGSTOP if new else signal.SIGKILL)
        stopped |= new
        if found and not new:
            time.sleep(0.001)
    return False


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                yield from map(int, file.read().split())


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except OSError:
        return False


def _become(program: Sequence[str], memory: int, disk: int) -> None:
    """Turn into the program, with its limits."""
    most = {resource.RLIMIT_AS: memory, resource.RLIMIT_FSIZE: disk, resource.RLIMIT_CORE: 0}
    for kind, value in {**most, resource.RLIMIT_NOFILE: _FILES}.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execvp(program[0], list(program))


def _wait(child: int, parent: int) -> int:
    """The exit code of the program; other processes that end are waited for as well."""
    while os.getppid() == parent:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    code = os.waitstatus_to_exitcode(ended[1])
                    return code if code >= 0 else 128 - code
        signal.sigtimedwait({signal.SIGCHLD}, _LOOK)
    return 128 + signal.SIGKILL


def main(argv: Sequence[str]) -> int:
    """Keep a program until it ends, or the parent does."""
    parent, memory, disk = (int(word) for word in argv[:3])
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        try:
            _become(argv[3:], memory << 20, disk << 20)
        finally:
            os._exit(127)
    try:
        return _wait(child, parent)
    finally:
        kill_below(os.getpid())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
