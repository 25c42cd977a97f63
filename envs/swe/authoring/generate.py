"""Makes a suite of tasks from packages that ship tests: `aem-gym swe generate`.

Functions are broken one at a time (`mutations.py`); a mutant becomes a task if some tests notice it
(`candidates.py`). A journal beside the suite records what was tried, so that the same command
continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from email.parser import HeaderParser
from itertools import zip_longest
from pathlib import Path
from queue import SimpleQueue

import msgspec
from tqdm.auto import tqdm

from aem_gym.envs.swe.authoring.candidates import (
    Baseline,
    Candidate,
    baseline,
    graded,
    places,
    search,
)
from aem_gym.envs.swe.authoring.suites import (
    package_line,
    split_of,
    suite_lines,
    task_row,
    test_packages,
)
from aem_gym.envs.swe.authoring.trials import Trial, trial
from aem_gym.envs.swe.sandbox.base import SandboxEngine, SandboxError
from aem_gym.envs.swe.sandbox.engines import open_engine
from aem_gym.envs.swe.tasks.base import SPLITS
from aem_gym.envs.swe.tasks.packages import (
    Package,
    PackageError,
    download,
    folder_hash,
    source,
    sources_folder,
)
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
"""A mutant's tests may take this factor longer, and `_LEAST` seconds more."""

_LOOKAHEAD = 8
"""Functions that are tried before their turn, for each job: some take long."""

Place = tuple[str, str]


def release(spec: str, requires: Sequence[str] = ()) -> Package:
    """The package that `NAME==VERSION` or a folder names; fetched if it is not in the cache.

    Raises:
        PackageError: the name is neither, or the source cannot be fetched.
    """
    folder = Path(spec).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        sha256 = folder_hash(folder)
        name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-") or "package"
        package = Package(name, sha256[:8], sha256, "", tuple(requires), str(folder))
        source(package)
        return package
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.!+-]+)", spec)
    if not match:
        raise PackageError(
            f"expected --package NAME==VERSION or a folder that is there, got {spec!r}"
        )
    name, version = re.sub(r"[-_.]+", "-", match[1].lower()), match[2]
    known = sorted(sources_folder().glob(f"{name}-{version}-{'?' * 64}"))
    sha256 = known[0].name[-64:] if known else download(name, version, "")
    found = Package(name, version, sha256)
    return Package(name, version, sha256, _licence(source(found)), tuple(requires))


def _licence(folder: Path) -> str:
    """The license in the metadata of a package, in one line."""
    try:
        headers = HeaderParser().parsestr((folder / "PKG-INFO").read_text("utf-8", "replace"))
    except OSError:
        return ""
    said = str(headers.get("License-Expression") or headers.get("License") or "")
    kinds = [str(value) for value in headers.get_all("Classifier") or ()]
    kinds = [value.split(" :: ")[-1] for value in kinds if value.startswith("License")]
    return said if said and "\n" not in said else ", ".join(kinds)


@dataclass(frozen=True)
class PackageWorkspace:
    """A package with copies to run its tests in, one for each job."""

    package: Package
    before: Baseline
    trials: SimpleQueue[Trial]

    def search(self, place: Place, seed: int) -> Candidate | None:
        rng = generator("swe", "mutants", seed, self.package.name, *place)
        bench = self.trials.get()
        try:
            return search(self.package, bench, self.before, place, rng, TRIES)
        finally:
            self.trials.put(bench)


