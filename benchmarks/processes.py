"""What do two processes bring? `python -m benchmarks.processes [--rounds 3] [--steps 5]`.

Steps of the default job: in one process with one thread, in one with two threads, and in two
processes of torchrun with one thread each. The runs take turns, so that they meet the same machine;
the first step of each run is left out. Further arguments go to all jobs. The last line is one JSON
object:

    process_ratio       seconds of a step, one process with one thread / two processes
    thread_ratio        the same, one process with two threads / two processes
    one, threads, two   median seconds of a step
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAYS: dict[str, tuple[int, int]] = {"one": (1, 1), "threads": (1, 2), "two": (2, 1)}
"""Name -> processes, threads of each."""


def run(way: str, out: Path, flags: Sequence[str]) -> list[float]:
    """Seconds of each step of a run but the first."""
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
    return [float(json.loads(line)["seconds/step"]) for line in lines][1:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--steps", type=int, default=5, help="steps of a run")
    given, flags = parser.parse_known_args()
    flags += ["--eval-every", "0", "--set=loggers=[]", "--set=lr_schedule=constant"]
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="aem-processes-") as name:
        run("one", Path(name, "first"), [*flags, "--steps", "1"])  # makes the warm start
        for number in range(given.rounds):
            for way in WAYS:
                out = Path(name, f"{way}{number}")
                steps = run(way, out, [*flags, "--steps", str(given.steps)])
                seconds[way] += steps
                print(f"{way:<8} {' '.join(f'{each:.2f}' for each in steps)}")
    median = {way: statistics.median(each) for way, each in seconds.items()}
    figures = {
        "process_ratio": median["one"] / median["two"],
        "thread_ratio": median["threads"] / median["two"],
        **median,
    }
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
