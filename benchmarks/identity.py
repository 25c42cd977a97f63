"""Does a training run give the same bytes again? `python -m benchmarks.identity --out FOLDER`.

Trains the same job three times, each with a warm start of its own: twice in one go, and once killed
with SIGKILL in the middle and resumed. Compares SHA-256 of the episodes and of the adapter. Further
arguments go to train.py; without any, all but the number of steps is a default run's. The last line
is one JSON object; exit 1 on a difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from aem_gym.episodes import EPISODES, step_files

ROOT = Path(__file__).resolve().parents[1]


def train(out: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """A run of train.py, started; nothing is shared with other runs but the code."""
    cache = out.with_name(f"{out.name}-cache")
    environment = {**os.environ, "AEM_GYM_CACHE": str(cache), "PYTHONHASHSEED": "random"}
    command = [sys.executable, str(ROOT / "train.py"), "--out", str(out), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)


def whole(out: Path, arguments: Sequence[str]) -> None:
    """Train to the end."""
    with train(out, arguments) as process:
        process.wait()
    if process.returncode:
        raise SystemExit(f"train.py ended with status {process.returncode}")


def killed_and_resumed(out: Path, arguments: Sequence[str], after: int) -> None:
    """Train, kill the process once it has finished more than `after` steps, and resume."""
    metrics = out / "metrics.jsonl"
    with train(out, arguments) as process:
        while process.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") > after:
                process.kill()
                process.wait()
            time.sleep(0.01)
    if process.returncode >= 0:
        raise SystemExit(f"train.py ended with status {process.returncode} before it was killed")
    whole(out, [*arguments, "--resume"])


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of what has to be the same."""
    episodes = [run / EPISODES, *(file.path for file in step_files(run))]
    files = [*episodes, *sorted((run / "adapter").rglob("*"))]
    # An adapter names the cached clone it stands on, and each run has a cache of its own.
    own = str(run.resolve().with_name(f"{run.name}-cache")).encode()
    return {
        file.relative_to(run).as_posix(): hashlib.sha256(
            file.read_bytes().replace(own, b"CACHE")
        ).hexdigest()
        for file in files
        if file.is_file()
    }


def compare(runs: Sequence[Path]) -> bool:
    """Print the digests of each file side by side; whether all are equal."""
    found = [digests(run) for run in runs]
    print(f"{'file':36} {' '.join(f'{run.name:16}' for run in runs)}")
    for name in sorted(set().union(*found)):
        row = [each.get(name, "none") for each in found]
        mark = "" if len(set(row)) == 1 else "DIFFERENT"
        print(f"{name:36} {' '.join(f'{digest[:16]:16}' for digest in row)} {mark}".rstrip())
    return all(each == found[0] for each in found)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/identity"), help="a new folder")
    parser.add_argument("--steps", type=int, default=20, help="of each run, at least 3")
    arguments, rest = parser.parse_known_args(argv)
    out, steps = arguments.out, arguments.steps
    if steps < 3:
        parser.error(f"--steps: expected at least 3, got {steps}: it is killed in the middle")
    if out.exists():
        parser.error(f"--out: {out} is there already. Remove it, or choose another folder")
    half, start = steps // 2, time.perf_counter()
    job = ["--steps", str(steps), "--save-every", str(half), *rest]
    runs = [out / name for name in ("once", "again", "killed")]
    for run in runs[:2]:
        whole(run, job)
    killed_and_resumed(runs[2], job, half)
    same = compare(runs)
    figures = {"benchmark": "identity", "steps": steps, "identical": same}
    figures |= {"arguments": rest, "sha256": digests(runs[0])}
    print(json.dumps(figures | {"seconds": round(time.perf_counter() - start, 1)}))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
