"""Installs a package, and runs its tests in a copy of it with some files replaced by mutants."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import msgspec

from aem_gym.envs.swe.sandbox.base import ENVIRONMENT, WORKDIR, ImagePlan
from aem_gym.envs.swe.tasks.logs import ReportError, Status, read_junit
from aem_gym.envs.swe.tasks.packages import Package, PackageError, source
from aem_gym.io import cache_folder

OPTIONS = "-p no:cacheprovider --color=no -q -o addopts= -o junit_family=xunit1"
"""Options of pytest: without those of the repository, and with ids that can be parsed."""
_TIDY = ("rm -rf build dist", "find . -name __pycache__ -prune -exec rm -rf {} +")
"""Installing may compile or copy the source, which would show it before the bug was put in."""
_MEMORY = 2 << 30
_FILE = 64 << 20
_LIMITED = (
    "import contextlib, os, resource as r, sys\n"
    f"most = {{r.RLIMIT_AS: {_MEMORY}, r.RLIMIT_FSIZE: {_FILE}, r.RLIMIT_CORE: 0}}\n"
    "for kind in most:\n"
    "    with contextlib.suppress(ValueError, OSError):\n"
    "        r.setrlimit(kind, (most[kind], most[kind]))\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)
"""Sets limits, as a mutant may fill memory or disk; `preexec_fn` is not safe with threads."""


def image_plan(package: Package) -> ImagePlan:
    """The image in which a package is installed from `/testbed` itself, so that edits count.

    Without pip's cache and compiled files, a task's overlay replaces the only copy of the source.
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


@dataclass(frozen=True, slots=True)
class TrialResult:
    statuses: Mapping[str, Status]
    """By node id; empty if the run did not end, or wrote no report."""
    messages: Mapping[str, str]
    """Pytest's message for each failing test."""

    @property
    def passed(self) -> frozenset[str]:
        """Tests that passed, without skipped tests and expected failures."""
        return frozenset(name for name, how in self.statuses.items() if how is Status.PASSED)

    @property
    def failed(self) -> frozenset[str]:
        """Tests that failed, or could not be run."""
        return frozenset(name for name, how in self.statuses.items() if how >= Status.FAILED)


def test_command(paths: Iterable[str]) -> str:
    """The command that runs some test files as a trial does; `{report}` is the report's path."""
    return f"python3 -m pytest {OPTIONS} --junitxml={{report}} {shlex.join(sorted(paths))}"


def interpreter(package: Package) -> Path:
    """The Python of a virtual environment with the package installed; made if it is missing.

    Raises:
        PackageError: it cannot be installed.
    """
    commands = install_commands("bin/python", package)
    key = hashlib.sha256("\n".join((package.sha256, sys.version, *commands)).encode())
    home = cache_folder() / "swe" / "venvs" / f"{package.name}-{key.hexdigest()[:16]}"
    ready = home / "ready"
    if not ready.is_file():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        shutil.copytree(source(package), home / "source", symlinks=True)
        _call([sys.executable, "-m", "venv", str(home)], home, package)
        for command in install_commands(str(home / "bin" / "python"), package):
            _call(["/bin/sh", "-c", command], home / "source", package)
        ready.touch()
    return home / "bin" / "python"


