"""Sandboxes in containers, of Docker or podman, through the docker SDK.

The root file system is read-only; the places that can be written to lie in memory, with a size. So
there is no disk to fill, and what an episode leaves is gone with its container.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import struct
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aem_gym.envs.swe.images.ensure import ensure_image
from aem_gym.envs.swe.sandbox.base import (
    AGENT,
    ENVIRONMENT,
    HOME,
    HOSTNAME,
    LABEL,
    PRISTINE,
    WORKDIR,
    CommandResult,
    ImagePlan,
    ImageSource,
    Limits,
    SandboxError,
    SandboxSpec,
)
from aem_gym.envs.swe.sandbox.connect import (
    EngineInfo,
    explained,
    find,
    remove_container,
    remove_containers,
    ulimits,
)
from aem_gym.envs.swe.sandbox.reaper import Reaper, is_left_over, new_run
from aem_gym.envs.swe.sandbox.running import BASH, RunningSandbox
from aem_gym.envs.swe.sandbox.shell import Shell, ShellOver, Stream

logger = logging.getLogger(__name__)

_LIFETIME = 24 * 3600
"""Seconds after which a container ends by itself, whoever is left to remove it."""
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")
"""Root's, for laying out files and ending processes; the agent has none."""
_SMALL_MB = 64
_READY = "/run/ready"
"""Written by the first command when the repository is in place, or why it is not."""
_FIRST = (
    f"chown {AGENT}:{AGENT} {HOME} {WORKDIR}; "
    f"cp -a {PRISTINE}/. {WORKDIR}/ 2>/run/said && echo ready >/run/said; "
    f"[ -s /run/said ] || echo 'no {PRISTINE} in the image' >/run/said; mv /run/said {_READY}; "
    f"exec sleep {_LIFETIME}"
)
_START_SECONDS, _KILL_SECONDS = 120.0, 60.0
_FOLDER = Path(__file__).parent
_CHUNK = 1 << 16
_HEADER = struct.Struct(">BxxxL")
"""Of a frame: which stream it belongs to (1 output, 2 errors), and its length."""


class ContainerEngine:
    """Starts sandboxes in the containers of the engine that `connect.find` has found."""

    isolates = True

    def __init__(self, found: EngineInfo) -> None:
        self.name, self.client, self._url = found.name, found.client, found.url
        self.run = new_run()
        self._open: set[str] = set()
        self._lock = threading.Lock()
        self._images: dict[str, str] = {}
        self._reaper: Reaper | None = None
        self.sweep()

    def image(self, plan: ImagePlan | ImageSource | str) -> str:
        wanted = plan if isinstance(plan, str) else plan.name
        if wanted not in self._images:
            self._images[wanted] = ensure_image(self.client, plan, log=_log)
        return self._images[wanted]

    def start(self, spec: SandboxSpec) -> ContainerSandbox:
        with self._lock:
            if self._reaper is None:
                self._reaper = Reaper(self._url, self.run)
        name = f"aem-{self.run}-{secrets.token_hex(4)}"
        with explained(f"start a sandbox of {spec.image}"):
            api = self.client.api
            made = api.create_container(
                spec.image,
                entrypoint=["/bin/sh", "-c", _FIRST],
                name=name,
                hostname=HOSTNAME,
                user="0:0",
                working_dir="/",
                environment=dict(ENVIRONMENT),
                labels={LABEL: self.run},
                host_config=api.create_host_config(**_host(spec.limits, self.name)),
                # podman would run `NONE`, by a timer of systemd.
                healthcheck=None if self.name == "podman" else {"test": ["NONE"]},
            )
        container = str(made["Id"])
        with self._lock:
            self._open.add(container)
        try:
            with explained(f"start a sandbox of {spec.image}"):
                api.start(container)
            return ContainerSandbox(self, name, container, spec.limits)
        except BaseException:
            self.remove(container)
            raise

    def sweep(self) -> int:
        return remove_containers(self.client, LABEL, is_left_over)

    def close(self) -> None:
        with self._lock:
            containers = sorted(self._open)
        for container in containers:
            self.remove(container)
        with contextlib.suppress(SandboxError):
            if self._reaper:
                remove_containers(self.client, f"{LABEL}={self.run}")
        with self._lock:
            reaper, self._reaper = self._reaper, None
        if reaper:
            reaper.close()

    def remove(self, container: str) -> None:
        """Remove a container of this engine; raises nothing."""
        # Where the engine is gone the container removes itself, or the reaper does.
        with contextlib.suppress(SandboxError):
            remove_container(self.client, container)
        with self._lock:
            self._open.discard(container)


def open_any(name: str = "auto") -> ContainerEngine:
    """Open the engine of that name, or whichever answers."""
    return ContainerEngine(find(name))


open_docker, open_podman = partial(open_any, "docker"), partial(open_any, "podman")


