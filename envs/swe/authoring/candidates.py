"""Searches the mutants of a function for one that makes a valid task."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath

import numpy as np

from aem_gym.envs.swe.authoring.mutations import (
    Mutation,
    cut,
    function_of,
    functions,
    mutants,
    names,
    parse,
)
from aem_gym.envs.swe.authoring.problem import Failure, read_failure
from aem_gym.envs.swe.authoring.snippets import snippet
from aem_gym.envs.swe.authoring.trials import (
    Trial,
    TrialResult,
    image_plan,
    import_root,
    test_command,
)
from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.sandbox.base import SandboxEngine
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.packages import Package, PackageError, source

MOST_FAIL = 0.2
"""Largest share of failing tests: mutants that break more are easy to find and unlike an issue."""
_NO_SOURCE = re.compile(
    r"(^|/)(tests?|testing|docs?|benchmarks?|examples?|scripts?|setup\.py|conftest\.py|noxfile\.py"
    r"|test_[^/]*|[^/]*_test\.py)(/|$)"
)


@dataclass(frozen=True, slots=True)
class Baseline:
    """The results of a package's tests before anything is broken."""

    tests: frozenset[str]
    """Tests that count: they pass three times, and their functions can be cut out."""
    others: frozenset[str]
    """Other tests that pass. A mutant that one of them notices cannot be hidden.

    Tests that write beside their files are among them: in grading those folders belong to root.
    """
    failing: frozenset[str]
    """Tests that fail before anything is broken."""
    files: Mapping[str, bytes]
    """The test files, by path."""
    calls: Mapping[str, tuple[str, ...]]
    """Function -> the test files that call it, as in `Trial.calls`."""
    seconds: float
    """Duration of all tests."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid mutant, and the tests that notice it."""

    mutation: Mutation
    fail_to_pass: tuple[str, ...]
    failure: Failure


def baseline(package: Package, trial: Trial) -> Baseline:
    """Run the tests of a package three times, the last time without write access to its folder.

    Raises:
        PackageError: no test passes.
    """
    first = trial.run({})
    trial.paths = tuple(sorted({function_of(test)[0] for test in first.passed}))
    start = time.monotonic()
    second = trial.run({})
    seconds = time.monotonic() - start
    passed = first.passed & second.passed
    unwriting = passed & trial.run({}, frozen=True).passed
    folder = source(package)
    paths = {function_of(test)[0] for test in passed}
    files = {path: (folder / path).read_bytes() for path in paths if (folder / path).is_file()}
    known = {path: names(content) for path, content in files.items()}
    counted = {t for t in unwriting if function_of(t)[1] in known.get(function_of(t)[0], ())}
    if not counted:
        raise PackageError(
            f"{package.name} {package.version}: expected tests that pass within "
            f"{trial.timeout:.0f} s, got none. See with: python -m pytest, in {folder}; more that "
            "they need is given with --require NAME==VERSION"
        )
    failing = first.failed | second.failed
    others = passed - counted
    return Baseline(frozenset(counted), others, failing, files, trial.calls(), seconds)


def graded(engine: SandboxEngine, package: Package, before: Baseline) -> Baseline:
    """The baseline without tests that fail in grading, where their folders belong to root.

    Raises:
        PackageError: no test passes there.
        SandboxError: the engine fails.
    """
    probe = SweTask(
        task_id=package.name,
        repo=package.name,
        problem="",
        image=image_plan(package),
        fail_to_pass=(),
        pass_to_pass=tuple(sorted(before.tests)),
        test_command=test_command(before.files),
        hidden=before.files,
    )
    lost: frozenset[str] = frozenset()
    for _ in range(2):
        verdict = grade(engine, probe, "", run_empty=True)
        lost |= frozenset(verdict.failed)
        if verdict.reason or lost >= before.tests:
            reason = verdict.reason or f"{len(lost)} tests fail, {sorted(lost)[0]} first"
            raise PackageError(
                f"{package.name} {package.version}: expected tests that pass in a sandbox as they "
                f"do here, got none: {reason}. What they need is given with --require "
                "NAME==VERSION; --engine none does without the sandbox"
            )
    return replace(before, tests=before.tests - lost, others=before.others | lost)


