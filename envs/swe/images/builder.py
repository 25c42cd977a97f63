"""Builds one image: a container in which files go and commands run; what is left is the image.

Not by `docker build`: the builder behind the SDK keeps the files it copies in a layer of their own
(certificates of this machine, a second copy of the repository) and the variables of the build
(package indexes with passwords) in the image's history, and podman's is another one. A container
that is committed has one layer, whatever came and went on the way, in Docker and in podman.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from aem_gym.envs.swe.images.host import BUILD_ENVIRONMENT, FOLDER, Log, host_settings, setup_files
from aem_gym.envs.swe.sandbox.base import AGENT, HOME, LABEL, PRISTINE, WORKDIR, SandboxError
from aem_gym.envs.swe.sandbox.connect import (
    DISK_FULL,
    explained,
    remove_container,
    remove_containers,
    ulimits,
)
from aem_gym.envs.swe.sandbox.reaper import is_left_over, new_run
from aem_gym.envs.swe.sandbox.shell import ESCAPES

if TYPE_CHECKING:
    import docker

IMAGE = "aem.image"
"""Label of every image of aem_gym; its value is the kind: `root`, `base`, `package`, `derived`."""
NAME = "aem.image.name"
"""The name it was made under: what somebody builds on such an image inherits its labels."""
RECIPE = "aem.image.recipe"
"""A hash of how such images are made: one that bears another is made again."""
PARENT = "aem.image.parent"
"""Id of the image that it was made from."""
WAY = "aem.image.way"
"""Where its Python came from, in words."""

_LAYOUT = "2"
"""Counts up when images have to be laid out differently from before."""
_SECONDS = 3600
"""Until a build that has not ended is given up: its container ends by itself."""
_TAIL = 15
_NETWORK = "AEM_SWE_BUILD_NETWORK"
_ENVIRONMENT = {
    **BUILD_ENVIRONMENT,
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "PIP_NO_CACHE_DIR": "1",
}
_PLACES = {"AGENT": str(AGENT), "HOME_FOLDER": HOME, "WORKDIR": WORKDIR, "PRISTINE": PRISTINE}
_ADVICE = (
    (
        (
            *("resolve", "name resolution", "newconnectionerror", "network is unreachable"),
            *("timed out", "from versions: none"),
        ),
        "Is there network? Containers of the engine need it while an image is built. If they have "
        f"none but this machine has: {_NETWORK}=host",
    ),
    (
        ("certificate verify failed", "certificate_verify_failed"),
        "Does this network need certificates of its own? Name their bundle: PIP_CERT=FILE",
    ),
    (("no space left", "disk quota"), DISK_FULL),
    (("exit code 137",), f"It was killed: out of memory, or not done in {_SECONDS} s"),
)


def recipe() -> str:
    """The value of `RECIPE` of images that are made now."""
    content = b"\0".join([_LAYOUT.encode(), *setup_files().values()])
    return hashlib.sha256(content).hexdigest()[:12]


def image_id(client: docker.DockerClient, name: str) -> str:
    """The id of an image that exists; empty: it does not."""
    return str(_inspect(client, name).get("Id", ""))


def image_labels(client: docker.DockerClient, name: str) -> dict[str, str]:
    """The labels of an image; none if it does not exist."""
    return dict(_inspect(client, name).get("Config", {}).get("Labels") or {})


def _inspect(client: docker.DockerClient, name: str) -> dict[str, Any]:
    from docker.errors import ImageNotFound

    with explained(f"look at the image {name}"):
        try:
            return dict(client.images.get(name).attrs)
        except ImageNotFound:
            return {}


def remove_image(client: docker.DockerClient, image: str) -> bool:
    """Remove an image; whether it is gone. One that others are made from, or run on, stays."""
    from docker.errors import APIError, ImageNotFound

    with explained(f"remove the image {image}"):
        try:
            client.api.remove_image(image)
        except ImageNotFound:
            return True
        except APIError as error:
            if error.status_code != 409:
                raise
            return False
    return True


class ImageBuilder:
    """A container of an image, with network, in which another image is made. Use it in `with`.

    Every method raises SandboxError if the engine fails; `log` takes what the commands print.
    """

    def __init__(self, client: docker.DockerClient, image: str, log: Log | None = None) -> None:
        self._client, self._image, self._log = client, image, log or (lambda line: None)
        self._host = host_settings()
        self._id = ""

    def __enter__(self) -> Self:
        remove_containers(self._client, LABEL, is_left_over)
        api = self._client.api
        limits: Any = ulimits("podman")  # which needs them; Docker takes them as well
        with explained(f"start a build from {self._image}"):
            found = self._client.images.get(self._image).attrs
            self._parent = str(found["Id"])
            made = api.create_container(
                self._image,
                # An entrypoint can be replaced by another, and not taken away.
                entrypoint=["env"] if found["Config"].get("Entrypoint") else None,
                command=["sleep", str(_SECONDS)],
                user="0:0",
                labels={LABEL: new_run()},
                host_config=api.create_host_config(
                    init=True,
                    auto_remove=True,
                    network_mode=os.environ.get(_NETWORK) or None,
                    ulimits=limits,
                ),
            )
        self._id = made["Id"]
        try:
            with explained(f"start a build from {self._image}"):
                api.start(self._id)
            self._check()
            layout = (Path(__file__).parent / "layout.sh").read_bytes()
            self.put_files(FOLDER, {**self._host.files, "layout.sh": layout})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        remove_container(self._client, self._id)

    def _check(self) -> None:
        try:
            self.run("true", "the first command")
        except SandboxError as error:
            raise SandboxError(
                f"{self._image}: expected an image with a shell and `sleep`, got one whose "
                f"container ended at once or ran nothing ({error})"
            ) from error

    def put(self, folder: str, archive: IO[bytes]) -> None:
        """Unpack a tar archive in a folder, which is made if it does not exist."""
        self.run(f"mkdir -p '{folder}'", f"make {folder}")
        with explained(f"copy files to {folder}"):
            self._client.api.put_archive(self._id, folder, archive)

    def put_files(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files of root's by name."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))
        stream.seek(0)
        self.put(folder, stream)

    def lay_out(self, steps: str, doing: str, *, keep_build: bool = False) -> None:
        """Run functions of layout.sh (`tidy_repository; settle`). Raises SandboxError."""
        environment = {**_PLACES, "KEEP_BUILD": "yes" if keep_build else ""}
        self.run(f". {FOLDER}/layout.sh; {steps}", doing, env=environment)

    def run(
        self, script: str, doing: str, *, folder: str = "/", env: Mapping[str, str] | None = None
    ) -> None:
        """Run a script of `sh` as root. Raises SandboxError with its last lines, and what to do."""
        api = self._client.api
        tail: deque[str] = deque(maxlen=_TAIL)
        with explained(doing):
            made = api.exec_create(
                self._id,
                ["/bin/sh", "-ec", script],
                user="0:0",
                workdir=folder,
                environment={**_ENVIRONMENT, **self._host.environment, **(env or {})},
            )
            for line in _lines(api.exec_start(made["Id"], stream=True)):
                tail.append(line)
                self._log(f"  | {line}")
            code = api.exec_inspect(made["Id"])["ExitCode"]
        if code != 0:
            raise SandboxError(_failed(doing, code, tail))

    def commit(
        self, name: str, kind: str, labels: Mapping[str, str], changes: Sequence[str] = ()
    ) -> None:
        """Make an image of what the container holds now; it gets its name when it is complete."""
        self.run(f"rm -rf {FOLDER} /root/.cache /var/lib/apt/lists/*", "tidy up")
        repository, _, tag = name.rpartition(":")
        own = {IMAGE: kind, NAME: name, RECIPE: recipe(), PARENT: self._parent, LABEL: ""}
        written = [f'LABEL {key}="{value}"' for key, value in {**labels, **own}.items()]
        before = image_id(self._client, name)
        with explained(f"make the image {name}"):
            changes = ['CMD ["/bin/bash"]', *written, *changes]
            self._client.api.commit(self._id, repository, tag, changes=changes)
        if before:
            remove_image(self._client, before)


def _lines(chunks: Iterable[bytes]) -> Iterable[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).splitlines(keepends=True) or [b""]
        if rest.endswith((b"\n", b"\r")):
            whole, rest = [*whole, rest], b""
        yield from (_readable(line) for line in whole if line.strip())
    if rest.strip():
        yield _readable(rest)


def _readable(line: bytes) -> str:
    return ESCAPES.sub("", line.decode("utf-8", "replace")).rstrip()


def _failed(doing: str, code: int | None, tail: Iterable[str]) -> str:
    output = "\n".join(["", *(f"    {line[:300]}" for line in tail)])
    low = f"{output} exit code {code}".lower()
    advice = next((text for signs, text in _ADVICE if any(sign in low for sign in signs)), "")
    return f"{doing}: exit code {code}{output}" + f"\n{advice}" * bool(advice)
