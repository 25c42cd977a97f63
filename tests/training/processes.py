"""torchrun as a user starts it, and what becomes of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.training.runs import ROOT


def torchrun(count: int, *command: str, **environ: str) -> subprocess.Popen[str]:
    """`torchrun --nproc_per_node COUNT COMMAND`, in a session of its own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*launcher, f"--nproc_per_node={count}", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environ},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 200) -> str:
    """Wait for a good end; what it printed."""
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        stop(process)
        raise
    assert process.returncode == 0, stderr[-4000:]
    return stdout


def descendants(pid: int) -> set[int]:
    """The processes below one, at whatever depth."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            below.setdefault(parent, []).append(int(entry.name))
    found, new = set[int](), [pid]
    while new:
        new = [child for each in new for child in below.get(each, ())]
        found |= set(new)
    return found


def _parent(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    return _parent(pid) is not None


def rank(pid: int) -> int | None:
    """The number of a worker of torchrun."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    found = [each for each in environ if each.startswith(b"RANK=")]
    return int(found[0][5:]) if found else None


def worker(process: subprocess.Popen[str], number: int) -> int:
    """The process of one rank: a child of torchrun."""
    children = [p for p in descendants(process.pid) if _parent(p) == process.pid]
    return next(p for p in children if rank(p) == number)


def wait_for(what: Callable[[], Any], seconds: float) -> float:
    """Wait until something holds; the seconds it took."""
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < seconds, f"not within {seconds:g} s"
        time.sleep(0.1)
    return time.monotonic() - begun


def stop(process: subprocess.Popen[str]) -> None:
    """End a test's processes, whatever state they are in."""
    for pid in (*descendants(process.pid), process.pid):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
