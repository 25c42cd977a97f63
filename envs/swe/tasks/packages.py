"""Packages that generated tasks are about: the source of a release, or a folder of the user's."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from aem_gym.envs.swe.sandbox.base import ImagePlan
from aem_gym.errors import AemGymError
from aem_gym.io import cache_folder

_LEFT_OUT = (
    *(".git", ".hg", ".svn", ".tox", ".nox", ".venv", "node_modules"),
    *("__pycache__", "*.pyc", "*.pyo", ".*_cache", "*.egg-info", "*.egg", ".coverage"),
)
"""What is made from the source, may hold older versions of it, or the past of the repository."""
_LEFT_OUT_ON_TOP = ("build", "dist", "venv")
"""The same; deeper down, a package of the source may be called so."""

_TIDY = (
    "rm -rf build dist",
    "find . -name __pycache__ -prune -exec rm -rf {} +",
)
"""Installing may compile or copy the source: that would show it as it was before a slip."""


class PackageError(AemGymError, RuntimeError):
    """The source of a package cannot be had."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package in one version."""

    name: str
    version: str
    sha256: str
    """Of the source archive; of all files of a user's folder."""
    licence: str = ""
    requires: tuple[str, ...] = ()
    """What its tests need beside the package and its dependencies, pinned."""
    folder: str = ""
    """Of a user's own package: where it lies. Empty: an archive from the package index."""


def release(spec: str, requires: Sequence[str] = ()) -> Package:
    """The package that `NAME==VERSION` or a folder names; fetched if it is not in the cache.

    Raises:
        PackageError: the name is neither, or the source cannot be had.
    """
    folder = Path(spec).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        sha256 = _folder_hash(folder)
        name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-") or "package"
        package = Package(name, sha256[:8], sha256, "", tuple(requires), str(folder))
        source(package)
        return package
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.!+-]+)", spec)
    if not match:
        raise PackageError(
            f"expected --package NAME==VERSION or a folder that is there, got {spec!r}"
        )
    name, version = re.sub(r"[-_.]+", "-", match[1].lower()), match[2]
    known = sorted(_sources().glob(f"{name}-{version}-{'?' * 64}"))
    sha256 = known[0].name[-64:] if known else _download(name, version, "")
    found = Package(name, version, sha256)
    return Package(name, version, sha256, _licence(source(found)), tuple(requires))


def source(package: Package) -> Path:
    """The folder with a package's source; fetched if it is not in the cache. Not to be changed.

    Raises:
        PackageError: it cannot be had, or is another than the one that was meant.
    """
    place = _place(package)
    if place.is_dir():
        return place
    if not package.folder:
        _download(package.name, package.version, package.sha256)
        return place
    folder = Path(package.folder)
    sha256 = _folder_hash(folder) if folder.is_dir() else "no folder"
    if sha256 != package.sha256:
        raise PackageError(
            f"{folder}: expected the files that the suite was made from (SHA-256 "
            f"{package.sha256[:16]}...), got {sha256[:16]}. Go back to them, or make the suite "
            f"anew: python -m aem_gym.envs.swe.tasks.generate --package {folder}"
        )
    with _workbench() as bench:
        _settle(folder, Path(bench), place)
    return place


def image_plan(package: Package) -> ImagePlan:
    """The image in which a package is installed from `/testbed` itself, so that edits count.

    No cache of pip's is kept, and no compiled file: the only copy of the source is the one that a
    task's overlay replaces.
    """
    install = install_commands("python3", package)
    depends = "\n".join((package.sha256, *install))
    tag = f"{package.version}-{hashlib.sha256(depends.encode()).hexdigest()[:12]}"
    name = f"aem-swe/{package.name}:{tag.replace('+', '_').replace('!', '_')}"
    return ImagePlan(name, source(package), install)


def install_commands(python: str, package: Package) -> tuple[str, ...]:
    """Shell commands that install a package from the current folder, and what its tests need."""
    pip = f"{python} -m pip install --quiet --no-cache-dir --no-compile"
    needs = (f"{pip} {' '.join(package.requires)}",) if package.requires else ()
    return (f"{pip} --editable .", *needs, *_TIDY)


def import_root(folder: Path) -> Path:
    """The folder that is to be on the path of Python: `src` where there is one."""
    return folder / "src" if (folder / "src").is_dir() else folder


def _sources() -> Path:
    return cache_folder() / "swe" / "sources"


def _place(package: Package) -> Path:
    return _sources() / f"{package.name}-{package.version}-{package.sha256}"


def _workbench() -> tempfile.TemporaryDirectory[str]:
    """A folder beside the finished ones: what is ready in it is moved in one go."""
    _sources().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=_sources(), prefix=".part-")


def _settle(folder: Path, bench: Path, place: Path) -> None:
    clean = bench / "clean"
    shutil.copytree(folder, clean, symlinks=True, ignore=_leave_out(folder))
    try:
        clean.rename(place)
    except OSError:
        if not place.is_dir():  # else another process was faster
            raise


def _download(name: str, version: str, sha256: str) -> str:
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
        raise PackageError(f"{archive.name}: expected one folder in it, got {len(tops)} things")
    return tops[0]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines()
    return lines[-1] if lines else "nothing"


def _leave_out(top: Path) -> Callable[[str, list[str]], set[str]]:
    """What `copytree` is to ignore."""
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


def _folder_hash(folder: Path) -> str:
    total = hashlib.sha256()
    for path in _files(folder, _leave_out(folder)):
        content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        name = path.relative_to(folder).as_posix()
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def _licence(folder: Path) -> str:
    """What the package says of itself, in one line."""
    try:
        headers = HeaderParser().parsestr((folder / "PKG-INFO").read_text("utf-8", "replace"))
    except OSError:
        return ""
    said = str(headers.get("License-Expression") or headers.get("License") or "")
    kinds = [str(value) for value in headers.get_all("Classifier") or ()]
    kinds = [value.split(" :: ")[-1] for value in kinds if value.startswith("License")]
    return said if said and "\n" not in said else ", ".join(kinds)
