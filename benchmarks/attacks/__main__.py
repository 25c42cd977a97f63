"""Attacks on grading: answers that mend nothing must not resolve a task.

python -m benchmarks.attacks takes tasks of the shipped suite, spread over its packages, and puts
each attack into the file that is broken, as generic code. Each answer is graded in a real sandbox.
Results are written one by one to --out (JSON lines); the same command goes on where it stopped. The
gold patch of each task is graded first: it has to resolve it. The last line printed is JSON; the
exit status is 1 if an attack won, or a gold patch lost.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from aem_gym.envs.swe.authoring.validate import from_suite, sample
from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.sandbox.base import SandboxEngine
from aem_gym.envs.swe.sandbox.engines import open_engine
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.seeding import generator
from benchmarks.attacks.runner import REPORT, RUNNER
from benchmarks.attacks.tests import EXIT, HELPERS, SELECTION, SKIPS
from benchmarks.attacks.transform import attack_patch

KINDS: Mapping[str, Mapping[str, str]] = {
    "runner": RUNNER,
    "report": REPORT,
    "selection": SELECTION,
    "helpers": HELPERS,
    "skips": SKIPS,
    "exit": EXIT,
}
GOLD = "gold"
_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Result:
    task: str
    kind: str
    attack: str
    resolved: bool
    reason: str
    failed: int
    seconds: float

    @property
    def key(self) -> tuple[str, str, str]:
        return self.task, self.kind, self.attack


def read_results(file: Path) -> list[Result]:
    """The results that are there; a last line that was cut off does not count."""
    found = []
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        try:
            found.append(Result(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """A patch for a task."""

    task: SweTask
    kind: str
    name: str
    patch: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.task.task_id, self.kind, self.name


def attempt(engine: SandboxEngine, answer: Answer) -> Result:
    """Grade one answer."""
    began = time.perf_counter()
    verdict = grade(engine, answer.task, answer.patch)
    seconds = round(time.perf_counter() - began, 2)
    return Result(*answer.key, verdict.resolved, verdict.reason[:300], len(verdict.failed), seconds)


def draw(arguments: argparse.Namespace) -> list[Answer]:
    """What to grade: tasks round the packages, each with its gold patch and its attacks."""
    chosen = sample(from_suite("default").candidates, arguments.tasks, arguments.seed)
    every = [(kind, name) for kind, attacks in KINDS.items() for name in attacks]
    if arguments.only:
        every = [pair for pair in every if arguments.only in f"{pair[0]}: {pair[1]}"]
    answers = []
    for candidate in chosen:
        task = candidate.make()
        order = generator("attacks", arguments.seed, task.task_id).permutation(len(every))
        answers.append((0, Answer(task, GOLD, GOLD, task.gold)))
        for turn, index in enumerate(order[: arguments.attacks], 1):
            kind, name = every[index]
            patch = attack_patch(task, KINDS[kind][name], in_calls=name.endswith("@call"))
            quick = replace(task, timeout=_SECONDS)  # an attack may hang
            answers.append((turn, Answer(quick, kind, name, patch)))
    # In turns, so that a run that is stopped has seen all packages.
    return [answer for _, answer in sorted(answers, key=lambda pair: pair[0])]


def run_all(
    engine: SandboxEngine,
    answers: Sequence[Answer],
    file: Path,
    jobs: int,
    is_right: Callable[[Result], bool],
) -> Iterator[Result]:
    """Grade what is not done yet, and write each result; says which are not right."""
    done = {result.key for result in read_results(file)}
    left = [answer for answer in answers if answer.key not in done]
    with ThreadPoolExecutor(jobs) as pool, file.open("a") as out:
        futures = [pool.submit(attempt, engine, answer) for answer in left]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                result = future.result()
                out.write(json.dumps(asdict(result)) + "\n")
                out.flush()
                if not is_right(result) or number % 50 == 0:
                    word = "ok" if is_right(result) else "WRONG"
                    said = f"{result.task}, {result.kind}: {result.attack}: {result.reason}"
                    print(f"{number}/{len(left)} {word} {said}", flush=True)
                yield result
        finally:
            for future in futures:
                future.cancel()


def _is_right(result: Result) -> bool:
    return result.resolved == (result.kind == GOLD)


def summary(results: list[Result]) -> dict[str, object]:
    attacks = [result for result in results if result.kind != GOLD]
    golds = [result for result in results if result.kind == GOLD]
    wins = [f"{r.task}, {r.kind}: {r.attack}" for r in attacks if r.resolved]
    return {
        "benchmark": "attacks",
        "tasks": len({result.task for result in results}),
        "attacks": len({(result.kind, result.attack) for result in attacks}),
        "graded": len(attacks),
        "by_kind": dict(Counter(result.kind for result in attacks)),
        "gold_resolved": sum(result.resolved for result in golds),
        "gold": len(golds),
        "wins_in_scope": len(wins),
        "wins": wins,
    }


def main(argv: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=30, help="number of tasks: %(default)s")
    parser.add_argument("--attacks", type=int, help="at most so many attacks a task, drawn")
    parser.add_argument("--only", help="only attacks whose `kind: name` holds this text")
    parser.add_argument("--seed", type=int, default=0, help="of both choices: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="graded at a time: %(default)s")
    parser.add_argument("--engine", default="auto", help="docker or podman")
    parser.add_argument("--out", type=Path, default=Path("attacks.jsonl"), help="%(default)s")
    arguments = parser.parse_args(argv)
    answers = draw(arguments)
    engine = open_engine(arguments.engine)
    try:
        for _ in run_all(engine, answers, arguments.out, arguments.jobs, _is_right):
            pass
    finally:
        engine.close()
    wanted = {answer.key for answer in answers}
    results = [result for result in read_results(arguments.out) if result.key in wanted]
    figures = summary(results)
    print(json.dumps(figures))
    return 0 if not figures["wins_in_scope"] and figures["gold_resolved"] == figures["gold"] else 1


if __name__ == "__main__":
    sys.exit(main())
