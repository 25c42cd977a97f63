"""Processes that take turns: each does a piece of its work when it is told to.

Timings taken one process after the other drift with whatever else the machine does; taken in turn,
piece by piece, they meet the same conditions.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Racer:
    """A process to start: a name, a command, and what its environment has besides this one's."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Timings:
    """What one racer's pieces took."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: float = 0.0
    """Bytes at the highest, above what its imports take."""

    def add(self, answer: Mapping[str, Any]) -> None:
        self.seconds.append(answer["seconds"])
        self.cpu.append(answer["cpu"])
        self.memory = max(self.memory, answer["memory"])

    def median(self) -> float:
        return statistics.median(self.seconds)

    def text(self) -> str:
        """One line for people."""
        wall = f"{self.median():.3f} s (least {min(self.seconds):.3f})"
        cpu = f"{statistics.median(self.cpu):.3f} s of CPU (least {min(self.cpu):.3f})"
        return f"{wall}, {cpu}, {self.memory / 1e6:.0f} MB"


class _Process:
    """A started racer."""

    def __init__(self, racer: Racer, folder: Path) -> None:
        self.name, self.log = racer.name, folder / f"{racer.name}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                list(racer.command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **ONE_THREAD, **racer.env},
                cwd=folder,
            )
        self.answer()

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def go(self) -> dict[str, Any]:
        """Let it do one piece of work: its answer. It is waiting for the next one then."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        made = self.answer()
        self.answer()
        return made

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended:\n{self.log.read_text()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found


def race(racers: Sequence[Racer], rounds: int, folder: Path, warm: int = 2) -> dict[str, Timings]:
    """Each racer's timings over `rounds` turns, after `warm` turns that do not count."""
    timings = {racer.name: Timings() for racer in racers}
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        running = [stack.enter_context(_Process(racer, folder)) for racer in racers]
        for turn in range(warm + rounds):
            # Who goes first changes, as the one before leaves the caches to the next.
            for process in running if turn % 2 else reversed(running):
                answer = process.go()
                if turn >= warm:
                    timings[process.name].add(answer)
    return timings


def ratio(of: Timings, to: Timings, *, cpu: bool = False) -> float:
    """The median over turns of the first one's seconds to the second one's."""
    pairs = zip(of.cpu, to.cpu, strict=True) if cpu else zip(of.seconds, to.seconds, strict=True)
    return statistics.median(a / b for a, b in pairs)
