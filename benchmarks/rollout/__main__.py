"""What asynchronous rollouts gain, and cost: `python -m benchmarks.rollout [--vllm PYTHON]`.

slow     environments of 10 to 60 ms a step, one in ten 300 ms, with a vLLM server: the collector
         against the same agent asked about all live episodes at once, a barrier each turn
alfworld the default environment and sampler, all in this process: the collector against that of
         an earlier commit, in a worktree of its own, process by process in turn
sandbox  SWE's sandboxes in one process, whose commands sleep for a second: at once, against one
         after the other; and first resets from 100 threads. Docker or podman if one answers, else
         bubblewrap or process

PYTHON has vLLM; without it that of `make test-engines` is used, and made where there is none. Both
sides of a comparison run in turn, sample the same tokens (which is checked), and need one thread
each. The last line is one JSON object:

    slow_env_ratio      seconds in lockstep / asynchronously: median over turns
    alfworld_ratio      seconds then / now: median over turns; cpu_alfworld_ratio: of the CPU
    sandbox_ratio       seconds of the commands one after the other / at once;
                        sandbox_episodes_ratio: of whole episodes, with their resets
    first_resets_ok     of `first_resets`, how many got a sandbox that answers
    *_seconds           medians (slow, alfworld) or means (sandbox)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.rollout import policy, slow
from benchmarks.rollout.sandboxes import choose_engine
from benchmarks.same.__main__ import worktree
from benchmarks.train.race import ONE_THREAD, Racer, race, ratio

ROOT = Path(__file__).resolve().parents[2]
BASE = "b479e1c"
BARS = {"slow_env_ratio": 1.9, "alfworld_ratio": 0.97, "sandbox_ratio": 10.0}
PARTS = ("slow", "alfworld", "sandbox")
Figures = dict[str, Any]


def interpreter(given: str | None) -> str:
    """A Python that has vLLM: `given`, or that of `make test-engines`."""
    made = ROOT / ".venv-vllm"
    if given is None and not (made / ".done").exists():
        print(f"making {made}", flush=True)
        command = ["make", "-C", str(ROOT), f"PYTHON={sys.executable}", ".venv-vllm/.done"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    python = given or str(made / "bin" / "python")
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    asked = [python, "-c", code]
    if not Path(python).is_file() or subprocess.run(asked, capture_output=True).returncode:
        raise SystemExit(f"--vllm: expected a Python that has vLLM, got {python}")
    return python


def alfworld(model: Path, folder: Path, rounds: int, episodes: int) -> Figures:
    """The default environment in this process, then and now."""
    script = Path(__file__).with_name("alfworld.py")
    with worktree(BASE, folder) as base:
        digests = {name: folder / f"digests-{name}" for name in ("then", "now")}
        racers = [
            Racer(
                name,
                (sys.executable, "-P", str(script), str(model), str(digests[name]), str(episodes)),
                {"PYTHONPATH": str(tree)},
            )
            for name, tree in (("then", base), ("now", ROOT))
        ]
        timings = race(racers, rounds, folder / "alfworld")
    if digests["then"].read_bytes() != digests["now"].read_bytes():
        raise RuntimeError(f"expected the tokens of {BASE} in ALFWorld, got others")
    then, now = timings["then"], timings["now"]
    return {
        "alfworld_ratio": ratio(then, now),
        "cpu_alfworld_ratio": ratio(then, now, cpu=True),
        "alfworld_seconds": now.median(),
    }


def sandbox(folder: Path, resets: int, sandboxes: int, commands: int) -> Figures:
    """Sandboxes, in a process that has asked for none before, with a cache of its own."""
    numbers = map(str, (resets, sandboxes, commands))
    command = [sys.executable, "-m", "benchmarks.rollout.sandboxes", choose_engine()]
    env = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(folder / "tasks"), *numbers],
        env={**env, "AEM_GYM_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(given: argparse.Namespace, folder: Path) -> Figures:
    """The figures of the parts that were asked for."""
    python = interpreter(given.vllm) if "slow" in given.only else ""
    model = folder / "model"
    if {"slow", "alfworld"} & set(given.only):
        policy.make(model, demos=60, steps=given.cloning_steps)
    parts: Mapping[str, Callable[[Path], Figures]] = {
        "slow": lambda at: slow.measure(
            model, python, episodes=given.episodes, rounds=given.rounds, folder=at
        ),
        "alfworld": lambda at: alfworld(model, at, 3 * given.rounds, 64),
        "sandbox": lambda at: sandbox(at, given.resets, given.sandboxes, given.commands),
    }
    figures: Figures = {}
    for name in given.only:
        (folder / name).mkdir()
        found = parts[name](folder / name)
        print(f"{name}: {found}", flush=True)
        figures |= found
    return figures


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm", metavar="PYTHON", help="an interpreter that has vLLM")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=7, help="turns that count: %(default)s")
    parser.add_argument("--episodes", type=int, default=48, help="of slow: %(default)s")
    parser.add_argument("--resets", type=int, default=100, help="first resets: %(default)s")
    parser.add_argument("--sandboxes", type=int, default=32, help="at once: %(default)s")
    parser.add_argument("--commands", type=int, default=3, help="in each: %(default)s")
    parser.add_argument("--cloning-steps", type=int, default=80, help="of the policy: %(default)s")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="aem-rollout-") as name:
        figures = measure(given, Path(name))
    met = all(figures[key] >= bar for key, bar in BARS.items() if key in figures)
    met &= figures.get("first_resets") == figures.get("first_resets_ok")
    print(json.dumps(figures | {"bars": BARS, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
