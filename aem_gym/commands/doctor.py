"""`aem-gym doctor`: what is installed, what is missing, and the command that fixes it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

Finding = tuple[bool, str, str]
"""(fine, what was checked, what was found or what fixes it)."""

_BASE = ("gymnasium", "numpy", "msgspec", "click")
_EXTRAS = {
    "train": ("torch", "transformers", "peft", "accelerate", "tensorboard", "gguf"),
    "alfworld": ("alfworld", "textworld"),
    "swebench": ("swebench",),
}


@click.command()
def doctor() -> None:
    """Check this machine: packages, GPU, cache, container engines."""
    for fine, name, found in findings():
        line = f"{'ok' if fine else '--':<3} {name:<14} {found}"
        if sys.stdout.isatty():
            columns = shutil.get_terminal_size().columns
            line = textwrap.fill(line, columns, subsequent_indent=" " * 19)
        click.echo(line)


def findings() -> Iterator[Finding]:
    """Every check in turn. None of them raises."""
    yield True, "python", f"{platform.python_version()} on {platform.platform()}"
    for package in ("aem-gym", *_BASE):
        yield _version(package, f"pip install {package}")
    for extra, packages in _EXTRAS.items():
        yield _extra(extra, packages)
    yield _torch()
    yield _cache()
    yield from _of_environments()


def _version(package: str, fix: str) -> Finding:
    try:
        return True, package, version(package)
    except PackageNotFoundError:
        return False, package, f"not installed: {fix}"


def _extra(extra: str, packages: tuple[str, ...]) -> Finding:
    found = [_version(package, "") for package in packages]
    missing = [name for fine, name, _ in found if not fine]
    if missing:
        fix = f'pip install "aem-gym[{extra}]"'
        return False, f"[{extra}]", f"missing {', '.join(missing)}: {fix}"
    return True, f"[{extra}]", ", ".join(f"{name} {text}" for _, name, text in found)


def _torch() -> Finding:
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        return False, "device", f"no torch ({error}): evaluation of simple agents only"
    if not torch.cuda.is_available():
        return True, "device", f"CPU, {os.cpu_count()} cores (no CUDA GPU seen by torch)"
    name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    bf16 = "with" if torch.cuda.is_bf16_supported() else "without"
    return True, "device", f"{name}, {memory / 2**30:.0f} GiB, {bf16} bfloat16"


def _cache() -> Finding:
    from aem_gym.io import cache_folder

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True, "cache", str(folder)
    except OSError as error:
        reason = error.strerror or error
        return False, "cache", f"{folder}: {reason}. Set AEM_GYM_CACHE to a writable folder"


def _of_environments() -> Iterator[Finding]:
    """The checks that environments register: engines, images, data."""
    from aem_gym.registry import env_factory, env_ids, env_tool

    for name in env_ids():
        try:
            tool = env_tool(env_factory(name), "doctor")
            yield from tool() if tool is not None else ()
        except Exception as error:  # an engine's SDK lets errors of several libraries through
            yield False, name, f"cannot be looked at: {error}"
