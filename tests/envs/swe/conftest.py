"""One real engine and one small image for all tests in sandboxes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from aem_gym.envs.swe.sandbox.base import Limits, Sandbox, SandboxEngine
from aem_gym.envs.swe.sandbox.engines import open_engine
from aem_gym.envs.swe.workspace import prepare
from tests.envs.swe.swe_answering import or_skip
from tests.envs.swe.swe_bench import Bench, Episode, calc_task, write_package

Open = Callable[..., Sandbox]


@pytest.fixture(scope="session")
def engine() -> Iterator[SandboxEngine]:
    """Skips where no engine answers; with AEM_REQUIRE_DOCKER=1 that is a failure."""
    opened = or_skip(lambda: open_engine("auto"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def bench(engine: SandboxEngine, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    plan = write_package(tmp_path_factory.mktemp("package"))
    if os.environ.get("AEM_SANDBOX_IMAGE"):
        return Bench(engine, calc_task(os.environ["AEM_SANDBOX_IMAGE"]))
    return Bench(engine, calc_task(plan))


@pytest.fixture
def opened(bench: Bench) -> Iterator[Open]:
    """Opens sandboxes that are closed with the test."""
    sandboxes: list[Sandbox] = []

    def open_one(limits: Limits | None = None) -> Sandbox:
        sandboxes.append(bench.open(limits))
        return sandboxes[-1]

    yield open_one
    for sandbox in sandboxes:
        sandbox.close()


@pytest.fixture
def episode(bench: Bench, opened: Open) -> Episode:
    """The agent's sandbox, with the task laid out in it."""
    sandbox = opened()
    return Episode(sandbox, prepare(sandbox, bench.task))


@pytest.fixture(scope="module")
def lasting(bench: Bench) -> Iterator[Episode]:
    """One episode for all tests of a module: it has to be well after all of them."""
    sandbox = bench.open()
    try:
        episode = Episode(sandbox, prepare(sandbox, bench.task))
        yield episode
        episode.is_well()
    finally:
        sandbox.close()
