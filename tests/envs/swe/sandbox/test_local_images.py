"""Images without containers: made whole or not at all, and what cannot be made says why."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from aem_gym.envs.swe.sandbox.base import ImagePlan, SandboxError, SandboxSpec
from aem_gym.envs.swe.sandbox.local_images import ensure_local_image, find_python, open_image
from aem_gym.io import cache_folder


def plan(folder: Path, **more: object) -> ImagePlan:
    (folder / "calc.py").write_text("x = 1\n")
    return ImagePlan(f"aem-swe-tests:{folder.name}", folder, **more)  # type: ignore[arg-type]


def test_images_by_name_need_a_container_engine() -> None:
    with pytest.raises(SandboxError, match="engine=docker or engine=podman"):
        ensure_local_image("python:3.11-slim", "process")
    with pytest.raises(SandboxError, match=r"got 'python:3.11-slim': use a container engine"):
        open_image(SandboxSpec("python:3.11-slim").image)


def test_packages_of_the_system_need_a_container_engine(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"\(libxml2-dev\).*container engine"):
        ensure_local_image(plan(tmp_path, packages=("libxml2-dev",)), "process")


def test_a_python_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"expected python9\.9 on the PATH, got nothing"):
        ensure_local_image(plan(tmp_path, python="9.9"), "process")


def test_the_python_that_runs_this_is_found() -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert find_python("").version.startswith(version)


def test_a_python_that_does_not_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python3.99").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3.99").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="which does not run"):
        find_python("3.99")


@pytest.mark.slow
def test_an_installation_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "source").mkdir()
    failing = plan(tmp_path / "source", install=("echo all is lost; false",))
    with pytest.raises(SandboxError, match=r"(?s)aem-swe-tests:source: .*exit code 1"):
        ensure_local_image(failing, "process")
    assert not list((cache_folder() / "swe" / "local" / "process").iterdir())


@pytest.mark.slow
def test_a_build_that_is_killed_is_made_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "source").mkdir()
    wanted = plan(tmp_path / "source")
    program = textwrap.dedent(f"""
        from pathlib import Path
        from aem_gym.envs.swe.sandbox.base import ImagePlan
        from aem_gym.envs.swe.sandbox.local_images import ensure_local_image
        plan = ImagePlan({wanted.name!r}, Path({str(wanted.folder)!r}))
        print(ensure_local_image(plan, "process"))
    """)
    command = [sys.executable, "-c", program]
    folder = tmp_path / "cache" / "swe" / "local" / "process"
    with subprocess.Popen(command) as first:
        until = time.monotonic() + 60
        while not list(folder.glob(".part-*")) and time.monotonic() < until:
            time.sleep(0.02)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second:
            first.kill()
            first.wait()
            assert second.stdout
            told = second.stdout.read().strip()
        assert second.returncode == 0
    assert (open_image(told).folder / "testbed" / "calc.py").read_text() == "x = 1\n"
    assert ensure_local_image(wanted, "process") == told
    assert [path.name for path in folder.iterdir()] == [Path(told).name]
