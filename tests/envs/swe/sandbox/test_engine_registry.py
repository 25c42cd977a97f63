"""Engines are found by name, also those of other packages, and checked once before a run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aem_gym.envs.swe.env import SWEEnv
from aem_gym.envs.swe.sandbox.base import ImagePlan, SandboxError, SandboxSpec
from aem_gym.envs.swe.sandbox.engines import ENGINES, check_engine, open_engine
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.registry import env_tool

PAGE = Path(__file__).parents[4] / "docs" / "swe_engines.md"


@pytest.fixture
def my_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example of the docs as an installed package with an entry point."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    [entry] = re.findall(
        r'```toml\n\[project.entry-points."(.*?)"\]\n(.*?)```', PAGE.read_text(), re.S
    )
    (tmp_path / "my_engine.py").write_text(code)
    info = tmp_path / "my_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{entry[0]}]\n{entry[1].replace(chr(34), '')}")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_engine", None)


@pytest.mark.parametrize("name", ["counting", "my_engine:CountingEngine"])
def test_the_engine_of_the_docs_is_found(my_engine: Path, name: str) -> None:
    engine = open_engine(name)
    assert engine.name == "counting" and not engine.isolates
    assert engine.sweep() >= 0
    with pytest.raises(SandboxError):
        engine.start(SandboxSpec("no such image"))
    engine.close()
    assert "counting" in ENGINES.names()
    assert SWEEnv(engine=name).engine == name


@pytest.mark.slow  # an image takes half a minute
def test_the_engine_of_the_docs_runs_commands(my_engine: Path) -> None:
    (my_engine / "source").mkdir()
    (my_engine / "source" / "calc.py").write_text("x = 1\n")
    engine = open_engine("counting")
    try:
        plan = ImagePlan("aem-swe-tests:counting", my_engine / "source")
        try:
            image = engine.image(plan)
        except SandboxError as error:
            pytest.skip(f"needs network once: {error}")
        sandbox = engine.start(SandboxSpec(image))
        command = "pwd; python -c 'import calc; print(calc.x)'"
        assert sandbox.run(command, 30).output == "/testbed\n1\n"
        sandbox.close()
        assert engine.started == 1  # type: ignore[attr-defined]
    finally:
        engine.close()


def test_an_unknown_engine_is_an_error_that_lists_them() -> None:
    for ask in (
        open_engine,
        lambda name: SWEEnv(engine=name),
        lambda e: check_engine({"engine": e}),
    ):
        with pytest.raises(UnknownNameError, match=r"'dokcer'.*mean 'docker'.*bubblewrap.*podman"):
            ask("dokcer")


def test_what_is_no_engine_is_an_error_that_says_what_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"expected an object with name, isolates.*got dict"):
        open_engine("builtins:dict")
    with pytest.raises(ConfigError, match="cannot be imported"):
        open_engine("no_such_module:Engine")


def test_a_missing_engine_is_one_short_error_before_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    preflight = env_tool(SWEEnv, "preflight")
    assert preflight is check_engine
    with pytest.raises(ConfigError) as failure:
        preflight({"engine": "auto", "tasks": "default"})
    told = str(failure.value)
    assert "\n" not in told and len(told) < 400 + len(str(tmp_path))
    assert "sudo systemctl start docker" in told and "aem-gym doctor" in told
    preflight({"engine": "process"})
