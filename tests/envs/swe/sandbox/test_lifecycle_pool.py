"""The warm pool: what it promises ready is ready, and nothing is left of what it kept."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

import docker
from aem_gym.envs.swe.pool import PreparedSandbox, SandboxPool
from aem_gym.envs.swe.sandbox.base import LABEL, Limits, SandboxError
from aem_gym.envs.swe.sandbox.engines import open_engine
from tests.envs.swe.sandbox.swe_engine import wait_for
from tests.envs.swe.swe_bench import Bench

pytestmark = pytest.mark.docker


class Pool(SandboxPool):
    """Counts what is made, and says what is there."""

    made = 0

    def make(self, *words: object) -> PreparedSandbox:
        self.made += 1
        return super().make(*words)  # type: ignore[arg-type]

    def names(self) -> list[str]:
        run = self.engine.run  # type: ignore[attr-defined]
        with contextlib.closing(docker.from_env()) as client:
            found = client.api.containers(all=True, filters={"label": f"{LABEL}={run}"})
        return [container["Id"] for container in found]


class Owner:
    """In a cycle, so that the garbage collector finds it, wherever it runs."""

    def __init__(self) -> None:
        self.me = self


def test_a_dropped_owner_blocks_nothing(pool: Pool, bench: Bench) -> None:
    """Collected in the middle of a release, which holds locks."""
    sandboxes = [pool.make(bench.task).sandbox for _ in range(2)]
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for sandbox in sandboxes:  # closing one twice does nothing
            for _ in range(30):
                pool.lend(sandbox, Owner())
                pool.release(sandbox)
    finally:
        gc.set_threshold(*before)
    wait_for(lambda: pool.names() == [], 30)


@pytest.fixture
def pool() -> Iterator[Pool]:
    engine = open_engine("auto")
    opened = Pool(engine, size=2)
    yield opened
    opened.close()
    engine.close()
    assert opened.names() == []


def works(ready: PreparedSandbox) -> bool:
    return "def add" in ready.sandbox.run("cat calc.py; git status", 60).output


def test_tasks_of_one_name_and_image_are_told_apart(pool: Pool, bench: Bench) -> None:
    """Two files about one repository may use the same ids."""
    pool.prefetch(replace(bench.task, overlay={"calc.py": b"of another file"}))
    pool.wait()
    ready = pool.take(bench.task)
    assert works(ready)
    pool.release(ready.sandbox)


def test_what_was_prefetched_is_taken_and_what_is_released_is_gone(
    pool: Pool, bench: Bench
) -> None:
    pool.prefetch(bench.task)
    wait_for(lambda: len(pool.names()) == 1, 60)
    ready = pool.take(bench.task)
    assert works(ready)
    assert pool.made == 1
    pool.release(ready.sandbox)
    wait_for(lambda: pool.names() == [], 60)
    assert works(pool.take(bench.task))
    assert pool.made == 2


def test_other_tasks_and_other_limits_are_not_taken(pool: Pool, bench: Bench) -> None:
    pool.prefetch(bench.task)
    other = replace(bench.task, task_id="other", overlay={"calc.py": b"def add(): 'other'\n"})
    assert "other" in pool.take(other).sandbox.run("cat calc.py", 60).output
    assert works(pool.take(bench.task, Limits(memory_mb=512)))
    assert pool.made == 3


def test_the_oldest_goes_where_too_many_wait(pool: Pool, bench: Bench) -> None:
    for number in range(4):
        pool.prefetch(replace(bench.task, task_id=str(number)))
    wait_for(lambda: pool.made >= 2, 60)
    pool.take(replace(bench.task, task_id="3"))
    wait_for(lambda: len(pool.names()) <= 2, 60)


def test_prefetching_does_not_wait_for_the_one_that_goes(
    pool: Pool, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        pool.prefetch(replace(bench.task, task_id=str(number)))
    pool.wait()
    closed_in: list[int] = []
    oldest = pool._waiting[0][1].result().sandbox

    def close() -> None:
        closed_in.append(threading.get_ident())
        type(oldest).close(oldest)

    monkeypatch.setattr(oldest, "close", close)
    pool.prefetch(bench.task)
    wait_for(lambda: len(closed_in) == 1, 60)
    assert closed_in != [threading.get_ident()]


def test_one_that_died_while_it_waited_is_replaced(pool: Pool, bench: Bench) -> None:
    pool.prefetch(bench.task)
    wait_for(lambda: len(pool.names()) == 1, 60)
    time.sleep(1)
    with contextlib.closing(docker.from_env()) as client:
        for name in pool.names():
            with contextlib.suppress(Exception):
                client.api.remove_container(name, force=True)
    assert works(pool.take(bench.task))


def test_one_that_could_not_be_made_is_an_error_when_it_is_taken(pool: Pool, bench: Bench) -> None:
    task = replace(bench.task, image="registry.invalid/nothing:1")
    pool.prefetch(task)
    with pytest.raises(SandboxError):
        pool.take(task)
    assert works(pool.take(bench.task))


def test_many_take_at_once(pool: Pool, bench: Bench) -> None:
    good: list[bool] = []

    def episode() -> None:
        pool.prefetch(bench.task)
        ready = pool.take(bench.task)
        good.append(works(ready))
        pool.release(ready.sandbox)

    threads = [threading.Thread(target=episode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 4


def test_a_closed_pool_still_releases_and_prefetches_nothing(bench: Bench) -> None:
    engine = open_engine("auto")
    pool = Pool(engine)
    ready = pool.take(bench.task)
    pool.prefetch(bench.task)
    pool.close()
    pool.close()
    pool.prefetch(bench.task)
    assert works(ready)
    pool.release(ready.sandbox)
    assert pool.names() == []
    engine.close()


_LEAVES = """
import sys
from tests.envs.swe.swe_bench import calc_task
from aem_gym.envs.swe.pool import shared_pool
pool = shared_pool()
task = calc_task(sys.argv[1])
pool.prefetch(task); pool.prefetch(task)
pool.take(task).sandbox.run("echo hi", 60)
print(pool.engine.run)
"""


def test_a_process_that_ends_without_closing_its_pool_leaves_nothing(bench: Bench) -> None:
    image = bench.engine.image(bench.task.image)
    argv = [sys.executable, "-c", _LEAVES, image]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    with contextlib.closing(docker.from_env()) as client:
        label = f"{LABEL}={done.stdout.strip()}"
        assert client.api.containers(all=True, filters={"label": label}) == []
