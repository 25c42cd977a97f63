"""Sandboxes without containers: what holds in both engines, and what bubblewrap adds."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aem_gym.envs.swe.sandbox.base import STORE, ImagePlan, Limits, Sandbox, SandboxError
from aem_gym.envs.swe.sandbox.engines import open_engine
from aem_gym.envs.swe.sandbox.local import ProcessEngine
from aem_gym.envs.swe.workspace import prepare
from aem_gym.io import cache_folder
from tests.envs.swe.swe_bench import FIX, GOLD, Bench, calc_task, write_package

pytestmark = pytest.mark.slow  # an image takes half a minute


@pytest.fixture(scope="module", params=["bubblewrap", "process"])
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    plan = package(tmp_path_factory.mktemp("package"))
    try:
        engine = open_engine(request.param)
        engine.image(plan)
    except SandboxError as error:
        if os.environ.get("AEM_REQUIRE_DOCKER"):
            raise
        pytest.skip(f"needs {request.param}, and network once: {error}")
    yield Bench(engine, calc_task(plan))
    engine.close()
    assert isinstance(engine, ProcessEngine)  # of which the other is a kind
    assert not engine._root.is_dir() or not list(engine._root.glob(f"{engine.run}*"))


@pytest.fixture
def sandbox(bench: Bench) -> Iterator[Sandbox]:
    opened = bench.open()
    yield opened
    opened.close()


def package(folder: Path) -> ImagePlan:
    """The small package, installed so that edits count."""
    plan = write_package(folder)
    (folder / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='calc', version='1', py_modules=['calc'])\n"
    )
    install = "python -m pip install --quiet --no-build-isolation --no-deps --editable ."
    name = f"aem-swe-tests:{hashlib.sha256((plan.name + install).encode()).hexdigest()[:12]}"
    return dataclasses.replace(plan, name=name, install=(install,))


def told(sandbox: Sandbox, command: str, timeout: float = 30) -> str:
    return sandbox.run(command, timeout).output.strip()


def test_says_that_it_is_not_to_be_trusted(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        engine = open_engine(bench.engine.name)
    engine.close()
    assert not engine.isolates
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not isolate" in caplog.text


def test_the_shell_keeps_folder_and_variables(sandbox: Sandbox) -> None:
    assert told(sandbox, "pwd") == "/testbed"
    assert told(sandbox, "cd data; x=3; f() { echo $x; }; cat note.txt") == "a note"
    assert told(sandbox, "pwd; f") == "/testbed/data\n3"
    assert sandbox.run("(exit 4)", 30).exit_code == 4


def test_paths_are_as_in_a_container(sandbox: Sandbox) -> None:
    assert told(sandbox, "echo ~; cd /tmp; pwd; echo x > /tmp/x; cat x") == "/home/agent\n/tmp\nx"
    assert told(sandbox, "echo y > ~/y; cat /home/agent/y") == "y"
    assert sandbox.read("/tmp/x") == b"x\n"
    assert told(sandbox, "cd /testbed; python -c 'import calc; print(calc.__file__)'") == (
        "/testbed/calc.py"
    )
    assert told(sandbox, "cd /; python -c 'import calc; print(calc.__file__)'") == (
        "/testbed/calc.py"
    )
    assert told(sandbox, "command -v python pytest") == "/opt/venv/bin/python\n/opt/venv/bin/pytest"


def test_the_environment_is_not_the_users(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    opened = bench.open()
    try:
        assert "hunter2" not in told(opened, "env")
        assert told(opened, "echo $TZ $PYTHONHASHSEED $LANG") == "UTC 0 C.UTF-8"
    finally:
        opened.close()


def test_sandboxes_share_nothing(bench: Bench, sandbox: Sandbox) -> None:
    other = bench.open()
    try:
        told(sandbox, "echo broken > calc.py; echo x > /tmp/x; rm -rf data")
        assert "def add" in told(other, "cat calc.py; cat /tmp/x")
        assert told(other, "ls data") == "note.txt"
        assert "def add" in told(
            other, "python -c 'import calc; print(open(calc.__file__).read())'"
        )
    finally:
        other.close()


@pytest.mark.parametrize("how", ["{} &", "setsid {} &", "(setsid nohup {} &) & disown;"])
def test_what_a_command_leaves_running_ends_with_it(sandbox: Sandbox, how: str) -> None:
    writer = "sh -c 'while echo x >> /tmp/log; do sleep 0.02; done' >/dev/null 2>&1"
    assert told(sandbox, f"{how.format(writer)} sleep 0.5; cat /tmp/log")
    size = sandbox.read("/tmp/log")
    time.sleep(0.2)
    assert sandbox.read("/tmp/log") == size


def test_deadlines_are_kept(sandbox: Sandbox) -> None:
    began = time.monotonic()
    ran = sandbox.run("cd /tmp; echo begun; setsid sleep 300", 3)
    assert (ran.output, ran.timed_out, ran.exit_code) == ("begun\n", True, None)
    assert sandbox.execute(["sleep", "300"], 1).timed_out
    assert time.monotonic() - began < 100
    assert told(sandbox, "pwd") == "/testbed"


def test_a_shell_that_ends_is_replaced(sandbox: Sandbox) -> None:
    assert sandbox.run("exit 3", 30).exit_code is None
    assert told(sandbox, "pwd") == "/testbed"


def test_output_is_cut_and_floods_are_stopped(bench: Bench) -> None:
    opened = bench.open(Limits(output_bytes=1000))
    try:
        ran = opened.run("seq 1000", 30)
        assert ran.output.startswith("1\n2\n") and ran.output.endswith("999\n1000\n")
        assert ran.elided > 0
        assert "was killed" in opened.run("yes", 30).output
    finally:
        opened.close()


def test_memory_and_file_sizes_are_limited(bench: Bench) -> None:
    opened = bench.open(Limits(memory_mb=256, disk_mb=8))
    try:
        assert "MemoryError" in told(opened, "python -c 'bytes(1 << 30)'")
        told(opened, "head -c 20000000 /dev/zero > /tmp/large")
        assert told(opened, "stat -c %s /tmp/large") == str(8 << 20)
    finally:
        opened.close()


def test_files_are_read_and_written(sandbox: Sandbox) -> None:
    sandbox.write("/testbed/new/a.bin", b"\0\xff" * 300_000)
    assert sandbox.read("/testbed/new/a.bin") == b"\0\xff" * 300_000
    assert sandbox.read("/testbed/new/a.bin", 3) == b"\0\xff\0"
    with pytest.raises(FileNotFoundError):
        sandbox.read("/testbed/none")
    with pytest.raises(OSError, match="no regular file"):
        sandbox.read("/testbed")
    with pytest.raises(OSError, match="cannot be written"):
        sandbox.write("/dev/null/x", b"")


def test_programs_get_input_and_give_a_code(sandbox: Sandbox) -> None:
    ran = sandbox.execute(["sh", "-c", "cat; exit 5"], 30, stdin=b"/testbed " * 50_000)
    assert ran.exit_code == 5
    assert ran.output == "/testbed " * 50_000


def test_gold_resolves_and_nothing_else_does(bench: Bench) -> None:
    assert bench.grade(GOLD).resolved
    assert bench.attempt(FIX).resolved
    assert not bench.attempt("echo x > notes.txt").resolved
    assert not bench.attempt("echo 'def test_add_secret(): pass' > tests/test_calc.py").resolved
    hook = "import pytest\\ndef pytest_runtest_makereport(item, call): item.obj = int"
    assert not bench.attempt(f"printf '{hook}' > conftest.py").resolved


def test_goes_on_when_the_thread_that_started_it_has_ended(bench: Bench) -> None:
    opened: list[Sandbox] = []

    def start() -> None:
        opened.append(bench.open())
        opened[0].run("x=1", 30)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(1)
    try:
        assert told(opened[0], "echo $x") == "1"
    finally:
        opened[0].close()


def test_a_closed_sandbox_is_gone(bench: Bench) -> None:
    opened = bench.open()
    told(opened, "chmod 000 data; sleep 300 &")
    opened.close()
    opened.close()
    with pytest.raises(SandboxError):
        opened.run("true", 5)


def test_nothing_is_left_of_a_process_that_was_killed(bench: Bench, tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import time
        from aem_gym.envs.swe.sandbox.base import SandboxSpec
        from aem_gym.envs.swe.sandbox.engines import open_engine
        engine = open_engine({bench.engine.name!r})
        sandbox = engine.start(SandboxSpec({bench.engine.image(bench.task.image)!r}))
        sandbox.run(":", 30)
        print(sandbox.name, flush=True)
        sandbox.run("setsid sleep 300 & touch /tmp/here; sleep 300", 300)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        name = process.stdout.readline().decode().strip()
        assert isinstance(bench.engine, ProcessEngine)
        sandbox_dir = bench.engine._root / name
        until = time.monotonic() + 30
        while not (sandbox_dir / "tmp" / "here").exists() and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 30
    while (left := processes_in(sandbox_dir)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
    assert bench.engine.sweep() >= 1
    assert not sandbox_dir.exists()


def processes_in(sandbox_dir: Path) -> list[str]:
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and lies_in(pid, sandbox_dir)]


def lies_in(pid: str, sandbox_dir: Path) -> bool:
    """Whether a process was started in a folder; a keeper's own command names it as well."""
    try:
        return str(sandbox_dir) in os.readlink(f"/proc/{pid}/cwd") or (
            str(sandbox_dir).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    except OSError:
        return False


class TestIsolation:
    @pytest.fixture(autouse=True)
    def _isolated(self, bench: Bench) -> None:
        if bench.engine.name != "bubblewrap":
            pytest.skip("has no isolation")

    def test_the_agent_is_the_user_of_containers(self, sandbox: Sandbox) -> None:
        assert told(sandbox, "id -u; id -un; hostname") == "1000\nagent\nsandbox"
        assert sandbox.execute(["id", "-u"], 30).output == "0\n"

    def test_the_store_of_root_is_not_there_for_the_agent(
        self, bench: Bench, sandbox: Sandbox
    ) -> None:
        prepare(sandbox, bench.task)
        assert sandbox.execute(["ls", STORE], 30).output
        assert told(sandbox, f"ls {STORE} 2>&1").endswith("No such file or directory")

    def test_the_system_is_read_only_and_homes_are_not_there(self, sandbox: Sandbox) -> None:
        for path in ("/usr/x", "/opt/venv/x", "/etc/passwd"):
            assert sandbox.run(f"echo x >> {path}", 30).exit_code != 0
        for path in (Path.home() / ".cache", cache_folder(), Path(__file__), Path("/etc/shadow")):
            assert sandbox.run(f"ls {path}", 30).exit_code != 0

    def test_there_is_no_network(self, bench: Bench, sandbox: Sandbox) -> None:
        assert told(sandbox, "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | xargs") == "lo"
        opened = bench.open(Limits(network=True))
        try:
            devices = set(told(opened, "tail -n +3 /proc/net/dev | cut -d: -f1").split())
            assert devices == set(os.listdir("/sys/class/net")) | (devices & {"lo"})
        finally:
            opened.close()

    def test_other_processes_are_not_seen(self, sandbox: Sandbox) -> None:
        assert len(told(sandbox, "ls -d /proc/[0-9]*").splitlines()) < 6
        assert sandbox.run(f"kill -0 {os.getpid()}", 30).exit_code != 0
