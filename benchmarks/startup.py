"""How long things take to start: `python -m benchmarks.startup`.

Each figure is the best of five fresh processes, in seconds. `import aem_gym` stands beside the
bare `import gymnasium` it builds on. The last line is one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys

RUNS = 5
_MAKE = (
    "import aem_gym, gymnasium as gym\n"
    "clock = time.perf_counter()\n"
    "env = gym.make('aem_gym/ALFWorld-v0', difficulty='small')\n"
    "env.reset(seed=0)"
)
JOBS = {
    "import_gymnasium": "clock = time.perf_counter()\nimport gymnasium",
    "import_aem_gym": "clock = time.perf_counter()\nimport aem_gym",
    "make_and_reset": _MAKE,
}
"""What is timed, from `clock` on, each in a process of its own."""


def measure(code: str) -> tuple[float, bool]:
    """Seconds the code took in a fresh process, and whether it had torch loaded at its end."""
    report = "print(time.perf_counter() - clock, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, time\n{code}\n{report}"],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, torch = done.stdout.split()[-2:]
    return float(seconds), torch == "True"


def main() -> None:
    """Measure and print."""
    result: dict[str, float | bool] = {}
    loaded = False
    for name, code in JOBS.items():
        figures = [measure(code) for _ in range(RUNS)]
        result[name] = round(min(seconds for seconds, _ in figures), 4)
        loaded |= any(torch for _, torch in figures)
        print(f"{name:<17} {result[name]:.3f} s")
    print(f"torch was {'' if loaded else 'not '}imported")
    print(json.dumps(result | {"torch_imported": loaded}))


if __name__ == "__main__":
    main()
