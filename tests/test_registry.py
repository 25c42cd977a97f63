"""Names to components: built in, from other packages, or `module:attribute`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

from aem_gym.errors import AemGymError, ConfigError, UnknownNameError
from aem_gym.registry import (
    AGENTS,
    ESTIMATORS,
    MODULATORS,
    Registry,
    find_env,
    import_object,
    register_envs,
)

GROUP = "aem_gym_test.things"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that registers a thing and an environment by entry points, as pip leaves it."""
    (tmp_path / "guest.py").write_text(
        "VALUE = 41\nimport gymnasium\nclass E(gymnasium.Env): ...\n"
    )
    info = tmp_path / "guest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nguest = guest:VALUE\nbuilt = guest:VALUE\nlost = guest:NOTHING\n"
        "[aem_gym.envs]\nguest/Special-v3 = guest:E\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    gym.registry.pop("guest/Special-v3", None)
    sys.modules.pop("guest", None)


def things() -> Registry:
    return Registry("thing", GROUP, {"built": "math:pi", "broken": "math:tau_of_nothing"})


def test_builtin_and_own_names() -> None:
    import math

    assert things().load("built") == math.pi
    assert things().load("math:e") == math.e
    assert things().load("os:path.join") is __import__("os").path.join
    assert things().names() == ["broken", "built"]


@pytest.mark.usefixtures("installed")
def test_entry_points_are_found_and_do_not_replace_what_is_built_in() -> None:
    import math

    assert things().names() == ["broken", "built", "guest", "lost"]
    assert "guest" not in sys.modules  # listing imports nothing
    assert things().load("guest") == 41
    assert things().load("built") == math.pi
    with pytest.raises(ConfigError, match="NOTHING"):
        things().load("lost")


def test_an_unknown_name_lists_what_exists_and_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        things().load("buitl")
    message = str(caught.value)
    assert "unknown thing 'buitl'" in message and "Did you mean 'built'?" in message
    assert "Known: broken, built" in message and "module:attribute" in message and GROUP in message
    assert isinstance(caught.value, AemGymError | ValueError) and caught.value.known
    assert "Did you mean" not in str(pytest.raises(UnknownNameError, things().load, "zzzz").value)


@pytest.mark.parametrize("target", ["no_such_module:x", "math:no_such_name", "math:pi.real.gone"])
def test_what_cannot_be_imported_is_a_configuration_error(target: str) -> None:
    with pytest.raises(ConfigError, match="cannot be imported"):
        import_object(target)


@pytest.mark.parametrize("registry", [AGENTS, ESTIMATORS, MODULATORS], ids=lambda r: r.kind)
def test_every_builtin_component_loads(registry: Registry) -> None:
    assert registry.names()
    for name in registry.names():
        assert callable(registry.load(name))


@pytest.mark.parametrize(
    "name", ["aem_gym/ALFWorld-v0", "aem_gym:aem_gym/ALFWorld-v0", "ALFWorld", "alfworld"]
)
def test_environments_are_found_under_their_short_names(name: str) -> None:
    assert find_env(name) == "aem_gym/ALFWorld-v0"


@pytest.mark.usefixtures("installed")
def test_environments_of_other_packages_are_found() -> None:
    assert find_env("special") == find_env("guest/Special-v3") == "guest/Special-v3"
    spec = gym.spec("guest/Special-v3")
    register_envs()
    assert gym.spec("guest/Special-v3") is spec  # registering again changes nothing
    assert "guest" not in sys.modules
    assert find_env("guest:guest/Special-v3") == "guest/Special-v3"
    assert "guest" in sys.modules


def test_other_gymnasium_ids_are_left_as_they_are() -> None:
    assert find_env("CartPole-v1") == "CartPole-v1"


def test_unknown_environments() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'aem_gym/ALFWorld-v0'.*module:Class"):
        find_env("aem_gym/ALFWrld-v0")
    with pytest.raises(ConfigError, match="no_such_package"):
        find_env("no_such_package:Thing-v0")
