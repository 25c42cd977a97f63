"""A repository at one commit, from a local mirror: without its past, and without its future."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from aem_gym.envs.swe.sandbox.base import SandboxError
from aem_gym.errors import ConfigError
from aem_gym.training.files import atomic_folder

_SECONDS = 600


def find_mirror(mirrors: Path, repo: str) -> Path:
    """The git directory of `owner/name` below a folder of mirrors.

    Raises:
        ConfigError: it is not there; says where it would be found, and how to make it.
    """
    owner, name = repo.split("/")
    stems = (f"{owner}__{name}", f"{owner}/{name}", f"{owner}+{name}", name)
    for stem in stems:
        for end in (".git", "", "/repo", "/.git"):
            folder = mirrors / f"{stem}{end}"
            if (folder / "HEAD").is_file() and (folder / "objects").is_dir():
                return folder
    raise ConfigError(
        f"expected a mirror of {repo} in {mirrors} ({owner}__{name}.git, {owner}/{name}, ...), got "
        f"none. Make one: git clone --mirror https://github.com/{repo} "
        f"{mirrors / f'{owner}__{name}.git'}"
    )


def checkout(mirror: Path, commit: str, folder: Path) -> Path:
    """The files of a commit and a `.git` with that commit alone, in `folder`, if not there yet.

    Raises:
        ConfigError: the mirror does not hold the commit.
        OutputError: the folder cannot be written.
    """
    if (folder / ".git").is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as part:
        _git(part, "init", "-q", "-b", "main", "--template=")
        try:
            _git(part, "fetch", "-q", "--depth", "1", mirror.resolve().as_uri(), commit)
        except SandboxError as error:
            raise ConfigError(
                f"{mirror} does not hold the commit {commit}. Bring it up to date: "
                f"git --git-dir {mirror} fetch --all ({error})"
            ) from error
        _git(part, "checkout", "-q", "--detach", commit)
        _git(part, "update-ref", "refs/heads/main", commit)
        _git(part, "symbolic-ref", "HEAD", "refs/heads/main")
        (part / ".git" / "FETCH_HEAD").unlink(missing_ok=True)
    return folder


def _git(folder: Path, *argv: str) -> None:
    """Run git without the settings of the user or the machine."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    clean |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false"]
    try:
        subprocess.run(
            # The mirror may belong to another user: only its objects are read.
            [*command, "-c", "safe.directory=*", *argv],
            cwd=folder,
            env=clean | {"GIT_TERMINAL_PROMPT": "0"},
            check=True,
            capture_output=True,
            timeout=_SECONDS,
        )
    except FileNotFoundError as error:
        raise ConfigError("git is not installed: apt-get install git") from error
    except subprocess.CalledProcessError as error:
        raise SandboxError(f"git {argv[0]}: {error.stderr.decode(errors='replace')}") from error
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"git {argv[0]} did not end in {_SECONDS} s") from error
