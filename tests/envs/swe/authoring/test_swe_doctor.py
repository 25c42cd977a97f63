"""`aem-gym doctor` for sandboxes: at DOCKER_HOST it takes whichever engine answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from aem_gym.envs.swe.authoring.doctor import findings

ANSWERS: dict[str, object] = {
    "version": {
        "ApiVersion": "1.41",
        "Version": "4.3.1",
        "Components": [{"Name": "Podman Engine"}],
    },
    "info": {"DockerRootDir": "/"},
    "images/json": [],
}


class Podman(BaseHTTPRequestHandler):
    """Answers as podman's service does when it holds no image."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/v1.41").strip("/")
        body = json.dumps(ANSWERS.get(path, {"message": "no such image"})).encode()
        self.send_response(200 if path in ANSWERS else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[str]:
    with ThreadingUnixStreamServer(str(tmp_path / "sock"), Podman) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"unix://{tmp_path}/sock"
        server.shutdown()


def test_podman_at_docker_host_is_found(podman: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", podman)
    found = {name: (fine, text) for fine, name, text in findings()}
    assert found["podman"] == (True, f"engine 4.3.1 at {podman}")
    assert "docker" not in found and found["images"][0] and "engine's disk" in found


def test_nothing_at_docker_host_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    found = {name: (fine, text) for fine, name, text in findings()}
    fine, text = found.pop("docker")
    assert not fine and "unset DOCKER_HOST" in text and set(found) == {"bubblewrap"}
