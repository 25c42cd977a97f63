"""Files that start trainer and engine elsewhere: compose, Kubernetes, SLURM, the server script."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from aem_gym import cli
from aem_gym.commands.train import train

ROOT = Path(__file__).resolve().parents[1]
COMPOSE: Mapping[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
KUBERNETES = list(
    yaml.safe_load_all((ROOT / "examples" / "cluster" / "kubernetes.yaml").read_text())
)
SCRIPTS = ("docker/vllm/serve.sh", "examples/cluster/slurm.sh")


def filled_in(text: str) -> str:
    """A text of a compose file with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def of_kind(kind: str) -> Any:
    return next(each for each in KUBERNETES if each["kind"] == kind)


def container(kind: str) -> Any:
    return of_kind(kind)["spec"]["template"]["spec"]["containers"][0]


TRAINERS = {
    "compose": list(map(filled_in, COMPOSE["services"]["trainer-engine"]["command"]))[2:],
    "kubernetes": container("Job")["args"],
}


@pytest.mark.parametrize("arguments", TRAINERS.values(), ids=TRAINERS)
def test_the_trainers_arguments_are_valid(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.run(train, [*arguments, "--dry-run"], "train.py") == 0, capsys.readouterr().err


def test_no_service_publishes_a_port_and_the_engine_asks_for_a_key() -> None:
    services = COMPOSE["services"]
    assert not [
        name for name, service in services.items() if {"ports", "network_mode"} & set(service)
    ]
    for name in ("engine", "trainer-engine"):
        assert services[name]["environment"]["VLLM_API_KEY"] is None  # the shell's: in no file
        assert any(each.startswith("adapters:/adapters") for each in services[name]["volumes"])
    assert not any("docker.sock" in each for each in services["engine"]["volumes"])
    wanted = of_kind("NetworkPolicy")["spec"]["ingress"][0]["from"][0]["podSelector"]
    assert wanted["matchLabels"] == of_kind("Job")["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse_and_can_be_run(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / name)], check=True)


@pytest.mark.parametrize("environ", [{}, {"VLLM_API_KEY": ""}])
def test_a_server_does_not_start_without_a_key(environ: dict[str, str]) -> None:
    bare = {"PATH": os.environ["PATH"], **environ}
    command = [str(ROOT / "docker" / "vllm" / "serve.sh"), "model"]
    done = subprocess.run(command, env=bare, capture_output=True, text=True)
    assert done.returncode != 0 and "VLLM_API_KEY" in done.stderr
