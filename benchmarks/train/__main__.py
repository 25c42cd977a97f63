"""How fast, and how large, is a training step? Needs no GPU; one thread.

    python -m benchmarks.train [--trl PYTHON] [--only peers | step | kernel]

peers: one RL step on toy work (64 rollouts x 8 turns x 10 tokens; policies of 0.16M and 0.82M
parameters, LoRA 16 on all linear layers, float32), against TRL's GRPOTrainer with `generate` once a
turn and with a loop written by hand that keeps keys and values. PYTHON is that of an environment
with `trl` and `peft`. TRL runs at its fastest batch size, which is tried first.
step: one RL step of the default job, against an earlier commit in a worktree of its own. Each side
makes its own warm start first; further arguments go to both jobs (--warmstart-steps 150, say).
kernel: log-probability and entropy at 151,936 x 2,048, against that commit's.

All processes of a comparison take turns, step by step, so that they meet the same machine. The last
line is one JSON object:

    plain_ratio_*, kv_ratio_*   TRL's seconds / ours, `_small` and `_large`: median over turns
    memory_ratio_*              our peak memory / the leaner TRL's, both above what imports take
    step_ratio                  seconds of the default job's step, then / now
    kernel_gb, kernel_ratio     memory of the kernel above its inputs; its seconds, now / then
    cpu_*                       the ratios in seconds of CPU, which other programs disturb less
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.same.__main__ import worktree
from benchmarks.train.race import Racer, Timings, race, ratio
from benchmarks.train.toy import SIZES, make_model

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BASE = "d954532"
BATCHES = (4, 8, 16, 32)
PARTS = ("peers", "step", "kernel")
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl", metavar="PYTHON", help="an interpreter that has trl and peft")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=9, help="turns that count")
    parser.add_argument("--sizes", choices=SIZES, nargs="+", default=list(SIZES))
    given, flags = parser.parse_known_args()
    if "peers" in given.only and not given.trl:
        parser.error(
            "--trl: expected a Python with trl, or --only step kernel. Make one with: "
            "python -m venv ENV && ENV/bin/pip install torch trl peft"
        )
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="aem-train-") as name:
        folder = Path(name)
        if "peers" in given.only:
            for size in given.sizes:
                figures |= peers(size, given.trl, given.rounds, folder / size)
        if {"step", "kernel"} & set(given.only):
            with worktree(BASE, folder) as base:
                if "step" in given.only:
                    figures |= step(base, given.rounds, folder / "step", flags)
                if "kernel" in given.only:
                    figures |= kernel(base, folder / "kernel")
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}))


def peers(size: str, python: str, rounds: int, folder: Path) -> Figures:
    """This package and TRL, both ways, on the toy work of one size."""
    model = folder / "model"
    model.mkdir(parents=True)
    make_model(size, str(model))

    def trl(way: str, batch: int) -> Racer:
        command = (python, str(HERE / "peer.py"), str(model), str(folder / f"{way}{batch}"))
        return Racer(f"trl-{way}-{batch}", (*command, way, str(batch)))

    tried = [trl("kv", batch) for batch in BATCHES]
    by_batch = race(tried, max(2, rounds // 3), folder / "batches", warm=1)
    fastest = min(BATCHES, key=lambda batch: statistics.median(by_batch[f"trl-kv-{batch}"].cpu))
    own = (sys.executable, str(HERE / "ours.py"), str(model), str(folder / "run"))
    racers = [
        Racer("ours", own, {"PYTHONPATH": str(ROOT)}),
        trl("plain", fastest),
        trl("kv", fastest),
    ]
    ours, plain, kv = _shown(size, race(racers, rounds, folder / "race"))
    return {
        f"plain_ratio_{size}": ratio(plain, ours),
        f"kv_ratio_{size}": ratio(kv, ours),
        f"memory_ratio_{size}": ours.memory / min(plain.memory, kv.memory),
        f"seconds_{size}": ours.median(),
        f"cpu_plain_ratio_{size}": ratio(plain, ours, cpu=True),
        f"cpu_kv_ratio_{size}": ratio(kv, ours, cpu=True),
        f"trl_batch_{size}": float(fastest),
    }


def step(base: Path, rounds: int, folder: Path, flags: list[str]) -> Figures:
    """The default job's RL step, then and now."""
    racers = [
        Racer(
            name,
            (sys.executable, "-P", str(HERE / "job.py"), str(folder / f"run-{name}"), *flags),
            {"PYTHONPATH": str(tree), "AEM_GYM_CACHE": str(folder / f"cache-{name}")},
        )
        for name, tree in (("then", base), ("now", ROOT))
    ]
    then, now = _shown("default job", race(racers, rounds, folder))
    return {
        "step_ratio": ratio(then, now),
        "cpu_step_ratio": ratio(then, now, cpu=True),
        "step_seconds": now.median(),
    }


def kernel(base: Path, folder: Path) -> Figures:
    """The kernel as the earlier commit called it, 4,096 rows at a time, and as it is called now."""
    command = (sys.executable, "-P", str(HERE / "kernel.py"))
    racers = [
        Racer("then", (*command, "4096"), {"PYTHONPATH": str(base)}),
        Racer("now", command, {"PYTHONPATH": str(ROOT)}),
    ]
    then, now = _shown("kernel", race(racers, 5, folder, warm=1))
    return {
        "kernel_gb": now.memory / 1e9,
        "kernel_gb_then": then.memory / 1e9,
        "kernel_ratio": ratio(now, then),
        "cpu_kernel_ratio": ratio(now, then, cpu=True),
    }


def _shown(what: str, timings: dict[str, Timings]) -> list[Timings]:
    for name, each in timings.items():
        print(f"{what:<12} {name:<14} {each.text()}", flush=True)
    return list(timings.values())


if __name__ == "__main__":
    main()
