"""A container in which an image is made: files go in, commands run, what is left is the image.

An image made so has one layer, whatever came and went on the way, and needs no builder: the same
works in Docker and in podman.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from aem_gym.envs.swe.images.host import FOLDER, HostSettings, host_settings
from aem_gym.envs.swe.images.labels import IMAGE, NAME, PARENT, RECIPE, recipe
from aem_gym.envs.swe.images.pull import image_id
from aem_gym.envs.swe.sandbox.base import LABEL, SandboxError
from aem_gym.envs.swe.sandbox.connect import explained
from aem_gym.envs.swe.sandbox.containers import ulimits
from aem_gym.envs.swe.sandbox.removal import remove, remove_left_over
from aem_gym.envs.swe.sandbox.runs import new_run

if TYPE_CHECKING:
    import docker

Log = Callable[[str], None]
"""Takes what a build does, line by line; what its commands print begins with `  | `."""

_SECONDS = 3600
"""Until a build that has not ended is given up: its container ends by itself."""
_TAIL = 15
_NETWORK = "AEM_SWE_BUILD_NETWORK"
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_PROGRESS_BAR": "off",
    "GIT_CONFIG_COUNT": "1",  # the repository is the agent's, who installs it is root
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}
_MENDS = (
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
    (
        ("no space left", "disk quota"),
        "The engine's disk is full: python -m aem_gym.envs.swe.images prune, or docker system df",
    ),
    (("exit code 137",), f"It was killed: out of memory, or not done in {_SECONDS} s"),
)


class Workshop:
    """A container of an image, with network, in which another image is made. Use it in `with`.

    Args:
        client: the engine.
        image: what is started from.
        log: takes each line that the commands print.

    Raises:
        SandboxError: the engine fails.
    """

    def __init__(self, client: docker.DockerClient, image: str, log: Log | None = None) -> None:
        self._client, self._image, self._log = client, image, log or (lambda line: None)
        self._host: HostSettings = host_settings()
        self._id = ""

    def __enter__(self) -> Self:
        remove_left_over(self._client)
        api = self._client.api
        network = os.environ.get(_NETWORK) or None
        told: Any = ulimits("podman")  # which has to be told; Docker takes them as well
        with explained(f"start a build from {self._image}"):
            found = self._client.images.get(self._image).attrs
            self._parent = str(found["Id"])
            # An entrypoint can be replaced by another, and not taken away.
            self._entrypoint = ["env"] if found["Config"].get("Entrypoint") else None
            made = api.create_container(
                self._image,
                entrypoint=self._entrypoint,
                command=["sleep", str(_SECONDS)],
                user="0:0",
                labels={LABEL: new_run()},
                host_config=api.create_host_config(
                    init=True,
                    auto_remove=True,
                    network_mode=network,
                    ulimits=told,
                ),
            )
        self._id = made["Id"]
        try:
            with explained(f"start a build from {self._image}"):
                api.start(self._id)
            self._look()
            self.put_files(FOLDER, self._host.files)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        remove(self._client, self._id)

    def _look(self) -> None:
        """Does it stay, and take commands?"""
        try:
            self.run("true", "the first command")
        except SandboxError as error:
            raise SandboxError(
                f"{self._image}: expected an image with a shell and `sleep`, got one whose "
                f"container ended at once or ran nothing ({error})"
            ) from error

    def put(self, folder: str, archive: IO[bytes]) -> None:
        """Unpack a tar archive in a folder, which is made if it is not there."""
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

    def run(
        self, script: str, doing: str, *, folder: str = "/", env: Mapping[str, str] | None = None
    ) -> None:
        """Run a script of `sh` as root.

        Raises:
            SandboxError: it failed: what it was for, how it ended, its last lines, the mend.
        """
        api = self._client.api
        environment = {**_ENVIRONMENT, **self._host.environment, **(env or {})}
        tail: deque[str] = deque(maxlen=_TAIL)
        with explained(doing):
            made = api.exec_create(
                self._id,
                ["/bin/sh", "-ec", script],
                user="0:0",
                workdir=folder,
                environment=environment,
            )
            for line in _lines(api.exec_start(made["Id"], stream=True)):
                tail.append(line)
                self._log(f"  | {line}")
            code = api.exec_inspect(made["Id"])["ExitCode"]
        if code != 0:
            raise SandboxError(_failed(doing, code, tail))

    def commit(
        self, name: str, kind: str, labels: Mapping[str, str], changes: Sequence[str] = ()
    ) -> str:
        """What the container holds now, as an image; the name is given to it at once or not at all.

        Raises:
            SandboxError: the engine fails.
        """
        self.run(f"rm -rf {FOLDER} /root/.cache /var/lib/apt/lists/*", "tidy up")
        repository, _, tag = name.rpartition(":")
        own = {IMAGE: kind, NAME: name, RECIPE: recipe(), PARENT: self._parent, LABEL: ""}
        told = [f'LABEL {key}="{value}"' for key, value in {**labels, **own}.items()]
        before = image_id(self._client, name)
        with explained(f"make the image {name}"):
            self._client.api.commit(
                self._id,
                repository,
                tag,
                changes=['CMD ["/bin/bash"]', *told, *changes],
            )
        if before:
            forget(self._client, before)
        return name


def forget(client: docker.DockerClient, image: str) -> bool:
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
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line.decode("utf-8", "replace")).rstrip()


def _failed(doing: str, code: int | None, tail: Iterable[str]) -> str:
    told = "\n".join(["", *(f"    {line[:300]}" for line in tail)])
    low = f"{told} exit code {code}".lower()
    mend = next((mend for signs, mend in _MENDS if any(sign in low for sign in signs)), "")
    return f"{doing}: exit code {code}{told}" + f"\n{mend}" * bool(mend)
