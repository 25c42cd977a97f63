"""Tries every family and prints a table; the last line is one JSON object.

`python -m benchmarks.families [NAME ...]`. Exit 1 where a family is wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections import Counter

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.families.check import Verdict, examine
from benchmarks.families.configs import FAMILIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families, by name; all without one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all-figures", action="store_true", help="print every figure")
    given = parser.parse_args()
    chosen = [f for f in FAMILIES if not given.names or f.name in given.names]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    disable_progress_bar()
    started, counts = time.perf_counter(), Counter[str]()
    print(f"{'family':18} {'':8} {'cache':8} {'adapted':>7} {'float32':>8} {'bf16':>6}  remarks")
    for family in chosen:
        verdict = examine(family, given.seed)
        counts[verdict.status] += 1
        print(_line(verdict), flush=True)
        if given.all_figures:
            for name, value in verdict.figures.items():
                print(f"    {name}: {value:.3g}")
    seconds = time.perf_counter() - started
    names = ("right", "refused", "wrong")
    figures = {"families": len(chosen), **{n: counts[n] for n in names}, "seconds": round(seconds)}
    print(json.dumps(figures))
    raise SystemExit(1 if counts["wrong"] else 0)


def _line(verdict: Verdict) -> str:
    found = verdict.figures
    exact = [v for k, v in found.items() if k.startswith("float32")]
    half = [v for k, v in found.items() if k.startswith("bfloat16")]
    cache = {0.0: "ours", 1.0: "library"}.get(found.get("library", -1.0), "")
    remarks = " ".join((verdict.why, *verdict.notes))
    return (
        f"{verdict.family.name:18} {verdict.status:8} {cache:8} {found.get('adapted', 0):7.0%} "
        f"{max(exact, default=0):8.1e} {max(half, default=0):6.2f}  {remarks}"
    )


if __name__ == "__main__":
    main()
