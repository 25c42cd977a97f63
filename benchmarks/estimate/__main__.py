"""Predicted against measured: `python -m benchmarks.estimate`, 10 to 17 minutes on one thread.

Two small runs calibrate the constants of this machine; they are printed. Then other runs are
predicted by the formulas of `--dry-run` from their settings and the tokens that they had, and
measured: peak memory above imports, CPU seconds of one step. glibc's allocator keeps much of what
was freed; memory is measured with MALLOC_MMAP_THRESHOLD_=65536, which makes it give memory back,
and shown without it beside. The last line is one JSON object; exit 1 beyond 15% or 30%.
`--quick` makes the smaller runs only, `--save` keeps the constants in the cache folder, where
`--dry-run` finds them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from aem_gym.training.duration import save_calibration
from benchmarks.estimate.calibrate import Run, memory_constants, run, sized, speed

MEMORY_BOUND, TIME_BOUND = 0.15, 0.30
CALIBRATION: dict[str, dict[str, Any]] = {
    "tiny": {"model": "tiny", "groups": 8, "steps": 8},
    "random 4M": {
        **{"model": "tiny", "groups": 4, "steps": 6},
        "model_options": sized(256, 4, 4, 1024),
    },
}
PREDICTED: dict[str, dict[str, Any]] = {
    "tiny, 128 episodes": {"model": "tiny", "groups": 16, "group_size": 8, "steps": 2},
    "random 26M": {"model": "tiny", "groups": 2, "model_options": sized(512, 6, 8, 2048)},
    "smollm2": {
        **{"model": "smollm2", "groups": 1, "micro_batch": 1, "max_turns": 5},
        **{"max_new_tokens": 16, "steps": 2},
    },
    "random 26M, window": {
        **{"model": "tiny", "groups": 1, "model_options": sized(512, 6, 8, 2048)},
        **{"context": "window", "max_turns": 8},
    },
    "random 26M, checkpointing, KL": {
        **{"model": "tiny", "groups": 2, "model_options": sized(512, 6, 8, 2048)},
        **{"gradient_checkpointing": "on", "kl_coef": 0.01},
    },
    "random 76M": {
        **{"model": "tiny", "groups": 2, "model_options": sized(768, 8, 12, 3072)},
        **{"micro_batch": 4, "steps": 2},
    },
}
_QUICK = 2


def show(each: Run, memory: float, rollout: float, rest: float) -> str:
    values = (each.peak / 1e6, memory / 1e6, each.kept / 1e6, each.rollout, rollout)
    texts = [f"{value:9.0f}" for value in values[:3]] + [f"{value:9.2f}" for value in values[3:]]
    return f"{each.name:30}" + "".join(texts) + f"{each.rest:9.2f}{rest:9.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    measured = [run(name, settings) for name, settings in CALIBRATION.items()]
    known, rates = memory_constants(measured), speed(measured)
    print("calibration:", json.dumps({**dataclasses.asdict(known), **dataclasses.asdict(rates)}))
    if given.save:
        print("kept in", save_calibration(rates, known))
    print("MB: measured, predicted, with glibc's defaults; CPU seconds: rollout, predicted,")
    print("rest of the step, predicted. The first two lines are the calibration itself.")
    errors: dict[str, tuple[float, float]] = {}
    cases = list(PREDICTED.items())[: _QUICK if given.quick else None]
    for each in measured:
        time = each.time(rates)
        print(show(each, each.memory(known), time.rollout, time.step - time.rollout), flush=True)
    for name, settings in cases:
        each = run(name, settings)
        time, memory = each.time(rates), each.memory(known)
        print(show(each, memory, time.rollout, time.step - time.rollout), flush=True)
        errors[name] = (memory / each.peak - 1, time.step / (each.rollout + each.rest) - 1)
    memory_error = max(abs(memory) for memory, _ in errors.values())
    time_error = max(abs(seconds) for _, seconds in errors.values())
    result = {
        "memory_error": round(memory_error, 3),
        "time_error": round(time_error, 3),
        "runs": {name: [round(value, 3) for value in pair] for name, pair in errors.items()},
    }
    print(json.dumps(result))
    return int(memory_error > MEMORY_BOUND or time_error > TIME_BOUND)


if __name__ == "__main__":
    sys.exit(main())