class ContainerSandbox(RunningSandbox):
    """A sandbox in one container, with a root shell in it that kills what commands leave running.

    That shell is started before the agent's first command and forks nothing, so it works when the
    agent has used up all processes. The agent can neither signal nor trace it.
    """

    def __init__(self, engine: ContainerEngine, name: str, container: str, limits: Limits) -> None:
        super().__init__(name, limits)
        self._engine, self._api, self._container = engine, engine.client.api, container
        self._killer = Shell(self._start(BASH, 0)[1])
        script = (_FOLDER / "kill_processes.sh").read_text()
        answer = self._ask(f"READY={_READY}\n{script}", _START_SECONDS).output.strip()
        if answer != "ready":
            raise SandboxError(
                f"the repository could not be put in its place: {answer[-300:] or 'no answer'}. "
                "Is it larger than Limits.disk_mb? Or rebuild the image: "
                "python -m aem_gym.envs.swe.images prune"
            )

    def _start(self, argv: Sequence[str], user: int) -> tuple[str, Stream]:
        home = {"HOME": HOME, "USER": "agent"} if user == AGENT else {}
        with explained("run a program in a sandbox"):
            made = self._api.exec_create(
                self._container,
                list(argv),
                stdin=True,
                user=f"{user}:{user}",
                environment=home,
                workdir=WORKDIR,
            )
            return str(made["Id"]), EngineStream(self._api.exec_start(made["Id"], socket=True))

    def _exit_code(self, program: str, deadline: float) -> int | None:
        while True:
            with explained("ask how a program ended"):
                state = self._api.exec_inspect(program)
            if not state["Running"]:
                return None if state["ExitCode"] is None else int(state["ExitCode"])
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)

    def _kill_agent(self, spared: int) -> None:
        self._kill(spared)

    def _kill_all(self) -> None:
        self._kill(0, "root")

    def _remove(self) -> None:
        self._killer.close()
        self._engine.remove(self._container)

    def _kill(self, spared: int, root: str = "") -> None:
        if self._ask(f"kill_processes {spared} '{root}'", _KILL_SECONDS).exit_code != 0:
            raise SandboxError("what a command left running cannot be killed")

    def _ask(self, command: str, timeout: float) -> CommandResult:
        began = time.monotonic()
        try:
            return self._killer.run(command, timeout, 10_000)
        except ShellOver as error:
            seconds = time.monotonic() - began
            raise SandboxError(
                f"the sandbox does not answer ({seconds:.1f} s; {error.result.output[-200:]!r}): "
                "its container is gone, or the engine is"
            ) from error


class EngineStream(Stream):
    """The connection that an engine has attached to a program."""

    def __init__(self, response: Any) -> None:
        # `exec_start` returns the raw socket; the reader of the response's head may hold bytes
        # that came right behind it.
        self._response, self._socket = response, response._sock
        self._socket.setblocking(False)
        early = b""
        with contextlib.suppress(BlockingIOError):
            early = response._response.raw._fp.fp.peek(1) or b""
        super().__init__(self._socket, self._socket, early)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()
        with contextlib.suppress(Exception):  # of several libraries
            self._response._response.close()

    def _read(self) -> bytes:
        return bytes(self._socket.recv(_CHUNK))

    def _write(self, data: memoryview) -> int:
        return int(self._socket.send(data))

    def _take(self) -> bytes:
        """The content of whole and begun frames; the header of a begun one is kept up to date."""
        found, frames = bytearray(), self._buffer
        while len(frames) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(frames)
            if kind > 2:
                raise SandboxError(f"expected frames of the engine, got one of kind {kind}")
            part = frames[_HEADER.size : _HEADER.size + length]
            found += part
            if len(part) == length:
                del frames[: _HEADER.size + length]
            elif part:
                frames[: _HEADER.size + len(part)] = _HEADER.pack(kind, length - len(part))
            else:
                break
        return bytes(found)


def _log(line: str) -> None:
    """Log a step of an image's build; what its commands print is for debugging only."""
    logger.log(logging.DEBUG if line.startswith("  | ") else logging.INFO, "%s", line)


def _host(limits: Limits, engine: str) -> dict[str, Any]:
    places = {
        WORKDIR: (limits.disk_mb, "mode=755,exec"),
        "/run": (limits.disk_mb, "mode=755"),
        "/tmp": (limits.disk_mb // 2, "mode=1777,exec"),
        HOME: (limits.disk_mb // 2, "mode=755,exec"),
        "/var/tmp": (_SMALL_MB, "mode=1777,exec"),
        "/dev/shm": (_SMALL_MB, "mode=1777"),
    }
    memory = limits.memory_mb + sum(size for size, _ in places.values())
    # podman knows no such option: what files and folders need then counts as memory only.
    inodes = "" if engine == "podman" else f"nr_inodes={limits.inodes},"
    # What engines filter by themselves depends on their version: Docker 20.10 allows AF_VSOCK.
    # Docker takes the filter itself, podman the name of a file on the machine where it runs.
    profile = _FOLDER / "seccomp.json"
    seccomp = str(profile) if engine == "podman" else profile.read_text()
    return {
        "init": True,
        "auto_remove": True,
        "read_only": True,
        "tmpfs": {
            place: f"rw,nosuid,nodev,size={size}m,{inodes}{options}"
            for place, (size, options) in places.items()
        },
        "network_mode": "bridge" if limits.network else "none",
        "mem_limit": f"{memory}m",
        "memswap_limit": f"{memory}m",
        "nano_cpus": int(limits.cpus * 1e9),
        "pids_limit": limits.pids,
        "cap_drop": ["ALL"],
        "cap_add": list(_CAPABILITIES),
        "security_opt": ["no-new-privileges", f"seccomp={seccomp}"],
        # Shared memory of System V goes with its last process, as all other memory does.
        "sysctls": {"kernel.shm_rmid_forced": "1"},
        "ulimits": ulimits(engine),
        "log_config": {"Type": "none", "Config": {}},
    }
