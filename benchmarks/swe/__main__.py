"""How fast SWE sandboxes are: python -m benchmarks.swe --help.

1. A shell command's round trip in the persistent shell, against one `docker exec` through the SDK.
2. Reset, from `reset()` to the first observation: told of the task beforehand, and not.
3. Many open sandboxes in one process: memory, file descriptors, what is left after closing them.
4. Episodes: the same commands, answer and grading, against the plain way through the SDK.

--quick does the first two. Needs a container engine; the images are built first, untimed. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from aem_gym.envs.swe.pool import shared_pool
from aem_gym.envs.swe.tasks.suites import load_suite
from benchmarks.swe import commands, episodes, many, resets

BARS = {"command_p50_ms": 2.0, "reset_p50_ms": 50.0}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures by name."""
    pool = shared_pool(arguments.engine)
    task = min(load_suite(arguments.suite), key=lambda task: (len(task.pass_to_pass), task.task_id))
    image = pool.engine.image(task.image)
    figures: dict[str, Any] = {"benchmark": "swe", "engine": pool.engine.name}
    figures |= commands.measure(pool, task, arguments.commands)
    figures |= resets.measure(pool, task, arguments.suite, arguments.engine, arguments.resets)
    if arguments.quick:
        return figures
    figures |= many.measure(pool, task, arguments.open)
    return figures | episodes.measure(pool, task, image, arguments.suite, arguments.episodes)


def main(argv: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="commands and resets alone")
    parser.add_argument("--engine", default="auto", help="docker or podman")
    parser.add_argument("--suite", default="default", help="tasks: %(default)s")
    parser.add_argument("--commands", type=int, default=500, help="timed: %(default)s")
    parser.add_argument("--resets", type=int, default=20, help="timed of each kind: %(default)s")
    parser.add_argument("--open", type=int, default=32, help="sandboxes at once: %(default)s")
    parser.add_argument("--episodes", type=int, default=12, help="of each way: %(default)s")
    figures = measure(parser.parse_args(argv))
    for key, value in figures.items():
        print(f"{key:28} {value if isinstance(value, str) else f'{value:14,.3f}'}")
    met = all(figures[key] <= bar for key, bar in BARS.items())
    print(json.dumps(figures | {"bars": BARS, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
