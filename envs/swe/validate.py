"""Whether tasks are what they claim: `python -m aem_gym.envs.swe.validate`.

Builds what is missing, then grades each task twice: its gold patch has to resolve it, and no patch
at all must not. Results are kept in a file after each task; the same command goes on from there.
The last line printed is JSON with `tasks` and `valid`; the exit status is 1 if any is not valid.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.results import Result, fingerprint, read_results, table, write_results
from aem_gym.envs.swe.sandbox.base import SandboxEngine
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.rows import read_rows
from aem_gym.envs.swe.tasks.specs import RECIPES
from aem_gym.envs.swe.tasks.swebench import buildable, make_task
from aem_gym.errors import AemGymError, ConfigError
from aem_gym.io import atomic_write
from aem_gym.seeding import generator

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A task that is to be validated, and how it is made: that can take a while, or fail."""

    task_id: str
    repo: str
    make: Callable[[], SweTask]


@dataclass(frozen=True, slots=True)
class Source:
    """Where tasks come from, and what was left out of it."""

    candidates: tuple[Candidate, ...]
    left_out: Mapping[str, int]
    """Reason -> number of rows."""


def from_suite(name: str) -> Source:
    """The tasks of a generated suite."""
    from aem_gym.envs.swe.tasks.suites import load_suite

    tasks = load_suite(name)
    made = (Candidate(task.task_id, task.repo, partial(_same, task)) for task in tasks)
    return Source(tuple(made), {})


def from_rows(source: str, mirrors: Path | None) -> Source:
    """The tasks of SWE-bench's rows; with mirrors, of the repositories that can be built."""
    found = read_rows(source)
    for message in found.malformed:
        logger.warning("a row is skipped: %s", message)
    left = {"incomplete": len(found.incomplete), "malformed": len(found.malformed)}
    rows, reasons = (found.rows, {}) if mirrors is None else buildable(found.rows, mirrors)
    left |= Counter(reasons.values())
    if not rows:
        raise ConfigError(
            f"expected rows that can be built, got none in {source} "
            f"({', '.join(f'{n} {what}' for what, n in left.items() if n)}). With --mirrors "
            f"these can: {', '.join(sorted(RECIPES))}; without it SWE-bench's images are pulled"
        )
    made = (Candidate(r.instance_id, r.repo, partial(make_task, r, mirrors)) for r in rows)
    return Source(tuple(made), {what: n for what, n in left.items() if n})


def sample(candidates: Sequence[Candidate], limit: int, seed: int) -> list[Candidate]:
    """At most so many, drawn evenly over the repositories."""
    by_repo: dict[str, list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda c: c.task_id):
        by_repo.setdefault(candidate.repo, []).append(candidate)
    turns: list[tuple[int, str, Candidate]] = []
    for repo, group in by_repo.items():
        order = generator("swe", "validate", seed, repo).permutation(len(group))
        turns += [(turn, repo, group[index]) for turn, index in enumerate(order)]
    return [candidate for *_, candidate in sorted(turns, key=lambda t: t[:2])[:limit]]


def validate(
    engine: SandboxEngine,
    candidates: Sequence[Candidate],
    known: Mapping[str, Result],
    jobs: int = 1,
) -> Iterator[Result]:
    """The result of each task, as they come; known ones of the same task are not made again."""
    with ThreadPoolExecutor(jobs) as pool:
        work = [pool.submit(_validate, engine, c, known.get(c.task_id)) for c in candidates]
        try:
            for future in as_completed(work):
                yield future.result()
        finally:
            for future in work:
                future.cancel()


def _same(task: SweTask) -> SweTask:
    return task


def _validate(engine: SandboxEngine, candidate: Candidate, known: Result | None) -> Result:
    began = time.perf_counter()
    mark = ""
    try:
        task = candidate.make()
        mark = fingerprint(task)
        # A failure of the engine says nothing about the task: tried again.
        if known and known.fingerprint == mark and (known.valid or not known.reason):
            return known
        gold = grade(engine, task, task.gold)
        empty = grade(engine, task, "", run_empty=True)
    except AemGymError as error:
        return Result(candidate.task_id, candidate.repo, mark, False, False, str(error))
    reason = gold.reason
    if not gold.resolved and not reason:
        reason = f"with the gold patch {len(gold.failed)} tests fail: {', '.join(gold.failed[:3])}"
    seconds = round(time.perf_counter() - began, 2)
    return Result(
        candidate.task_id, candidate.repo, mark, gold.resolved, empty.resolved, reason, seconds
    )


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    open_engine = importlib.import_module("aem_gym.envs.swe.sandbox.engines").open_engine
    rows = arguments.tasks is not None
    source = from_rows(arguments.tasks, arguments.mirrors) if rows else from_suite(arguments.suite)
    for what, number in source.left_out.items():
        print(f"{number} rows left out: {what}", flush=True)
    chosen = list(source.candidates)
    if arguments.limit is not None:
        chosen = sample(chosen, arguments.limit, arguments.seed)
    kept = read_results(arguments.out)
    known = {} if arguments.again else kept
    results: list[Result] = []
    engine = open_engine(arguments.engine)
    try:
        for result in tqdm(
            validate(engine, chosen, known, arguments.jobs), total=len(chosen), unit="task"
        ):
            results.append(result)
            kept[result.task_id] = result
            write_results(arguments.out, kept)
    finally:
        engine.close()
    valid = sum(result.valid for result in results)
    if arguments.keep_valid and valid:
        from aem_gym.envs.swe.tasks.suites import suite_of

        text = suite_of(arguments.suite, {result.task_id for result in results if result.valid})
        atomic_write(arguments.keep_valid, text)
    print("\n".join(table(sorted(results, key=lambda r: r.task_id))))
    print(json.dumps({"tasks": len(results), "valid": valid, "left_out": dict(source.left_out)}))
    return 0 if results and valid == len(results) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--suite", default="default", help="a shipped suite, or its file")
    what.add_argument("--tasks", help="rows of SWE-bench: a .jsonl file, a folder, a dataset's id")
    parser.add_argument("--mirrors", type=Path, help="folder of bare clones to build images from")
    parser.add_argument("--limit", type=int, help="so many tasks, evenly over the repositories")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of --limit")
    parser.add_argument("--jobs", type=int, default=1, help="tasks at the same time")
    parser.add_argument("--out", type=Path, default=Path("validated.json"))
    parser.add_argument("--again", action="store_true", help="also what --out already holds")
    parser.add_argument("--keep-valid", type=Path, help="write a suite of the valid tasks (.jsonl)")
    parser.add_argument("--engine", default="auto", help="docker, podman, bubblewrap or process")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1 or (arguments.limit is not None and arguments.limit < 1):
        parser.error("--jobs and --limit are at least 1")
    if arguments.keep_valid and (arguments.tasks or arguments.keep_valid.suffix != ".jsonl"):
        parser.error("--keep-valid FILE.jsonl is for a --suite")
    try:
        return _run(arguments)
    except AemGymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from {arguments.out}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
