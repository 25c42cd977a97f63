"""The source of a package: pinned, cached, unpacked without harm, never half there."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aem_gym.envs.swe.authoring.generate import release
from aem_gym.envs.swe.authoring.trials import image_plan, import_root, install_commands
from aem_gym.envs.swe.tasks.packages import Package, PackageError, source

SETUP = "from setuptools import setup\nsetup(name='shelves', version='1.0', packages=['shelves'])\n"
INFO = "Metadata-Version: 2.1\nName: shelves\nVersion: 1.0\nLicense: MIT\n"
FILES = {
    "shelves-1.0/PKG-INFO": INFO,
    "shelves-1.0/setup.py": SETUP,
    "shelves-1.0/shelves/__init__.py": "def one():\n    return 1\n",
    "shelves-1.0/shelves/__pycache__/old.pyc": "old",
    "shelves-1.0/build/lib/shelves/__init__.py": "def one():\n    return 0\n",
}
Index = Callable[..., str]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """A package index: a folder of archives, the only place where pip looks."""
    archives = tmp_path / "archives"
    archives.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip reads it so: no isolation
    monkeypatch.setenv("PIP_FIND_LINKS", str(archives))
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path / "cache"))

    def offer(*extra: tarfile.TarInfo, files: dict[str, str] = FILES) -> str:
        path = archives / "shelves-1.0.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(text.encode())
                tar.addfile(info, io.BytesIO(text.encode()))
            for info in extra:
                tar.addfile(info)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return offer


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "swe" / "sources").iterdir())


def test_a_release_is_fetched_once(index: Index, tmp_path: Path) -> None:
    sha256 = index()
    package = release("Shelves==1.0", ["pytest==9.2.0"])
    assert package == Package("shelves", "1.0", sha256, "MIT", ("pytest==9.2.0",))
    (tmp_path / "archives" / "shelves-1.0.tar.gz").unlink()
    assert release("shelves==1.0").sha256 == sha256
    assert (source(package) / "shelves" / "__init__.py").read_text() == "def one():\n    return 1\n"
    assert cached(tmp_path) == [f"shelves-1.0-{sha256}"]


def test_only_the_source_itself_is_kept(index: Index) -> None:
    index()
    folder = source(release("shelves==1.0"))
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"PKG-INFO", "setup.py", "shelves/__init__.py"}


def test_another_archive_is_refused(index: Index, tmp_path: Path) -> None:
    index()
    with pytest.raises(PackageError, match=r"pip download .* shelves==1\.0"):
        source(Package("shelves", "1.0", "0" * 64))
    assert cached(tmp_path) == []


def test_no_network_and_no_cache_says_the_command(index: Index) -> None:
    with pytest.raises(PackageError, match=r"shelves 2\.0.*python -m pip download --no-deps"):
        release("shelves==2.0")


def _link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def _device(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.CHRTYPE
    return info


@pytest.mark.parametrize(
    "evil",
    [
        tarfile.TarInfo("../outside"),
        _link("shelves-1.0/link", "/etc"),
        _link("shelves-1.0/link", "../../outside"),
        _device("shelves-1.0/device"),
    ],
    ids=["parent", "absolute-link", "link-out", "device"],
)
def test_archives_that_reach_out_leave_nothing(
    index: Index, tmp_path: Path, evil: tarfile.TarInfo
) -> None:
    index(evil)
    with pytest.raises(PackageError):
        release("shelves==1.0")
    assert cached(tmp_path) == []
    assert not list(tmp_path.rglob("outside"))


def test_a_folder_of_ones_own(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "My Shelves"
    for name, text in FILES.items():
        path = folder / name.partition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    package = release(str(folder))
    assert (package.name, package.folder) == ("my-shelves", str(folder))
    (folder / "build" / "new").write_text("what is made from the source does not count")
    assert release(str(folder)) == package
    (folder / "setup.py").write_text("")
    assert (source(package) / "setup.py").read_text() == SETUP, "kept as it was"
    changed = release(str(folder))
    assert changed.sha256 != package.sha256
    with pytest.raises(PackageError, match="expected the files that the suite was made from"):
        source(replace(changed, sha256="0" * 64))


def test_what_is_neither_release_nor_folder() -> None:
    with pytest.raises(PackageError, match="NAME==VERSION or a folder"):
        release("shelves>=1")


def test_an_image_depends_on_all_that_is_in_it(index: Index) -> None:
    index()
    package = release("shelves==1.0", ["pytest==9.2.0"])
    plan = image_plan(package)
    assert plan.name.startswith("aem-swe/shelves:1.0-") and plan.folder == source(package)
    assert plan == image_plan(package)
    assert image_plan(replace(package, requires=("pytest==8.4.2",))).name != plan.name
    assert import_root(plan.folder) == plan.folder
    (plan.folder / "src").mkdir()
    assert import_root(plan.folder) == plan.folder / "src"


def test_installing_leaves_no_other_copy_of_the_source(index: Index, tmp_path: Path) -> None:
    setup = SETUP.replace("from set", "import shelves\nfrom set")  # compiled as it is installed
    index(files={**FILES, "shelves-1.0/setup.py": setup})
    folder, site = tmp_path / "testbed", tmp_path / "site"
    shutil.copytree(source(release("shelves==1.0")), folder)
    install = [
        command.replace("install", f"install --no-build-isolation --prefix {site}")
        for command in install_commands(sys.executable, release("shelves==1.0"))
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(folder)}
    for command in install:
        subprocess.run(command, shell=True, cwd=folder, env=environment, check=True)
    assert list(site.rglob("*")), "installed"
    copies = [p for p in tmp_path.rglob("*") if p.is_file() and b"return 1" in p.read_bytes()]
    kept = source(release("shelves==1.0"))
    assert {path for path in copies if not path.is_relative_to(kept)} == {
        folder / "shelves" / "__init__.py"
    }
    assert not list(folder.rglob("*.pyc")) and not (folder / "build").exists()
