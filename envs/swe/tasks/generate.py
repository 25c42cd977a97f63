"""Make a suite of tasks from packages that ship tests.

    python -m aem_gym.envs.swe.tasks.generate --package NAME==VERSION --tasks 50 --out my.jsonl

Functions are broken one at a time (`mutations.py`); a mutant becomes a task if some tests notice it
(`candidates.py`). What was tried is written down beside the suite, so that a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from queue import SimpleQueue

import msgspec
from tqdm.auto import tqdm

from aem_gym.envs.swe.sandbox.base import SandboxEngine, SandboxError
from aem_gym.envs.swe.sandbox.engines import open_engine
from aem_gym.envs.swe.tasks.candidates import Baseline, Candidate, baseline, graded, places, search
from aem_gym.envs.swe.tasks.packages import Package, PackageError, release
from aem_gym.envs.swe.tasks.split import SPLITS, split_of, test_packages
from aem_gym.envs.swe.tasks.suites import package_spec, suite_text, task_spec
from aem_gym.envs.swe.tasks.trials import Trial, trial
from aem_gym.errors import AemGymError, OutputError
from aem_gym.io import replace_file
from aem_gym.seeding import generator

logger = logging.getLogger(__name__)

PYTEST = "pytest==9.2.0"
"""A pinned test runner: node ids and messages differ between versions."""
TRIES = 6
"""Mutants of one function."""
_FIRST = 120.0
"""Seconds for the tests before anything is broken."""
_LEAST = 5.0
_SLOWER = 3.0
"""A mutant's tests may take so many times as long, and `_LEAST` seconds more."""

_AHEAD = 8
"""Functions that are looked at before their turn, for each job: some take long."""

Place = tuple[str, str]


@dataclass(frozen=True)
class Workshop:
    """A package with places to run its tests in, one for each job."""

    package: Package
    before: Baseline
    trials: SimpleQueue[Trial]

    def search(self, place: Place, seed: int) -> Candidate | None:
        """A task in a function, in whichever place is free."""
        rng = generator("swe", "mutants", seed, self.package.name, *place)
        bench = self.trials.get()
        try:
            return search(self.package, bench, self.before, place, rng, TRIES)
        finally:
            self.trials.put(bench)


class Journal:
    """What was found in each function, kept from run to run."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self.known: dict[tuple[str, str, str], Candidate | None] = {}
        with contextlib.suppress(FileNotFoundError):
            lines = path.read_text("utf-8").splitlines()
            for line in lines[1:] if lines and lines[0] == key else ():
                with contextlib.suppress(msgspec.DecodeError):  # cut off as it was written
                    *place, found = msgspec.json.decode(
                        line, type=tuple[str, str, str, Candidate | None]
                    )
                    self.known[place[0], place[1], place[2]] = found
        if not self.known:
            replace_file(path, f"{key}\n".encode())

    def add(self, package: str, place: Place, found: Candidate | None) -> None:
        """Write down what was found."""
        self.known[package, *place] = found
        row = [package, *place, None if found is None else asdict(found)]
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Nothing more is to be found."""
        self._path.unlink(missing_ok=True)


def generate(
    packages: Sequence[Package],
    tasks: int,
    seed: int,
    out: Path,
    jobs: int,
    python: Path | None = None,
    engine: SandboxEngine | None = None,
) -> Counter[str]:
    """Make a suite; how many tasks each split has.

    Args:
        packages: their functions take turns.
        tasks: how many there are to be at most; at most one for a function.
        seed: of the mutants, the splits and the issues' words.
        out: the file.
        jobs: tests that run at the same time. The suite does not depend on it.
        python: has what the packages and their tests need; by default one is made for each.
        engine: tests that do not pass in its sandboxes do not count.

    Raises:
        PackageError: a package cannot be installed, or its tests do not pass.
        SandboxError: the engine fails.
    """
    graded_in = engine.name if engine else "none"
    known = [[p.name, p.sha256, p.requires] for p in packages]
    key = json.dumps([*known, seed, TRIES, graded_in])
    journal = Journal(out.with_name(f"{out.name}.journal"), key)
    found: list[tuple[Workshop, Candidate]] = []
    with contextlib.ExitStack() as stack:
        shops = [
            open_workshop(package, jobs, python, engine, stack)
            for package in tqdm(packages, desc="packages", unit="package", disable=None)
        ]
        progress = stack.enter_context(tqdm(desc="tasks", total=tasks, unit="task", disable=None))
        pool = ThreadPoolExecutor(jobs)
        stack.callback(pool.shutdown, cancel_futures=True)
        for shop, candidate in _candidates(shops, seed, journal, pool, jobs):
            found.append((shop, candidate))
            progress.update()
            if len(found) == tasks:
                break
    used = [shop for shop in shops if any(owner is shop for owner, _ in found)]
    held_out = test_packages([shop.package.name for shop in used], seed)
    specs = []
    for shop, candidate in found:
        name, broken = shop.package.name, candidate.mutation
        split = split_of(name, broken.path, broken.function, seed, held_out)
        specs.append(task_spec(name, shop.before.tests, candidate, split, seed))
    lines = [package_spec(shop.package, shop.before.tests) for shop in used]
    replace_file(out, suite_text(lines, specs).encode())
    journal.close()
    return Counter(spec.split for spec in specs)


