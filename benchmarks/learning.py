"""Does the default job learn? Runs it per modulator and seed, on shared warm starts.

    python -m benchmarks.learning --out runs/learning [--seeds 0 1 2] [--modulators aem none]
    python -m benchmarks.learning --out runs/webshop --env aem_gym/WebShop-v0 --figure score

Finished runs are kept and not made again; interrupted ones are resumed. Prints a table; the last
line is one JSON object. Further arguments go to train.py.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

from aem_gym.settings import CONFIG_NAME

ROOT = Path(__file__).resolve().parents[1]
# 97.5% point of Student's t with 1, 2, ... degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modulators", nargs="+", default=["aem", "none"])
    parser.add_argument("--figure", default="success", choices=("success", "score"))
    arguments, rest = parser.parse_known_args()
    table: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.modulators}
    for seed in arguments.seeds:
        for name in arguments.modulators:
            table[name].append(run(arguments.out / f"{name}-seed{seed}", name, seed, rest))
    print("| seed | modulator | before | after | gain | minutes | AEM's share |")
    print("|---|---|---|---|---|---|---|")
    for i, seed in enumerate(arguments.seeds):
        for name in arguments.modulators:
            print(row(seed, name, table[name][i], arguments.figure))
    gains = {name: [r[f"{arguments.figure}_gain"] for r in rows] for name, rows in table.items()}
    for name, values in gains.items():
        print(f"mean gain with {name}: {interval(values)}")
    if {"aem", "none"} <= set(gains):
        pairs = zip(gains["aem"], gains["none"], strict=True)
        print(f"aem minus none, paired by seed: {interval([a - b for a, b in pairs])}")
    print(json.dumps({f"gain_{name}": statistics.mean(v) for name, v in gains.items()}))


def run(out: Path, modulator: str, seed: int, rest: list[str]) -> dict[str, float]:
    """The summary of one run of train.py."""
    command = [sys.executable, str(ROOT / "train.py"), "--modulator", modulator]
    command += ["--seed", str(seed), "--out", str(out), *rest]
    command += ["--resume"] if (out / CONFIG_NAME).is_file() else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    summary: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return summary


def row(seed: int, name: str, summary: dict[str, float], figure: str) -> str:
    """One line of the table."""
    figures = [f"{summary[f'{figure}_{key}']:.3f}" for key in ("before", "after", "gain")]
    share = f"{100 * summary['aem_share']:.3f}%" if name == "aem" else ""
    minutes = f"{summary['seconds'] / 60:.1f}"
    return f"| {seed} | {name} | {' | '.join(figures)} | {minutes} | {share} |"


def interval(values: list[float]) -> str:
    """Mean with its 95% interval over seeds (Student's t)."""
    mean = statistics.mean(values)
    if not 2 <= len(values) <= len(T_975) + 1:
        return f"{mean:+.3f}"
    spread = T_975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.3f} [{mean - spread:+.3f}, {mean + spread:+.3f}]"


if __name__ == "__main__":
    main()