def places(package: Package) -> Iterator[tuple[str, str]]:
    """The path and qualified name of each function of a package that may be broken."""
    folder = source(package)
    root = import_root(folder)
    for path in sorted(root.rglob("*.py")):
        inner = path.relative_to(root).as_posix()
        importable = path.parent == root or all(
            (root / parent / "__init__.py").is_file()
            for parent in PurePosixPath(inner).parents
            if parent.name
        )
        tree = parse(path.read_bytes())
        if importable and tree is not None and not _NO_SOURCE.search(inner):
            for name, _ in functions(tree):
                yield path.relative_to(folder).as_posix(), name


def search(
    package: Package,
    trial: Trial,
    before: Baseline,
    place: tuple[str, str],
    rng: np.random.Generator,
    tries: int,
) -> Candidate | None:
    """The first valid mutant among `tries` mutants of a function; None if there is none."""
    path, function = place
    callers = before.calls.get(f"{path}::{function}", ())
    paths = trial.paths if "" in callers else [file for file in callers if file in before.files]
    if not paths:
        return None
    content = (source(package) / path).read_bytes()
    for mutation in islice(mutants(content, path, rng, function=function), tries):
        found = judge(trial, before, mutation, mutation.apply(content), paths)
        if found is not None:
            return found
    return None


def judge(
    trial: Trial, before: Baseline, mutation: Mutation, mutated: bytes, paths: Collection[str]
) -> Candidate | None:
    """The candidate of a mutant; None if it is not valid.

    It is valid if some tests fail but not too many, if the same tests fail in a second run, and if
    everything that the agent can see passes once the failing tests are cut out. `paths` are the
    test files that can notice it; the others run in the second run only.
    """
    outcome = trial.run({mutation.path: mutated}, paths)
    able = {test for test in before.tests if function_of(test)[0] in paths}
    failing = frozenset(able - outcome.passed)
    if not failing or len(failing) > MOST_FAIL * len(before.tests):
        return None
    visible = hide(before.files, failing)
    if visible is None or mutation.path in visible:
        return None
    passed = trial.run({mutation.path: mutated}).passed
    if before.tests - passed != failing or not before.others <= passed:
        return None
    seen = trial.run({mutation.path: mutated, **visible})
    hidden = {function_of(test) for test in failing}
    left = {test for test in before.tests if function_of(test) not in hidden}
    if not left <= seen.passed or not seen.failed <= before.failing:
        return None
    return Candidate(mutation, tuple(sorted(failing)), _clearest(before, outcome, failing))


def hide(files: Mapping[str, bytes], tests: frozenset[str]) -> dict[str, bytes] | None:
    """The test files without the functions of some tests; None if these cannot be cut out."""
    gone: dict[str, set[str]] = {}
    for file, function in map(function_of, tests):
        gone.setdefault(file, set()).add(function)
    visible: dict[str, bytes] = {}
    for file, functions_gone in gone.items():
        rest = cut(files[file], functions_gone)
        if rest is None:
            return None
        visible[file] = rest
    return visible


def _clearest(before: Baseline, outcome: TrialResult, failing: frozenset[str]) -> Failure:
    """The failure that is shown best by few words, with only the variables that its code needs."""
    found = [read_failure(test, outcome.messages.get(test, "")) for test in sorted(failing)]
    codes = {
        failure.test: snippet(
            before.files[function_of(failure.test)[0]], failure.test, failure.line, failure.values
        )
        for failure in found
    }

    names = [function_of(test)[1].rpartition(".")[2] for test in failing]
    texts = {t: "\n".join((*c.setup, c.statement)) for t, c in codes.items() if c}
    # Code that names a hidden test is not shown.
    texts = {t: text for t, text in texts.items() if not any(name in text for name in names)}

    def obscurity(failure: Failure) -> tuple[bool, bool, int, int]:
        code, text = codes[failure.test], texts.get(failure.test)
        if code is None or text is None or not failure.said:
            return text is None, True, 0, 0
        of_a_helper = code.statement.startswith(("raise", "self._"))
        length = sum(map(len, (*failure.said, text)))
        return False, of_a_helper, len(code.unknown), length

    best = min(found, key=obscurity)
    if best.test not in texts:
        return replace(best, line=0, values={})
    code = codes[best.test]
    used = {line.partition(" = ")[0] for line in code.setup} if code else set()
    return replace(best, values={name: best.values[name] for name in used & best.values.keys()})