def open_workshop(
    package: Package,
    jobs: int,
    python: Path | None,
    engine: SandboxEngine | None,
    stack: contextlib.ExitStack,
) -> Workshop:
    """Install a package and see how its tests go; what it needs on disk goes with the stack."""
    benches = [stack.enter_context(trial(package, _FIRST, python)) for _ in range(jobs)]
    before = baseline(package, benches[0])
    if engine is not None:
        before = graded(engine, package, before)
    trials: SimpleQueue[Trial] = SimpleQueue()
    for bench in benches:
        bench.paths = benches[0].paths
        bench.timeout = _LEAST + _SLOWER * before.seconds
        trials.put(bench)
    return Workshop(package, before, trials)


def _candidates(
    shops: Sequence[Workshop],
    seed: int,
    journal: Journal,
    pool: ThreadPoolExecutor,
    jobs: int,
) -> Iterator[tuple[Workshop, Candidate]]:
    """Packages and functions take turns; what is found comes in that order, whatever the jobs."""
    orders = []
    for shop in shops:
        found = list(places(shop.package))
        order = generator("swe", "functions", seed, shop.package.name).permutation(len(found))
        orders.append([(shop, found[index]) for index in order])
    turns = [turn for row in zip_longest(*orders) for turn in row if turn is not None]
    ahead: deque[Future[Candidate | None] | None] = deque()
    for number, (shop, place) in enumerate(turns):
        for other, next_place in turns[number + len(ahead) : number + _AHEAD * jobs]:
            known = (other.package.name, *next_place) in journal.known
            ahead.append(None if known else pool.submit(other.search, next_place, seed))
        future = ahead.popleft()
        if future is not None:
            journal.add(shop.package.name, place, future.result())
        candidate = journal.known[shop.package.name, *place]
        if candidate is not None:
            yield shop, candidate


def _engine(name: str, stack: contextlib.ExitStack) -> SandboxEngine | None:
    """An engine, closed with the stack; None if none is wanted, or none is there."""
    if name == "none":
        return None
    try:
        engine = open_engine(name)
    except SandboxError as error:
        if name != "auto":
            raise
        logger.warning(
            "no sandbox to try the tests in: some may fail in grading. Validate the suite where "
            "there is one, or see: aem-gym doctor (%s)",
            error,
        )
        return None
    stack.callback(engine.close)
    return engine


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add(
        "--package",
        action="extend",
        nargs="+",
        required=True,
        metavar="NAME==VERSION|DIR",
        help="a release from the package index, or a folder",
    )
    add("--tasks", type=int, default=50, help="how many at most (50)")
    add("--seed", type=int, default=0, help="of mutants, splits and words (0)")
    add("--out", type=Path, required=True, help="the suite's file (.jsonl)")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="tests at a time (all cores)")
    add("--require", action="extend", nargs="+", default=[], help="what tests need, pinned")
    add("--engine", default="auto", help="of sandboxes to try the tests in (auto); or: none")
    add("--python", type=Path, help="has all that is needed installed (one is made)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.out.suffix != ".jsonl" or not arguments.out.parent.is_dir():
            raise OutputError(f"expected --out FILE.jsonl in a folder, got {arguments.out}")
        requires = sorted({PYTEST, *arguments.require})
        packages = [release(spec, requires) for spec in arguments.package]
        if len({package.name for package in packages}) < len(packages):
            raise PackageError("expected each --package once, got one of them twice")
        jobs, python, seed = max(1, arguments.jobs), arguments.python, arguments.seed
        with contextlib.ExitStack() as stack:
            engine = _engine(arguments.engine, stack)
            out, most = arguments.out, arguments.tasks
            splits = generate(packages, most, seed, out, jobs, python, engine)
    except AemGymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"tasks": splits.total(), **{name: splits[name] for name in SPLITS}}))
    return 0 if splits else 1


if __name__ == "__main__":
    sys.exit(main())
