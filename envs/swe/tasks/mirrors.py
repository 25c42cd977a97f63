"""A repository at one commit, from a local mirror: without its past, and without its future."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from aem_gym.envs.swe.images.host import lock_file
from aem_gym.envs.swe.sandbox.base import SandboxError
from aem_gym.errors import ConfigError
from aem_gym.io import atomic_folder, exclusive

logger = logging.getLogger(__name__)

_SECONDS = 600
_ENDS = ("", "repo", "repo.git", ".git")
"""Where the git directory is, in the folder of a mirror."""
_DEPTH = 3
_MOST = 2000
"""Folders that are looked at for a mirror of an unusual name."""
# The mirror may belong to another user: only its objects are read. A fetch starts a program of
# its own in it, which does not hear of our settings.
_SAFE = ("-c", "safe.directory=*")
_UPLOAD = "git -c 'safe.directory=*' upload-pack"


def find_mirror(mirrors: Path, repo: str) -> Path:
    """The git directory of `owner/name` below a folder of mirrors.

    Looked for by the usual names (`owner__name.git`, `owner/name`, `owner-name`, `name`, ...), then
    by the address that a mirror was cloned from, then by its name's letters alone.

    Raises:
        ConfigError: it is not there; says where it would be found, and how to make it.
    """
    if not mirrors.is_dir():
        raise ConfigError(f"--mirrors: expected a folder of bare clones, got {mirrors}: it is none")
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
    """Those of the commits that a mirror does not hold.

    Raises:
        SandboxError: git cannot read it.
    """
    wanted = sorted(set(commits))
    asked = "".join(f"{commit}^{{commit}}\n" for commit in wanted).encode()
    told = _git(mirror, f"--git-dir={mirror}", "cat-file", "--batch-check", stdin=asked)
    lines = told.decode(errors="replace").splitlines()
    return frozenset(c for c, line in zip(wanted, lines, strict=True) if " commit " not in line)


def checkout(mirror: Path, commit: str, folder: Path) -> Path:
    """The files of a commit and a `.git` with that commit alone, in `folder`, if not there yet.

    Raises:
        ConfigError: the mirror does not hold the commit.
        OutputError: the folder cannot be written.
    """
    if (folder / ".git").is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(lock_file(str(folder))):
        if not (folder / ".git").is_dir():
            _checkout(mirror, commit, folder)
    return folder


def _checkout(mirror: Path, commit: str, folder: Path) -> None:
    with atomic_folder(folder) as part:
        _git(part, "init", "-q", "-b", "main", "--template=")
        source = mirror.resolve().as_uri()
        try:
            _git(part, "fetch", "-q", "--depth", "1", "--upload-pack", _UPLOAD, source, commit)
        except SandboxError as error:
            raise ConfigError(
                f"{mirror} does not hold the commit {commit}. Bring it up to date: "
                f"git --git-dir {mirror} fetch --all ({error})"
            ) from error
        _git(part, "checkout", "-q", "--detach", commit)
        _git(part, "update-ref", "refs/heads/main", commit)
        _git(part, "symbolic-ref", "HEAD", "refs/heads/main")
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
    """Where a `.git` file points to."""
    try:
        told = file.read_text("utf-8", "replace")
        place = file.parent / told.partition("gitdir:")[2].strip()
        common = place / "commondir"
        return place / common.read_text("utf-8").strip() if common.is_file() else place
    except OSError:
        return file


def _search(mirrors: Path, owner: str, name: str) -> Path | None:
    """A mirror of an unusual name; the surest sign counts."""
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
    """Git directories below a folder, each with the names of the folders that lead to it."""
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


def _git(folder: Path, *argv: str, stdin: bytes = b"") -> bytes:
    """Run git without the settings of the user or the machine."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    clean |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C"}
    clean |= {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"}
    command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false", *_SAFE]
    try:
        done = subprocess.run(
            [*command, "-c", "protocol.version=2", *argv],
            cwd=folder,
            env=clean,
            input=stdin,
            check=True,
            capture_output=True,
            timeout=_SECONDS,
        )
    except FileNotFoundError as error:
        raise ConfigError("git is not installed: apt-get install git") from error
    except subprocess.CalledProcessError as error:
        told = error.stderr.decode(errors="replace").strip()
        raise SandboxError(f"git {argv[0]}: {told}") from error
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"git {argv[0]} did not end in {_SECONDS} s") from error
    return done.stdout
