"""Tasks of the user's own repository, from a YAML or JSON file: docs/swe.md shows a whole one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from aem_gym.envs.swe.sandbox.base import ImagePlan, SandboxError
from aem_gym.envs.swe.tasks.base import SPLITS, SweTask
from aem_gym.envs.swe.tasks.git import checkout, git
from aem_gym.envs.swe.workspace import is_inside
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.io import cache_folder

_HELP = "docs/swe.md shows a whole file"


class OwnTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    issue: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...] = ()
    tests: dict[str, str] = {}
    """Path in the repository -> file with the hidden tests, beside this one."""
    test_patch: str = ""
    """The hidden tests as a diff instead: its file."""
    gold: str = ""
    """The file of the patch that resolves it; without one there is no oracle."""
    commit: str = "HEAD"
    split: str = ""
    timeout: float = 300.0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    repo: str
    test_command: str
    tasks: tuple[OwnTask, ...]
    name: str = ""
    install: tuple[str, ...] = ()
    python: str = ""
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnTasks:
    folder: Path
    """Where the file lies."""
    settings: _File

    @property
    def repo(self) -> str:
        """The name that results are grouped by."""
        return self.settings.name or (self.folder / self.settings.repo).resolve().name

    def task(self, own: OwnTask) -> SweTask:
        """The task itself; its repository is checked out into the cache. Raises ConfigError."""
        settings = self.settings
        return SweTask(
            task_id=own.id,
            repo=self.repo,
            problem=own.issue,
            image=self._image(own),
            fail_to_pass=own.fail_to_pass,
            pass_to_pass=own.pass_to_pass,
            test_command=settings.test_command,
            hidden={path: self._bytes(own, file) for path, file in own.tests.items()},
            test_patch=self._text(own, own.test_patch),
            gold=self._text(own, own.gold),
            split=own.split or "test",
            timeout=own.timeout,
        )

    def content(self) -> str:
        """All that the tasks depend on: this file, the files it names, the commits."""
        repo = (self.folder / self.settings.repo).resolve()
        parts: list[object] = [self.settings]
        for own in self.settings.tasks:
            for file in (*own.tests.values(), own.test_patch, own.gold):
                path = self.folder / file
                parts.append((file, path.read_bytes() if path.is_file() else b""))
            with contextlib.suppress(ConfigError):
                parts.append(_commit(repo, own.commit))
        return repr(parts)

    def _image(self, own: OwnTask) -> ImagePlan:
        settings, repo = self.settings, (self.folder / self.settings.repo).resolve()
        commit = _commit(repo, own.commit)
        folder = checkout(repo, commit, cache_folder() / "swe" / "checkouts" / "own" / commit)
        parts = (commit, settings.python, settings.install, settings.packages)
        tag = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        name = re.sub(r"[^a-z0-9]+", "-", self.repo.lower()).strip("-") or "repository"
        return ImagePlan(
            f"aem-own/{name}:{tag}", folder, settings.install, settings.python, settings.packages
        )

    def _text(self, own: OwnTask, file: str) -> str:
        return self._bytes(own, file).decode("utf-8", "surrogateescape") if file else ""

    def _bytes(self, own: OwnTask, file: str) -> bytes:
        try:
            return (self.folder / file).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"task {own.id}: expected a file {file} in {self.folder}, got: {error.strerror}"
            ) from error


def read_own(path: Path) -> OwnTasks:
    """The tasks of a file. Looks at nothing else.

    Raises:
        ConfigError: there is no such file, or it is malformed; says where and what was expected.
    """
    try:
        content: Any = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"tasks: {path} cannot be read: {error.strerror}. {_HELP}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"tasks: expected YAML or JSON in {path}, got {error}") from error
    try:
        settings = msgspec.convert(content, _File)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"tasks: {path}: {error} (texts that look like numbers need quotes). {_HELP}"
        ) from error
    if not settings.tasks:
        raise ConfigError(f"tasks: {path}: expected at least one task, got none. {_HELP}")
    for own in settings.tasks:
        _check(path, own)
    ids = Counter(own.id for own in settings.tasks)
    if max(ids.values()) > 1:
        twice = ", ".join(name for name, count in ids.items() if count > 1)
        raise ConfigError(f"tasks: {path}: expected distinct ids, got {twice} more than once")
    return OwnTasks(path.resolve().parent, settings)


def _check(path: Path, own: OwnTask) -> None:
    where = f"tasks: {path}, task {own.id!r}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", own.id):
        raise ConfigError(f"{where}: expected an id of letters, digits, -_.")
    if own.split and own.split not in SPLITS:
        raise UnknownNameError(f"split in {path}, task {own.id}:", own.split, SPLITS)
    if not own.fail_to_pass:
        raise ConfigError(f"{where}: expected at least one test in fail_to_pass, got none")
    if not (own.tests or own.test_patch):
        raise ConfigError(f"{where}: expected hidden tests (tests or test_patch), got none")
    for name in own.tests:
        if not is_inside(name):
            raise ConfigError(f"{where}: expected a path in the repository, got {name!r}")
    if not own.issue.strip():
        raise ConfigError(f"{where}: expected an issue, got an empty text")


def _commit(repo: Path, name: str) -> str:
    try:
        done = git(repo, "rev-parse", "--verify", "-q", f"{name}^{{commit}}")
    except SandboxError as error:
        raise ConfigError(
            f"expected a commit {name} in a git repository at {repo}, got none. "
            f"See: git -C {repo} log --oneline"
        ) from error
    return done.stdout.decode().strip()
