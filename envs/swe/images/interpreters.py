"""A Python of this machine (pyenv's, uv's, one built by hand), taken along into an image."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from aem_gym.envs.swe.sandbox.base import SandboxError

PLACE = "/opt/python"
"""Where it lies in the image."""
_ASK = (
    "import json, sys; print(json.dumps([sys.base_prefix, '%d.%d' % sys.version_info[:2], "
    "sys.platform, sys.implementation.name]))"
)
_LEFT_OUT = re.compile(
    r"(^|/)(test|tests|idlelib|idle_test|tkinter|turtledemo|site-packages|config-3[^/]*)(/|$)"
    r"|_tkinter[^/]*\.so$|\.a$"
)
_OF_LIBC = re.compile(
    r"(ld-linux|linux-vdso|libc\.|libm\.|libdl\.|libpthread\.|librt\.|libutil\.|libresolv\.)"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that can be moved: all of it lies below its prefix."""

    prefix: Path
    version: str
    """`3.9`."""

    @property
    def there(self) -> str:
        """Its program in the image."""
        return f"{PLACE}/bin/python{self.version}"


def find_interpreter(version: str) -> Interpreter:
    """A Python of a version that can be taken along.

    Raises:
        SandboxError: there is none; says how to get one.
    """
    for program in _candidates(version):
        found = _ask(program, version)
        if found:
            return found
    raise SandboxError(
        f"no Python {version} on this machine that can be copied (pyenv's, uv's, or one of a "
        f"prefix of its own): pyenv install {version}, or uv python install {version}"
    )


def pack(interpreter: Interpreter) -> IO[bytes]:
    """A tar archive for `PLACE`: program, standard library, headers; `spare/`, shared libraries."""
    version, prefix = interpreter.version, interpreter.prefix
    program = prefix / "bin" / f"python{version}"
    parts = [Path(f"lib/python{version}"), Path(f"include/python{version}")]
    parts += [path.relative_to(prefix) for path in sorted((prefix / "lib").glob("libpython*.so*"))]
    stream: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(program.resolve(), f"bin/python{version}", filter=_roots)
        for part in parts:
            if (prefix / part).exists():
                tar.add(prefix / part, part.as_posix(), filter=_roots)
        modules = prefix / "lib" / f"python{version}" / "lib-dynload"
        for name, library in _libraries([program, *modules.glob("*.so")]).items():
            if not library.is_relative_to(prefix):
                tar.add(library.resolve(), f"spare/{name}", filter=_roots)
        for folder in ("lib", "spare"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry, io.BytesIO())
    stream.seek(0)
    return stream


def _candidates(version: str) -> Iterator[Path]:
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"), reverse=True)
    uv = Path.home() / ".local" / "share" / "uv" / "python"
    yield from sorted(uv.glob(f"cpython-{version}.*/bin/{name}"), reverse=True)
    yield Path("/usr/local/bin") / name
    if found := shutil.which(name):
        yield Path(found)


def _ask(program: Path, version: str) -> Interpreter | None:
    try:
        done = subprocess.run([program, "-IS", "-c", _ASK], capture_output=True, timeout=30)
        prefix, got, platform, kind = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if (got, platform, kind) != (version, "linux", "cpython") or prefix == "/usr":
        return None  # of /usr nobody knows what belongs to it
    interpreter = Interpreter(Path(prefix), version)
    return interpreter if (Path(prefix) / "bin" / f"python{version}").is_file() else None


def _roots(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if _LEFT_OUT.search(entry.name):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _libraries(programs: list[Path]) -> dict[str, Path]:
    """The shared libraries that programs load, but those of the C library, by name."""
    wanted = [str(path) for path in programs if not _LEFT_OUT.search(path.name)]
    done = subprocess.run(["ldd", *wanted], capture_output=True, text=True, check=False)
    found = {}
    for line in done.stdout.splitlines():
        match = re.match(r"\s+(\S+) => (/\S+)", line)
        if match and not _OF_LIBC.match(match[1]):
            found[match[1]] = Path(match[2])
    return found
