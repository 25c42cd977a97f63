"""The native engine against the real one: python -m benchmarks.alfworld parity --games N.

Plays game files in alfworld 0.4.2 / TextWorld and in the native engine, side by side, and compares
every observation, list of admissible commands and `won`. What the real engine said is kept, game by
game: a second run with the same arguments goes on where the first one stopped, and asks only the
native engine again where the real one has answered. Needs `pip install "aem-gym[alfworld]"`; the
older dialect needs the rules of alfworld 0.3.x as well (--logic-03, or AEM_ALFWORLD_LOGIC_03).
--recheck asks the native engine alone, against all that is kept in --out.
The last line is one JSON object; exit 1 on any difference.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aem_gym.envs.alfworld.classes import TASK_TYPES
from benchmarks.alfworld.scenarios import Scenario, generated, official
from benchmarks.alfworld.transcripts import Difference, compare, load, recorded

SHOWN = 5


def recheck(path: Path) -> tuple[Scenario, int, list[Difference], str]:
    """`check` of a transcript that was kept."""
    scenario, transcript = load(path)
    return scenario, len(transcript.states), compare(scenario, transcript), ""


def check(job: tuple[Scenario, dict[str, Any]]) -> tuple[Scenario, int, list[Difference], str]:
    """(scenario, steps compared, differences, why the real engine failed)."""
    scenario, how = job
    try:
        transcript = recorded(scenario, **how)
    except Exception as error:  # shown and counted: it is the real engine's own
        return scenario, 0, [], f"{type(error).__name__}: {error}"
    return scenario, len(transcript.states), compare(scenario, transcript), ""


def find_logics(folder: Path | None) -> tuple[list[Any], dict[str, str]]:
    """The rules of both dialects, and why one is missing."""
    from aem_gym.envs.alfworld.authoring.logic import find_logic
    from aem_gym.errors import ConfigError

    logics, missing = [find_logic("0.4")], {}
    try:
        logics.append(find_logic("0.3", folder))
    except ConfigError as error:
        missing["0.3"] = str(error)
        print(f"dialect 0.3 is left out: {error}", file=sys.stderr)
    return logics, missing


def scenarios(arguments: argparse.Namespace) -> tuple[list[Scenario], dict[str, str]]:
    """What is to be played."""
    logics, missing = find_logics(arguments.logic_03)
    found = list(official(arguments.data, arguments.seed)) if arguments.data else []
    types = arguments.task_types
    found += [generated(arguments.seed, index, logics, types) for index in range(arguments.games)]
    return found, missing


def table(steps: Counter[tuple[str, str]], wrong: Counter[tuple[str, str]]) -> None:
    """Steps and differences per task type and dialect."""
    print(f"{'task type':32} {'dialect':8} {'steps':>8} {'differences':>12}")
    for (task_type, dialect), count in sorted(steps.items()):
        print(f"{task_type:32} {dialect:8} {count:8} {wrong[task_type, dialect]:12}")


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=int, default=20, help="generated games")
    parser.add_argument("--steps", type=int, default=50, help="per game, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="a folder with official games: played as well")
    parser.add_argument(
        "--task-types", nargs="+", choices=TASK_TYPES, default=(), help="only these, evenly"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, help="where transcripts are kept")
    parser.add_argument("--logic-03", type=Path, help="folder with alfworld 0.3.x's two rule files")
    parser.add_argument("--recheck", action="store_true", help="what is kept in --out, no more")
    parser.add_argument("--fresh", action="store_true", help="ask the real engine again")
    parser.add_argument(
        "--pure", action="store_true", help="do not let the real engine keep what it has parsed"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parsed(argv)
    from tqdm import tqdm

    from aem_gym.io import cache_folder

    start = time.perf_counter()
    out = arguments.out or cache_folder() / "alfworld-parity"
    todo: list[Any]
    if arguments.recheck:
        todo, missing, work = sorted(out.glob("*/*.json.gz")), {}, recheck
    else:
        found, missing = scenarios(arguments)
        how = {"steps": arguments.steps, "out": out, "fresh": arguments.fresh}
        todo = [(scenario, {**how, "remember": not arguments.pure}) for scenario in found]
        work = check
    steps, wrong, failed = Counter[tuple[str, str]](), Counter[tuple[str, str]](), []
    shown = 0
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        bar = tqdm(pool.imap_unordered(work, todo), total=len(todo), unit="game", smoothing=0)
        for scenario, count, differences, failure in bar:
            key = (scenario.task_type, scenario.dialect)
            steps[key] += count
            wrong[key] += len(differences)
            if failure:
                failed.append(f"{scenario.name}: {failure}")
            for difference in differences[: SHOWN - shown]:
                shown += 1
                tqdm.write(f"\n{scenario.name}\n{difference}", file=sys.stdout)
            bar.set_postfix(steps=sum(steps.values()), differences=sum(wrong.values()))
    table(steps, wrong)
    for failure in failed[:SHOWN]:
        print(f"the real engine failed: {failure}")
    figures = {
        "benchmark": "alfworld_parity",
        "steps": sum(steps.values()),
        "differences": sum(wrong.values()),
        "games": len(todo),
        "real_engine_failures": len(failed),
        "by_type_and_dialect": {f"{kind} {dialect}": n for (kind, dialect), n in steps.items()},
        "dialects_left_out": missing,
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(figures))
    return 1 if figures["differences"] or not figures["steps"] else 0


if __name__ == "__main__":
    sys.exit(main())
