"""Removes a run's sandboxes when its process is gone, however that ended (SIGKILL too).

A process of its own, started by the engine: `python -m aem_gym.envs.swe.sandbox.reaper URL RUN`.
It ends when its parent does, or when the parent closes its input.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence

_LOOK = 0.5
"""Seconds between looks at who the parent is."""
_PATIENCE = 600.0
"""Seconds to go on trying where the engine is gone as well."""


class Reaper:
    """A handle on the reaper of one run.

    Args:
        url: of the engine.
        run: value of the label of its containers.
    """

    def __init__(self, url: str, run: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, url, run, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        """The run has ended in order: let the reaper look once more, and wait for it."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(argv: Sequence[str]) -> int:
    """Wait for the parent's end, then remove what it left."""
    from aem_gym.envs.swe.sandbox.base import SandboxError
    from aem_gym.envs.swe.sandbox.connect import find
    from aem_gym.envs.swe.sandbox.removal import remove_run

    url, run, parent = argv[0], argv[1], int(argv[2])
    closed = False
    while os.getppid() == parent and not closed:
        ready, _, _ = select.select([sys.stdin], [], [], _LOOK)
        closed = bool(ready) and not os.read(0, 1)
    os.environ["DOCKER_HOST"] = url
    until = time.monotonic() + (5.0 if closed else _PATIENCE)
    while True:
        try:
            found = find(timeout=60)
            remove_run(found.client, run)
            found.client.close()
            return 0
        except SandboxError:
            if time.monotonic() > until:
                return 1
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
