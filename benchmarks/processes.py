"""What do two processes bring? `python -m benchmarks.processes [--rounds 3] [--steps 5]`.

Steps of the default job: in one process with one thread, in one with two threads, and in two
processes of torchrun with one thread each. The runs take turns, so that they meet the same machine;
the first step of each run is left out. Further arguments go to all jobs. The last line is one JSON
object:

    process_ratio       seconds of a step, one process with one thread / two processes
    thread_ratio        the same, one process with two threads / two processes
    one, threads, two   median seconds of a step
    cpu_ratio           the first in seconds of CPU, of process 0 alone, which other programs
                        disturb less
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WAYS: dict[str, tuple[int, int]] = {"one": (1, 1), "threads": (1, 2), "two": (2, 1)}
"""Name -> processes, threads of each."""


class CPUClock:
    """A logger that notes the CPU seconds of its process after each step."""

    def __init__(self, run: Path) -> None:
        self.file = run / "cpu.txt"

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        with self.file.open("a") as stream:
            stream.write(f"{time.process_time()}\n")

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def episodes(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def cpu_clock(run: Path, config: object, step: int) -> CPUClock:
    """The logger, by name."""
    return CPUClock(run)


def run(way: str, out: Path, flags: Sequence[str]) -> tuple[list[float], list[float]]:
    """Seconds of each step of a run but the first, and seconds of CPU."""
    processes, threads = WAYS[way]
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc_per_node={processes}"]
    command = [*launcher, str(ROOT / "train.py"), "--out", str(out), *flags]
    environ = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    lines = (out / "metrics.jsonl").read_text().splitlines()
    cpu = [float(line) for line in (out / "cpu.txt").read_text().split()]
    seconds = [float(json.loads(line)["seconds/step"]) for line in lines][1:]
    return seconds, [after - before for before, after in pairwise(cpu)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--steps", type=int, default=5, help="steps of a run")
    given, flags = parser.parse_known_args()
    flags += ["--eval-every", "0", "--set=lr_schedule=constant"]
    flags += ['--set=loggers=["benchmarks.processes:cpu_clock"]']
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="aem-processes-") as name:
        run("one", Path(name, "first"), [*flags, "--steps", "1"])  # makes the warm start
        for number in range(given.rounds):
            for way in WAYS:
                out = Path(name, f"{way}{number}")
                steps, of_cpu = run(way, out, [*flags, "--steps", str(given.steps)])
                seconds[way], cpu[way] = seconds[way] + steps, cpu[way] + of_cpu
                shown = (" ".join(f"{each:.2f}" for each in some) for some in (steps, of_cpu))
                print(f"{way:<8} {next(shown)}  CPU {next(shown)}", flush=True)
    median = {way: statistics.median(each) for way, each in seconds.items()}
    figures = {
        "process_ratio": median["one"] / median["two"],
        "thread_ratio": median["threads"] / median["two"],
        "cpu_ratio": statistics.median(cpu["one"]) / statistics.median(cpu["two"]),
        **median,
    }
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
