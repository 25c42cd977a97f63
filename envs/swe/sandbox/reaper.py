"""Which run owns a container, and the process that removes a run's containers when it has ended.

The value of a container's label names the process that made it. The name contains which machine
(and which process namespace in it) the process number counts in, so that trainers in containers of
their own never take each other's sandboxes for left over.

`python -m aem_gym.envs.swe.sandbox.reaper URL RUN PARENT` is started by the engine. It ends when
its parent does, however that ended (SIGKILL too), or when the parent closes its input.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_LOOK = 0.5
"""Seconds between checks of the parent."""
_PATIENCE, _ORDERLY = 600.0, 5.0
"""Seconds to go on trying where the engine is gone as well."""
_TURNS = 4


def new_run() -> str:
    """A name for this process's run: `PLACE-PID-START-RANDOM`."""
    pid = os.getpid()
    return f"{_place()}-{pid}-{_start_of(pid)}-{secrets.token_hex(4)}"


def is_left_over(run: str) -> bool:
    """Whether a run was on this machine, and its process is gone."""
    try:
        place, pid, start, _ = run.split("-")
        number = int(pid)
    except ValueError:
        return False
    return place == _place() and start != _start_of(number)


def _place() -> str:
    """A hash of the machine's boot, and of the namespace that processes are numbered in."""
    known = socket.gethostname()
    with contextlib.suppress(OSError):
        known = Path("/proc/sys/kernel/random/boot_id").read_text()
    with contextlib.suppress(OSError):
        known += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(known.encode()).hexdigest()[:12]


def _start_of(pid: int) -> str:
    """When a process started, in ticks; `0` without a /proc to ask, empty if it is gone."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        fields = stat[stat.rindex(b")") + 2 :].split()
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
    if Path("/proc/self/stat").exists():
        return ""
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
    return "0"


class Reaper:
    """A handle on the process that removes the containers of one run."""

    def __init__(self, url: str, run: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, url, run, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        """The run has ended in order: let the reaper look once more, and wait for it."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(argv: Sequence[str]) -> int:
    """Wait for the parent's end, then remove what it left."""
    url, run, parent = argv[0], argv[1], int(argv[2])
    closed = False
    while os.getppid() == parent and not closed:
        ready, _, _ = select.select([sys.stdin], [], [], _LOOK)
        closed = bool(ready) and not os.read(0, 1)
    os.environ["DOCKER_HOST"] = url
    until = time.monotonic() + (_ORDERLY if closed else _PATIENCE)
    # A container that was just being made when its maker was killed may come a little later.
    for turn in range(1 if closed else _TURNS):
        time.sleep(turn)
        while not _remove_run(run):
            if time.monotonic() > until:
                return 1
            time.sleep(1)
    return 0


def _remove_run(run: str) -> bool:
    """Whether the engine answered and removed the containers of a run."""
    from aem_gym.envs.swe.sandbox import connect
    from aem_gym.envs.swe.sandbox.base import LABEL, SandboxError

    with contextlib.suppress(SandboxError), contextlib.closing(connect.find().client) as client:
        connect.remove_containers(client, f"{LABEL}={run}")
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
