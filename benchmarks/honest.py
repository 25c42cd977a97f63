"""Honest answers are not punished: correct answers other than the gold patch resolve their tasks.

python -m benchmarks.honest takes tasks of the shipped suite, spread over its packages, and grades
answers that do what the gold patch does in other words: reformatted, with comments, prints, other
names of locals, equivalent statements, further tests and files. Results are written one by one to
--out (JSON lines); the same command goes on where it stopped. The last line is JSON; the exit
status is 1 if an answer did not resolve its task.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from random import Random

from aem_gym.envs.swe.authoring.validate import from_suite, sample
from aem_gym.envs.swe.sandbox.engines import open_engine
from benchmarks.attacks.__main__ import Answer, read_results, run_all
from benchmarks.attacks.rewrites import REWRITES, honest_patch


def draw(number: int, seed: int) -> list[Answer]:
    """Answers spread over packages and kinds of rewriting."""
    kinds = list(REWRITES)
    chosen = sample(from_suite("default").candidates, number, seed)
    answers: list[Answer] = []
    while len(answers) < number:
        turn = len(answers)
        task = chosen[turn % len(chosen)].make()
        kind = kinds[(turn + turn // len(chosen)) % len(kinds)]
        patch = honest_patch(task, kind, Random(f"{seed} {task.task_id} {kind}"))
        answers.append(Answer(task, "honest", kind, patch))
    return answers


def main(argv: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--answers", type=int, default=200, help="number: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of tasks and rewriting: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="graded at a time: %(default)s")
    parser.add_argument("--engine", default="auto", help="docker or podman")
    parser.add_argument("--out", type=Path, default=Path("honest.jsonl"), help="%(default)s")
    arguments = parser.parse_args(argv)
    answers = draw(arguments.answers, arguments.seed)
    engine = open_engine(arguments.engine)
    try:
        for _ in run_all(engine, answers, arguments.out, arguments.jobs, lambda r: r.resolved):
            pass
    finally:
        engine.close()
    wanted = {answer.key for answer in answers}
    results = [result for result in read_results(arguments.out) if result.key in wanted]
    lost = [f"{r.task}, {r.attack}: {r.reason or r.failed}" for r in results if not r.resolved]
    figures = {
        "benchmark": "honest",
        "answers": len(results),
        "by_kind": dict(Counter(result.attack for result in results)),
        "tasks": len({result.task for result in results}),
        "resolved": len(results) - len(lost),
        "lost": lost,
    }
    print(json.dumps(figures))
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
