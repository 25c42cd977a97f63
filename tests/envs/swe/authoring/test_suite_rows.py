"""Rows of generated suites: diffs that git takes, and splits that share nothing."""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aem_gym.envs.swe.authoring.suites import one_hunk_diff, split_of, test_packages, tests_diff
from aem_gym.envs.swe.tasks.base import SPLITS
from aem_gym.envs.swe.tasks.git import apply_diff

held_out, diff_of_tests = test_packages, tests_diff
del test_packages, tests_diff  # or pytest takes them for tests

LINES = st.text(st.sampled_from("ab \t\x0c\x0b\x85\u2028é"), max_size=4)
TEXTS = st.lists(LINES, max_size=12).flatmap(
    lambda lines: st.sampled_from(["\n", "\r\n", "\r"]).map(lambda end: end.join(lines))
)


@settings(max_examples=60)
@given(TEXTS, TEXTS)
def test_git_takes_every_diff(before: str, after: str) -> None:
    assume(before != after and before and after)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.py")
        path.write_bytes(before.encode())
        patch = one_hunk_diff("a.py", before.encode(), after.encode()).encode()
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", "-"],
            cwd=folder,
            input=patch,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        assert path.read_bytes() == after.encode()


@given(st.sets(st.text(min_size=1, max_size=5), min_size=3, max_size=12), st.integers(0, 9))
def test_packages_for_tests_are_for_nothing_else(packages: set[str], seed: int) -> None:
    out = held_out(packages, seed)
    assert out and out < packages
    for package in packages:
        splits = {split_of(package, "a.py", f"f{number}", seed, out) for number in range(200)}
        assert splits == ({"test"} if package in out else {"train", "eval"})


def test_few_packages_are_split_by_function() -> None:
    assert held_out({"one", "two"}, 0) == frozenset()
    drawn = Counter(split_of("one", "a.py", f"f{number}", 0, ()) for number in range(600))
    assert set(drawn) == set(SPLITS) and drawn["train"] > 300


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS)
def test_a_diff_of_tests_adds_them_and_is_undone(visible: str, hidden: str) -> None:
    assume(visible != hidden)
    before, after = {"t/a.py": visible.encode()}, {"t/a.py": hidden.encode()}
    diff = diff_of_tests(before, after)
    assert apply_diff(before, diff) == after
    assert apply_diff(after, diff, reverse=True) == before
