"""An engine through the command `docker`, as little as grading needs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex

from aem_gym.envs.swe.sandbox.base import (
    AGENT,
    ENVIRONMENT,
    LABEL,
    ImagePlan,
    Ran,
    SandboxError,
    SandboxSpec,
)


def docker(
    *argv: str, stdin: bytes = b"", timeout: float = 60
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["docker", *argv], input=stdin, capture_output=True, timeout=timeout)


def available() -> bool:
    return shutil.which("docker") is not None and docker("version").returncode == 0


@dataclass
class Container:
    name: str
    limit: int

    def execute(
        self, argv: Sequence[str], timeout: float, *, user: int = 0, stdin: bytes = b""
    ) -> Ran:
        try:
            ran = subprocess.run(
                ["docker", "exec", "-i", "-u", f"{user}:{user}", self.name, *argv],
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as late:
            return Ran((late.output or b"").decode("utf-8", "replace"), None, timed_out=True)
        if docker("inspect", self.name).returncode != 0:
            raise SandboxError(f"{self.name} is gone")
        out = ran.stdout
        return Ran(out[: self.limit].decode("utf-8", "replace"), ran.returncode)

    def run(self, command: str, timeout: float) -> Ran:
        return self.execute(["bash", "-c", command], timeout, user=AGENT)

    def read(self, path: str, limit: int = 10_000_000) -> bytes:
        ran = docker("exec", self.name, "head", "-c", str(limit), path)
        if ran.returncode != 0:
            raise FileNotFoundError(path)
        return ran.stdout

    def write(self, path: str, content: bytes, *, user: int = AGENT) -> None:
        docker("exec", "-i", "-u", str(user), self.name, "sh", "-c", f"cat > {path}", stdin=content)

    def close(self) -> None:
        docker("rm", "-f", "-v", self.name)


class Containers:
    name = "docker"
    isolates = True

    def image(self, plan: ImagePlan | str) -> str:
        return plan if isinstance(plan, str) else plan.name

    def start(self, spec: SandboxSpec) -> Container:
        name = f"aem-grading-{token_hex(6)}"
        env = [f"-e{k}={v}" for k, v in {**ENVIRONMENT, **spec.environment}.items()]
        ran = docker(
            *("run", "-d", "--init", "--label", f"{LABEL}=grading-tests", "--network", "none"),
            *("--name", name, "-w", spec.workdir, *env, spec.image, "sleep", "infinity"),
        )
        if ran.returncode != 0:
            raise SandboxError(ran.stderr.decode())
        return Container(name, spec.limits.output_bytes)

    def sweep(self) -> int:
        return 0

    def close(self) -> None:
        pass
