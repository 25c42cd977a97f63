"""The rows of a generated suite: their texts, patches and splits.

`test` holds whole packages that training never sees; `eval` holds functions of the packages of
training. As there is one task for a function, no function is in two splits.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from aem_gym.envs.swe.authoring.candidates import Baseline, Candidate, hide
from aem_gym.envs.swe.authoring.mutations import function_of
from aem_gym.envs.swe.authoring.problem import issue, subject
from aem_gym.envs.swe.authoring.trials import image_plan, test_command
from aem_gym.envs.swe.tasks.git import git
from aem_gym.envs.swe.tasks.packages import Package, source
from aem_gym.envs.swe.tasks.suites import SuiteError, SuitePackage, SuiteRow
from aem_gym.seeding import derive, generator

_HELD_OUT = 4
"""One package in so many is for tests."""
_EVAL = 6
"""One function in so many is for evaluation."""
_CONTEXT = 3


def test_packages(packages: Collection[str], seed: int) -> frozenset[str]:
    """The packages that are for tests; none if there are less than three."""
    if len(packages) < 3:
        return frozenset()
    drawn = sorted(packages, key=lambda name: derive("swe", "split", seed, name))
    return frozenset(drawn[: max(1, len(drawn) // _HELD_OUT)])


def split_of(package: str, path: str, function: str, seed: int, held_out: Collection[str]) -> str:
    """The split of a function's task; if no package is held out, some functions are for tests."""
    if package in held_out:
        return "test"
    drawn = derive("swe", "split", seed, package, path, function) % _EVAL
    if drawn == 0:
        return "eval"
    return "test" if drawn == 1 and not held_out else "train"


def package_line(package: Package, before: Baseline) -> SuitePackage:
    plan, tests = image_plan(package), _tests(before)
    command = test_command({function_of(test)[0] for test in tests})
    return SuitePackage(package, plan.name, plan.install, command, tests)


def task_row(
    package: Package, before: Baseline, candidate: Candidate, split: str, seed: int
) -> SuiteRow:
    """The row of a mutant that was found in a package. Its id does not depend on the mutant."""
    mutation = candidate.mutation
    drawn = generator("swe", "task", seed, package.name, mutation.path, mutation.function)
    task_id, words = f"{package.name}-{drawn.integers(16**8):08x}", int(drawn.integers(2**31))
    content = (source(package) / mutation.path).read_bytes()
    mutated = mutation.apply(content)
    failing = tuple(test for test in _tests(before) if test in candidate.fail_to_pass)
    visible = hide(before.files, frozenset(failing))
    if not visible:
        raise SuiteError(f"{task_id}: the failing tests cannot be hidden: {', '.join(failing)}")
    about = subject(content, mutation.path, mutation.function)
    tests = before.files[function_of(candidate.failure.test)[0]]
    return SuiteRow(
        instance_id=task_id,
        repo=package.name,
        split=split,
        problem_statement=issue(about, candidate.failure, tests, generator("swe", "issue", words)),
        patch=one_hunk_diff(mutation.path, mutated, content),
        bug_patch=one_hunk_diff(mutation.path, content, mutated),
        test_patch=tests_diff(visible, before.files),
        fail_to_pass=failing,
    )


def suite_lines(packages: Iterable[SuitePackage], rows: Iterable[SuiteRow]) -> bytes:
    lines: list[SuitePackage | SuiteRow] = [*packages, *rows]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _tests(before: Baseline) -> tuple[str, ...]:
    """The tests that count, file by file."""
    return tuple(sorted(before.tests, key=lambda test: test.partition("::")[::2]))


def tests_diff(visible: Mapping[str, bytes], files: Mapping[str, bytes]) -> str:
    """The diff that adds the hidden tests to test files without them."""
    with tempfile.TemporaryDirectory(prefix="aem-diff-") as temporary:
        folder = Path(temporary)
        git(folder, "init", "-q", "--template=")
        for contents in (visible, {path: files[path] for path in visible}):
            for path, content in contents.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
            if contents is visible:
                git(folder, "add", "--all", "--force")
        return git(folder, "diff", "--text", "--no-renames", "--no-ext-diff").stdout.decode("utf-8")


def one_hunk_diff(path: str, before: bytes, after: bytes) -> str:
    """The change of a file as git writes it, but in one hunk."""
    old, new = (re.split(r"(?<=\n)", content.decode("utf-8")) for content in (before, after))
    old, new = [line for line in old if line], [line for line in new if line]
    same = [a == b for a, b in zip(old, new, strict=False)]
    first = same.index(False) if False in same else len(same)
    rest = min(len(old), len(new)) - first
    same = [a == b for a, b in zip(old[::-1], new[::-1], strict=False)][:rest]
    last = same.index(False) if False in same else len(same)
    start, below = max(0, first - _CONTEXT), max(0, last - _CONTEXT)
    gone, come = old[first : len(old) - last], new[first : len(new) - last]
    head, tail = old[start:first], old[len(old) - last : len(old) - below]
    ranges = [f"{start + 1},{len(head) + len(lines) + len(tail)}" for lines in (gone, come)]
    marked = [(" ", head), ("-", gone), ("+", come), (" ", tail)]
    body = [sign + line for sign, lines in marked for line in lines]
    ended = [ln if ln.endswith("\n") else f"{ln}\n\\ No newline at end of file\n" for ln in body]
    return (
        f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n"
        f"@@ -{ranges[0]} +{ranges[1]} @@\n{''.join(ended)}"
    )
