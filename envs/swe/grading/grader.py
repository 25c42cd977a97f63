"""Grades a patch: a fresh sandbox, the patch, the hidden tests, their report.

What is defended:

- The patch is judged by its effect, not by its text: it is applied, and git lists the paths that
  differ. Changes of tests, conftest files, settings of the test runner, start-up files and modules
  that shadow tools are undone before the tests run.
- Hidden tests come after the patch. They and their folders belong to root; tests run as the agent.
- The report has a random name. It must hold every test of the task, and every canary (`testrun.py`)
  with its known outcome; the exit code must report failures, because some canaries fail.
  `os._exit(0)`, printed lines, a hook that turns failures into passes and a report written from a
  list of names all violate one of these.

What is not defended: code under test runs in the process of the test runner. A patch written
against this very file, which finds out at run time which tests are canaries and changes the
results of the others, passes for a solution; so does an `__eq__` that always agrees, where the
tests use it.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from random import Random

from aem_gym.envs.swe.grading.testrun import draw_canaries, passes, run_tests
from aem_gym.envs.swe.sandbox.base import (
    AGENT,
    STORE,
    WORKDIR,
    Limits,
    Sandbox,
    SandboxEngine,
    SandboxError,
    SandboxSpec,
)
from aem_gym.envs.swe.tasks.base import SweTask, Verdict
from aem_gym.envs.swe.tasks.git import touched, unquote
from aem_gym.envs.swe.workspace import (
    MAX_PATCH_BYTES,
    SECONDS,
    Workspace,
    archive,
    below,
    end_of,
    prepare,
    stage,
    take_patch,
)

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
OUTPUT_BYTES = 20_000_000
"""Output of the tests that is kept; it is parsed for runners without a report."""

# First as strictly as git does, then as leniently as SWE-bench's harness.
_APPLY = f"""
cd {WORKDIR} && umask 022 && cat > /tmp/answer.patch || exit 3
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
git -c core.hooksPath=/dev/null apply --whitespace=nowarn /tmp/answer.patch && exit 0
touch /tmp/answer.stamp
patch --batch --forward --fuzz=5 -p1 -i /tmp/answer.patch > /dev/null 2>&1 || exit 1
[ -z "$(find .git -cnewer /tmp/answer.stamp 2> /dev/null)" ] || exit 1
"""
_LIST = 'git diff --cached --raw --no-abbrev --no-renames --ignore-submodules=none "$TREE"'

_PUT_BACK = f"""
set -e
tar -x -f - -C {STORE} --no-same-owner
xargs -0 -r rm -rf -- < {STORE}/ignored
cp {STORE}/index $GIT_INDEX_FILE
git checkout-index -f -z --stdin < {STORE}/back
xargs -0 -r chown -h {AGENT}:{AGENT} -- < {STORE}/back
"""

# Hidden tests, their folders, and the files of all folders above them then belong to root.
_LAY = f"""
set -e
umask 022
mkdir -p {STORE}/tree
tar -x -f - -C {STORE} --no-same-owner
cd {WORKDIR}
[ ! -s {STORE}/test.patch ] \\
    || GIT_CONFIG_GLOBAL=/dev/null git --git-dir={STORE}/git --work-tree=. \\
        -c safe.directory='*' apply --whitespace=nowarn {STORE}/test.patch
cp -r --remove-destination --no-preserve=mode {STORE}/tree/. .
rm -f /tmp/answer.*
guard() {{ chown root:root "$@"; chmod go-w "$@"; }}
for path in "$@"; do
    path=$(dirname "$path")
    [ "$path" = . ] || {{ chown -R root:root "$path"; chmod -R go-w "$path"; }}
    while guard "$path" && [ "$path" != . ]; do
        path=$(dirname "$path")
        find "$path" -maxdepth 1 -type f -exec chown root:root {{}} + -exec chmod go-w {{}} +
    done
