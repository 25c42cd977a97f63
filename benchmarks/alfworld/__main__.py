"""Measurements of ALFWorld, one command each: python -m benchmarks.alfworld COMMAND --help."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "parity": "the native engine against the real one, step by step: no difference allowed",
    "speed": "the native engine against the real one: steps, resets, loading",
    "scale": "memory of 10,000 live environments; start with an index of 8,810 folders",
    "fuzz": "random and mutated commands: no step may raise",
    "scenes": "generated full rooms against the layouts of the alfworld package",
    "oracle": "how many generated tasks the oracle wins",
    "native": "times of the native environment by itself",
    "versus": "the native environment against another commit: same bytes, speed",
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        print(__doc__)
        for name, text in COMMANDS.items():
            print(f"  {name:8} {text}")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    module = importlib.import_module(f"benchmarks.alfworld.{argv[0]}")
    return int(module.main(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
