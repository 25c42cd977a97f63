"""Diffs applied to contents: exactly, forwards and backwards, or not at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.envs.swe.tasks.git import DiffError, apply_diff, reversed_diff, touched

lines = st.lists(
    st.sampled_from(["a\n", "b\n", "\n", "c c\n", "d\r\n", "-- x\n", "++ y\n"]), max_size=12
)
ends = st.sampled_from(["", "last", "\r"])


def git(folder: Path, *words: str) -> str:
    options = ["-c", "core.autocrlf=false", "-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *options, *words], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode()


@settings(max_examples=60, deadline=None)
@given(lines, ends, lines, ends, st.integers(0, 3))
def test_diffs_apply_and_are_undone(
    tmp_path_factory: pytest.TempPathFactory,
    old: list[str],
    old_end: str,
    new: list[str],
    new_end: str,
    context: int,
) -> None:
    before, after = ("".join(old) + old_end).encode(), ("".join(new) + new_end).encode()
    if before == after:
        return
    folder = tmp_path_factory.mktemp("diff")
    git(folder, "init", "-q")
    (folder / "a").write_bytes(before)
    git(folder, "add", ".")
    (folder / "a").write_bytes(after)
    diff = git(folder, "diff", f"-U{context}")
    assert apply_diff({"a": before}, diff) == {"a": after}
    assert apply_diff({"a": after}, diff, reverse=True) == {"a": before}
    assert apply_diff({"a": after}, reversed_diff(diff)) == {"a": before}
    assert reversed_diff(reversed_diff(diff)) == diff


def test_files_come_go_and_move(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    before = {name: f"{name}\n1\n2\n3\n4\n5\n".encode() for name in ("d/changed", "gone", "moved")}
    after = {
        "d/changed": b"other\n1\n2\n3\n4\n5\n-- a/changed\n++ b/changed\n",
        "there": before["moved"],
        "new": b"",
    }
    (tmp_path / "d").mkdir()
    for tree in (before, after):
        for name in {*before, *after} - set(tree):
            (tmp_path / name).unlink(missing_ok=True)
        for name, content in tree.items():
            (tmp_path / name).write_bytes(content)
        git(tmp_path, "add", "-A")
        if tree is before:
            git(tmp_path, "commit", "-q", "-m", "x")
    diff = git(tmp_path, "diff", "--cached", "-M")
    assert apply_diff(before, diff) == after
    assert apply_diff(after, diff, reverse=True) == before
    assert touched(diff) > {"d/changed", "gone", "moved", "there"}


DIFF = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n+2\n"


@pytest.mark.parametrize(
    ("content", "diff"),
    {
        "other content": (b"3\n", DIFF),
        "another place": (b"0\n1\n", DIFF),
        "no diff": (b"1\n", "hello\n"),
        "outside": (b"1\n", DIFF.replace("x\n", "../x\n")),
        "a link": (
            b"1\n",
            "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n"
            "@@ -0,0 +1 @@\n+/etc/passwd\n\\ No newline at end of file\n",
        ),
    }.values(),
    ids=["content", "place", "none", "outside", "link"],
)
def test_what_does_not_apply_exactly_is_refused(content: bytes, diff: str) -> None:
    with pytest.raises(DiffError):
        apply_diff({"x": content}, diff)
