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
_PATIENCE, _ORDERLY = 600.0, 5.0
"""Seconds to go on trying where the engine is gone as well."""
_TURNS = 4


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
    url, run, parent = argv[0], argv[1], int(argv[2])
    closed = False
    while os.getppid() == parent and not closed:
        ready, _, _ = select.select([sys.stdin], [], [], _LOOK)
        closed = bool(ready) and not os.read(0, 1)
    os.environ["DOCKER_HOST"] = url
    until = time.monotonic() + (_ORDERLY if closed else _PATIENCE)
    # A container that was just being made when its maker was killed may come a little later.
    for turn in range(1 if closed else _TURNS):
        time.sleep(turn)
        while not _removed(run):
            if time.monotonic() > until:
                return 1
            time.sleep(1)
    return 0


def _removed(run: str) -> bool:
    from aem_gym.envs.swe.sandbox.base import SandboxError
    from aem_gym.envs.swe.sandbox.connect import find
    from aem_gym.envs.swe.sandbox.removal import remove_run

    try:
        client = find().client
        try:
            remove_run(client, run)
        finally:
            client.close()
    except SandboxError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
