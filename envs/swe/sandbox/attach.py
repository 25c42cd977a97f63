"""Running programs in a container through the engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aem_gym.envs.swe.sandbox.base import AGENT, HOME
from aem_gym.envs.swe.sandbox.connect import explained
from aem_gym.envs.swe.sandbox.streams import EngineStream

if TYPE_CHECKING:
    import docker


class Attached:
    """Programs in one container.

    Args:
        client: of the engine.
        container: its id.
        workdir: where programs start.
    """

    def __init__(self, client: docker.DockerClient, container: str, workdir: str) -> None:
        self._api, self._container, self._workdir = client.api, container, workdir

    def start(self, argv: Sequence[str], user: int) -> tuple[str, EngineStream]:
        """Start a program; its id, and the stream to it. Raises SandboxError."""
        home = {"HOME": HOME, "USER": "agent"} if user == AGENT else {}
        with explained("run a program in a sandbox"):
            made = self._api.exec_create(
                self._container,
                list(argv),
                stdin=True,
                user=f"{user}:{user}",
                environment=home,
                workdir=self._workdir,
            )
            stream = EngineStream(self._api.exec_start(made["Id"], socket=True))
        return str(made["Id"]), stream

    def exit_code(self, program: str, deadline: float) -> int | None:
        """The exit code of a program whose output has ended; None: it goes on all the same."""
        while True:
            with explained("ask how a program ended"):
                told = self._api.exec_inspect(program)
            if not told["Running"]:
                return None if told["ExitCode"] is None else int(told["ExitCode"])
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)
