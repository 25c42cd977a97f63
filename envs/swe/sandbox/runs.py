"""Whose a container is: the value of its label names the process that made it.

The name holds which machine (and which process namespace in it) a process number counts in, so
that trainers in containers of their own never take each other's sandboxes for left over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
from pathlib import Path


def new_run() -> str:
    """A name for this process's run: `PLACE-PID-START-RANDOM`."""
    pid = os.getpid()
    return f"{_place()}-{pid}-{_start_of(pid)}-{secrets.token_hex(4)}"


def is_left_over(run: str) -> bool:
    """Whether a run was of this machine, and its process is gone."""
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
    """When a process started, in ticks; `0` where that is not told, empty if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        pass
    else:
        fields = stat[stat.rindex(b")") + 2 :].split()
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "0"
    return "0"
