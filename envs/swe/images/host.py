"""What a build takes over from this machine: its certificates, package index and proxies.

None of it stays in an image: files are removed before the image is made, variables are given to the
commands of the build alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = "/tmp/aem-build"
"""In a build: where these files are, and what else is gone when it is done."""

_BUNDLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
_ADDRESSES = ("index-url", "extra-index-url", "find-links")
_PLAIN = ("trusted-host", "proxy", "timeout", "default-timeout", "retries")


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Variables and files for the commands of a build."""

    environment: Mapping[str, str]
    files: Mapping[str, bytes]
    """Content by name, for `FOLDER`."""


def host_settings() -> HostSettings:
    """What is set here. Nothing is, on most machines."""
    environment = {
        name: value for name, value in os.environ.items() if name.lower() in _PROXIES and value
    }
    environment |= pip_settings(_pip_config())
    files = {}
    bundle = next((path for name in _BUNDLES if (path := _bundle(name))), None)
    if bundle:
        files["ca.crt"] = bundle.read_bytes()
        environment |= dict.fromkeys(_BUNDLES, f"{FOLDER}/ca.crt")
    return HostSettings(environment, files)


def pip_settings(config: str) -> dict[str, str]:
    """Variables that tell pip what `pip config list` says here, as far as it holds elsewhere.

    Folders and `file:` addresses of this machine are left out.
    """
    found: dict[str, tuple[int, str]] = {}
    for line in config.splitlines():
        key, _, quoted = line.partition("=")
        section, _, option = key.strip().rpartition(".")
        value = quoted.strip().strip("'\"").replace("\\n", " ")
        if option in _ADDRESSES:
            value = " ".join(part for part in value.split() if part.startswith("http"))
        elif option not in _PLAIN:
            continue
        rank = {"global": 0, "install": 1, ":env:": 2}.get(section, -1)
        if value and rank >= found.get(option, (0, ""))[0]:
            found[option] = (rank, value)
    return {f"PIP_{name.upper().replace('-', '_')}": value for name, (_, value) in found.items()}


def _pip_config() -> str:
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout if done.returncode == 0 else ""


def _bundle(variable: str) -> Path | None:
    path = Path(os.environ.get(variable) or "/nonexistent")
    return path if path.is_file() else None
