"""How much fits: python -m benchmarks.alfworld scale [--envs N] [--folders N].

Memory of live environments in one process, each with a game of its own in the middle of an
episode; then the index over official-format folders made by the generator: the first scan, and the
warm start (making the environment and its first reset, in a fresh process). The last line is one
JSON object; exit 1 if a bar is missed. The folders need `pip install "aem-gym[alfworld]"`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BARS = {"kb_per_env": 20.0, "warm_index_s": 1.0}
WARM = """
import time; start = time.perf_counter()
import sys
from aem_gym.envs.alfworld.env import ALFWorldEnv
imported = time.perf_counter()
env = ALFWorldEnv(data_dir=sys.argv[1]); made = time.perf_counter()
env.reset(seed=0); done = time.perf_counter()
print(imported - start, made - imported, done - made)
"""


def resident_kb() -> float:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def memory(count: int) -> dict[str, float]:
    """KB of each live environment, every one with its own generated `full` game."""
    from tqdm import tqdm

    from aem_gym.envs.alfworld.env import ALFWorldEnv

    warm = ALFWorldEnv()
    for seed in range(1000):  # the rooms, shared by all
        warm.reset(seed=seed)
    gc.collect()
    before, start, envs = resident_kb(), time.perf_counter(), []
    for index in tqdm(range(count), unit="env"):
        env = ALFWorldEnv()
        _, info = env.reset(seed=index)
        over, turn = False, 0
        while not over and turn < 6:
            possible = info["admissible_actions"]
            _, _, over, _, info = env.step(possible[(7 * index + turn) % len(possible)])
            turn += 1
        envs.append(env)
    gc.collect()
    seconds = time.perf_counter() - start
    return {"envs": count, "kb_per_env": (resident_kb() - before) / count, "envs_s": seconds}


def index(count: int) -> dict[str, float]:
    """Seconds of the first scan of `count` folders, and of a warm start."""
    from aem_gym.envs.alfworld.authoring.export import export_games

    with tempfile.TemporaryDirectory() as folder:
        os.environ["AEM_GYM_CACHE"] = f"{folder}/cache"
        data = Path(folder) / "data"
        start = time.perf_counter()
        export_games(data, games=count, seed=0)
        made = time.perf_counter()
        first = start_up(data)
        warm = [start_up(data) for _ in range(3)]
    best = min(warm, key=sum)
    return {
        "folders": count,
        "export_s": made - start,
        "first_index_s": first[1],
        "warm_index_s": best[1],
        "warm_import_s": best[0],
        "warm_reset_s": best[2],
    }


def start_up(data: Path) -> list[float]:
    """Seconds of import, construction and first reset in a fresh process."""
    command = [sys.executable, "-c", WARM, str(data)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [float(part) for part in done.stdout.split()[-3:]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=int, default=10_000)
    parser.add_argument("--folders", type=int, default=8_810)
    arguments = parser.parse_args(argv)
    figures: dict[str, Any] = {"benchmark": "alfworld_scale"}
    if arguments.envs:
        figures |= memory(arguments.envs)
    if arguments.folders:
        figures |= index(arguments.folders)
    met = all(figures.get(key, 0.0) <= bar for key, bar in BARS.items())
    for key, value in figures.items():
        print(f"{key:16} {value if isinstance(value, (str, int)) else round(value, 3)}")
    print(json.dumps(figures | {"bars": BARS, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
