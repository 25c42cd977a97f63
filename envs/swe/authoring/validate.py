"""Checks that tasks can be solved by their gold patches, and not without: `aem-gym swe validate`.

Builds the images that are missing, then grades each task twice: the gold patch must resolve it, and
the empty patch must not. Results are written after each task, so the same command continues a run
that was stopped. The last line printed is JSON with `tasks` and `valid`; the exit status is 1 if a
task is not valid.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import msgspec

from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.grading.reference import fingerprint
from aem_gym.envs.swe.sandbox.base import SandboxEngine
from aem_gym.envs.swe.sandbox.engines import open_engine
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.suites import load_suite, suite_text
from aem_gym.envs.swe.tasks.swebench import make_task, rows_to_use
from aem_gym.errors import AemGymError, ConfigError
from aem_gym.io import atomic_write
from aem_gym.seeding import generator

_ABOUT = (__doc__ or "").splitlines()[0]


@dataclass(frozen=True, slots=True)
class ValidationResult:
    task_id: str
    repo: str
    fingerprint: str
    """Of the task; the result counts only for a task with the same."""
    gold: bool
    """The gold patch resolves the task."""
    empty: bool
    """The empty patch resolves the task."""
    reason: str = ""
    seconds: float = 0.0

    @property
    def valid(self) -> bool:
        return self.gold and not self.empty and not self.reason


@dataclass(frozen=True, slots=True)
class UnbuiltTask:
    """A task that is to be validated, and the function that makes it, which may fail."""

    task_id: str
    repo: str
    make: Callable[[], SweTask]


@dataclass(frozen=True, slots=True)
class TasksToValidate:
    """The tasks of a source, and the number of rows left out."""

    candidates: tuple[UnbuiltTask, ...]
    left_out: Mapping[str, int]
    """Reason -> number of rows."""


def read_results(path: Path) -> dict[str, ValidationResult]:
    """The results in a file by task; none if there is no such file.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        results = msgspec.json.decode(path.read_bytes(), type=dict[str, list[ValidationResult]])[
            "results"
        ]
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError) as error:
        raise ConfigError(
            f"expected results of this command in {path}, got something else ({error}). "
            "Choose another file with --out"
        ) from error
    return {result.task_id: result for result in results}


def write_results(path: Path, results: Mapping[str, ValidationResult]) -> None:
    rows = [asdict(results[name]) for name in sorted(results)]
    atomic_write(path, json.dumps({"results": rows}, indent=1) + "\n")


def table(results: Sequence[ValidationResult]) -> Iterator[str]:
    """The lines of a table by repository, and one for each task that is not valid."""
    heads = f"{'tasks':>7}{'valid':>7}{'gold fails':>12}{'empty passes':>14}{'s':>8}"
    yield f"{'repository':<24}{heads}"
    for repo in sorted({result.repo for result in results}):
        group = [result for result in results if result.repo == repo]
        seconds = sum(result.seconds for result in group) / len(group)
        yield (
            f"{repo:<24}{len(group):>7}{sum(r.valid for r in group):>7}"
            f"{sum(not r.gold for r in group):>12}{sum(r.empty for r in group):>14}{seconds:>8.1f}"
        )
    for result in results:
        if not result.valid:
            yield f"{result.task_id}: {result.reason or 'resolved without a patch'}"


def from_suite(name: str) -> TasksToValidate:
    tasks = load_suite(name)
    made = (UnbuiltTask(task.task_id, task.repo, partial(_same, task)) for task in tasks)
    return TasksToValidate(tuple(made), {})


def from_rows(source: str, mirrors: Path | None) -> TasksToValidate:
    """The tasks of SWE-bench's rows; with mirrors, those that can be built."""
    rows, left = rows_to_use(source, mirrors)
    made = (UnbuiltTask(r.instance_id, r.repo, partial(make_task, r, mirrors)) for r in rows)
    return TasksToValidate(tuple(made), Counter(left.values()))


