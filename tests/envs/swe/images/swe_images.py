"""What tests of images need: names that are gone afterwards, and looks into images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

import docker
from aem_gym.envs.swe.sandbox.base import AGENT, LABEL, WORKDIR, ImagePlan
from aem_gym.envs.swe.sandbox.reaper import new_run

SETUP = """from setuptools import setup

setup(name="calc", version="1.0", py_modules=["calc"])
"""
CALC = '''"""Sums, as they are before anybody breaks them."""


def add(a, b):
    return a + b
'''
INSTALL = ("python -m pip install --quiet --no-build-isolation --no-deps --editable .",)
"""Without network: what it needs is in the base."""


@dataclass
class Lab:
    """An engine, and what a test leaves in it."""

    client: docker.DockerClient
    names: list[str] = field(default_factory=list)

    def name(self, stem: str = "calc") -> str:
        self.names.append(f"aem-test/{stem}:{token_hex(6)}")
        return self.names[-1]

    def plan(
        self, folder: Path, *install: str, python: str = "", packages: tuple[str, ...] = ()
    ) -> ImagePlan:
        if not folder.exists():
            write(folder, {"setup.py": SETUP, "calc.py": CALC})
        return ImagePlan(self.name(), folder, install or INSTALL, python, packages)

    def look(self, image: str, script: str, user: int = 0, *, sandbox: bool = True) -> str:
        """What a script prints in a container of the image, laid out as a sandbox is."""
        places = {WORKDIR: f"uid={AGENT},gid={AGENT},exec", "/tmp": "mode=1777"}
        out = self.client.containers.run(
            image,
            ["/bin/sh", "-c", script],
            entrypoint="",
            user=str(user),
            labels={LABEL: new_run()},
            network_mode="none",
            read_only=sandbox,
            tmpfs=places if sandbox else {},
            remove=True,
            stderr=True,
        )
        return bytes(out).decode()

    def labels(self, image: str) -> dict[str, str]:
        return dict(self.client.images.get(image).labels)

    def building(self) -> int:
        """How many containers stand there that a build was made in."""
        return len(self.client.containers.list(all=True, filters={"label": LABEL}))

    def close(self) -> None:
        for name in reversed(self.names):
            if self.client.images.list(name):
                self.client.images.remove(name, force=True)


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder
