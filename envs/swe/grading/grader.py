"""Whether a patch mends a task: a fresh sandbox, the patch, the hidden tests, their report.

What is defended:

- The patch is judged by what it changes (`patches.py`); tests, conftest files, settings of the
  test runner, start-up files and modules that shadow tools are put back before the tests run.
- Hidden tests come after the patch. They and their folders belong to root; tests run as the agent.
- The report lies under a name drawn for this run. It has to hold every test of the task, and every
  canary (`canaries.py`) with the outcome it must have; the exit code has to say that tests failed,
  because canaries did. `os._exit(0)`, printed lines, a hook that turns failures into passes and a
  report written from a list of names all break one of these.

What is not: code under test runs in the same process as the test runner. A patch written against
this very file, that finds out at run time which tests are canaries and bends the others, is not
told from a solution; nor is an `__eq__` that always agrees, where the tests believe it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from aem_gym.envs.swe.grading.canaries import draw_canaries
from aem_gym.envs.swe.grading.patches import Change, read_changes, split_changes, touched
from aem_gym.envs.swe.grading.testrun import passes, run_tests
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

_OUTPUT_BYTES = 20_000_000
"""Of the tests; runners without a report are read by their output."""

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

# Hidden tests, their folders, and the files of all folders above them become root's.
_LAY = f"""
set -e
umask 022
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

    Args:
        engine: starts the sandbox.
        task: with its hidden tests.
        patch: the answer, a diff.
        limits: of the sandbox.
        random: draws canaries; by default one that nobody can guess.
        run_empty: run the tests even if the patch is empty, to see whether the task needs one.

    Raises:
        SandboxError: grading itself failed; nothing is said about the patch.
    """
    reason = unfit(patch)
    if reason and not (run_empty and not patch.strip()):
        return Verdict(False, _tests(task), reason)
    limits = replace(limits or Limits(), output_bytes=_OUTPUT_BYTES)
    sandbox = engine.start(SandboxSpec(engine.image(task.image), limits))
    try:
        workspace = prepare(sandbox, task)
        return _grade(sandbox, workspace, task, patch, random or secrets.SystemRandom())
    finally:
        sandbox.close()


def unfit(patch: str) -> str:
    """Why a patch need not be tried; empty: it has to be."""
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
        if told := _apply(sandbox, patch):
            return Verdict(False, tests, f"the patch does not apply: {told}", patch)
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
    """Apply a patch as the agent; returns what git said if it does not."""
    content = patch if patch.endswith("\n") else patch + "\n"
    data = content.encode("utf-8", "surrogateescape")
    ran = sandbox.execute(["/bin/sh", "-c", _APPLY], SECONDS, user=AGENT, stdin=data)
    if ran.exit_code == 0:
        return ""
    if ran.exit_code == 3:
        raise SandboxError(f"a patch could not be written in a fresh sandbox ({end_of(ran)})")
    return ran.output.strip()[:300] or end_of(ran)


def _put_back(sandbox: Sandbox, workspace: Workspace, ignored: tuple[Change, ...]) -> None:
    """Undo the changes a patch may not make."""
    lists = {
        "ignored": "".join(f"{change.path}\0" for change in ignored),
        "back": "".join(f"{change.path}\0" for change in ignored if not change.added),
    }
    files = {name: text.encode("utf-8", "surrogateescape") for name, text in lists.items()}
    ran = stage(sandbox, workspace, _PUT_BACK, stdin=archive(files))
    if ran.exit_code != 0:
        raise SandboxError(f"changes of tests could not be undone ({end_of(ran)})")


def _lay(sandbox: Sandbox, task: SweTask, files: Mapping[str, bytes], paths: Sequence[str]) -> None:
    """Put the hidden tests in their place, out of the agent's reach."""
    content = below("tree", files)
    content["test.patch"] = task.test_patch.encode("utf-8", "surrogateescape")
    argv = ["/bin/sh", "-c", _LAY, "sh", *paths]
    ran = sandbox.execute(argv, SECONDS, stdin=archive(content))
    if ran.exit_code != 0 or not ran.output.rstrip().endswith("laid"):
        raise SandboxError(
            f"{task.task_id}: its hidden tests cannot be put in place ({end_of(ran)}). "
            "Is the image of another version? Build it anew: python -m aem_gym.envs.swe.images"
        )


def _tests(task: SweTask) -> tuple[str, ...]:
    return (*task.fail_to_pass, *task.pass_to_pass)


def _hidden(task: SweTask) -> tuple[str, ...]:
    """The paths of hidden tests: no patch may bring them."""
    return tuple(sorted({*task.hidden, *touched(task.test_patch)}))
