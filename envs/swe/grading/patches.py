"""What a patch may change.

Judged by what it does, not by what it says: the patch is applied, git lists the paths that differ,
and those that could bend the tests are put back. So no trick of the diff's text helps.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

_TEST_FILE = re.compile(r"(test_[^/]*|[^/]*_tests?|tests?)\.py|conftest\.py")
_TEST_FOLDERS = frozenset({"tests", "test", "testing"})
_SETTINGS = frozenset(
    ["pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg"]
    + ["pyproject.toml", "noxfile.py", "runtests.py", ".coveragerc"]
)
_START = frozenset({"sitecustomize.py", "usercustomize.py"})
_RUNNERS = frozenset({"bin/test", "bin/doctest"})
_LINK, _MODULE = "120000", "160000"
_TOOLS = frozenset(
    ["pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "xdist"]
    + ["hypothesis", "exceptiongroup", "tomli", "attr", "attrs", "sitecustomize", "usercustomize"]
)


@dataclass(frozen=True, slots=True)
class Change:
    """A path that differs from the base."""

    path: str
    mode: str
    """Git's mode of it now; `000000`: it is gone."""
    added: bool
    """It was not there before."""


def read_changes(listing: str) -> tuple[Change, ...]:
    """The changes of `git diff --raw`, without renames."""
    changes = []
    for line in listing.splitlines():
        meta, tab, path = line.partition("\t")
        fields = meta.split()
        if tab and len(fields) == 5 and fields[0].startswith(":"):
            changes.append(Change(_unquote(path), fields[1], fields[0] == ":000000"))
    return tuple(changes)


def touched(patch: str) -> frozenset[str]:
    """The paths a trusted patch (gold, or of hidden tests) names."""
    named: set[str] = set()
    for line in patch.splitlines():
        if line.startswith(("--- ", "+++ ", "rename from ", "rename to ")):
            path = _unquote(line.split(" ", 2 if line.startswith("rename") else 1)[-1].strip())
            named.add(path if line.startswith("rename") else path.partition("/")[2])
    return frozenset(named - {"dev/null", "null", ""})


def split_changes(
    changes: Iterable[Change], gold: Iterable[str], hidden: Iterable[str]
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """(what may stay, what is put back).

    Args:
        changes: what a patch does.
        gold: paths the true solution touches, which are therefore free.
        hidden: paths of hidden tests, which never are.
    """
    free, secret = frozenset(gold), frozenset(hidden)
    folders = {str(PurePosixPath(path).parent) for path in secret if _is_test_folder(path)}
    kept: list[Change] = []
    ignored: list[Change] = []
    for change in changes:
        inside = any(change.path.startswith(folder + "/") for folder in folders)
        bends = _hides(change.path, secret) or (
            change.path not in free and (inside or _bends(change))
        )
        (ignored if bends else kept).append(change)
    return tuple(kept), tuple(ignored)


def _hides(path: str, secret: frozenset[str]) -> bool:
    """Whether a path is a hidden test, or stands in its way."""
    return path in secret or any(other.startswith(path + "/") for other in secret)


def _is_test_folder(path: str) -> bool:
    return bool(_TEST_FOLDERS & set(PurePosixPath(path).parts[:-1]))


def _bends(change: Change) -> bool:
    """Whether a change could bend what tests say, wherever the task's tests are."""
    path = PurePosixPath(change.path)
    parts = path.parts
    return (
        change.mode in (_LINK, _MODULE)
        or ".git" in parts
        or bool(_TEST_FILE.fullmatch(path.name))
        or parts[0] in _TEST_FOLDERS
        or "tests" in parts[:-1]
        or path.name in _SETTINGS | _START
        or str(path) in _RUNNERS
        or path.suffix in (".pth", ".pyc", ".egg-link")
        or any(part.endswith((".egg-info", ".dist-info")) for part in parts)
        or (change.added and _shadows(parts))
    )


def _shadows(parts: tuple[str, ...]) -> bool:
    """Whether a new file would be imported in place of pytest, its helpers or the library."""
    top = parts[1] if parts[0] in ("src", "lib") and len(parts) > 1 else parts[0]
    name = top.partition(".")[0]
    return name in _TOOLS or name in sys.stdlib_module_names


def _unquote(path: str) -> str:
    """A path as git prints it: in quotes, with escapes, if it is an unusual one."""
    if len(path) < 2 or path[0] != '"' or path[-1] != '"':
        return path
    raw = path[1:-1].encode("ascii", "replace").decode("unicode_escape")
    return raw.encode("latin-1", "replace").decode("utf-8", "surrogateescape")
