"""Engines that are killed, full, or out of reach: clear errors, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aem_gym.envs.swe.sandbox.base import SandboxError, SandboxSpec
from aem_gym.envs.swe.sandbox.connect import find
from aem_gym.envs.swe.sandbox.containers import ContainerEngine
from aem_gym.envs.swe.sandbox.engines import open_engine
from aem_gym.envs.swe.workspace import prepare, take_patch
from tests.envs.swe.sandbox.swe_engine import (
    OwnEngine,
    can_start_one,
    own_engine,
    processes,
    start_trainer,
    wait_for,
)
from tests.envs.swe.swe_bench import FIX, Bench

pytestmark = pytest.mark.docker
needs_own_engine = pytest.mark.skipif(
    not can_start_one(), reason="needs root and dockerd: apt-get install docker.io"
)


@pytest.fixture(scope="module")
def own(bench: Bench) -> Iterator[tuple[OwnEngine, str]]:
    """An engine that tests may kill, and the name of an image in it."""
    image = bench.engine.image(bench.task.image)
    with own_engine() as engine:
        engine.load(image)
        yield engine, image


@pytest.fixture
def breakable(
    own: tuple[OwnEngine, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[ContainerEngine]:
    monkeypatch.setenv("DOCKER_HOST", own[0].url)
    opened = ContainerEngine(find(timeout=20))
    yield opened
    opened.close()


@needs_own_engine
def test_an_engine_that_was_killed_is_an_error_and_then_works_again(
    own: tuple[OwnEngine, str], breakable: ContainerEngine, bench: Bench
) -> None:
    (machine, image), engine = own, breakable
    sandbox = engine.start(SandboxSpec(image))
    workspace = prepare(sandbox, bench.task)
    sandbox.run(FIX, 60)
    killer = threading.Timer(2, machine.kill)
    killer.start()
    began = time.monotonic()
    with pytest.raises(SandboxError):
        sandbox.run("sleep 100", 100)
    assert time.monotonic() - began < 90
    killer.join()
    with pytest.raises(SandboxError):
        take_patch(sandbox, workspace)
    with pytest.raises(SandboxError, match="Start it|start|answer"):
        engine.start(SandboxSpec(image))
    sandbox.close()
    machine.start()
    with pytest.raises(SandboxError):
        sandbox.run("echo", 20)
    again = engine.start(SandboxSpec(image))
    assert again.run("echo back", 60).output == "back\n"
    again.close()
    engine.close()
    wait_for(lambda: machine.containers() == 0, 60)
    wait_for(lambda: not machine.processes("shim"), 60)


@needs_own_engine
def test_trainer_and_engine_killed_together_leave_nothing(own: tuple[OwnEngine, str]) -> None:
    machine, image = own
    trainer, run = start_trainer(image, url=machine.url)
    assert machine.containers() == 2
    machine.kill()
    trainer.kill()
    trainer.wait()
    time.sleep(2)
    machine.start()
    wait_for(lambda: machine.containers() == 0, 90)
    wait_for(lambda: not processes(run), 90)


@needs_own_engine
@pytest.mark.slow
def test_100_cycles_leave_nothing(own: tuple[OwnEngine, str], breakable: ContainerEngine) -> None:
    machine, image = own
    engine = breakable

    def cycle() -> None:
        sandbox = engine.start(SandboxSpec(image))
        sandbox.run("head -c 1M /dev/zero > x", 60)
        sandbox.close()

    def state() -> tuple[int, int, int]:
        with contextlib.closing(machine.client()) as client:
            volumes = client.api.volumes()["Volumes"] or []
        return len(list(Path("/proc/self/fd").iterdir())), len(volumes), _size(machine.folder)

    for _ in range(10):  # connections to the engine are kept for the next call, a few at most
        cycle()
    before = state()
    for _ in range(100):
        cycle()
    after = state()
    assert machine.containers() == 0
    assert after[:2] <= before[:2]
    assert after[2] - before[2] < 2_000_000


@needs_own_engine
def test_a_full_disk_is_an_error_and_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = bench.engine.image(bench.task.image)
    with _small_disk("900m") as folder, own_engine(folder) as machine:
        machine.load(image)
        monkeypatch.setenv("DOCKER_HOST", machine.url)
        engine = ContainerEngine(find(timeout=60))
        _fill(folder / "root" / "full")
        with pytest.raises(SandboxError, match="disk is full"):
            engine.start(SandboxSpec(image))
        (folder / "root" / "full").unlink()
        sandbox = engine.start(SandboxSpec(image))
        sandbox.run(":", 60)  # starts the shell: a new one needs a little room
        _fill(folder / "root" / "full")
        assert "hi" in sandbox.run("echo hi > /tmp/x; cat /tmp/x", 60).output
        sandbox.close()
        engine.close()
        assert machine.containers() == 0


def test_no_engine_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    with pytest.raises(SandboxError, match=r"no container engine answers.*Start one.*dockerd"):
        open_engine("auto")


def test_a_socket_that_nobody_serves_is_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/sock")
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/sock")
        with pytest.raises(SandboxError, match="no container engine answers"):
            open_engine("docker")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_no_permission_is_an_error_that_says_what_to_do(bench: Bench) -> None:
    """As a user who may not use the engine's socket."""
    code = (
        "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "from aem_gym.envs.swe.sandbox.engines import open_engine\n"
        "open_engine('docker')"
    )
    # What is imported later is read as root is not there any more.
    code = "import docker, aem_gym.envs.swe.sandbox.containers\n" + code
    found = find()
    found.client.close()
    environment = {**os.environ, "DOCKER_HOST": found.url}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert "SandboxError: no permission to use the engine" in done.stderr
    assert "usermod -aG docker" in done.stderr


def _size(folder: Path) -> int:
    done = subprocess.run(["du", "-sk", f"{folder}/root"], capture_output=True, text=True)
    return int(done.stdout.split()[0]) * 1024


def _fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(1 << 16))


@contextlib.contextmanager
def _small_disk(size: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="aem-disk-", dir="/var/tmp"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--recursive", "--lazy", str(folder)], check=False)
        folder.rmdir()
