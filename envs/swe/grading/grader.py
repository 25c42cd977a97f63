"""Grades a patch: a fresh sandbox, the patch, the hidden tests, what they come to.

What is defended:

- The patch is judged by its effect, not by its text: it is applied, and git lists the paths that
  differ. Changes of tests, conftest files, settings of the test runner, start-up files and modules
  that shadow tools are undone before the tests run.
- Hidden tests come after the patch. They and their folders belong to root; tests run as the agent.
- What tests came to is told on a stream that leads out of the sandbox (`sessions.py`). It must hold
  every test, and every canary (`canaries.py`) with its known outcome.
- FAIL_TO_PASS tests, and a sample of the others, also run in processes of their own, as they are
  and as copies that have to fail (`plan.py`): what lets failures pass lets copies pass.
- The test runner must be the same in memory afterwards (`witness.py`).

docs/swe_grading.md says what is not defended.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from random import Random

from aem_gym.envs.swe.grading.judge import Findings, Setting, examine
from aem_gym.envs.swe.grading.reference import keep_deviations, known_deviations
from aem_gym.envs.swe.grading.sessions import plugin_name, plugin_source
from aem_gym.envs.swe.sandbox.base import (
    AGENT,
    HOME,
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
_TRIES = 3
"""Gradings of a gold patch at most, until all is known of it that an answer may show too."""
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
rm -rf {STORE}/tree
tar -x -f - -C {STORE} --no-same-owner
home=$1 plugin=$2 clean=$3
shift 3
[ ! "$clean" ] || find /tmp /var/tmp /dev/shm {HOME} -mindepth 1 -user {AGENT} -delete \\
    2> /dev/null || true
[ ! "$home" ] || {{ mkdir -p "$home"; cp {STORE}/"$plugin".py "$home"/; }}
cd {WORKDIR}
[ ! -s {STORE}/test.patch ] \\
    || GIT_CONFIG_GLOBAL=/dev/null git --git-dir={STORE}/git --work-tree=. \\
        -c safe.directory='*' apply --whitespace=nowarn {STORE}/test.patch
[ ! -d {STORE}/tree ] || cp -r --remove-destination --no-preserve=mode {STORE}/tree/. .
rm -f /tmp/answer.*
guard() {{ chown root:root "$@"; chmod go-w "$@"; }}
for path in "$@"; do
    path=$(dirname "$path")
    [ "$path" = . ] || {{ chown -R root:root "$path"; chmod -R go-w "$path"; }}
    rm -rf "$path/__pycache__"
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

    `random` draws what is asked; by default the system does, so that nobody can guess it. With
    `run_empty` the tests run even if the patch is empty, to check that the task needs one.

    Raises:
        SandboxError: grading itself failed, which says nothing about the patch.
    """
    reason = unfit(patch)
    if reason and not (run_empty and not patch.strip()):
        return Verdict(False, _tests(task), reason)
    limits = replace(limits or Limits(), output_bytes=OUTPUT_BYTES)
    draw = random or secrets.SystemRandom()
    for _ in range(_TRIES if patch == task.gold else 1):
        seed = draw.getrandbits(64)
        graded = _grade(engine, task, patch, limits, seed)
        if isinstance(graded, Verdict):
            return graded
        verdict, findings = graded
        new = findings.deviations - known_deviations(task)
        if patch != task.gold or findings.reason or not new:
            break
        keep_deviations(task, new)
        # A test that fails alone and no other way is known for it now, and judged otherwise.
        if not {f"alone {test}" for test in findings.failed} & new:
            break
    return _weigh(engine, task, verdict, findings, limits, seed)


def _weigh(
    engine: SandboxEngine,
    task: SweTask,
    verdict: Verdict,
    findings: Findings,
    limits: Limits,
    seed: int,
) -> Verdict:
    """A verdict of the tests, or a worse one for deviations that the gold patch has not."""
    odd = findings.deviations - known_deviations(task)
    if not verdict.resolved or not odd:
        return verdict
    reference = _grade(engine, task, task.gold, limits, seed)
    if not isinstance(reference, Verdict):
        keep_deviations(task, reference[1].deviations)
        odd -= reference[1].deviations
    return replace(verdict, resolved=False, reason=_doubt(odd)) if odd else verdict