done
echo laid
"""


def grade(
    engine: SandboxEngine,
    task: SweTask,
    patch: str,
    *,
    limits: Limits | None = None,
    random: Random | None = None,
    run_empty: bool = False,
) -> Verdict:
    """Grade a patch in a sandbox of its own.

    `random` draws the canaries; by default the system does, so that nobody can guess them. With
    `run_empty` the tests run even if the patch is empty, to check that the task needs one.

    Raises:
        SandboxError: grading itself failed, which says nothing about the patch.
    """
    reason = unfit(patch)
    if reason and not (run_empty and not patch.strip()):
        return Verdict(False, _tests(task), reason)
    limits = replace(limits or Limits(), output_bytes=OUTPUT_BYTES)
    sandbox = engine.start(SandboxSpec(engine.image(task.image), limits))
    try:
        workspace = prepare(sandbox, task)
        return _grade(sandbox, workspace, task, patch, random or secrets.SystemRandom())
    finally:
        sandbox.close()


def unfit(patch: str) -> str:
    """The reason to reject a patch without a run; empty if there is none."""
    if not patch.strip():
        return "the patch is empty"
    size = len(patch.encode("utf-8", "surrogatepass"))
    if size > MAX_PATCH_BYTES:
        return f"the patch is too large: {size:,} bytes, at most {MAX_PATCH_BYTES:,} are read"
    if "\0" in patch:
        return "the patch is no text: it has NUL bytes"
    return ""


def _grade(
    sandbox: Sandbox, workspace: Workspace, task: SweTask, patch: str, random: Random
) -> Verdict:
    tests, hidden = _tests(task), _hidden(task)
    ignored: tuple[Change, ...] = ()
    if patch.strip():
        if said := _apply(sandbox, patch):
            return Verdict(False, tests, f"the patch does not apply: {said}", patch)
        listing = stage(sandbox, workspace, _LIST)
        if listing.exit_code != 0 or listing.elided:
            return Verdict(False, tests, "the patch leaves a tree that git cannot read", patch)
        kept, ignored = split_changes(read_changes(listing.output), touched(task.gold), hidden)
        paths = tuple(change.path for change in ignored)
        if not kept:
            return Verdict(False, tests, "the patch changes nothing that it may", "", paths)
        if ignored:
            _put_back(sandbox, workspace, ignored)
            patch = take_patch(sandbox, workspace)
    canaries = draw_canaries(task, hidden, random)
    _lay(sandbox, task, {**task.hidden, **canaries.files}, (*hidden, *canaries.files))
    run = run_tests(sandbox, task, canaries, f"/tmp/{random.getrandbits(64):016x}")
    failed = tuple(test for test in tests if not passes(test, run.statuses))
    ignored_paths = tuple(change.path for change in ignored)
    return Verdict(not failed and not run.reason, failed, run.reason, patch, ignored_paths)


def _apply(sandbox: Sandbox, patch: str) -> str:
    """Apply a patch as the agent; returns git's message if it does not apply."""
    content = patch if patch.endswith("\n") else patch + "\n"
    data = content.encode("utf-8", "surrogateescape")
    ran = sandbox.execute(["/bin/sh", "-c", _APPLY], SECONDS, user=AGENT, stdin=data)
    if ran.exit_code == 0:
        return ""
    if ran.exit_code == 3:
        raise SandboxError(f"a patch could not be written in a fresh sandbox ({end_of(ran)})")
    return ran.output.strip()[:300] or end_of(ran)


def _put_back(sandbox: Sandbox, workspace: Workspace, ignored: tuple[Change, ...]) -> None:
    """Undo the changes that do not count."""
    lists = {
        "ignored": "".join(f"{change.path}\0" for change in ignored),
        "back": "".join(f"{change.path}\0" for change in ignored if not change.added),
    }
    files = {name: text.encode("utf-8", "surrogateescape") for name, text in lists.items()}
    ran = stage(sandbox, workspace, _PUT_BACK, stdin=archive(files))
    if ran.exit_code != 0:
        raise SandboxError(f"changes of tests could not be undone ({end_of(ran)})")


def _lay(sandbox: Sandbox, task: SweTask, files: Mapping[str, bytes], paths: Sequence[str]) -> None:
    """Write the hidden tests where the agent cannot change them."""
    content = below("tree", files)
    content["test.patch"] = task.test_patch.encode("utf-8", "surrogateescape")
    argv = ["/bin/sh", "-c", _LAY, "sh", *paths]
    ran = sandbox.execute(argv, SECONDS, stdin=archive(content))
    if ran.exit_code != 0 or not ran.output.rstrip().endswith("laid"):
        raise SandboxError(
            f"{task.task_id}: its hidden tests cannot be written ({end_of(ran)}). "
            "Is the image of another version? Remove it, so that it is built again: aem-gym swe "
            "images prune"
        )


def _tests(task: SweTask) -> tuple[str, ...]:
    return (*task.fail_to_pass, *task.pass_to_pass)


def _hidden(task: SweTask) -> tuple[str, ...]:
    """The paths of hidden tests, which no patch may create, and of tests that the image has."""
    return tuple(sorted({*task.hidden, *touched(task.test_patch), *task.shipped_tests}))


@dataclass(frozen=True, slots=True)
class Change:
    """A path that differs from the base."""

    path: str
    mode: str
    """Git's current mode of it; `000000`: deleted."""
    added: bool
    """It is new."""


def read_changes(listing: str) -> tuple[Change, ...]:
    """The changes of `git diff --raw`, without renames."""
    changes = []
    for line in listing.splitlines():
        meta, tab, path = line.partition("\t")
        fields = meta.split()
        if tab and len(fields) == 5 and fields[0].startswith(":"):
            changes.append(Change(unquote(path), fields[1], fields[0] == ":000000"))
    return tuple(changes)


def split_changes(
    changes: Iterable[Change], gold: Iterable[str], hidden: Iterable[str]
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """(changes that count, changes that are undone).

    `gold` are paths that the gold patch touches, which a patch may change; `hidden` are paths of
    hidden tests, which it never may.
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
    """Whether a path is a hidden test, or a file where its folder has to be."""
    return path in secret or any(other.startswith(path + "/") for other in secret)


def _is_test_folder(path: str) -> bool:
    return bool(_TEST_FOLDERS & set(PurePosixPath(path).parts[:-1]))


def _bends(change: Change) -> bool:
    """Whether a change could alter the results of tests, wherever they are."""
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
    """Whether a new file would be imported instead of pytest, its helpers or the library."""
    top = parts[1] if parts[0] in ("src", "lib") and len(parts) > 1 else parts[0]
    name = top.partition(".")[0]
    return name in _TOOLS or name in sys.stdlib_module_names
