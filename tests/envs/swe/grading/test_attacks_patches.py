"""Patches of every bad kind: a verdict that says why, never an error, and never resolved."""

from __future__ import annotations

import pytest

from aem_gym.envs.swe.workspace import MAX_PATCH_BYTES
from tests.envs.swe.swe_bench import GOLD, Bench

pytestmark = pytest.mark.docker


def new_file(path: str, content: str = "x", mode: str = "100644") -> str:
    return (
        f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n"
        f"@@ -0,0 +1 @@\n+{content}\n"
    )


NEVER_TRIED = {
    "empty": ("", "empty"),
    "blank": (" \n\n", "empty"),
    "50 MB": (GOLD + "#" * 50_000_000, "too large"),
    "just too large": (GOLD + "#" * (MAX_PATCH_BYTES - len(GOLD) + 1), "too large"),
    "NUL": (GOLD + "\0", "NUL"),
}
DOES_NOT_APPLY = {
    "garbage": "please resolve this task\n",
    "of another file": GOLD.replace("calc.py", "other.py"),
    "of other lines": GOLD.replace("return a - b", "return a * b * b"),
    "cut off": GOLD[: GOLD.index("+    return")],
    "absolute": GOLD.replace("a/calc.py", "/testbed/calc.py").replace("b/calc.py", "/etc/passwd"),
    "upwards": new_file("../../etc/owned"),
    "into .git": new_file(".git/hooks/post-checkout", "#!/bin/sh"),
    "through a link": new_file("out", "/etc", "120000") + new_file("out/owned"),
    "not UTF-8": GOLD.replace("a - b", "a \udce9 b"),
    "binary, damaged": "diff --git a/calc.py b/calc.py\nGIT binary patch\nliteral 3\nKcmY\n\n",
    "an ed script": "--- calc.py\n+++ calc.py\n1!touch /testbed/owned\n.\nw\nq\n",
}
CHANGES_NOTHING_THAT_COUNTS = {
    "link out of the tree": new_file("out", "/etc/passwd", "120000"),
    "submodule": "diff --git a/sub b/sub\nnew file mode 160000\n--- /dev/null\n+++ b/sub\n"
    "@@ -0,0 +1 @@\n+Subproject commit 1111111111111111111111111111111111111111\n",
    "mode": "diff --git a/calc.py b/calc.py\nold mode 100644\nnew mode 100755\n",
    "tests only": new_file("tests/test_other.py", "def test_add_secret(): pass"),
    "rename of a test": "diff --git a/tests/test_calc.py b/tests/test_new.py\n"
    "similarity index 100%\nrename from tests/test_calc.py\nrename to tests/test_new.py\n",
}


@pytest.mark.parametrize("kind", NEVER_TRIED)
def test_is_refused_at_once(bench: Bench, kind: str) -> None:
    patch, reason = NEVER_TRIED[kind]
    verdict = bench.grade(patch)
    assert not verdict.resolved
    assert reason in verdict.reason


@pytest.mark.parametrize("kind", DOES_NOT_APPLY)
def test_does_not_apply(bench: Bench, kind: str) -> None:
    verdict = bench.grade(DOES_NOT_APPLY[kind])
    assert not verdict.resolved
    assert "does not apply" in verdict.reason


@pytest.mark.parametrize("kind", CHANGES_NOTHING_THAT_COUNTS)
def test_changes_nothing_that_counts(bench: Bench, kind: str) -> None:
    verdict = bench.grade(CHANGES_NOTHING_THAT_COUNTS[kind])
    assert not verdict.resolved
    assert verdict.reason or verdict.failed


# No git applies a patch with a submodule that is not there, so that one costs the answer.
@pytest.mark.parametrize("kind", sorted(CHANGES_NOTHING_THAT_COUNTS.keys() - {"submodule"}))
def test_what_does_not_count_costs_no_honest_answer(bench: Bench, kind: str) -> None:
    verdict = bench.grade(GOLD + CHANGES_NOTHING_THAT_COUNTS[kind])
    assert verdict.resolved, verdict


def test_line_ends_of_windows_are_forgiven(bench: Bench) -> None:
    assert bench.grade(GOLD.replace("\n", "\r\n")).resolved


def test_a_text_says_one_path_and_does_another(bench: Bench) -> None:
    hook = "def pytest_runtest_makereport(item, call): raise SystemExit(0)"
    patch = new_file("conftest.py", hook).replace("diff --git a/conftest.py b/conftest.py", "")
    verdict = bench.grade(f"diff --git a/good.py b/good.py\n{patch}")
    assert not verdict.resolved


def test_the_gold_patch_resolves(bench: Bench) -> None:
    verdict = bench.grade(GOLD)
    assert verdict.resolved
    assert verdict.failed == ()
    assert verdict.patch == GOLD
