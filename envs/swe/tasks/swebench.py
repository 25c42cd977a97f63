"""Rows of SWE-bench as tasks: images from local mirrors, or the prebuilt ones.

pytest, sympy and flask can be built (`recipes.yaml`). For the others the extra `swebench` has the
test command, and their prebuilt images need no installation.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import msgspec
import yaml

from aem_gym.envs.swe.sandbox.base import ImagePlan
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.git import checkout, find_mirror, lacking, test_files
from aem_gym.envs.swe.tasks.logs import HARNESS_PARSERS
from aem_gym.envs.swe.tasks.rows import Row, read_rows
from aem_gym.errors import ConfigError, MissingDependencyError
from aem_gym.io import cache_folder

logger = logging.getLogger(__name__)

_PREBUILT = "swebench/sweb.eval.x86_64.{}:latest"
# Prebuilt images keep the Python of the repository there.
_ACTIVATE = ". /opt/miniconda3/bin/activate testbed && "
_TIMEOUT = 1800.0


class InstallSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Commands that install and test some versions of a repository."""

    versions: tuple[str, ...]
    python: str
    test_command: str
    """Test files are appended; `{report}` as in `SweTask.test_command`."""
    pins: tuple[str, ...]
    """Requirements as of the time of these versions."""
    before: tuple[str, ...] = ()
    """Shell commands before the installation."""
    scm_version: bool = False
    """The version comes from tags, which a checkout of one commit lacks."""

    def install(self, version: str) -> tuple[str, ...]:
        """The shell commands that install the repository in its folder."""
        setting = f"SETUPTOOLS_SCM_PRETEND_VERSION={version}.0 " if self.scm_version else ""
        pins = " ".join(f"'{pin}'" for pin in self.pins)
        return (
            *self.before,
            f"{setting}python -m pip install -e .",
            f"python -m pip install {pins}",
        )


@lru_cache(maxsize=1)
def recipes() -> Mapping[str, Mapping[str, InstallSpec]]:
    """Repository -> version -> how it is installed, of the repositories that can be built."""
    text = (files(__package__) / "recipes.yaml").read_text("utf-8")
    content = msgspec.convert(yaml.safe_load(text), dict[str, tuple[InstallSpec, ...]])
    return {repo: {v: s for s in specs for v in s.versions} for repo, specs in content.items()}


def make_task(row: Row, mirrors: Path | None = None) -> SweTask:
    """The task of a complete row; its image is built from bare clones in `mirrors`, or prebuilt.

    Raises:
        ConfigError: it has no mirror, commit or recipe.
        MissingDependencyError: only the extra has the test command of its repository.
    """
    if row.task is not None:
        return row.task
    task = SweTask(
        task_id=row.instance_id,
        repo=row.repo,
        problem=row.problem,
        image=row.image or _PREBUILT.format(row.instance_id.replace("__", "_1776_").lower()),
        fail_to_pass=row.fail_to_pass,
        pass_to_pass=_real_tests(row),
        test_command=_ACTIVATE * _is_python(row.repo) + _command(row),
        log=official_reader(row.repo)[0],
        test_patch=row.test_patch,
        gold=row.patch,
        split="test",
        timeout=_TIMEOUT,
    )
    if mirrors is None:
        return task
    return replace(task, image=_plan(row, mirrors), test_command=_command(row))


def rows_to_use(source: str, mirrors: Path | None) -> tuple[tuple[Row, ...], dict[str, str]]:
    """(rows that can be graded, why others are left out by id); warns of those.

    An incomplete row has no hidden tests; a malformed one has a message in place of its id. With
    mirrors, rows whose images cannot be built are left out as well.

    Raises:
        ConfigError: there is no such source or folder of mirrors, or no row is left.
        SandboxError: a mirror cannot be read.
    """
    found = read_rows(source)
    rows, lost = pulled(found.rows) if mirrors is None else buildable(found.rows, mirrors)
    left = dict.fromkeys(found.incomplete, "incomplete")
    left |= dict.fromkeys(found.malformed, "malformed") | lost
    for message in found.malformed:
        logger.warning("a row is skipped: %s", message)
    why = ", ".join(f"{number} {reason}" for reason, number in Counter(left.values()).items())
    if not rows:
        known = ", ".join(sorted(recipes()))
        advice = (
            f". From mirrors can be built: {known}. Leave mirrors out to pull SWE-bench's images"
        )
        raise ConfigError(
            f"tasks: expected rows of SWE-bench that can be graded in {source}, got none ({why})"
            + (advice if mirrors else "")
        )
    if left:
        logger.warning("%d rows of %s are left out: %s", len(left), source, why)
    return rows, left


def pulled(rows: Iterable[Row]) -> tuple[tuple[Row, ...], dict[str, str]]:
    """(rows whose tests can be read in their prebuilt images, why those of others cannot by id)."""
    kept: list[Row] = []
    reasons: dict[str, str] = {}
    for row in rows:
        reason = "" if row.task is not None else official_reader(row.repo)[1]
        if reason:
            reasons[row.instance_id] = reason
        else:
            kept.append(row)
    return tuple(kept), reasons


