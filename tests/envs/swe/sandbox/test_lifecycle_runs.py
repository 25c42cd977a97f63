"""However a run ends, its sandboxes end with it, and nobody else's."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import docker
from aem_gym.envs.swe.sandbox.base import LABEL, SandboxEngine, SandboxError, SandboxSpec
from aem_gym.envs.swe.sandbox.engines import open_engine
from tests.envs.swe.conftest import Open
from tests.envs.swe.sandbox.swe_engine import processes, start_trainer, wait_for
from tests.envs.swe.swe_bench import Bench

pytestmark = pytest.mark.docker


def containers(run: str) -> int:
    with contextlib.closing(docker.from_env()) as client:
        return len(client.api.containers(all=True, filters={"label": f"{LABEL}={run}"}))


def image(bench: Bench) -> str:
    return bench.engine.image(bench.task.image)


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_killed_trainer_leaves_nothing(bench: Bench, ending: str) -> None:
    process, run = start_trainer(image(bench))
    assert containers(run) == 2
    process.send_signal(getattr(signal, ending))
    process.wait()
    wait_for(lambda: containers(run) == 0, 60)
    wait_for(lambda: not processes(run), 60)  # the reaper, too


@pytest.mark.parametrize("ending", ["sys.exit(1)", "raise ValueError", "import os; os._exit(3)"])
def test_a_trainer_that_does_not_close_leaves_nothing(bench: Bench, ending: str) -> None:
    process, run = start_trainer(image(bench), ending, sandboxes=1)
    process.wait()
    wait_for(lambda: containers(run) == 0, 60)
    wait_for(lambda: not processes(run), 60)


def test_a_trainer_whose_reaper_was_killed_too_is_swept_by_the_next(bench: Bench) -> None:
    process, run = start_trainer(image(bench), sandboxes=1)
    for reaper in processes("sandbox.reaper", run):
        os.kill(reaper, signal.SIGKILL)
    process.kill()
    process.wait()
    assert containers(run) == 1
    open_engine("auto").close()
    assert containers(run) == 0


def test_trainers_leave_each_others_sandboxes_alone(bench: Bench, opened: Open) -> None:
    sandbox = opened()
    process, run = start_trainer(image(bench))
    try:
        bench.engine.sweep()
        other = open_engine("auto")
        other.start(SandboxSpec(image(bench)))
        other.close()
        other.close()
        assert containers(run) == 2
        assert sandbox.run("echo alive", 20).output == "alive\n"
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: containers(run) == 0, 60)
    assert sandbox.run("echo alive", 20).output == "alive\n"


def test_a_sandbox_removed_from_outside_is_an_error_of_the_sandbox(opened: Open) -> None:
    sandbox = opened()
    sandbox.run(":", 20)
    with contextlib.closing(docker.from_env()) as client:
        remove = threading.Timer(1, client.api.remove_container, (sandbox.name,), {"force": True})
        remove.start()
        began = time.monotonic()
        with pytest.raises(SandboxError, match="gone|does not answer"):
            sandbox.run("sleep 100", 100)
        assert time.monotonic() - began < 60
        remove.join()
    for call in (
        lambda: sandbox.run("echo", 5),
        lambda: sandbox.execute(["true"], 5),
        lambda: sandbox.read("/etc/passwd"),
        lambda: sandbox.write("/tmp/x", b""),
        sandbox.kill_agent,
    ):
        with pytest.raises(SandboxError):
            call()
    sandbox.close()
    sandbox.close()


def test_a_missing_image_is_an_error_that_says_what_to_do(engine: SandboxEngine) -> None:
    with pytest.raises(SandboxError, match="images"):
        engine.start(SandboxSpec("aem-swe-nothing:1"))
    with pytest.raises(SandboxError):
        engine.image("registry.invalid/nobody/nothing:1")


def test_an_engine_that_is_closed_opens_again(bench: Bench) -> None:
    other = open_engine("auto")
    for _ in range(2):
        sandbox = other.start(SandboxSpec(image(bench)))
        assert sandbox.run("echo hi", 20).output == "hi\n"
        other.close()
        with pytest.raises(SandboxError):
            sandbox.run("echo hi", 20)
        sandbox.close()


def test_cycles_leave_no_descriptors_and_no_threads(bench: Bench) -> None:
    def cycle() -> None:
        sandbox = bench.open()
        sandbox.run("echo hi", 60)
        sandbox.execute(["true"], 60)
        sandbox.run("exit", 60)
        sandbox.close()

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    cycle()
    before, threads = descriptors(), threading.active_count()
    for _ in range(5):
        cycle()
    assert descriptors() <= before
    assert threading.active_count() <= threads