def part_of_suite(name_or_file: str, kept: Collection[str]) -> str:
    """The content of a suite's file with the tasks of some ids only, and their packages."""
    lines = suite_text(name_or_file).splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    used = {row["repo"] for row in rows if row.get("instance_id") in kept}
    named = [row["package"]["name"] in used if "package" in row else False for row in rows]
    chosen = [n or row.get("instance_id") in kept for n, row in zip(named, rows, strict=True)]
    return "".join(line for line, keep in zip(lines, chosen, strict=True) if keep)


def sample(candidates: Sequence[UnbuiltTask], limit: int, seed: int) -> list[UnbuiltTask]:
    """At most `limit` tasks, drawn evenly over the repositories."""
    by_repo: dict[str, list[UnbuiltTask]] = {}
    for candidate in sorted(candidates, key=lambda c: c.task_id):
        by_repo.setdefault(candidate.repo, []).append(candidate)
    turns: list[tuple[int, str, UnbuiltTask]] = []
    for repo, group in by_repo.items():
        order = generator("swe", "validate", seed, repo).permutation(len(group))
        turns += [(turn, repo, group[index]) for turn, index in enumerate(order)]
    return [candidate for *_, candidate in sorted(turns, key=lambda t: t[:2])[:limit]]


def validate(
    engine: SandboxEngine,
    candidates: Sequence[UnbuiltTask],
    known: Mapping[str, ValidationResult],
    jobs: int = 1,
) -> Iterator[ValidationResult]:
    """The result of each task, in the order of completion; known results are reused."""
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


def _validate(
    engine: SandboxEngine, candidate: UnbuiltTask, known: ValidationResult | None
) -> ValidationResult:
    began = time.perf_counter()
    mark = ""
    try:
        task = candidate.make()
        mark = fingerprint(task)
        # A failure of the engine says nothing about the task, which is graded again.
        if known and known.fingerprint == mark and (known.valid or not known.reason):
            return known
        gold = grade(engine, task, task.gold)
        empty = grade(engine, task, "", run_empty=True)
    except AemGymError as error:
        return ValidationResult(candidate.task_id, candidate.repo, mark, False, False, str(error))
    reason = gold.reason
    if not gold.resolved and not reason:
        reason = f"with the gold patch {len(gold.failed)} tests fail: {', '.join(gold.failed[:3])}"
    seconds = round(time.perf_counter() - began, 2)
    return ValidationResult(
        candidate.task_id, candidate.repo, mark, gold.resolved, empty.resolved, reason, seconds
    )


def _run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    rows = arguments.tasks is not None
    source = from_rows(arguments.tasks, arguments.mirrors) if rows else from_suite(arguments.suite)
    chosen = list(source.candidates)
    if arguments.limit is not None:
        chosen = sample(chosen, arguments.limit, arguments.seed)
    kept = read_results(arguments.out)
    known = {} if arguments.again else kept
    results: list[ValidationResult] = []
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
        kept_ids = {result.task_id for result in results if result.valid}
        atomic_write(arguments.keep_valid, part_of_suite(arguments.suite, kept_ids))
    print("\n".join(table(sorted(results, key=lambda r: r.task_id))))
    print(json.dumps({"tasks": len(results), "valid": valid, "left_out": dict(source.left_out)}))
    return 0 if results and valid == len(results) else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("aem-gym swe validate", description=_ABOUT)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--suite", default="default", help="a shipped suite, or its file")
    what.add_argument("--tasks", help="rows of SWE-bench: a .jsonl file, a folder, a dataset's id")
    parser.add_argument("--mirrors", type=Path, help="folder of bare clones to build images from")
    most = "validate at most this many tasks, spread evenly over the repositories"
    parser.add_argument("--limit", type=int, help=most)
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of --limit")
    parser.add_argument("--jobs", type=int, default=1, help="tasks at the same time")
    results = "file of the results, from which the same command continues (validated.json)"
    parser.add_argument("--out", type=Path, default=Path("validated.json"), help=results)
    parser.add_argument("--again", action="store_true", help="grade again what --out already holds")
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
