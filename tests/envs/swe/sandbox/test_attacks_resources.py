"""Attacks on what a sandbox may use: processes, memory, disk, time. It answers after each."""

from __future__ import annotations

import time

import pytest

from aem_gym.envs.swe.sandbox.base import Limits
from aem_gym.envs.swe.workspace import prepare
from tests.envs.swe.conftest import Open
from tests.envs.swe.swe_bench import Bench, Episode

pytestmark = pytest.mark.docker

FORKS = {
    "bomb in the foreground": "bomb() { bomb | bomb & }; bomb; sleep 100",
    "bomb in the background": ":(){ :|:& };:",
    "bomb of sessions": """python -c '
import os, signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True:
    try:
        if os.fork() == 0: os.setsid()
    except OSError: pass
'""",
    "sleepers up to the limit": """python -c '
import os, time
for _ in range(1000):
    try:
        if os.fork() == 0: time.sleep(1000)
    except OSError: pass
'""",
    "dead that nobody buries, by the shell itself": """exec python -c '
import os, time
for _ in range(1000):
    try:
        if os.fork() == 0: os._exit(0)
    except OSError: pass
time.sleep(1000)
'""",
    "threads": """python -c '
import threading, time
while True:
    try: threading.Thread(target=time.sleep, args=(1000,)).start()
    except RuntimeError: time.sleep(1)
'""",
}
MEMORY = {
    "one large block": "python -c 'x = bytearray(3 << 30)'",
    "an endless line": "tail /dev/zero",
    "many processes": "for i in 1 2 3 4; do python -c 'x = bytearray(1 << 30)' & done; wait",
    "by the shell itself": "printf -v x '%*s' 50000000; while :; do x=$x$x; done",
    "shared memory that outlives its maker": """python -c '
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for _ in range(64):
    block = libc.shmget(0, 64 << 20, 0o1600)
    place = libc.shmat(block, None, 0)
    if block >= 0: ctypes.memset(place, 1, 64 << 20)
'; ipcs -m 2>/dev/null""",
    "files without a name": """python -c '
import os
open_ = [os.memfd_create("x") for _ in range(64)]
for f in open_: os.write(f, bytes(64 << 20))
'""",
}


@pytest.mark.parametrize("attack", FORKS)
def test_processes_have_a_limit_and_an_end(episode: Episode, attack: str) -> None:
    episode.sandbox.run(FORKS[attack], 2)
    episode.is_well()


@pytest.mark.parametrize("attack", MEMORY)
def test_memory_has_a_limit_and_is_given_back(bench: Bench, opened: Open, attack: str) -> None:
    sandbox = opened(Limits(memory_mb=128, disk_mb=64))
    episode = Episode(sandbox, prepare(sandbox, bench.task))
    ran = sandbox.run(MEMORY[attack], 20)
    assert ran.exit_code != 0 or "0x" not in ran.output
    episode.is_well()
    assert _memory(episode) < 100 << 20


def test_nothing_is_left_in_shared_memory_and_queues(episode: Episode) -> None:
    ran = episode.python(
        """
        import ctypes, os
        libc = ctypes.CDLL(None)
        for _ in range(10): libc.shmat(libc.shmget(0, 1 << 20, 0o1600), None, 0)
        for i in range(100):
            if libc.mq_open(b"/q%d" % i, os.O_CREAT | os.O_RDWR, 0o600, None) < 0: break
        print("queues", i)
        open("/dev/shm/x", "wb").write(bytes(1 << 20))
        """
    )
    assert ran.output.startswith("queues ")
    assert int(ran.output.split()[1]) < 100
    assert len(episode.run("cat /proc/sysvipc/shm").splitlines()) == 1
    episode.is_well()


def test_writable_places_have_a_size(bench: Bench, opened: Open) -> None:
    sandbox = opened(Limits(memory_mb=256, disk_mb=32))
    episode = Episode(sandbox, prepare(sandbox, bench.task))
    for place in ("/testbed", "/tmp", "/var/tmp", "/home/agent", "/dev/shm"):
        ran = sandbox.run(f"head -c 200M /dev/zero > {place}/full; stat -c %s {place}/full", 30)
        assert "No space left" in ran.output, place
        assert int(ran.output.split()[-1]) <= 64 << 20, place
    assert "alive" in episode.run("echo alive")
    assert isinstance(episode.take(), str)
    assert "Read-only" in episode.run("echo > /etc/new; echo > /usr/new; echo > /new")


def test_a_full_disk_costs_no_answer(episode: Episode) -> None:
    episode.run("head -c 2G /dev/zero > /testbed/full; head -c 2G /dev/zero > /tmp/full")
    episode.run("rm -f /testbed/full; sed -i 's/a - b/a + b/' calc.py; cat /dev/zero > /tmp/x")
    episode.run("cat /dev/zero > /testbed/full")
    assert "+    return a + b" in episode.take()


def test_places_hold_so_many_files_and_no_more(bench: Bench, opened: Open) -> None:
    if bench.engine.name == "podman":
        pytest.skip("podman has no such limit: files count as memory")
    sandbox = opened(Limits(inodes=2000))
    episode = Episode(sandbox, prepare(sandbox, bench.task))
    ran = episode.python(
        """
        import os
        for place in ("/testbed", "/tmp", "/var/tmp", "/home/agent", "/dev/shm"):
            os.mkdir(f"{place}/many")
            try:
                for number in range(10_000): open(f"{place}/many/{number}", "x").close()
            except OSError as error: pass
            print(number)
        """
    )
    assert all(int(number) < 2000 for number in ran.output.split())
    assert len(ran.output.split()) == 5
    assert "alive" in episode.run("echo alive")
    assert isinstance(episode.take(), str)


def test_a_sparse_file_is_no_answer(episode: Episode) -> None:
    episode.run("truncate -s 200G huge; truncate -s 9M sparse; ln huge tests/huge; ls -la")
    began = time.monotonic()
    episode.is_well()
    assert "huge" not in episode.take()
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "spin",
    [
        "while :; do :; done",
        "python -c 'while True: pass'",
        "trap '' TERM INT HUP; sleep 1000",
        "kill -STOP $$",
        "read x < /dev/zero",
        "cat",
        "mkfifo /tmp/fifo; cat /tmp/fifo",
        "python -c 'import os; os.setsid(); os.kill(os.getppid(), 19)'; sleep 100",
    ],
)
def test_a_command_ends_at_its_deadline(episode: Episode, spin: str) -> None:
    began = time.monotonic()
    ran = episode.sandbox.run(spin, 1)
    assert time.monotonic() - began < 15
    assert ran.timed_out or spin == "cat"
    episode.is_well()


def test_the_processor_is_shared_out(episode: Episode) -> None:
    quota = episode.run(
        "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null"
    )
    assert quota.split()[0] == "100000"


def _memory(episode: Episode) -> int:
    told = episode.run(
        "cat /sys/fs/cgroup/memory/memory.usage_in_bytes /sys/fs/cgroup/memory.current 2>/dev/null"
    )
    return int(told.split()[0])
