"""What the package is made of: it stays light, whole and in its house."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for top in ("aem_gym", "envs", "agents")
    for folder, _, names in os.walk(ROOT / top)  # does not follow the two symlinks
    for path in (Path(folder, name) for name in names)
    if path.suffix == ".py"
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_two_folders_enter_through_symlinks() -> None:
    for name in ("envs", "agents"):
        link = ROOT / "aem_gym" / name
        assert link.is_symlink() and os.readlink(link) == f"../{name}"


def test_every_folder_with_code_is_packaged() -> None:
    packages = set(find_packages(str(ROOT), include=["aem_gym*"]))
    for path in SOURCES:
        parts = path.relative_to(ROOT).parent.parts
        name = ".".join(parts if parts[0] == "aem_gym" else ("aem_gym", *parts))
        assert name in packages, f"{path.parent} has no __init__.py"


def imported(path: Path) -> set[str]:
    """Absolute names that a module imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {"envs", "agents"}, "import aem_gym.envs and aem_gym.agents"
    home = path.relative_to(ROOT).parts[0]
    other = {"envs": ["agents"], "agents": ["envs"], "aem_gym": ["agents", "envs"]}[home]
    for name in imported(path):
        assert not name.startswith(tuple(f"aem_gym.{part}" for part in other)), name


def test_import_is_light() -> None:
    code = (
        "import sys, aem_gym, gymnasium; gymnasium.make('aem_gym/ALFWorld-v0').reset(seed=0);"
        "heavy = {'torch', 'transformers', 'peft', 'docker'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_console_script_points_at_a_function() -> None:
    module, _, name = PROJECT["project"]["scripts"]["aem-gym"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))


def test_version_is_said_once() -> None:
    import aem_gym

    assert aem_gym.__version__ == PROJECT["project"]["version"]


def test_data_files_are_packaged_by_their_ending() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    kept = {pattern.lstrip("*") for pattern in patterns if pattern.startswith("*")}
    for top in ("aem_gym", "envs", "agents"):
        for folder, folders, names in os.walk(ROOT / top):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in names:
                suffix = Path(name).suffix
                assert suffix == ".py" or name in patterns or suffix in kept, Path(folder, name)


def test_presets_are_mappings() -> None:
    presets = sorted((ROOT / "configs").glob("*.yaml"))
    assert presets
    for path in presets:
        assert isinstance(yaml.safe_load(path.read_text()), dict), path
