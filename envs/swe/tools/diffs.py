"""Unified diffs, read and applied to contents: as strictly as `git apply`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_NO_END = "\\ No newline at end of file"


class DiffError(ValueError):
    """A diff that is none, or that does not fit."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines that go and lines that come in one place, with their ends."""

    start: int
    """The first line of `old` in the file, from 1; with an empty `old`, the line before."""
    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileDiff:
    """What a diff does to one file."""

    before: str
    """Path; empty: the file is new."""
    after: str
    """Path; empty: the file goes."""
    hunks: tuple[Hunk, ...]
    text: bool = True
    """False: a binary file, of which nothing can be told."""
    mode: bool = False
    """Its rights change."""


def read_diff(diff: str) -> list[FileDiff]:
    """The files of a diff, in its order. Raises DiffError."""
    return [_file(part) for part in _parts(lines_of(diff))]


def applied(content: str, hunks: tuple[Hunk, ...]) -> str:
    """A file's content after the hunks of its diff. Raises DiffError: they do not fit."""
    lines = lines_of(content)
    result: list[str] = []
    at = 0
    for hunk in hunks:
        start = hunk.start - 1 if hunk.old else hunk.start
        if start < at or tuple(lines[start : start + len(hunk.old)]) != hunk.old:
            raise DiffError(f"line {hunk.start} is not what the diff says")
        result += [*lines[at:start], *hunk.new]
        at = start + len(hunk.old)
    return "".join([*result, *lines[at:]])


def lines_of(content: str) -> list[str]:
    """The lines of a text with their ends, which are those of git: a line feed alone."""
    return re.findall(r"[^\n]*\n|[^\n]+", content)


def _parts(lines: list[str]) -> Iterator[list[str]]:
    """The lines of each file of a diff, with `diff --git` lines or without."""
    part: list[str] = []
    left = (0, 0)
    for number, line in enumerate(lines):
        inside = left != (0, 0)
        follows = number + 1 < len(lines) and lines[number + 1].startswith("+++ ")
        bare = line.startswith("--- ") and follows and any(ln.startswith("@@ ") for ln in part)
        if not inside and (line.startswith("diff --git ") or bare):
            if part:
                yield part
            part = []
        part.append(line)
        if inside:
            left = (left[0] - (line[0] in " -\n"), left[1] - (line[0] in " +\n"))
        elif found := _HUNK.match(line):
            left = (int(found[2] or 1), int(found[4] or 1))
    if any(line.startswith(("diff --git ", "--- ")) for line in part):
        yield part


def _file(lines: list[str]) -> FileDiff:
    head = [line for line in lines[: _first_hunk(lines)] if line.strip()]
    names = {line[:4]: _path(line[4:]) for line in head if line.startswith(("--- ", "+++ "))}
    moved = {
        line.split(" ", 2)[1]: line.split(" ", 2)[2].strip()
        for line in head
        if line.startswith(("rename from ", "rename to "))
    }
    first = re.match(r"diff --git a/(\S+) b/(\S+)", head[0]) if head else None
    before = moved.get("from") or names.get("--- ", first[1] if first else "")
    after = moved.get("to") or names.get("+++ ", first[2] if first else "")
    if any(line.startswith("new file mode") for line in head):
        before = ""
    if any(line.startswith("deleted file mode") for line in head):
        after = ""
    binary = any(line.startswith(("GIT binary patch", "Binary files ")) for line in lines)
    modes = any(line.startswith(("old mode", "new mode")) for line in head)
    if not (before or after):
        raise DiffError(f"expected the name of a file, got {''.join(lines)[:80]!r}")
    return FileDiff(before, after, tuple(_hunks(lines)), not binary, modes)


def _first_hunk(lines: list[str]) -> int:
    return next((i for i, line in enumerate(lines) if line.startswith("@@ ")), len(lines))


def _path(text: str) -> str:
    name = text.split("\t")[0].strip()
    return "" if name == "/dev/null" else re.sub(r"^[ab]/", "", name)


def _hunks(lines: list[str]) -> Iterator[Hunk]:
    at = _first_hunk(lines)
    while at < len(lines):
        found = _HUNK.match(lines[at])
        if not found:
            at += 1
            continue
        body: list[str] = []
        left = [int(found[2] or 1), int(found[4] or 1)]
        at += 1
        while at < len(lines) and (left != [0, 0] or lines[at].startswith(_NO_END[:2])):
            body.append(lines[at])
            kind = lines[at][0]
            left[0] -= kind in " -\n"
            left[1] -= kind in " +\n"
            at += 1
        yield Hunk(int(found[1]), *_sides(body))


def _sides(body: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What goes and what comes, each with the context that stays."""
    old: list[str] = []
    new: list[str] = []
    touched: tuple[list[str], ...] = ()
    for line in body:
        if line.startswith("\\"):
            for side in touched:
                side[-1] = side[-1].removesuffix("\n")
            continue
        kind, text = (line[0], line[1:]) if line[0] in " +-" else (" ", line)
        touched = {" ": (old, new), "-": (old,), "+": (new,)}[kind]
        for side in touched:
            side.append(text)
    return tuple(old), tuple(new)
