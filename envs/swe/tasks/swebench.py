"""Rows of SWE-bench as tasks: images from local mirrors, or the prebuilt ones."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from aem_gym.envs.swe.grading.patches import touched
from aem_gym.envs.swe.sandbox.base import ImagePlan
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.mirrors import checkout, find_mirror, lacking
from aem_gym.envs.swe.tasks.rows import Row
from aem_gym.envs.swe.tasks.specs import RECIPES, find_recipe, official_command
from aem_gym.errors import ConfigError
from aem_gym.io import cache_folder

_PREBUILT = "swebench/sweb.eval.x86_64.{}:latest"
# Where prebuilt images keep the Python that belongs to the repository.
_ACTIVATE = ". /opt/miniconda3/bin/activate testbed && "
_NO_TEST = (
    *(".json", ".png", "csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl", ".yml", ".yaml", ".toml"),
)
"""Files of a hidden patch that hold no tests, by their end."""
_TIMEOUT = 1800.0


def make_task(row: Row, mirrors: Path | None = None) -> SweTask:
    """The task of a row.

    Args:
        row: a complete one.
        mirrors: folder of bare clones that images are built from; without it, prebuilt images.

    Raises:
        ConfigError: no mirror, commit or recipe for it.
        MissingDependencyError: a repository whose test command only the extra knows.
    """
    task = SweTask(
        task_id=row.instance_id,
        repo=row.repo,
        problem=row.problem,
        image=_PREBUILT.format(row.instance_id.replace("__", "_1776_").lower()),
        fail_to_pass=row.fail_to_pass,
        pass_to_pass=_real_tests(row),
        test_command=_ACTIVATE + _command(row),
        test_patch=row.test_patch,
        gold=row.patch,
        split="test",
        timeout=_TIMEOUT,
    )
    if mirrors is None:
        return task
    return replace(task, image=_plan(row, mirrors), test_command=_command(row))


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
        by_repo.setdefault(row.repo, []).append(row)
    for repo, group in by_repo.items():
        lost = _lost(repo, group, mirrors)
        reasons |= lost
        kept += [row for row in group if row.instance_id not in lost]
    return tuple(kept), reasons


def _lost(repo: str, rows: Sequence[Row], mirrors: Path) -> dict[str, str]:
    """Why rows of a repository cannot be built, by id."""
    known = RECIPES.get(repo, {})
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
    if row.repo in RECIPES:
        command = find_recipe(row.repo, row.version).test_command
    else:
        command = official_command(row.repo, row.version)
        if re.match(r"pytest\b", command):
            command = f"python -m {command} --junitxml={{report}}"
    files = test_files(row.test_patch)
    if row.repo == "django/django":
        files = [f.removeprefix("tests/").removesuffix(".py").replace("/", ".") for f in files]
    return " ".join([command, *map(shlex.quote, files)])


def test_files(patch: str) -> list[str]:
    """The files of a hidden patch that the tests are run with: in its order, as SWE-bench does."""
    named = re.findall(r"^diff --git a/.* b/(.*)$", patch, re.M) or sorted(touched(patch))
    return [path for path in dict.fromkeys(named) if not path.endswith(_NO_TEST)]


def _real_tests(row: Row) -> tuple[str, ...]:
    """Tests that have to go on passing, without what a log's reader once took for one."""
    if "::" not in row.fail_to_pass[0]:
        return row.pass_to_pass
    return tuple(test for test in row.pass_to_pass if "::" in test)
