"""What image builds take from this machine: network settings, a Python, a Debian by debootstrap.

Of the settings (certificates, package index, proxies) nothing stays in an image: files are removed
before the image is made, variables are given to the commands of the build alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from aem_gym.envs.swe.sandbox.base import SandboxError
from aem_gym.io import cache_folder

Log = Callable[[str], None]
"""Takes what a build does, line by line; what its commands print begins with `  | `."""

FOLDER = "/tmp/aem-build"
"""In a build: where files of this machine are, until the build is done."""
BUILD_ENVIRONMENT: Mapping[str, str] = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_PROGRESS_BAR": "off",
    "GIT_CONFIG_COUNT": "1",  # the repository belongs to the agent, and root installs it
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}
PYTHON_FOLDER = "/opt/python"
"""Where a Python of this machine lies in an image."""
SUITES = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie"}
"""Python -> the release of Debian that has it."""

_BUNDLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
_ADDRESSES = ("index-url", "extra-index-url", "find-links")
_PLAIN = ("trusted-host", "proxy", "timeout", "default-timeout", "retries")
_ASK = (
    "import json, sys; print(json.dumps([sys._base_executable or sys.executable, sys.base_prefix, "
    "'%d.%d.%d' % sys.version_info[:3], sys.platform + ' ' + sys.implementation.name]))"
)
_LEFT_OUT = re.compile(
    r"(^|/)(test|tests|idlelib|idle_test|tkinter|turtledemo|site-packages|config-3[^/]*)(/|$)"
    r"|_tkinter[^/]*\.so$|\.a$"
)
_OF_LIBC = re.compile(
    r"(ld-linux|linux-vdso|libc\.|libm\.|libdl\.|libpthread\.|librt\.|libutil\.|libresolv\.)"
)
_MIRRORS = ("http://deb.debian.org/debian", "http://archive.debian.org/debian")
"""Old releases move from the first to the second."""
_MIRROR = "AEM_DEBIAN_MIRROR"
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SECONDS = 3600
_NOT_NEEDED = (
    *("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man"),
    *("usr/share/locale", "usr/share/info"),
)
"""Emptied: a third of it all."""


def setup_files() -> dict[str, bytes]:
    """The files that make a base image, by name: `setup.sh` and what it reads."""
    folder = Path(__file__).parent
    return {name: (folder / name).read_bytes() for name in ("setup.sh", "requirements.txt")}


def lock_file(name: str) -> Path:
    """A file to lock while something is built, so that one process on this machine builds it."""
    return cache_folder() / "swe" / "locks" / hashlib.sha256(name.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Variables and files for the commands of a build."""

    environment: Mapping[str, str]
    files: Mapping[str, bytes]
    """Content by name, for `FOLDER`."""


def host_settings() -> HostSettings:
    """The settings of this machine; nothing on most."""
    environment = {
        name: value for name, value in os.environ.items() if name.lower() in _PROXIES and value
    }
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    environment |= pip_settings(done.stdout if done.returncode == 0 else "")
    for path in (Path(os.environ.get(name) or "/nonexistent") for name in _BUNDLES):
        if path.is_file():
            environment |= dict.fromkeys(_BUNDLES, f"{FOLDER}/ca.crt")
            return HostSettings(environment, {"ca.crt": path.read_bytes()})
    return HostSettings(environment, {})


def pip_settings(config: str) -> dict[str, str]:
    """The output of `pip config list` as variables of pip, as far as it holds elsewhere.

    Folders and `file:` addresses of this machine are left out.
    """
    found: dict[str, tuple[int, str]] = {}
    for line in config.splitlines():
        key, _, quoted = line.partition("=")
        section, _, option = key.strip().rpartition(".")
        value = quoted.strip().strip("'\"").replace("\\n", " ")
        if option in _ADDRESSES:
            value = " ".join(part for part in value.split() if part.startswith("http"))
        elif option not in _PLAIN:
            continue
        rank = {"global": 0, "install": 1, ":env:": 2}.get(section, -1)
        if value and rank >= found.get(option, (0, ""))[0]:
            found[option] = (rank, value)
    return {f"PIP_{name.upper().replace('-', '_')}": value for name, (_, value) in found.items()}


