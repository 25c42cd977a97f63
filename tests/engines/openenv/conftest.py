"""Servers that the tests of OpenEnv share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.openenv.servers import (
    COUNTER,
    EASY_WEBSHOP,
    FAULTY,
    SMALL_ALFWORLD,
    TOKEN,
    Server,
    Start,
)


@pytest.fixture(scope="package")
def start_openenv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts servers, and ends them with the tests."""
    folder, started = tmp_path_factory.mktemp("openenv"), list[Server]()

    def start(*args: str, port: int = 0, **environment: str) -> Server:
        server = Server(folder / f"{len(started)}.log", *args, port=port, **environment)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="package")
def openenv(start_openenv: Start) -> dict[str, Server]:
    """The servers that most tests share; all start at once."""
    return {
        "alfworld": start_openenv(*SMALL_ALFWORLD, "--largest-message", "65536"),
        "webshop": start_openenv(*EASY_WEBSHOP),
        "faulty": start_openenv(
            FAULTY, "--workers", "1", "--step-timeout", "1", "--idle-seconds", "2"
        ),
        "token": start_openenv(*SMALL_ALFWORLD, "--workers", "2", AEM_OPENENV_TOKEN=TOKEN),
        "open": start_openenv(COUNTER, "--host", "0.0.0.0", "--token-env", "OTHER", OTHER=TOKEN),
        "counter": start_openenv(COUNTER, "--sessions", "8"),
    }
