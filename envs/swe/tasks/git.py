"""Git on this machine: mirrors, checkouts of one commit, and diffs applied to contents."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from aem_gym.envs.swe.images.host import lock_file
from aem_gym.envs.swe.sandbox.base import SandboxError
from aem_gym.errors import ConfigError
from aem_gym.io import atomic_folder, exclusive

_SECONDS = 600
_ENDS = ("", "repo", "repo.git", ".git")
"""Where the git directory is, in the folder of a mirror."""
_DEPTH = 3
_MOST = 2000
"""Folders that are searched for a mirror of an unusual name."""
# The mirror may belong to another user: only its objects are read. A fetch starts a second program
# in it, which needs the setting again.
_SAFE = ("-c", "safe.directory=*")
_BARE_HUNK = re.compile(r"^@@ -\d+(,0 \+|\S* \+\d+,0 )", re.MULTILINE)
"""A hunk without context, whose offset git reports wrongly."""
_UPLOAD = "git -c 'safe.directory=*' upload-pack"


class DiffError(ValueError):
    """A diff is malformed, or does not apply exactly."""


def apply_diff(files: Mapping[str, bytes], diff: str, *, reverse: bool = False) -> dict[str, bytes]:
    """The contents by path after a trusted diff, as git writes it.

    `files` are all files that the diff changes; `reverse` undoes it instead.

    Raises:
        DiffError: it does not apply at the very lines that it names.
    """
    with tempfile.TemporaryDirectory(prefix="aem-diff-") as temporary:
        folder = Path(temporary)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        options = ["--verbose", "--whitespace=nowarn", "--unidiff-zero"]
        data = diff.encode("utf-8", "surrogateescape")
        try:
            said = git(folder, "apply", *options, *["-R"] * reverse, "-", stdin=data).stderr
        except SandboxError as error:
            raise DiffError(str(error)) from error
        found = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
        moved = b"(offset " in said and not _BARE_HUNK.search(diff)
        if moved or any(path.is_symlink() for path in found):
            raise DiffError("it does not apply at the lines that it names")
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def touched(patch: str) -> frozenset[str]:
    """The paths that a trusted diff (gold, or of hidden tests) names."""
    named: set[str] = set()
    for line in patch.splitlines():
        if line.startswith(("--- ", "+++ ", "rename from ", "rename to ")):
            path = unquote(line.split(" ", 2 if line.startswith("rename") else 1)[-1].strip())
            named.add(path if line.startswith("rename") else path.partition("/")[2])
    return frozenset(named - {"dev/null", "null", ""})


_NO_TEST = (
    *(".json", ".png", "csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl", ".yml", ".yaml", ".toml"),
)
"""Files of a hidden patch that hold no tests, by their end."""


def test_files(patch: str) -> list[str]:
    """The test files of a hidden patch in its order, as SWE-bench runs them."""
    named = re.findall(r"^diff --git a/.* b/(.*)$", patch, re.M) or sorted(touched(patch))
    return [path for path in dict.fromkeys(named) if not path.endswith(_NO_TEST)]


def reversed_diff(patch: str) -> str:
    """The diff that undoes a trusted one, as git writes it.

    Raises:
        DiffError: it renames files, changes their modes, or has binary ones.
    """
    if found := _ONE_WAY.search(patch):
        raise DiffError(f"it cannot be reversed: it has a line {found[0].strip()!r}")
    lines, left, right, minus = [], 0, 0, ""
    for line in re.findall(r"[^\n]*\n|[^\n]+", patch):
        mark = line[:1]
        if left > 0 or right > 0 or mark == "\\":  # in a hunk
            left, right = left - (mark not in "+\\"), right - (mark not in "-\\")
            lines.append({"-": "+", "+": "-"}.get(mark, mark) + line[1:])
        elif hunk := _HUNK.match(line):
            left, right = (int(n.partition(",")[2] or 1) for n in hunk.groups()[:2])
            lines.append(f"@@ -{hunk[2]} +{hunk[1]} @@{hunk[3]}")
        elif line.startswith("--- "):
            minus = re.sub(r"^--- a/", "+++ b/", line).replace("--- /dev/", "+++ /dev/")
        elif line.startswith("+++ "):
            lines += [
                re.sub(r"^\+\+\+ b/", "--- a/", line).replace("+++ /dev/", "--- /dev/"),
                minus,
            ]
        else:
            lines.append(_FILE_MODE.sub(_other_mode, _INDEX.sub(r"index \2..\1", line)))
    return "".join(lines)


_ONE_WAY = re.compile(r"^(GIT binary patch|Binary files |rename from |old mode ).*", re.MULTILINE)
_HUNK = re.compile(r"@@ -(\S+) \+(\S+) @@(.*)", re.DOTALL)
_INDEX = re.compile(r"^index (\w+)\.\.(\w+)")
_FILE_MODE = re.compile(r"^(new|deleted) file mode")


def _other_mode(found: re.Match[str]) -> str:
    return "deleted file mode" if found[1] == "new" else "new file mode"


def unquote(path: str) -> str:
    """The path that git prints in quotes, with escapes, if it is unusual."""
    if len(path) < 2 or path[0] != '"' or path[-1] != '"':
        return path
    raw = path[1:-1].encode("ascii", "replace").decode("unicode_escape")
    return raw.encode("latin-1", "replace").decode("utf-8", "surrogateescape")


def find_mirror(mirrors: Path, repo: str) -> Path:
    """The git directory of `owner/name` below a folder of mirrors.

    The usual names (`owner__name.git`, `owner/name`, `owner-name`, `name`, ...) are tried first,
    then the address that a mirror was cloned from, then the letters of its name.

    Raises:
        ConfigError: there is none; the message says how to make it.
    """
    if not mirrors.is_dir():
        raise ConfigError(
            f"mirrors: expected a folder of bare clones, got {mirrors}, which is not a folder"
        )
    owner, name = repo.split("/")
    stems = (*(f"{owner}{sign}{name}" for sign in ("__", "/", "+", "-", "_", ".")), name)
    for stem in (*stems, *map(str.lower, stems)):
        for folder in (mirrors / f"{stem}.git", mirrors / stem):
            if found := _git_directory(folder):
                return found
    found = _search(mirrors, owner, name)
    if found:
        return found
    raise ConfigError(
        f"expected a mirror of {repo} in {mirrors} ({owner}__{name}.git, {owner}/{name}, ...), got "
        f"none. Make one: git clone --mirror https://github.com/{repo} "
        f"{mirrors / f'{owner}__{name}.git'}"
    )


def lacking(mirror: Path, commits: Iterable[str]) -> frozenset[str]:
    """The commits that a mirror does not hold. Raises SandboxError: git cannot read it."""
    wanted = sorted(set(commits))
    asked = "".join(f"{commit}^{{commit}}\n" for commit in wanted).encode()
    said = git(mirror, f"--git-dir={mirror}", "cat-file", "--batch-check", stdin=asked)
    lines = said.stdout.decode(errors="replace").splitlines()
    return frozenset(c for c, line in zip(wanted, lines, strict=True) if " commit " not in line)


def checkout(mirror: Path, commit: str, folder: Path) -> Path:
    """The files of a commit and a `.git` with that commit alone, in `folder`, if not there yet.

    Raises:
        ConfigError: the mirror does not hold the commit.
        OutputError: the folder cannot be written.
    """
    if (folder / ".git").is_dir():
        return folder
    with exclusive(lock_file(str(folder))):
        if not (folder / ".git").is_dir():
            _checkout(mirror, commit, folder)
    return folder


def _checkout(mirror: Path, commit: str, folder: Path) -> None:
    with atomic_folder(folder) as part:
        git(part, "init", "-q", "-b", "main", "--template=")
        source = mirror.resolve().as_uri()
        try:
            git(part, "fetch", "-q", "--depth", "1", "--upload-pack", _UPLOAD, source, commit)
        except SandboxError as error:
            raise ConfigError(
                f"{mirror} does not hold the commit {commit}. Bring it up to date: "
                f"git --git-dir {mirror} fetch --all ({error})"
            ) from error
        git(part, "checkout", "-q", "--detach", commit)
        git(part, "update-ref", "refs/heads/main", commit)
        git(part, "symbolic-ref", "HEAD", "refs/heads/main")
        (part / ".git" / "FETCH_HEAD").unlink(missing_ok=True)


def _git_directory(folder: Path) -> Path | None:
    """The git directory of a bare clone, a work tree, or a folder that holds one; None: no such."""
    for end in _ENDS:
        place = folder / end
        if place.is_file():  # a work tree beside another one: the file says where
            place = _pointed(place)
        if (place / "HEAD").is_file() and (place / "objects").is_dir():
            return place
        if end.startswith("repo") and (place / ".git" / "objects").is_dir():
            return place / ".git"
    return None


def _pointed(file: Path) -> Path:
    """The folder that a `.git` file points to."""
    try:
        said = file.read_text("utf-8", "replace")
        place = file.parent / said.partition("gitdir:")[2].strip()
        common = place / "commondir"
        return place / common.read_text("utf-8").strip() if common.is_file() else place
    except OSError:
        return file


def _search(mirrors: Path, owner: str, name: str) -> Path | None:
    """A mirror of an unusual name: by its address, else its whole name, else its last part."""
    address = re.compile(rf"[/:]{re.escape(owner)}/{re.escape(name)}(\.git)?/?$", re.I | re.M)
    whole, short = _letters(owner + name), _letters(name)
    by_name: dict[int, Path] = {}
    for place, words in _mirrors_below(mirrors):
        if address.search(_settings(place)):
            return place
        for rank, wanted in enumerate((whole, short)):
            if wanted in (_letters("".join(words[-2:])), _letters("".join(words[-1:]))):
                by_name.setdefault(rank, place)
    return by_name[min(by_name)] if by_name else None


def _mirrors_below(mirrors: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Git directories below a folder, each with the names of the folders above it."""
    waiting: list[tuple[Path, tuple[str, ...]]] = [(mirrors, (mirrors.resolve().name,))]
    for folder, words in waiting:  # grows on the way
        if found := _git_directory(folder):
            yield found, words
        elif len(words) <= _DEPTH:
            inside = sorted(path for path in _list(folder) if path.is_dir())
            waiting += [(path, (*words, path.name)) for path in inside[: _MOST - len(waiting)]]


def _list(folder: Path) -> tuple[Path, ...]:
    try:
        return tuple(folder.iterdir())
    except OSError:
        return ()


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().removesuffix(".git"))


def _settings(place: Path) -> str:
    try:
        return (place / "config").read_text("utf-8", "replace")
    except OSError:
        return ""


def git(folder: Path, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder, without the settings of the user or the machine.

    Raises:
        ConfigError: git is not installed.
        SandboxError: it failed, or did not end in time.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    clean |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C"}
    clean |= {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"}
    clean["GIT_CEILING_DIRECTORIES"] = str(folder.resolve().parent)
    command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false", *_SAFE]
    command += ["-c", "protocol.version=2", "-C", str(folder)]
    try:
        return subprocess.run(
            [*command, *argv],
            env=clean,
            input=stdin,
            check=True,
            capture_output=True,
            timeout=_SECONDS,
        )
    except FileNotFoundError as error:
        raise ConfigError("git is not installed: apt-get install git") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise SandboxError(f"git {argv[0]}: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"git {argv[0]} did not end in {_SECONDS} s") from error