def buildable(rows: Iterable[Row], mirrors: Path) -> tuple[tuple[Row, ...], dict[str, str]]:
    """(rows whose images can be built, why the others cannot by id). Builds nothing.

    Raises:
        ConfigError: there is no such folder of mirrors.
        SandboxError: a mirror cannot be read.
    """
    kept: list[Row] = []
    reasons: dict[str, str] = {}
    by_repo: dict[str, list[Row]] = {}
    for row in rows:
        if row.task is not None:  # it has an image of its own
            kept.append(row)
            continue
        by_repo.setdefault(row.repo, []).append(row)
    for repo, group in by_repo.items():
        lost = _lost(repo, group, mirrors)
        reasons |= lost
        kept += [row for row in group if row.instance_id not in lost]
    return tuple(kept), reasons


def _lost(repo: str, rows: Sequence[Row], mirrors: Path) -> dict[str, str]:
    """The reasons why rows of one repository cannot be built, by id."""
    known = recipes().get(repo, {})
    if not known:
        return dict.fromkeys((row.instance_id for row in rows), "no recipe for the repository")
    try:
        mirror = find_mirror(mirrors, repo)
    except ConfigError:
        if not mirrors.is_dir():
            raise
        return dict.fromkeys((row.instance_id for row in rows), "no mirror of the repository")
    absent = lacking(mirror, (row.base_commit for row in rows))
    lost = {r.instance_id: "the mirror lacks the commit" for r in rows if r.base_commit in absent}
    return lost | {
        r.instance_id: "no recipe for the version" for r in rows if r.version not in known
    }


def _plan(row: Row, mirrors: Path) -> ImagePlan:
    recipe = find_recipe(row.repo, row.version)
    folder = cache_folder() / "swe" / "checkouts" / row.repo.replace("/", "__") / row.base_commit
    checkout(find_mirror(mirrors, row.repo), row.base_commit, folder)
    install = recipe.install(row.version)
    content = json.dumps([row.base_commit, recipe.python, install])
    tag = hashlib.sha256(content.encode()).hexdigest()[:16]
    name = f"aem-swebench/{row.repo.replace('/', '__').lower()}:{tag}"
    return ImagePlan(name, folder, install, recipe.python)


def _command(row: Row) -> str:
    """The test command with the files of the row's hidden tests."""
    if row.repo in recipes():
        command = find_recipe(row.repo, row.version).test_command
    else:
        command = official_command(row.repo, row.version)
        if re.match(r"pytest\b", command):
            command = f"python -m {command} --junitxml={{report}}"
    if not _is_python(row.repo):  # these name their tests themselves
        return command
    paths = test_files(row.test_patch)
    if row.repo == "django/django":
        paths = [p.removeprefix("tests/").removesuffix(".py").replace("/", ".") for p in paths]
    return " ".join([command, *map(shlex.quote, paths)])


def _real_tests(row: Row) -> tuple[str, ...]:
    """PASS_TO_PASS without entries that a reader of logs took for tests by mistake."""
    if "::" not in row.fail_to_pass[0]:
        return row.pass_to_pass
    return tuple(test for test in row.pass_to_pass if "::" in test)


def find_recipe(repo: str, version: str) -> InstallSpec:
    """The recipe of a version of a repository. Raises ConfigError, which lists the known ones."""
    versions = recipes().get(repo)
    if versions is None:
        known = ", ".join(sorted(recipes()))
        raise ConfigError(
            f"expected a repository with a recipe ({known}), got {repo}. Leave out "
            "--mirrors to use SWE-bench's prebuilt images"
        )
    if version not in versions:
        known = ", ".join(versions)
        raise ConfigError(f"expected a version of {repo} among {known}, got {version!r}")
    return versions[version]


def official_command(repo: str, version: str) -> str:
    """The test command of a repository from the extra `swebench`; empty if it has none."""
    try:
        constants = importlib.import_module("swebench.harness.constants")
    except ImportError as error:
        purpose = f"the test command of {repo} {version}"
        raise MissingDependencyError("swebench", "swebench", purpose) from error
    spec = constants.MAP_REPO_VERSION_TO_SPECS.get(repo, {}).get(version, {})
    command = spec.get("test_cmd", "")
    if isinstance(command, str):
        return command
    if _is_python(repo):
        return str(command[-1])
    return "; ".join([*spec.get("build", ()), *command])  # SWE-bench Multilingual


@lru_cache(maxsize=256)
def official_reader(repo: str) -> tuple[str, str]:
    """(log reader of a repository, why there is none), by the extra `swebench`.

    Both are empty for Python, whose command tells its reader, and without the extra.
    """
    if _is_python(repo):
        return "", ""
    parsers = importlib.import_module("swebench.harness.log_parsers").MAP_REPO_TO_PARSER
    name = getattr(parsers.get(repo), "__name__", "none")
    reader = HARNESS_PARSERS.get(name, "")
    return reader, "" if reader else f"no log reader of ours for SWE-bench's {name}"


def _is_python(repo: str) -> bool:
    """Whether a repository is one of Python's, by the extra `swebench`, or one with a recipe."""
    try:
        constants = importlib.import_module("swebench.harness.constants")
    except ImportError:
        return True
    return str(getattr(constants, "MAP_REPO_TO_EXT", {}).get(repo, "py")) == "py"
