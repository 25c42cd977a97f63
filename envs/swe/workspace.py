"""The repository in a sandbox: prepared before the agent starts; its patch is taken at the end.

The patch is a diff by a git store of our own: its objects, index and settings lie where only root
can write, and are created before the agent's first command. What the agent does to `.git` (hooks,
aliases, fsmonitor, filters, a broken index) is never read. Attributes in the tree are overridden.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from aem_gym.envs.swe.sandbox.base import (
    AGENT,
    STORE,
    WORKDIR,
    CommandResult,
    Sandbox,
    SandboxError,
)
from aem_gym.envs.swe.tasks.base import SweTask

MAX_PATCH_BYTES = 2_000_000
"""Most bytes of a patch."""
MAX_FILE_BYTES = 10_000_000
"""A larger file is not part of a patch (a core dump, a database left behind)."""
SECONDS = 120.0
"""Time limit for preparing a repository, and for taking a patch from it."""

# Without anybody's settings; taking a patch never runs a program of the tree.
_GIT = f"""
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null HOME=/nonexistent LC_ALL=C.UTF-8
export GIT_DIR={STORE}/git GIT_WORK_TREE={WORKDIR} GIT_TERMINAL_PROMPT=0
git() {{ command git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c gc.auto=0 \\
    -c core.excludesFile=/dev/null -c core.checkStat=minimal -c core.trustctime=false \\
    -c safe.directory='*' -c core.autocrlf=false -c core.quotePath=true \\
    -c core.symlinks=true -c core.fileMode=true -c advice.detachedHead=false "$@"; }}
umask 022
cd {WORKDIR}
"""

_STAMP = "2000-01-01T00:00:00Z"
"""The date of the first commit and of all files, so that hashes and listings are constant."""
_LATER = "2000-01-02T00:00:00Z"
"""The date of git's own files: git trusts an index only if it is later than the files."""

# A repository without `.git` gets its first commit here. One with more than one commit is created
# again from its files, so that the agent can look up neither its past nor its future.
_PREPARE = f"""
set -e
mkdir -m 700 {STORE}
mkdir -p {STORE}/in/tree
tar -x -f - -C {STORE}/in --no-same-owner
cd {WORKDIR}
[ "$(stat -c %u .)" = {AGENT} ] || chown -R {AGENT}:{AGENT} .
xargs -0 -r rm -rf -- < {STORE}/in/removed
cp -r --no-preserve=mode {STORE}/in/tree/. . && (cd {STORE}/in/tree && find . -print0) \\
    | xargs -0 -r chown -h {AGENT}:{AGENT} --
if [ -s {STORE}/in/bug.patch ]; then
    rm -rf .git
    GIT_CONFIG_GLOBAL=/dev/null git apply --whitespace=nowarn {STORE}/in/bug.patch
    chown -R {AGENT}:{AGENT} .
fi
rm -rf {STORE}/in
find . -path ./.git -prune -o -print0 | xargs -0 -r touch -h -d {_STAMP} --
commits() {{ git --git-dir=.git -c safe.directory='*' rev-list --all --reflog --count; }}
if [ -e .git ] && [ "$(commits)" != 1 ]; then rm -rf .git; fi
{_GIT}
stamp={_STAMP}
export GIT_AUTHOR_NAME=base GIT_AUTHOR_EMAIL=base@localhost GIT_AUTHOR_DATE="$stamp"
export GIT_COMMITTER_NAME=base GIT_COMMITTER_EMAIL=base@localhost GIT_COMMITTER_DATE="$stamp"
git init -q -b main --template=
mkdir -p $GIT_DIR/info
echo '* -filter diff !text !eol !ident !working-tree-encoding !merge' > $GIT_DIR/info/attributes
if [ -e .git ]; then
    cp -r .git/objects/. $GIT_DIR/objects/
    rm -rf $GIT_DIR/objects/info/alternates
    [ ! -f .git/index ] || cp .git/index $GIT_DIR/index
fi
find . -mindepth 2 -name .git -prune -exec rm -rf {{}} +
git add -A .
tree=$(git write-tree)
if [ ! -e .git ]; then
    commit=$(git commit-tree -m base "$tree" < /dev/null)
    git update-ref refs/heads/main "$commit"
    mkdir .git
    cp -r --preserve=timestamps $GIT_DIR/HEAD $GIT_DIR/objects $GIT_DIR/refs $GIT_DIR/index .git/
    printf '[core]\\n\\trepositoryformatversion = 0\\n\\tfilemode = true\\n\\tbare = false\\n' \\
        > .git/config
    chown -R {AGENT}:{AGENT} .git
fi
find .git -print0 | xargs -0 -r touch -h -d {_LATER} --
touch -d {_STAMP} .
cp -p $GIT_DIR/index {STORE}/index
touch {STORE}/stamp
printf 'tree %s\\n' "$tree"
"""

# Folders with a `.git` of their own and files that are too large are left out by name.
_STAGE = f"""
{_GIT}
export GIT_INDEX_FILE={STORE}/index.now
cp -p {STORE}/index $GIT_INDEX_FILE || exit 1
{{ printf '.\\0'
   find . -mindepth 2 -name .git -prune -printf ':(exclude,top,literal)%h\\0'
   find . -path ./.git -prune -o -type f -size +{MAX_FILE_BYTES}c \\
       -printf ':(exclude,top,literal)%P\\0'
}} | sed -z 's/literal)\\.\\//literal)/' > {STORE}/paths
git add -A --pathspec-from-file={STORE}/paths --pathspec-file-nul || exit 1
"""

