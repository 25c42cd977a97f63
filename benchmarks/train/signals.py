"""How a benchmarked process talks with the one that times it: a line in, a line of JSON out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def resident() -> float:
    """Bytes of memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def peak() -> float:
    """The most bytes this program has held: `getrusage` would count the parent's before `exec`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Told:
    """Answers each `go` of the driver with the seconds and the memory of one piece of work."""

    def __init__(self) -> None:
        # What libraries print must not mix with the answers.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._base = 0.0
        self._clocks = (0.0, 0.0)

    def imported(self) -> None:
        """Everything is imported: memory counts from here."""
        self._base = resident()

    def wait(self) -> bool:
        """Say that the work can begin, and wait for the word; False: there is none any more."""
        self.say({"ready": True})
        if sys.stdin.readline().strip() != "go":
            return False
        self._clocks = (time.perf_counter(), time.process_time())
        return True

    def done(self, **more: Any) -> None:
        """The piece of work is done."""
        wall, cpu = time.perf_counter() - self._clocks[0], time.process_time() - self._clocks[1]
        self.say({"seconds": wall, "cpu": cpu, "memory": peak() - self._base, **more})

    def say(self, what: dict[str, Any]) -> None:
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()

    def loop(self, work: Callable[[], dict[str, Any]]) -> None:
        """Do `work` as often as is asked for."""
        while self.wait():
            self.done(**work())
