"""A container engine of a test's own, which may be killed; trainers in processes of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
from aem_gym.envs.swe.sandbox.base import LABEL


class OwnEngine:
    """dockerd in a network namespace of its own, with its data in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"unix://{folder}/sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # Numbers of processes that were killed; where nobody buries the dead they seem to live.
        for stale in ("pid", "exec/containerd/containerd.pid"):
            (self.folder / stale).unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--net", "dockerd", "--data-root", f"{self.folder}/root"]
                + ["--exec-root", f"{self.folder}/exec", "-H", self.url]
                + ["--pidfile", f"{self.folder}/pid", "--bridge=none", "--iptables=false"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        wait_for(self._answers, 120)

    def kill(self) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        wait_for(lambda: not self.processes(), 30)
        while mounts := self._mounts():  # one for each start, and what a killed one had in use
            for place in reversed(mounts):
                subprocess.run(["umount", "--lazy", place], check=True)

    def _mounts(self) -> list[str]:
        places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [place for place in places if place.startswith(f"{self.folder}/")]

    def processes(self, word: str = "") -> list[int]:
        """What runs for this engine: its helpers, and what holds containers."""
        return processes(f"{self.folder}/", word)

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(self.url, timeout=60)

    def containers(self) -> int:
        with contextlib.closing(self.client()) as client:
            return len(client.api.containers(all=True, filters={"label": LABEL}))

    def load(self, image: str) -> None:
        """Take an image over from the usual engine."""
        with contextlib.closing(docker.from_env(timeout=300)) as usual:
            saved = usual.images.get(image).save(named=True)
            with contextlib.closing(docker.DockerClient(self.url, timeout=300)) as client:
                client.api.load_image(b"".join(saved))

    def _answers(self) -> bool:
        with contextlib.suppress(Exception), contextlib.closing(self.client()) as client:
            return bool(client.ping())
        return False


@contextlib.contextmanager
def own_engine(folder: Path | None = None) -> Iterator[OwnEngine]:
    """An engine that is stopped and gone afterwards."""
    work = folder or Path(tempfile.mkdtemp(prefix="aem-eng-", dir="/var/tmp"))
    engine = OwnEngine(work)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        if folder is None:
            shutil.rmtree(work)


def can_start_one() -> bool:
    programs = ("dockerd", "unshare", "containerd", "runc")
    return os.geteuid() == 0 and all(shutil.which(program) for program in programs)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.1)


def processes(*words: str) -> list[int]:
    """Numbers of the processes whose command line holds all of these words."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (place / "cmdline").read_bytes().decode("utf-8", "replace")
            if told and all(word in told for word in words) and int(place.name) != os.getpid():
                found.append(int(place.name))
    return found


_TRAINER = """
import sys, threading, time
from aem_gym.envs.swe.sandbox.base import SandboxSpec
from aem_gym.envs.swe.sandbox.engines import open_engine
engine = open_engine("auto")
sandboxes = [engine.start(SandboxSpec(sys.argv[1])) for _ in range(int(sys.argv[2]))]
for sandbox in sandboxes: sandbox.run("sleep 1000 & echo", 60) and None
threading.Thread(target=sandboxes[0].run, args=("sleep 1000", 1000), daemon=True).start()
print(engine.run, flush=True)
{ending}
"""


def start_trainer(
    image: str, ending: str = "time.sleep(1000)", *, sandboxes: int = 2, url: str = ""
) -> tuple[subprocess.Popen[str], str]:
    """A process with sandboxes of its own, and the name of its run."""
    environment = {**os.environ, **({"DOCKER_HOST": url} if url else {})}
    process = subprocess.Popen(
        [sys.executable, "-c", _TRAINER.replace("{ending}", ending), image, str(sandboxes)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout
    run = process.stdout.readline().strip()
    assert run, "it did not start"
    return process, run