@dataclass(frozen=True, slots=True)
class HostPython:
    executable: str
    prefix: str
    version: str
    """`3.9.18`."""
    kind: str
    """Platform and implementation: `linux cpython`."""

    @property
    def minor(self) -> str:
        return self.version.rpartition(".")[0]


def ask_python(program: str | Path) -> HostPython | None:
    """The interpreter of a program, which may be a virtual environment's; None: it fails."""
    try:
        done = subprocess.run([program, "-IS", "-c", _ASK], capture_output=True, timeout=60)
        return HostPython(*json.loads(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def find_interpreter(version: str) -> HostPython:
    """A Python of a version that can be copied: all of it lies below a prefix of its own."""
    for program in _candidates(version):
        found = ask_python(program)
        if found and (found.minor, found.kind) == (version, "linux cpython"):
            # The files of a Python in /usr are mixed with those of other packages.
            own = found.prefix != "/usr"
            if own and Path(found.prefix, "bin", f"python{version}").is_file():
                return found
    raise SandboxError(
        f"no Python {version} on this machine that can be copied (pyenv's, uv's, or one of a "
        f"prefix of its own): pyenv install {version}, or uv python install {version}"
    )


def _candidates(version: str) -> Iterator[Path]:
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"), reverse=True)
    uv = Path.home() / ".local" / "share" / "uv" / "python"
    yield from sorted(uv.glob(f"cpython-{version}.*/bin/{name}"), reverse=True)
    yield Path("/usr/local/bin") / name
    if found := shutil.which(name):
        yield Path(found)


def pack(python: HostPython) -> IO[bytes]:
    """A tar archive for `PYTHON_FOLDER`: program, library, headers; `spare/`: shared libraries."""
    version, prefix = python.minor, Path(python.prefix)
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


@contextlib.contextmanager
def debian_archive(suite: str, log: Log) -> Iterator[tuple[Path, str]]:
    """A tar file of a minimal Debian made by debootstrap, and the mirror that it came from."""
    check_debootstrap(suite)
    with tempfile.TemporaryDirectory(prefix="aem-debian-") as temporary:
        # debootstrap refuses what is mounted `nodev` or `noexec`, and says so.
        root, archive = Path(temporary) / "root", Path(temporary) / "root.tar"
        mirror = _bootstrap(suite, root, log)
        for folder in _NOT_NEEDED:
            shutil.rmtree(root / folder, ignore_errors=True)
            (root / folder).mkdir(parents=True)
        run_program(["tar", "--numeric-owner", "-C", str(root), "-cf", str(archive), "."])
        shutil.rmtree(root)
        yield archive, mirror


def check_debootstrap(suite: str) -> None:
    """Raises SandboxError: what debootstrap needs is missing."""
    if os.geteuid() != 0:
        raise SandboxError(f"debootstrap {suite} needs root: run it with sudo")
    if not shutil.which("debootstrap"):
        raise SandboxError("debootstrap is not installed: apt-get install debootstrap")
    if not _KEYS.is_file():
        raise SandboxError(
            f"the keys of Debian are not in {_KEYS}: apt-get install debian-archive-keyring"
        )


def _bootstrap(suite: str, root: Path, log: Log) -> str:
    """Fill a folder with a minimal Debian; from which mirror."""
    own = os.environ.get(_MIRROR)
    failures = []
    for mirror in (own,) if own else _MIRRORS:
        log(f"debootstrap {suite} from {mirror}")
        options = ["--variant=minbase", f"--keyring={_KEYS}"]
        environment = {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        try:
            run_program(
                ["debootstrap", *options, suite, str(root), mirror], environment=environment
            )
        except SandboxError as error:
            failures.append(str(error))
            shutil.rmtree(root, ignore_errors=True)
        else:
            return mirror
    raise SandboxError(f"{'; '.join(failures)}. Another mirror: {_MIRROR}=URL")


def run_program(
    argv: Sequence[str],
    doing: str = "",
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a program without input. Raises SandboxError with what it was for, and its last lines."""
    doing = doing or " ".join(argv)
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"{doing}: {error}") from error
    if done.returncode:
        raise SandboxError(f"{doing}: exit code {done.returncode}: {done.stdout.strip()[-800:]}")
