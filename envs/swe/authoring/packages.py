"""Packages that a suite is made from: a release or a folder, and how it is installed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from email.parser import HeaderParser
from pathlib import Path

from aem_gym.envs.swe.sandbox.base import ImagePlan
from aem_gym.envs.swe.tasks.packages import (
    Package,
    PackageError,
    download,
    folder_hash,
    source,
    sources_folder,
)

_TIDY = (
    "rm -rf build dist",
    "find . -name __pycache__ -prune -exec rm -rf {} +",
)
"""Installing may compile or copy the source, which would show it before the slip."""


def release(spec: str, requires: Sequence[str] = ()) -> Package:
    """The package that `NAME==VERSION` or a folder names; fetched if it is not in the cache.

    Raises:
        PackageError: the name is neither, or the source cannot be fetched.
    """
    folder = Path(spec).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        sha256 = folder_hash(folder)
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
    known = sorted(sources_folder().glob(f"{name}-{version}-{'?' * 64}"))
    sha256 = known[0].name[-64:] if known else download(name, version, "")
    found = Package(name, version, sha256)
    return Package(name, version, sha256, _licence(source(found)), tuple(requires))


def image_plan(package: Package) -> ImagePlan:
    """The image in which a package is installed from `/testbed` itself, so that edits count.

    Without pip's cache and compiled files: the only copy of the source is the one that a task's
    overlay replaces.
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
    """The folder to put on the path of Python: `src` where there is one."""
    return folder / "src" if (folder / "src").is_dir() else folder


def _licence(folder: Path) -> str:
    """The licence in the metadata of a package, in one line."""
    try:
        headers = HeaderParser().parsestr((folder / "PKG-INFO").read_text("utf-8", "replace"))
    except OSError:
        return ""
    said = str(headers.get("License-Expression") or headers.get("License") or "")
    kinds = [str(value) for value in headers.get_all("Classifier") or ()]
    kinds = [value.split(" :: ")[-1] for value in kinds if value.startswith("License")]
    return said if said and "\n" not in said else ", ".join(kinds)
