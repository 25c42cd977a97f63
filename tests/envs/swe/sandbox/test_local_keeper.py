"""A keeper ends with its program, and everything below it ends with the keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aem_gym.envs.swe.sandbox import local_keeper
from aem_gym.envs.swe.sandbox.local_keeper import below, kill_below

pytestmark = pytest.mark.skipif(
    not Path("/proc/thread-self/children").exists(), reason="needs Linux"
)


def keep(script: str, parent: int | None = None, memory: int = 512) -> subprocess.Popen[bytes]:
    numbers = (os.getpid() if parent is None else parent, memory, 1)
    command = [sys.executable, "-I", "-S", local_keeper.__file__, *map(str, numbers)]
    return subprocess.Popen([*command, "/bin/bash", "-c", script], stdout=subprocess.PIPE)


def wait_for(what: Callable[[], bool], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if what():
            return True
        time.sleep(0.02)
    return False


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(
    ("script", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("/nonexistent", 127)]
)
def test_its_exit_code_is_the_programs(script: str, code: int) -> None:
    with keep(script) as process:
        assert process.wait(20) == code


@pytest.mark.parametrize("how", ["{} &", "setsid {} &", "(setsid nohup {} &) &", "env -i {} &"])
def test_what_a_program_leaves_ends_with_it(how: str) -> None:
    detached = how.format("/bin/sh -c 'echo $$; exec sleep 300'")
    with keep(f"{detached} sleep 0.5; exit 0") as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        assert process.wait(20) == 0
        assert wait_for(lambda: gone(pid))


def test_a_parent_that_is_gone_takes_all_with_it() -> None:
    with keep("sleep 300", parent=1) as process:  # it is not
        assert process.wait(20) == 128 + signal.SIGKILL


def test_a_parent_that_is_killed_takes_all_with_it() -> None:
    program = textwrap.dedent(f"""
        import os, subprocess, sys, time
        words = [sys.executable, "-I", "-S", {local_keeper.__file__!r}, str(os.getpid()), "512"]
        script = "setsid sleep 300 & echo $!; exec sleep 300"
        subprocess.Popen([*words, "1", "/bin/bash", "-c", script], start_new_session=True)
        time.sleep(300)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        assert not gone(pid)
        process.kill()
    assert wait_for(lambda: gone(pid))


def test_kill_below_spares_those_it_is_given() -> None:
    with keep("sleep 300 & sleep 301 & sleep 302 & wait") as process:
        assert wait_for(lambda: len(below(process.pid)) == 4)
        bash = next(pid for pid, parent in below(process.pid).items() if parent == process.pid)
        kept = next(pid for pid, parent in below(process.pid).items() if parent == bash)
        assert kill_below(process.pid, {bash, kept})
        assert set(below(process.pid)) == {bash, kept}
        assert kill_below(process.pid)
        assert process.wait(20) == 137


def test_who_starts_new_processes_all_the_time_is_ended() -> None:
    with keep(
        "f() { (sleep 0.01; f) & (exit); }; for i in 1 2 3; do f; done; sleep 300"
    ) as process:
        assert wait_for(lambda: len(below(process.pid)) > 3)
        assert kill_below(process.pid)
        assert below(process.pid) == {}


def test_memory_and_files_are_limited(tmp_path: Path) -> None:
    with keep(f"{sys.executable} -c 'bytes(1 << 30)' 2>&1 | tail -1") as process:
        assert process.stdout
        assert b"MemoryError" in process.stdout.read()
    with keep(f"head -c 2000000 /dev/zero > {tmp_path}/x; echo $?; ulimit -c") as process:
        assert process.stdout
        assert process.stdout.read().split() == [b"153", b"0"]
