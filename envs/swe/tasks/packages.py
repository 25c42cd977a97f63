"""The packages of generated tasks: the source of a release, or a folder of the user's."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aem_gym.errors import AemGymError
from aem_gym.io import cache_folder

_LEFT_OUT = (
    *(".git", ".hg", ".svn", ".tox", ".nox", ".venv", "node_modules"),
    *("__pycache__", "*.pyc", "*.pyo", ".*_cache", "*.egg-info", "*.egg", ".coverage"),
)
"""Build products and repositories, which may hold older versions of the source."""
_LEFT_OUT_ON_TOP = ("build", "dist", "venv")
"""The same, in the top folder alone: deeper down these may be names of packages."""


class PackageError(AemGymError, RuntimeError):
    """The source of a package is not available."""


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    version: str
    sha256: str
    """Of the source archive; of all files of a user's folder."""
    licence: str = ""
    requires: tuple[str, ...] = ()
    """Pinned requirements of its tests, besides the package and its dependencies."""
    folder: str = ""
    """The folder of a user's own package. Empty: an archive from the package index."""


def source(package: Package) -> Path:
    """The folder with a package's source, fetched if it is not in the cache. Do not change it.

    Raises:
        PackageError: it cannot be fetched, or its hash is not the expected one.
    """
    place = _place(package)
    if place.is_dir():
        return place
    if not package.folder:
        download(package.name, package.version, package.sha256)
        return place
    folder = Path(package.folder)
    sha256 = folder_hash(folder) if folder.is_dir() else "no folder"
    if sha256 != package.sha256:
        raise PackageError(
            f"{folder}: expected the files that the suite was made from (SHA-256 "
            f"{package.sha256[:16]}...), got {sha256[:16]}. Restore them, or make the suite again: "
            f"aem-gym swe generate --package {folder}"
        )
    with _workbench() as bench:
        _settle(folder, Path(bench), place)
    return place


def sources_folder() -> Path:
    return cache_folder() / "swe" / "sources"


def _place(package: Package) -> Path:
    return sources_folder() / f"{package.name}-{package.version}-{package.sha256}"


def _workbench() -> tempfile.TemporaryDirectory[str]:
    """A folder beside the finished ones, so that a complete source is moved in one step."""
    sources_folder().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=sources_folder(), prefix=".part-")


def _settle(folder: Path, bench: Path, place: Path) -> None:
    clean = bench / "clean"
    shutil.copytree(folder, clean, symlinks=True, ignore=_leave_out(folder))
    try:
        clean.rename(place)
    except OSError:
        if not place.is_dir():  # else another process was faster
            raise


def download(name: str, version: str, sha256: str) -> str:
    """Fetch an archive, unpack it into the cache; its SHA-256."""
    with _workbench() as temporary:
        bench = Path(temporary)
        wanted = bench / "wanted.txt"
        wanted.write_text(f"{name}=={version}" + f" --hash=sha256:{sha256}" * bool(sha256))
        options = ["--no-deps", "--no-binary", name, "--dest", str(bench / "got")]
        command = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", *options]
        done = subprocess.run(
            [sys.executable, *command, "--requirement", str(wanted)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        archives = sorted((bench / "got").glob("*")) if done.returncode == 0 else []
        if len(archives) != 1 or not archives[0].name.endswith((".tar.gz", ".tgz", ".tar.bz2")):
            raise PackageError(
                f"expected the source archive of {name} {version}, got "
                f"{[archive.name for archive in archives] or _last_line(done.stderr)}. It is "
                "fetched once, with network, by: python -m pip download --no-deps --no-binary "
                f"{name} {name}=={version}"
            )
        got = hashlib.sha256(archives[0].read_bytes()).hexdigest()
        if sha256 and got != sha256:
            raise PackageError(f"{name} {version}: expected SHA-256 {sha256}, got {got}")
        _settle(_unpack(archives[0], bench / "whole"), bench, _place(Package(name, version, got)))
        return got


def _unpack(archive: Path, folder: Path) -> Path:
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")  # nothing outside, no devices
    except (tarfile.TarError, OSError, EOFError) as error:
        raise PackageError(f"{archive.name}: expected a source archive, got {error}") from error
    tops = list(folder.iterdir())
    if len(tops) != 1 or not tops[0].is_dir():
        raise PackageError(f"{archive.name}: expected one folder in it, got {len(tops)} entries")
    return tops[0]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines()
    return lines[-1] if lines else "nothing"


def _leave_out(top: Path) -> Callable[[str, list[str]], set[str]]:
    """The function that `copytree` takes as `ignore`."""
    everywhere = shutil.ignore_patterns(*_LEFT_OUT)

    def ignored(folder: str, names: list[str]) -> set[str]:
        above = _LEFT_OUT_ON_TOP if Path(folder) == top else ()
        return everywhere(folder, names) | {name for name in names if name in above}

    return ignored


def _files(folder: Path, ignored: Callable[[str, list[str]], set[str]]) -> Iterator[Path]:
    names = sorted(path.name for path in folder.iterdir())
    for name in sorted(set(names) - ignored(str(folder), names)):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            yield from _files(path, ignored)
        else:
            yield path


def folder_hash(folder: Path) -> str:
    """SHA-256 of the names and contents of a package's files."""
    total = hashlib.sha256()
    for path in _files(folder, _leave_out(folder)):
        content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        name = path.relative_to(folder).as_posix()
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()
