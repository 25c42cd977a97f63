"""The plain way: the docker SDK as its documentation shows it, a call for each thing."""

from __future__ import annotations

import io
import os
import tarfile
from typing import Any

from aem_gym.envs.swe.sandbox.base import AGENT, ENVIRONMENT, LABEL, PRISTINE, WORKDIR
from aem_gym.envs.swe.sandbox.connect import find
from aem_gym.envs.swe.tasks.base import SweTask

_GIT = "git -c user.name=base -c user.email=base@localhost -c safe.directory='*'"


class Plain:
    """Containers by `containers.run`, commands by `exec_run`, files by `put_archive`."""

    def __init__(self) -> None:
        self._client: Any = find().client

    def open(self, image: str, task: SweTask) -> Any:
        """A container with the task's repository laid out and committed."""
        container = self._client.containers.run(
            image,
            ["sleep", "infinity"],
            detach=True,
            init=True,
            network_mode="none",
            nano_cpus=1_000_000_000,
            mem_limit="2g",
            pids_limit=256,
            environment=dict(ENVIRONMENT),
            labels={LABEL: f"benchmark-{os.getpid()}"},
            working_dir=WORKDIR,
            user="root",
        )
        self.root(container, f"cp -a {PRISTINE}/. {WORKDIR}/")
        self.put(container, dict(task.overlay))
        self.root(container, f"rm -f {' '.join(task.removed)}; chown -R {AGENT} {WORKDIR}")
        self.root(container, f"{_GIT} init -q; {_GIT} add -A; {_GIT} commit -q -m base")
        return container

    def put(self, container: Any, files: dict[str, bytes]) -> None:
        """Files by their path in the repository."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for path, content in files.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        container.put_archive(WORKDIR, stream.getvalue())

    def root(self, container: Any, command: str) -> Any:
        """A command as root."""
        return container.exec_run(["bash", "-c", command], user="0")

    def run(self, container: Any, command: str) -> Any:
        """A command as the agent."""
        return container.exec_run(["bash", "-c", command], user=str(AGENT))

    def episode(self, image: str, task: SweTask, commands: list[str]) -> bool:
        """Commands, the answer, and grading in a container of its own."""
        container = self.open(image, task)
        try:
            for command in commands:
                self.run(container, command)
            patch = self.root(container, f"{_GIT} add -A; {_GIT} diff --cached HEAD").output
        finally:
            container.remove(v=True, force=True)
        container = self.open(image, task)
        try:
            self.put(container, {".answer": patch, **task.hidden})
            self.root(container, "git apply .answer; rm .answer")
            command = task.test_command.replace("{report}", "/tmp/report.xml")
            return bool(self.run(container, command).exit_code == 0)
        finally:
            container.remove(v=True, force=True)
