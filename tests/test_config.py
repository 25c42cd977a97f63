"""The fields of a configuration: documented, typed, bounded, and unset until they are settled."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from aem_gym.config import (
    UNSET,
    Config,
    built_in,
    check_ranges,
    field_docs,
    field_types,
    is_options,
    type_text,
)
from aem_gym.errors import ConfigError
from aem_gym.settings import settle

NAMES = [field.name for field in dataclasses.fields(Config)]


def test_every_field_is_documented_typed_and_has_a_default() -> None:
    assert list(field_docs()) == list(field_types()) == list(built_in()) == NAMES
    for name, hint in field_types().items():
        assert type_text(hint), name
        assert field_docs()[name].strip(), name


def test_built_in_values_are_in_range() -> None:
    check_ranges(built_in())
    for name in NAMES:
        assert is_options(name) == (built_in()[name] == {})


def test_what_is_not_given_is_unset() -> None:
    config = Config(steps=3, out=None)
    assert config.given() == {"steps": 3, "out": None}
    assert config.lr is UNSET
    assert repr(config) == "Config(steps=3, out=None)"
    assert "unset" not in repr(config)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"groups": 0}, "groups.*at least 1.*0"),
        ({"lr": math.nan}, "lr.*above 0.*nan"),
        ({"lr": math.inf}, "lr.*above 0.*inf"),
        ({"temperature": 0.0}, "temperature.*above 0"),
        ({"clip_low": 1.5}, "clip_low.*below 1"),
        ({"dual_clip": 1.0}, "dual_clip.*above 1"),
        ({"warmstart_noise": 1.5}, "warmstart_noise.*at most 1"),
        ({"invalid_penalty": -0.1}, "invalid_penalty.*at least 0"),
        ({"seed": 2**63}, "seed.*at most"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_ranges(changes)
    with pytest.raises(ConfigError, match=words):
        settle(changes)


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({}, "runs/alfworld-tiny-grpo-aem-seed0"),
        ({"seed": 3, "estimator": "rloo"}, "runs/alfworld-tiny-rloo-aem-seed3"),
        ({"model": "Qwen/Qwen3-8B"}, "runs/alfworld-Qwen3_8B-grpo-aem-seed0"),
        (
            {"env": "tests.training.guess_env:guess-test/Guess-v0", "modulator": "none"},
            "runs/guess-tiny-grpo-none-seed0",
        ),
        ({"estimator": "aem_gym.credit.estimators:grpo"}, None),
        ({"out": "~/somewhere"}, str(Path.home() / "somewhere")),
    ],
)
def test_the_folder_of_a_run_says_what_it_is(given: dict[str, object], folder: str | None) -> None:
    found = settle(given).config.run_folder
    if folder is None:
        assert ":" not in str(found) and found.parent == Path("runs")
    else:
        assert found == Path(folder)
