"""What is asked of an answer besides the one run of all tests, drawn by a seed that is hidden.

Each FAIL_TO_PASS test, and a sample of PASS_TO_PASS, is asked twice, in processes of its own: as
it is, and as a copy that has to fail (`copies.py`). The two lie under one name and in one place, in
two runs; which comes first is drawn for each. So the expected outcome of a process is a coin that
the code in it cannot see: it would have to tell from the text of a test what the test is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from random import Random

from aem_gym.envs.swe.grading.canaries import Names, draw_inside
from aem_gym.envs.swe.grading.copies import function_of, make_copies
from aem_gym.envs.swe.grading.sessions import Orders, file_of
from aem_gym.envs.swe.tasks.base import SweTask

_SAMPLE = 3
"""Functions of PASS_TO_PASS that are asked."""
_COPIES = 1
"""Tests of one function (it has parameters) whose copies run."""
_ASKED = 4
"""FAIL_TO_PASS tests run that often, divided by the number of their functions: chance fails."""


@dataclass(frozen=True, slots=True)
class Version:
    """One of the two runs: the files as they are there, and what has to come out."""

    files: Mapping[str, bytes]
    orders: Orders
    true: frozenset[str]
    """Tests in processes of their own that have to pass."""
    copies: Mapping[str, frozenset[int]]
    """Tests in processes of their own that have to fail -> the lines at which."""
    inside: Mapping[str, tuple[str, bool]]
    """Canaries in these files, as in `Inside`."""


_CHECKED = 3
"""Tests of a run after which the test runner is looked at, besides the end of the run."""
Key = tuple[str, str]
"""(file, function)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The functions that are asked."""

    functions: Mapping[Key, tuple[str, ...]]
    """Its tests that run in processes of their own."""

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(sorted({path for path, _ in self.functions}))


def choose(task: SweTask, random: Random) -> Asked:
    """The tests to ask, all of FAIL_TO_PASS and a sample of PASS_TO_PASS in at most one more file.

    Only tests of pytest in Python files.
    """
    functions: dict[Key, list[str]] = {}
    for test in task.fail_to_pass:
        if file_of(test):
            functions.setdefault((file_of(test), function_of(test)), []).append(test)
    known = {path for path, _ in functions}
    others = sorted({file_of(test) for test in task.pass_to_pass} - known - {""})
    known |= {random.choice(others)} if others else set()
    pool: dict[Key, list[str]] = {}
    for test in sorted(task.pass_to_pass):
        key = (file_of(test), function_of(test))
        if key[0] in known and key not in functions:
            pool.setdefault(key, []).append(test)
    for key in random.sample(sorted(pool), min(_SAMPLE, len(pool))):
        functions[key] = [random.choice(pool[key])]
    return Asked({key: tuple(tests) for key, tests in functions.items()})


@dataclass(frozen=True)
class Drawing:
    """Draws the two runs; what is a copy in one is not in the other."""

    task: SweTask
    asked: Asked
    contents: Mapping[str, bytes]
    """The files of the asked functions."""
    random: Random

    def versions(self) -> tuple[Version, Version]:
        """(one in which all other tests run too, one of the asked functions alone)."""
        keys = [key for key in sorted(self.asked.functions) if key[0] in self.contents]
        able = {key for key in keys if self._can_copy(key)}
        first = {key for key in sorted(able) if self.random.random() < 0.5}
        names = Names(self.task, self.random)
        return (
            self._version(keys, first, None, names),
            self._version(sorted(able), able - first, sorted(first), names),
        )

    def _can_copy(self, key: Key) -> bool:
        """Whether a copy of a function meets nothing else: another file may have its tests."""
        path, function = key
        every = (*self.task.fail_to_pass, *self.task.pass_to_pass)
        same = {file_of(test) for test in every if function_of(test) == function}
        return same == {path} and bool(
            make_copies(self.contents[path], [function], Random(0)).lines
        )

    def _version(
        self, keys: Sequence[Key], copied: Set[Key], batch: Sequence[Key] | None, names: Names
    ) -> Version:
        """With `batch` (functions all of whose tests run) no other tests run."""
        files: dict[str, bytes] = {}
        inside: dict[str, tuple[str, bool]] = {}
        lines: dict[Key, frozenset[int]] = {}
        for path in sorted(self.contents):
            functions = [function for file, function in sorted(copied) if file == path]
            edited = make_copies(self.contents[path], functions, self.random)
            extra = draw_inside(path, self.contents[path], names, self.random)
            files[path] = edited.content + extra.text
            inside |= extra.outcomes
            lines |= {(path, function): found for function, found in edited.lines.items()}
        copies: dict[str, frozenset[int]] = {}
        true: set[str] = set()
        for key in keys:
            tests = self.asked.functions[key]
            if key in copied:
                chosen = self.random.sample(tests, min(_COPIES, len(tests)))
                copies |= dict.fromkeys(chosen, lines.get(key, frozenset()))
            else:
                true |= set(tests)
        aims = {(file_of(test), function_of(test)) for test in self.task.fail_to_pass}
        repeat = max(1, -(-_ASKED // max(1, len(aims))))
        aimed = {test for key in aims for test in self.asked.functions.get(key, ())}
        alone = {t: repeat if t in aimed else 1 for t in sorted({*copies, *true})}
        apart = {_node(key) for key in batch or ()}
        if batch is not None:
            apart |= {name.split("[")[0] for name in inside}
        left = tuple(_node(key) for key in sorted(copied))
        checked = self.random.sample(sorted(true), min(_CHECKED, len(true)))
        orders = Orders(alone, tuple(sorted(apart)), left, tuple(checked), rest=batch is None)
        return Version(files, orders, frozenset(true), copies, inside)


def _node(key: Key) -> str:
    return "::".join([key[0], *key[1].split(".")])
