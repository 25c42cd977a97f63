"""Mirrors: found under any usual name, and checked out without past, future or settings."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aem_gym.envs.swe.tasks.git import checkout, find_mirror, lacking
from aem_gym.errors import ConfigError
from tests.envs.swe.rows.swe_rows import write_mirror
from tests.envs.swe.swe_bench import BROKEN
from tests.envs.swe.swe_own import git

LAYOUTS = [
    "pallets__flask.git",
    "pallets__flask",
    "pallets/flask.git",
    "pallets/flask",
    "pallets+flask/repo",
    "pallets-flask.git",
    "pallets_flask",
    "flask.git",
    "flask",
    "flask/repo.git",
    "flask/.git",
    "pallets/flask/.git",
    "github.com/pallets/flask.git",
    "git/bare/Pallets_Flask.git",
    "mirrors/flask-bare/../flask",
]


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    mirror = tmp_path_factory.mktemp("mirror") / "bare.git"
    return mirror, write_mirror(mirror)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_usual_layout(bare: tuple[Path, str], tmp_path: Path, layout: str) -> None:
    (tmp_path / "other" / "notes").mkdir(parents=True)
    place = Path(os.path.normpath(tmp_path / layout))
    shutil.copytree(bare[0], place)
    assert find_mirror(tmp_path, "pallets/flask").resolve() == place


def test_a_name_of_its_own_is_found_by_its_address(bare: tuple[Path, str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(bare[0], tmp_path / name)
    git(tmp_path / "two", "config", "remote.origin.url", "https://github.com/Pallets/flask.git")
    assert find_mirror(tmp_path, "pallets/flask") == tmp_path / "two"


def test_a_work_tree_and_one_beside_it(bare: tuple[Path, str], tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(bare[0]), "elsewhere/main")
    git(tmp_path / "elsewhere" / "main", "worktree", "add", "-q", "--detach", "../../flask")
    (tmp_path / "here").mkdir()
    (tmp_path / "flask").rename(tmp_path / "here" / "flask")
    found = find_mirror(tmp_path / "here", "pallets/flask")
    assert found.resolve() == tmp_path / "elsewhere" / "main" / ".git"
    assert not lacking(found, [bare[1]])


def test_the_folder_is_the_mirror(bare: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(bare[0], tmp_path / "flask.git")
    assert find_mirror(tmp_path / "flask.git", "pallets/flask") == tmp_path / "flask.git"


def test_what_is_not_there_is_told(bare: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(bare[0], tmp_path / "sympy")
    with pytest.raises(ConfigError, match=r"git clone --mirror https://github.com/pallets/flask "):
        find_mirror(tmp_path, "pallets/flask")
    with pytest.raises(ConfigError, match="expected a folder of bare clones"):
        find_mirror(tmp_path / "none", "pallets/flask")
    with pytest.raises(ConfigError, match="does not hold the commit .* fetch --all"):
        checkout(bare[0], "1" * 40, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert lacking(bare[0], [bare[1], "1" * 40]) == {"1" * 40}


def test_one_commit_and_nothing_else(bare: tuple[Path, str], tmp_path: Path) -> None:
    folder = checkout(*bare, tmp_path / "a" / "out")
    assert (folder / "calc.py").read_bytes() == BROKEN
    assert git(folder, "rev-list", "--all", "--reflog") == bare[1]
    objects = git(folder, "cat-file", "--batch-check", "--batch-all-objects")
    assert objects.count(" commit ") == 1
    assert "remote" not in (folder / ".git" / "config").read_text()


def test_settings_of_the_user_do_no_harm(
    bare: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gitconfig").write_text(
        "[init]\n\ttemplateDir = /nonexistent\n[core]\n\tautocrlf = true\n"
        '[url "https://nowhere.invalid/"]\n\tinsteadOf = file://\n'
        "[protocol]\n\tversion = 0\n[fetch]\n\tprune = true\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert (checkout(*bare, tmp_path / "out") / "calc.py").read_bytes() == BROKEN


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_mirror_of_another_user(bare: tuple[Path, str], tmp_path: Path) -> None:
    place = tmp_path / "flask.git"
    shutil.copytree(bare[0], place)
    for path in (place, *place.rglob("*")):
        os.chown(path, 1234, 1234)
    assert not lacking(place, [bare[1]])
    assert (checkout(place, bare[1], tmp_path / "out") / "calc.py").is_file()


def test_several_at_once(bare: tuple[Path, str], tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        out = list(pool.map(lambda _: checkout(*bare, tmp_path / "out"), range(8)))
    assert {(folder / "calc.py").read_bytes() for folder in out} == {BROKEN}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