class Trial:
    """A copy of a package's source in which files are replaced and tests are run."""

    def __init__(self, package: Package, folder: Path, timeout: float, python: Path) -> None:
        self.timeout = timeout
        self.paths: tuple[str, ...] = ()
        """The test files to run; if empty, those that pytest finds."""
        self._python = python
        self._folder = folder / "testbed"
        self._scratch = folder / "scratch"
        self._scratch.mkdir()
        self._pristine = source(package)
        shutil.copytree(self._pristine, self._folder, symlinks=True)

    def run(
        self, overlay: Mapping[str, bytes], paths: Iterable[str] = (), *, frozen: bool = False
    ) -> TrialResult:
        """Run some test files (default: `self.paths`) with the files of `overlay` replaced.

        If `frozen`, tests cannot write beside their files (only where bubblewrap is installed).
        """
        for path, content in overlay.items():
            (self._folder / path).write_bytes(content)
        report = self._scratch / "report.xml"
        report.unlink(missing_ok=True)
        try:
            self._call(report, *(paths or self.paths), frozen=frozen)
            return _read(report, str(self._folder))
        finally:
            for path in overlay:
                shutil.copyfile(self._pristine / path, self._folder / path)

    def calls(self) -> Mapping[str, tuple[str, ...]]:
        """Function (path and qualified name, `a.py::C.f`) -> the test files that call it.

        The name of a file is empty for calls during the import of files.
        """
        found = self._scratch / "calls.json"
        shutil.copyfile(Path(__file__).with_name("calls.py"), self._scratch / "calls.py")
        self._call(self._scratch / "report.xml", "-p", "calls", *self.paths)
        try:
            return msgspec.json.decode(found.read_bytes(), type=dict[str, tuple[str, ...]])
        except (OSError, msgspec.DecodeError):
            return {}

    def _call(self, report: Path, *more: str, frozen: bool = False) -> None:
        options = [*OPTIONS.split(), "--tb=short", "--showlocals", f"--junitxml={report}", *more]
        pytest = [str(self._python), "-m", "pytest", f"--basetemp={self._scratch}/tmp", *options]
        inner = [sys.executable, "-c", _LIMITED, *pytest]
        environment = {"PATH": os.defpath, **ENVIRONMENT, "HOME": str(self._scratch)}
        places = (import_root(self._folder), self._scratch)
        environment["PYTHONPATH"] = os.pathsep.join(map(str, places))
        environment |= {"TMPDIR": str(self._scratch), "CALLS": str(self._scratch / "calls.json")}
        process = subprocess.Popen(
            [*self._walls(frozen), *inner],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            report.unlink(missing_ok=True)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _walls(self, frozen: bool) -> list[str]:
        """The command that restricts writes to the trial's folder, if bubblewrap is installed.

        Without it, broken code that renames or removes files could do so with the user's files.
        """
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            return []
        own, kept = str(self._folder.parent), str(self._folder)
        system = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        places = ["--bind", own, own, *(["--ro-bind", kept, kept] if frozen else ())]
        return [bwrap, *system, *places, "--unshare-all", "--die-with-parent", "--"]


@contextlib.contextmanager
def trial(package: Package, timeout: float, python: Path | None = None) -> Iterator[Trial]:
    """A folder to run tests in, removed at the end; `timeout` is in seconds, for all tests."""
    python = python or interpreter(package)
    with tempfile.TemporaryDirectory(prefix="aem-trial-", ignore_cleanup_errors=True) as folder:
        yield Trial(package, Path(folder), timeout, python)


def _read(report: Path, folder: str) -> TrialResult:
    try:
        content = report.read_bytes()
        statuses = read_junit(content)
        root = ElementTree.fromstring(content)
    except (OSError, ReportError, ElementTree.ParseError):
        return TrialResult({}, {})
    messages: dict[str, str] = {}
    for case in root.iter("testcase"):
        failure = case.find("failure")
        if failure is not None:
            whole = ElementTree.tostring(_alone(case))
            # Paths as in a sandbox, and the same in every run.
            messages[next(iter(read_junit(whole)))] = (failure.text or "").replace(folder, WORKDIR)
    return TrialResult(statuses, messages)


def _alone(case: ElementTree.Element) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite")
    suite.append(case)
    return suite


def _call(command: list[str], folder: Path, package: Package) -> None:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise PackageError(
            f"{package.name} {package.version}: expected to install it, got "
            f"{done.stderr.strip()[-500:]!r}. Reproduce it in {folder}: {' '.join(command)}"
        )
