"""Texts cut down to what a model is to read."""

from __future__ import annotations

import re

_LONGEST_LINE = 2000
# What differs although the same is done: times that test runners took, and how many lines the shell
# has read so far.
_RULED = re.compile(r"^=+ (.*?) in \d+\.\d+s(?: \([^)]*\))? =+$", re.MULTILINE)
_LINE = re.compile(r"^/bin/bash: (?:eval: )?line \d+: ", re.MULTILINE)
_TIMED = re.compile(
    r"^((?:Ran \d+ tests?|(?:\d+ \w+(?:, )?)+|no tests ran)) in \d+\.\d+s(?: \([^)]*\))?$",
    re.MULTILINE,
)


def shortened(text: str, limit: int, *, left_out: int = 0) -> str:
    """Head and tail of a text of more than `limit` characters, and how much is not shown.

    Args:
        text: any.
        limit: most characters of it that are kept.
        left_out: bytes that were left out of it before.
    """
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 2, limit // 2
    gone = len(text) - limit + left_out
    return f"{text[:head]}\n[... {gone:,} characters left out ...]\n{text[len(text) - tail :]}"


def steady(text: str) -> str:
    """What a command prints, without times that pytest and unittest took, or lines of the shell."""
    return _LINE.sub("bash: ", _TIMED.sub(r"\1", _RULED.sub(r"=== \1 ===", text)))


def numbered(lines: list[str], first: int) -> str:
    """Lines with their numbers, as `cat -n` prints them."""
    return "\n".join(f"{number:6}\t{cut(line)}" for number, line in enumerate(lines, first))


def cut(line: str, longest: int = _LONGEST_LINE) -> str:
    """A line, or its beginning."""
    line = line.removesuffix("\r")
    return line if len(line) <= longest else f"{line[:longest]} [... {len(line) - longest:,} more]"


def fitting(lines: list[str], limit: int) -> int:
    """How many lines, from the first, have at most `limit` characters together; at least one."""
    total = 0
    for number, line in enumerate(lines):
        total += min(len(line), _LONGEST_LINE + 20) + 8
        if total > limit:
            return max(1, number)
    return len(lines)


def shown(content: bytes) -> list[str]:
    """The lines of a file, as they can be shown."""
    lines = content.decode("utf-8", "replace").replace("\0", "\ufffd").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