def _doubt(odd: frozenset[str]) -> str:
    shown = ", ".join(sorted(odd)[:3])
    what = f"{len(odd)} things are not as with the gold patch: {shown}"
    return f"the report is not to be believed: {what}"


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
    engine: SandboxEngine, task: SweTask, patch: str, limits: Limits, seed: int
) -> Verdict | tuple[Verdict, Findings]:
    """A verdict that the tests had no part in, or one with what they came to."""
    sandbox = engine.start(SandboxSpec(engine.image(task.image), limits))
    try:
        workspace = prepare(sandbox, task)
        tests, hidden = _tests(task), _hidden(task)
        ignored: tuple[Change, ...] = ()
        if patch.strip():
            placed = _place(sandbox, workspace, task, patch)
            if isinstance(placed, Verdict):
                return placed
            patch, ignored = placed
        setting = _set_up(sandbox, task, hidden, clean=engine.isolates)
        findings = examine(setting, Random(seed), known_deviations(task))
    finally:
        sandbox.close()
    paths = tuple(change.path for change in ignored)
    resolved = not findings.failed and not findings.reason
    failed = tuple(test for test in tests if test in findings.failed)
    return Verdict(resolved, failed, findings.reason, patch, paths), findings


def _place(
    sandbox: Sandbox, workspace: Workspace, task: SweTask, patch: str
) -> Verdict | tuple[str, tuple[Change, ...]]:
    """Apply a patch, and undo what does not count: the patch as graded, and what was undone."""
    tests = _tests(task)
    if said := _apply(sandbox, patch):
        return Verdict(False, tests, f"the patch does not apply: {said}", patch)
    listing = stage(sandbox, workspace, _LIST)
    if listing.exit_code != 0 or listing.elided:
        return Verdict(False, tests, "the patch leaves a tree that git cannot read", patch)
    changes = read_changes(listing.output)
    kept, ignored = split_changes(changes, touched(task.gold), _hidden(task))
    if not kept:
        paths = tuple(change.path for change in ignored)
        return Verdict(False, tests, "the patch changes nothing that it may", "", paths)
    if ignored:
        _put_back(sandbox, workspace, ignored)
        patch = take_patch(sandbox, workspace)
    return patch, ignored


def _set_up(sandbox: Sandbox, task: SweTask, hidden: tuple[str, ...], *, clean: bool) -> Setting:
    """Write the hidden tests and the plug-in."""
    plugin, home = plugin_name(), f"/tmp/{plugin_name()}"
    texts = dict(task.hidden)
    if task.test_patch:  # it changes files that only the image holds
        _lay(sandbox, task, {}, hidden, home="", clean=False)

    def lay(files: Mapping[str, bytes]) -> None:
        every = {**texts, **files}
        own = replace(task, test_patch="")
        _lay(sandbox, own, every, (*hidden, *files), home=home, plugin=plugin, clean=clean)

    def read(path: str) -> bytes:
        return texts[path] if path in texts else sandbox.read(f"{WORKDIR}/{path}", user=0)

    return Setting(sandbox, task, hidden, lay, read, home, plugin)


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


def _lay(
    sandbox: Sandbox,
    task: SweTask,
    files: Mapping[str, bytes],
    paths: Sequence[str],
    *,
    home: str,
    plugin: str = "",
    clean: bool,
) -> None:
    """Write the hidden tests and the plug-in where the agent cannot change them.

    With `clean` what the agent's processes left in temporary places is removed.
    """
    content = below("tree", files)
    content["test.patch"] = task.test_patch.encode("utf-8", "surrogateescape")
    content[f"{plugin or 'none'}.py"] = plugin_source()
    words = [home, plugin, "clean" if clean else "", *dict.fromkeys(paths)]
    ran = sandbox.execute(["/bin/sh", "-c", _LAY, "sh", *words], SECONDS, stdin=archive(content))
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