_DIFF = (
    "git diff --cached --binary --no-renames --no-ext-diff --no-textconv --no-color "
    "--src-prefix=a/ --dst-prefix=b/ --submodule=short --ignore-submodules=none"
)

# Bytes that are no UTF-8 (a file in latin-1) travel as git's binary patch instead.
_TAKE = f"""
{_DIFF} "$TREE" | head -c {MAX_PATCH_BYTES + 1} > {STORE}/patch
if ! iconv -f UTF-8 -t UTF-8 {STORE}/patch > /dev/null 2>&1 \\
    && [ "$(stat -c %s {STORE}/patch)" -le {MAX_PATCH_BYTES} ]; then
    echo '* -diff' >> $GIT_DIR/info/attributes
    {_DIFF} "$TREE" | head -c {MAX_PATCH_BYTES + 1} > {STORE}/patch
fi
echo taken
"""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A repository that is prepared in a sandbox."""

    tree: str
    """Hash of the tree that the agent starts from, in root's store."""


def prepare(sandbox: Sandbox, task: SweTask) -> Workspace:
    """Write a task's files, and store the base where the agent cannot write.

    A repository without `.git` gets its first commit (with a fixed author and date, so a fixed
    hash); one with more than one commit is reduced to one.

    Raises:
        SandboxError: the sandbox is gone, or its image lacks something.
    """
    ran = shell(sandbox, _PREPARE, stdin=_files(task), timeout=SECONDS)
    words = ran.output.split()
    if ran.exit_code != 0 or len(words) < 2 or words[-2] != "tree":
        raise SandboxError(
            f"{task.task_id}: the repository could not be prepared in {WORKDIR} "
            f"({end_of(ran)}). An image needs git, tar, findutils and a {WORKDIR} that root can "
            "write. Remove it, so that it is built again: aem-gym swe images prune"
        )
    return Workspace(words[-1])


def take_patch(sandbox: Sandbox, workspace: Workspace) -> str:
    """The agent's changes as a diff that `git apply` accepts.

    It includes new files, but not ignored ones. A patch of more than `MAX_PATCH_BYTES` is cut off
    after them, and grading rejects it. If it cannot be taken in time, or git cannot read the tree,
    it is empty: the agent made it so.

    Raises:
        SandboxError: the sandbox is gone.
    """
    sandbox.kill_agent()
    ran = stage(sandbox, workspace, _TAKE)
    if not ran.output.rstrip().endswith("taken"):
        return ""
    content = sandbox.read(f"{STORE}/patch", MAX_PATCH_BYTES + 1, user=0)
    return content.decode("utf-8", errors="replace")


def stage(sandbox: Sandbox, workspace: Workspace, script: str, stdin: bytes = b"") -> CommandResult:
    """Run a script as root with an index of the current tree; `$TREE` is the base."""
    script = f"TREE={shlex.quote(workspace.tree)}\n{_STAGE}\n{script}"
    return shell(sandbox, script, stdin=stdin, timeout=SECONDS)


def shell(
    sandbox: Sandbox, script: str, stdin: bytes = b"", timeout: float = SECONDS
) -> CommandResult:
    """Run a script as root."""
    return sandbox.execute(["/bin/sh", "-c", script], timeout, stdin=stdin)


def archive(files: Mapping[str, bytes], *, owner: int = 0) -> bytes:
    """A tar archive of files by path. Raises ValueError: a path is absolute or leads upwards."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, content in sorted(files.items()):
            if not is_inside(path):
                raise ValueError(f"expected a path in the repository, got {path!r}")
            entry = tarfile.TarInfo(path)
            entry.size, entry.uid, entry.gid = len(content), owner, owner
            entry.mode, entry.mtime = 0o644, 946_684_800
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def below(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same files below a folder. Raises ValueError: a path is absolute or leads upwards."""
    if outside := [path for path in files if not is_inside(path)]:
        raise ValueError(f"expected paths in the repository, got {outside[0]!r}")
    return {f"{folder}/{path}": content for path, content in files.items()}


def is_inside(path: str) -> bool:
    """Whether a relative path stays where it starts, and out of `.git`."""
    parts = PurePosixPath(path).parts
    return bool(parts) and path[0] != "/" and not {"..", ".git"} & set(parts) and "\0" not in path


def _files(task: SweTask) -> bytes:
    """An archive of `tree/` with the overlay, `removed` with paths to delete, and `bug.patch`."""
    removed = b"".join(path.encode() + b"\0" for path in task.removed if is_inside(path))
    bug = task.bug_patch.encode("utf-8", "surrogateescape")
    return archive({"removed": removed, "bug.patch": bug, **below("tree", task.overlay)})


def end_of(ran: CommandResult) -> str:
    """The end of a command in words, for a message."""
    what = "it ran out of time" if ran.timed_out else f"exit code {ran.exit_code}"
    return f"{what}; {ran.output.strip()[-500:]}"