class Journal:
    """The result of each function, kept in a file from run to run."""

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
        self.known[package, *place] = found
        row = [package, *place, None if found is None else asdict(found)]
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Remove the file: the suite is complete."""
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
    """Make a suite of at most `tasks` tasks; returns the number of tasks in each split.

    The functions of all packages take turns, with at most one task for a function. The suite does
    not depend on `jobs`. Tests that fail in the sandboxes of `engine` do not count. `python` has
    all requirements installed; by default an environment is made for each package.

    Raises:
        PackageError: a package cannot be installed, or its tests do not pass.
        SandboxError: the engine fails.
    """
    known = [[p.name, p.sha256, p.requires] for p in packages]
    key = json.dumps([*known, seed, TRIES, engine.name if engine else "none"])
    journal = Journal(out.with_name(f"{out.name}.journal"), key)
    found: list[tuple[PackageWorkspace, Candidate]] = []
    with contextlib.ExitStack() as stack:
        workspaces = [
            open_workspace(package, jobs, python, engine, stack)
            for package in tqdm(packages, desc="packages", unit="package", disable=None)
        ]
        progress = stack.enter_context(tqdm(desc="tasks", total=tasks, unit="task", disable=None))
        pool = ThreadPoolExecutor(jobs)
        stack.callback(pool.shutdown, cancel_futures=True)
        for workspace, candidate in _candidates(workspaces, seed, journal, pool, jobs):
            found.append((workspace, candidate))
            progress.update()
            if len(found) == tasks:
                break
    content, splits = _suite(workspaces, found, seed)
    replace_file(out, content)
    journal.close()
    return splits


def _suite(
    workspaces: Sequence[PackageWorkspace],
    found: Sequence[tuple[PackageWorkspace, Candidate]],
    seed: int,
) -> tuple[bytes, Counter[str]]:
    """The content of the suite's file, and the number of tasks in each split."""
    used = [workspace for workspace in workspaces if any(owner is workspace for owner, _ in found)]
    held_out = test_packages([workspace.package.name for workspace in used], seed)
    rows = []
    for workspace, candidate in found:
        name, broken = workspace.package.name, candidate.mutation
        split = split_of(name, broken.path, broken.function, seed, held_out)
        rows.append(task_row(workspace.package, workspace.before, candidate, split, seed))
    lines = [package_line(workspace.package, workspace.before) for workspace in used]
    return suite_lines(lines, rows), Counter(row.split for row in rows)


def open_workspace(
    package: Package,
    jobs: int,
    python: Path | None,
    engine: SandboxEngine | None,
    stack: contextlib.ExitStack,
) -> PackageWorkspace:
    """Install a package and run its tests; the stack removes its files."""
    benches = [stack.enter_context(trial(package, _FIRST, python)) for _ in range(jobs)]
    before = baseline(package, benches[0])
    if engine is not None:
        before = graded(engine, package, before)
    trials: SimpleQueue[Trial] = SimpleQueue()
    for bench in benches:
        bench.paths = benches[0].paths
        bench.timeout = _LEAST + _SLOWER * before.seconds
        trials.put(bench)
    return PackageWorkspace(package, before, trials)


def _candidates(
    workspaces: Sequence[PackageWorkspace],
    seed: int,
    journal: Journal,
    pool: ThreadPoolExecutor,
    jobs: int,
) -> Iterator[tuple[PackageWorkspace, Candidate]]:
    """Candidates of packages and functions in turn; the order does not depend on the jobs."""
    orders = []
    for workspace in workspaces:
        found = list(places(workspace.package))
        order = generator("swe", "functions", seed, workspace.package.name).permutation(len(found))
        orders.append([(workspace, found[index]) for index in order])
    turns = [turn for row in zip_longest(*orders) for turn in row if turn is not None]
    ahead: deque[Future[Candidate | None] | None] = deque()
    for number, (workspace, place) in enumerate(turns):
        for other, next_place in turns[number + len(ahead) : number + _LOOKAHEAD * jobs]:
            known = (other.package.name, *next_place) in journal.known
            ahead.append(None if known else pool.submit(other.search, next_place, seed))
        future = ahead.popleft()
        if future is not None:
            journal.add(workspace.package.name, place, future.result())
        candidate = journal.known[workspace.package.name, *place]
        if candidate is not None:
            yield workspace, candidate


def _engine(name: str, stack: contextlib.ExitStack) -> SandboxEngine | None:
    """An engine that the stack closes; None if none is wanted or none answers."""
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
    parser = argparse.ArgumentParser(
        "aem-gym swe generate", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    each, what = "NAME==VERSION|DIR", "a release from the package index, or a folder"
    add("--package", action="extend", nargs="+", required=True, metavar=each, help=what)
    add("--tasks", type=int, default=50, help="how many at most (50)")
    add(
        "--seed",
        type=int,
        default=0,
        help="seed of the mutants, splits and issue texts (default 0)",
    )
    add("--out", type=Path, required=True, help="the suite's file (.jsonl)")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="tests at a time (all cores)")
    add("--require", action="extend", nargs="+", default=[], help="what tests need, pinned")
    tried = "sandbox engine in which the tests are tried first (default auto; none: skip this)"
    add("--engine", default="auto", help=tried)
    needs = "Python with all requirements installed (default: a new environment for each package)"
    add("--python", type=Path, help=needs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
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
