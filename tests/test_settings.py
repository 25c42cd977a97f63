"""Settings from Python, files and flags: one way to merge them, and what is wrong is named."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.config import UNSET, Config, built_in, field_types
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.settings import (
    OLD_NAMES,
    load_config,
    load_values,
    merge,
    parse_override,
    settle,
    to_yaml,
)
from aem_gym.text_env import TextEnv
from aem_gym.yaml_io import dump_yaml, load_yaml
from tests.test_yaml_io import scalars

ROOT = Path(__file__).resolve().parents[1]
CART_POLE = "CartPole-v1"


@given(
    lr=st.floats(1e-9, 1e3),
    env_args=st.dictionaries(st.text().filter(lambda key: key != "max_turns"), scalars),
    kl=st.none() | st.floats(0, 10),
    targets=st.text() | st.lists(st.text()),
    context=st.sampled_from(["transcript", "window"]),
)
def test_settings_round_trip(lr, env_args, kl, targets, context) -> None:
    config = settle(
        Config(lr=lr, env_args=env_args, kl_coef=kl, lora_targets=targets, context=context)
    ).config
    assert settle(load_yaml(to_yaml(config), "test")).config == config


def test_a_saved_config_gives_the_same_config(tmp_path: Path) -> None:
    config = settle(overrides=["modulator_options.lam=0.5", "lr=1e-6", "max_turns=7"]).config
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    for path in (tmp_path, str(tmp_path), tmp_path / "config.yaml"):
        assert load_config(path) == config
    assert settle(file=tmp_path / "config.yaml").config == config
    assert (config.lr, config.max_turns, config.modulator_options) == (1e-6, 7, {"lam": 0.5})


@pytest.mark.parametrize("value", [Path("x"), np.int64(3)])
def test_what_yaml_cannot_hold_is_named(value: Any) -> None:
    config = Config(env_args={"data": value})
    with pytest.raises(ConfigError, match="^env_args: expected texts, numbers, lists"):
        to_yaml(settle(config).config)


def test_settling_twice_changes_nothing() -> None:
    config = settle(Config(model="smollm2", steps=3)).config
    assert settle(config).config == config
    assert UNSET not in vars(config).values()


def test_precedence_defaults_file_flags_overrides(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("steps: 7\nlr: 1e-4\nmodulator_options: {lam: 2.0, threshold: 0.3}\n")
    settled = settle(
        file=file,
        flags={"steps": 8, "seed": 3},
        overrides=["modulator_options.lam=1", "seed=4"],
    )
    config = settled.config
    assert (config.steps, config.lr, config.seed, config.groups) == (8, 1e-4, 4, 16)
    assert config.modulator_options == {"lam": 1, "threshold": 0.3}
    assert settled.origin["steps"] == settled.origin["seed"] == "flag"
    assert settled.origin["lr"] == str(file)
    assert settled.origin["modulator_options.lam"] == "flag"
    assert settled.origin["groups"] == "built-in"
    assert settle(file=str(file)).config == settle(file=file).config


# The layers --------------------------------------------------------------------------------------


class Suggesting(TextEnv):
    """An environment that suggests settings, also by model."""

    defaults = {"steps": 11, "lr": 0.5, "eval_split": "held", "env_args": {"size": 1, "kind": "a"}}
    model_defaults = {"smollm2": {"lr": 0.25, "groups": 3}}


ENV = f"{__name__}:Suggesting"
GIVEN: dict[str, st.SearchStrategy[Any]] = {
    "steps": st.integers(0, 9),
    "lr": st.floats(1e-6, 0.1),
    "groups": st.integers(1, 5),
    "model": st.sampled_from(["tiny", "smollm2", "someone/model"]),
    "eval_split": st.sampled_from(["a", "b"]),
    "context": st.sampled_from(["transcript", "window"]),
    "kl_coef": st.none() | st.floats(0, 1),
    "lora_targets": st.just("all-linear") | st.just(["q_proj", "v_proj"]),
    "resume": st.booleans(),
    "modulator_options": st.fixed_dictionaries({}, optional={"lam": st.floats(0, 2)}),
    "env": st.sampled_from([ENV, "aem_gym/ALFWorld-v0", CART_POLE]),
    "estimator": st.sampled_from(["grpo", "dapo"]),
}
some_settings = st.fixed_dictionaries({}, optional=GIVEN)


def expected_layers(given: Mapping[str, Any]) -> dict[str, Any]:
    """built-in < environment < model < both < estimator < given, written down plainly."""
    from aem_gym.models import find_model
    from aem_gym.registry import env_factory

    env = env_factory(given.get("env", "aem_gym/ALFWorld-v0"))
    model = given.get("model", "tiny")
    values = dict(built_in())
    values |= getattr(env, "defaults", {})
    values |= find_model(model).defaults
    values |= getattr(env, "model_defaults", {}).get(model, {})
    values |= {"drop_equal_groups": True} if given.get("estimator") == "dapo" else {}
    return values | given


@given(some_settings)
def test_python_yaml_and_flags_settle_alike(given: dict[str, Any]) -> None:
    """The same settings mean the same wherever they are given, and every layer has its rank."""
    from aem_gym.registry import find_env

    wanted = settle(Config(**given)).config
    assert settle(given).config == wanted
    assert settle(flags=given).config == wanted
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(dump_yaml(given))
        file.flush()
        assert settle(file=file.name).config == wanted
    # Each option by itself, as on the command line.
    texts = [f"{name}={dump_yaml(value)}" for name, value in given.items()]
    assert settle(overrides=texts).config == wanted
    expected = expected_layers(given)
    for name, value in vars(wanted).items():
        if name == "env":
            assert value == find_env(given.get("env", "aem_gym/ALFWorld-v0")) or ":" in value
        elif name in {"env_args", "max_new_tokens"}:  # ALFWorld's by-model settings may be options
            continue
        elif name != "model":
            assert value == expected[name], name


@given(some_settings, some_settings)
def test_replacing_is_giving(first: dict[str, Any], second: dict[str, Any]) -> None:
    """`replace` on an unsettled Config is as if the values had been given at once."""
    changed = replace(Config(**first), **second)
    assert settle(changed).config == settle(Config(**{**first, **second})).config


def test_replace_settles_as_if_given_at_once() -> None:
    changed = settle(replace(Config(), model="smollm2")).config
    assert changed == settle(Config(model="smollm2")).config
    assert changed.lr != settle().config.lr


def test_the_layers_by_name() -> None:
    settled = settle({"env": ENV, "model": "smollm2", "estimator": "dapo", "seed": 4})
    config, origin = settled.config, settled.origin
    assert (config.steps, origin["steps"]) == (11, "environment")
    assert (config.lr, origin["lr"]) == (0.25, "environment x model")
    assert (config.groups, origin["groups"]) == (3, "environment x model")
    assert (config.drop_equal_groups, origin["drop_equal_groups"]) == (True, "estimator")
    assert (config.seed, origin["seed"]) == (4, "given")
    assert origin["epochs"] == "built-in"
    kept = settle({"estimator": "dapo", "drop_equal_groups": False}).config
    assert not kept.drop_equal_groups


def test_a_whole_setting_replaces_and_a_key_changes_one_option() -> None:
    values, origin = merge(
        [
            ("one", {"o": {"a": 1, "b": {"c": 2}}}),
            ("two", {"o.b.d": 3}),
            ("three", {"o.a": 4}),
        ]
    )
    assert values == {"o": {"a": 4, "b": {"c": 2, "d": 3}}}
    assert origin == {"o": "one", "o.b.d": "two", "o.a": "three"}
    values, origin = merge([("one", {"o": {"a": 1}}), ("two", {"o.b": 2}), ("three", {"o": {}})])
    assert (values, origin) == ({"o": {}}, {"o": "three"})


@given(st.dictionaries(st.sampled_from("abc"), st.integers()))
def test_merging_leaves_the_layers_as_they_are(options: dict[str, int]) -> None:
    layer = {"o": dict(options)}
    merge([("one", layer), ("two", {"o.x": 1, "o.y.z": 2})])
    assert layer == {"o": options}


def test_env_args_belong_to_their_environment(tmp_path: Path) -> None:
    assert settle().config.env_args == {"difficulty": "small"}
    assert settle({"env": CART_POLE}).config.env_args == {}
    assert settle({"env_args": {}}).config.env_args == {}
    assert settle({"env": "alfworld"}).config == settle().config
    merged = settle(flags={"env_args.seed_offset": 9}).config
    assert merged.env_args == {"difficulty": "small", "seed_offset": 9}
    file = tmp_path / "a.yaml"
    file.write_text("env_args: {difficulty: full}\n")
    assert settle(file=file).config.env_args == {"difficulty": "full"}
    assert settle(file=file, flags={"env": CART_POLE}).config.env_args == {}


def test_an_environment_may_suggest_settings(tmp_path: Path) -> None:
    shop = settle({"env": "webshop"}).config
    assert (shop.eval_split, shop.env_args["difficulty"]) == ("test", "easy")
    assert settle({"env": "webshop", "eval_split": "eval"}).config.eval_split == "eval"
    merged = settle(flags={"env": "webshop", "env_args.goals": "synthetic"}).config
    assert merged.env_args == shop.env_args | {"goals": "synthetic"}
    large = settle({"env": "webshop", "model": "some/model"}).config
    assert (large.eval_split, large.env_args) == ("test", {})
    file = tmp_path / "a.yaml"
    file.write_text("env: webshop\nenv_args: {difficulty: full}\n")
    assert settle(file=file).config.env_args == {"difficulty": "full"}
    back = settle(file=file, flags={"env": "alfworld"}).config
    assert (back.eval_split, back.env_args) == ("valid_unseen", {"difficulty": "small"})


def test_an_environment_suggests_settings_by_model() -> None:
    """Those for a small model come before those for any; what is set holds against both."""
    tiny, small, large = (
        settle({"env": "aem_gym/SWE-v0", "model": model}).config
        for model in ("tiny", "smollm2", "Qwen/Qwen3-8B")
    )
    assert tiny.mask_truncated and small.mask_truncated and large.mask_truncated
    assert tiny.env_args["repos"] == small.env_args["repos"] == "inflection"
    assert (large.env_args, large.steps) == ({}, built_in()["steps"])
    assert (small.warmstart, large.warmstart) == ("expert", "auto")
    chosen = settle({"env": "aem_gym/SWE-v0"}, overrides=["steps=9", "env_args.repos=toolz"]).config
    assert chosen.steps == 9 and chosen.env_args["repos"] == "toolz"


def test_an_environment_class_is_an_environment() -> None:
    config = settle({"env": Suggesting}).config
    assert config.env == ENV and config.steps == 11
    assert settle({"env": ENV}).config == config
    assert settle(Config(env=Suggesting)).config == config  # type: ignore[arg-type]
    assert settle(load_yaml(to_yaml(config), "test")).config == config


# Runs and presets --------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [str, Path])
def test_resume_takes_the_settings_of_the_run(tmp_path: Path, out: type) -> None:
    begun = settle({"out": str(tmp_path), "groups": 3, "steps": 5}).config
    (tmp_path / "config.yaml").write_text(to_yaml(begun))
    now = settle(flags={"out": str(tmp_path), "resume": True, "steps": 9}).config
    assert now == replace(begun, resume=True, steps=9)
    assert settle(Config(out=out(tmp_path), resume=True, steps=9)).config == now


def test_cpu_preset_is_the_default() -> None:
    preset = ROOT / "configs" / "cpu.yaml"
    assert settle(file=preset).config == settle().config
    names = {field.name for field in dataclasses.fields(Config)}
    assert set(load_values(preset)) == names


# Old spellings -----------------------------------------------------------------------------------

OLD = [
    ({"recipe": "compact"}, {"prompt_template": "compact"}),
    ({"invalid_means": "inadmissible"}, {"penalize": "inadmissible"}),
    ({"max_live": 7}, {"max_concurrent_episodes": 7}),
    ({"updates_per_batch": 4}, {"mini_batch": "1/4"}),
    ({"save_tokens": True}, {"token_samples": "all"}),
    ({"save_tokens": False}, {"token_samples": 2}),
    ({"tensorboard": False}, {"loggers": []}),
    ({"tensorboard": True}, {"loggers": ["tensorboard"]}),
]


@pytest.mark.parametrize(("old", "new"), OLD, ids=str)
def test_old_spellings_stay_valid_everywhere(
    old: dict[str, Any], new: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(dump_yaml(old))
    wanted = settle(new).config
    ((name, value),) = old.items()
    assert name in OLD_NAMES
    with caplog.at_level(logging.WARNING):
        assert settle(file=file).config == wanted
    assert f"{file}: {name} is now {next(iter(new))}" in caplog.text
    assert settle(old).config == wanted
    assert settle(flags=old).config == wanted
    assert settle(overrides=[f"{name}={dump_yaml(value)}"]).config == wanted


def test_every_old_spelling_is_tested() -> None:
    assert {name for old, _ in OLD for name in old} == set(OLD_NAMES)
    assert not set(OLD_NAMES) & set(field_types())


def test_null_in_older_files_leaves_a_setting_to_the_other_layers(tmp_path: Path) -> None:
    """What saved configurations of older runs hold where nothing was given."""
    file = tmp_path / "old.yaml"
    file.write_text("updates_per_batch: 4\nmini_batch: null\ndrop_equal_groups: null\n")
    config = settle(file=file, flags={"estimator": "dapo"}).config
    assert (config.mini_batch, config.drop_equal_groups) == ("1/4", True)
    for text in (
        "updates_per_batch: 4\nmini_batch: 32\n",
        "mini_batch: 32\nupdates_per_batch: 4\n",
    ):
        file.write_text(text)
        assert settle(file=file).config.mini_batch == 32


def test_an_old_flag_takes_back_what_an_old_file_says(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("save_tokens: true\ntensorboard: false\nmini_batch: null\nenv: null\n")
    assert settle(file=file).config.mini_batch == "1/2"
    config = settle(file=file, flags={"save_tokens": False, "tensorboard": True}).config
    assert (config.token_samples, config.loggers) == (2, ["tensorboard"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"updates_per_batch": "two"}, "updates_per_batch: expected a number above 0, got 'two'"),
        ({"updates_per_batch": True}, "expected a number above 0"),
        ({"tensorboard": "no"}, "tensorboard: expected true or false, got 'no'"),
        ({"recipe.name": "x"}, "prompt_template"),
        ({"env_args": {"a": "text"}, "env_args.a.b": 1}, "env_args.a.b: a is 'text'"),
    ],
    ids=str,
)
def test_bad_old_spellings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settle(flags=values)


class OldFashioned(TextEnv):
    """An environment whose defaults use an old spelling."""

    defaults = {"recipe": "default", "updates_per_batch": 3}


def test_an_environment_may_use_old_spellings() -> None:
    config = settle({"env": OldFashioned}).config
    assert (config.prompt_template, config.mini_batch) == ("default", "1/3")


def test_the_newest_spelling_in_a_layer_above_wins(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("recipe: compact\n")
    assert settle(file=file, flags={"prompt_template": "default"}).config.prompt_template == (
        "default"
    )


# One limit of turns ------------------------------------------------------------------------------


def test_two_turn_limits_that_differ_are_refused(tmp_path: Path) -> None:
    words = "max_turns: 30 and env_args.max_turns: 9 differ"
    with pytest.raises(ConfigError, match=words):
        settle({"max_turns": 30, "env_args": {"max_turns": 9}})
    with pytest.raises(ConfigError, match=words):
        settle(flags={"max_turns": 30, "env_args.max_turns": 9})
    with pytest.raises(ConfigError, match=words):
        settle(overrides=["max_turns=30", "env_args.max_turns=9"])
    file = tmp_path / "file.yaml"
    file.write_text("env_args:\n  max_turns: 9\n")
    with pytest.raises(ConfigError, match=words):
        settle(file=file, flags={"max_turns": 30, "env_args.difficulty": "full"})
    same = settle({"max_turns": 9, "env_args": {"max_turns": 9}}).config
    assert same.max_turns == 9


# What is wrong is named --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["contxt=window"], ["contxt", "Did you mean 'context'"]),
        (["context=windw"], ["context", "transcript or window", "'windw'"]),
        (["groups=many"], ["groups", "expected int", "'many'"]),
        (["groups=1.5"], ["groups", "expected int", "1.5"]),
        (["groups=true"], ["groups", "expected int", "True"]),
        (["resume=1"], ["resume", "true or false"]),
        (["env_args=3"], ["env_args", "key: value pairs"]),
        (["lora_targets=[1]"], ["lora_targets", "list of text"]),
        (["lr.peak=1"], ["lr.peak", "no sub-keys"]),
        (["lr"], ["'lr'", "key=value"]),
        (["lr=[1"], ["lr=[1", "line 1"]),
        (["env=ALFWrld"], ["ALFWrld", "aem_gym/ALFWorld-v0"]),
        (["env=3"], ["env", "expected text", "3"]),
        (["model=tinny"], ["Did you mean 'tiny'"]),
        (["estimator=grop"], ["Did you mean 'grpo'"]),
    ],
)
def test_wrong_overrides_are_named(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settle(overrides=overrides)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: 3\nlr: [1, 2\n", ["bad.yaml", "line 3"]),
        ("steps: 3\nsteps: 4\n", ["bad.yaml", "line 2", "'steps'", "twice"]),
        ("- 1\n", ["key: value", "list"]),
        ("stepz: 3\n", ["stepz", "Did you mean 'steps'", "bad.yaml"]),
        ("steps: x\n", ["bad.yaml", "steps", "int", "'x'"]),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        settle(file=file)
    for word in words:
        assert word in str(caught.value)


def test_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        settle(file=tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        settle(file=tmp_path / "binary.yaml")


def test_unknown_name_error_lists_all_keys() -> None:
    with pytest.raises(UnknownNameError) as caught:
        settle({"x": 1})
    assert set(caught.value.known) == set(field_types())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("lr=1e-4", ("lr", 1e-4)),
        ("--group-size=3", ("group_size", 3)),
        ("modulator_options.lam=0.5", ("modulator_options.lam", 0.5)),
        ("out=", ("out", "")),
        ("lora_targets=[a, b]", ("lora_targets", ["a", "b"])),
    ],
)
def test_overrides_are_read(text: str, wanted: tuple[str, Any]) -> None:
    assert parse_override(text) == wanted


# Explaining --------------------------------------------------------------------------------------


def test_explaining_is_the_configuration_with_the_layer_of_each_value(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("groups: 4\n")
    settled = settle(file=file, flags={"env_args.dialect": "x", "steps": 3})
    text = settled.explain()
    assert load_yaml(text, "test") == load_yaml(to_yaml(settled.config), "test")
    where = {
        line.split(":")[0]: line.partition("# ")[2]
        for line in text.splitlines()
        if line and not line.startswith((" ", "-"))
    }
    assert set(where) == set(field_types()) and all(where.values())
    assert where["groups"] == str(file) and where["steps"] == "flag"
    assert where["lr"] == "model" and where["epochs"] == "built-in"
    assert where["env_args"] == "environment, dialect: flag"
