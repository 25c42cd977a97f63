"""Sandboxes in containers, of Docker or podman, through the docker SDK.

The root file system is read-only; the places that can be written to lie in memory, with a size. So
there is no disk to fill, and what an episode leaves is gone with its container.
"""

from __future__ import annotations

import contextlib
import resource
import secrets
import threading
from typing import Any

from aem_gym.envs.swe.sandbox.attach import Attached
from aem_gym.envs.swe.sandbox.base import (
    AGENT,
    ENVIRONMENT,
    HOME,
    LABEL,
    PRISTINE,
    WORKDIR,
    ImagePlan,
    Limits,
    SandboxError,
    SandboxSpec,
)
from aem_gym.envs.swe.sandbox.connect import Found, explained
from aem_gym.envs.swe.sandbox.container import BASH, RunningSandbox
from aem_gym.envs.swe.sandbox.reaper import Reaper
from aem_gym.envs.swe.sandbox.removal import remove, remove_left_over, remove_run
from aem_gym.envs.swe.sandbox.runs import new_run
from aem_gym.envs.swe.sandbox.seccomp import option
from aem_gym.envs.swe.sandbox.shell import Shell
from aem_gym.envs.swe.sandbox.warden import READY, Warden

_LIFETIME = 24 * 3600
"""Seconds after which a container ends by itself, whoever is left to remove it."""
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")
"""Root's, for laying out files and ending processes; the agent has none."""
_SMALL_MB = 64
_PODMAN_PROCESSES = 32_768
"""What its service may have itself."""
_FIRST = (
    f"chown {AGENT}:{AGENT} {HOME} {WORKDIR}; "
    f"cp -a {PRISTINE}/. {WORKDIR}/ 2>/run/told && echo ready >/run/told; "
    f"[ -s /run/told ] || echo 'no {PRISTINE} in the image' >/run/told; mv /run/told {READY}; "
    f"exec sleep {_LIFETIME}"
)


class ContainerEngine:
    """Starts sandboxes in the containers of one engine.

    Args:
        found: the engine, from `connect.find`.

    Raises:
        SandboxError: what earlier runs have left cannot be removed.
    """

    isolates = True

    def __init__(self, found: Found) -> None:
        self.name, self._client = found.name, found.client
        self.run = new_run()
        self._open: set[str] = set()
        self._lock = threading.Lock()
        self._images: dict[str, str] = {}
        self._reaper: Reaper | None = None
        self._url = found.url
        self.sweep()

    def image(self, plan: ImagePlan | str) -> str:
        """The name of an image that is there now: built by plan, or pulled by name.

        Raises:
            SandboxError: it cannot be built or pulled; says the mend.
        """
        from aem_gym.envs.swe.images.build import ensure

        wanted = plan if isinstance(plan, str) else plan.name
        if wanted not in self._images:
            self._images[wanted] = ensure(self._client, plan)
        return self._images[wanted]

    def start(self, spec: SandboxSpec) -> RunningSandbox:
        """A fresh sandbox, with the image's repository in its place.

        Raises:
            SandboxError: no engine, image or permission; says the mend.
        """
        with self._lock:
            if self._reaper is None:
                self._reaper = Reaper(self._url, self.run)
        name = f"aem-{self.run}-{secrets.token_hex(4)}"
        with explained(f"start a sandbox of {spec.image}"):
            api = self._client.api
            host = api.create_host_config(**_host(spec.limits, self.name))
            made = api.create_container(
                spec.image,
                entrypoint=["/bin/sh", "-c", _FIRST],
                name=name,
                hostname=spec.hostname,
                user="0:0",
                working_dir="/",
                environment={**ENVIRONMENT, **spec.environment},
                labels={LABEL: self.run},
                host_config=host,
                # podman would run `NONE`, by a timer of systemd.
                healthcheck=None if self.name == "podman" else {"test": ["NONE"]},
            )
        with self._lock:
            self._open.add(made["Id"])
        try:
            with explained(f"start a sandbox of {spec.image}"):
                api.start(made["Id"])
            attached = Attached(self._client, made["Id"], spec.workdir)
            warden = Warden(Shell(attached.start(BASH, 0)[1]))
            return RunningSandbox(
                name, attached, warden, spec.limits, lambda: self._remove(made["Id"])
            )
        except BaseException:
            self._remove(made["Id"])
            raise

    def sweep(self) -> int:
        """Remove what dead processes of this machine have left; how many."""
        return remove_left_over(self._client)

    def close(self) -> None:
        """Remove all sandboxes of this run. May be called twice; raises nothing."""
        with self._lock:
            containers = sorted(self._open)
        for container in containers:
            self._remove(container)
        with contextlib.suppress(SandboxError):
            if self._reaper:
                remove_run(self._client, self.run)
        with self._lock:
            reaper, self._reaper = self._reaper, None
        if reaper:
            reaper.close()

    def _remove(self, container: str) -> None:
        # Where the engine is gone the container removes itself, or the reaper does.
        with contextlib.suppress(SandboxError):
            remove(self._client, container)
        with self._lock:
            self._open.discard(container)


def _host(limits: Limits, engine: str) -> dict[str, Any]:
    """The walls and limits of a container."""
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
        "security_opt": ["no-new-privileges", option(engine)],
        # Shared memory of System V goes with its last process, as all other memory does.
        "sysctls": {"kernel.shm_rmid_forced": "1"},
        "ulimits": ulimits(engine),
        "log_config": {"Type": "none", "Config": {}},
    }


def ulimits(engine: str) -> list[dict[str, Any]]:
    """Limits of each process, as the SDK takes them.

    That of processes counts a user's in all containers; `pids_limit` is what holds. But podman's
    own choice may be more than it is allowed to give.
    """
    limits = {"core": 0, "nofile": 4096}
    if engine == "podman":
        most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        limits["nproc"] = _PODMAN_PROCESSES if most < 0 else min(most, _PODMAN_PROCESSES)
    return [{"Name": name, "Soft": most, "Hard": most} for name, most in limits.items()]
