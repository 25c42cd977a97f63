"""The configuration: what is written is read back, and what is wrong is named."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.training import config_io
from aem_gym.training.config import Config
from aem_gym.training.config_check import check_resume, env_kwargs, validate
from aem_gym.training.config_yaml import dump_yaml, load_yaml

ROOT = Path(__file__).resolve().parents[2]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False),
    st.text(max_size=12),
    st.sampled_from(["off", "no", "1e-6", "0x1f", "1_000", "12:30", "2020-01-01", "=", "~", "-"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), values))
def test_yaml_reads_back_what_it_writes(value: dict[str, object]) -> None:
    assert load_yaml(dump_yaml(value), "test") == value


@given(st.dictionaries(st.text(), st.text()))
def test_other_yaml_readers_see_the_same_texts(value: dict[str, str]) -> None:
    assert yaml.safe_load(dump_yaml(value)) == value


@given(
    lr=st.floats(1e-9, 1e3),
    env_args=st.dictionaries(st.text(), scalars),
    model=st.text(min_size=1),
    kl=st.none() | st.floats(0, 10),
    targets=st.text() | st.lists(st.text()),
    context=st.sampled_from(["transcript", "window"]),
)
def test_config_round_trips(lr, env_args, model, kl, targets, context) -> None:
    config = Config(
        lr=lr, env_args=env_args, model=model, kl_coef=kl, lora_targets=targets, context=context
    )
    assert config_io.from_dict(load_yaml(config_io.to_yaml(config), "test")) == config


def test_every_field_is_documented_and_typed() -> None:
    assert list(config_io.field_docs()) == config_io.field_names()
    for name, hint in config_io.field_types().items():
        assert config_io.type_text(hint), name


def test_saved_config_gives_the_same_config(tmp_path: Path) -> None:
    config = config_io.resolve(overrides=["modulator_options.lam=0.5", "lr=1e-6", "max_turns=7"])
    (tmp_path / "config.yaml").write_text(config_io.to_yaml(config))
    assert config_io.load_config(tmp_path) == config
    assert config_io.resolve(tmp_path / "config.yaml") == config
    assert (config.lr, config.max_turns, config.modulator_options) == (1e-6, 7, {"lam": 0.5})


def test_precedence_defaults_file_flags_overrides(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("steps: 7\nlr: 1e-4\nmodulator_options: {lam: 2.0, threshold: 0.3}\n")
    config = config_io.resolve(file, {"steps": 8, "seed": 3}, ["modulator_options.lam=1", "seed=4"])
    assert (config.steps, config.lr, config.seed, config.groups) == (8, 1e-4, 4, 16)
    assert config.modulator_options == {"lam": 1, "threshold": 0.3}


def test_env_args_belong_to_their_environment(tmp_path: Path) -> None:
    other = "CartPole-v1"
    assert Config().env_args == {"difficulty": "small"}
    assert Config(env=other).env_args == {}
    assert Config(env_args={}).env_args == {}
    assert config_io.resolve(flags={"env": other}).env_args == {}
    assert config_io.resolve(flags={"env": "alfworld"}) == Config()
    merged = config_io.resolve(flags={"env_args": {"max_turns": 9}})
    assert merged.env_args == {"difficulty": "small", "max_turns": 9}
    file = tmp_path / "a.yaml"
    file.write_text("env_args: {difficulty: full}\n")
    assert config_io.resolve(file).env_args == {"difficulty": "full"}
    assert config_io.resolve(file, {"env": other}).env_args == {}


def test_an_environment_may_suggest_settings(tmp_path: Path) -> None:
    shop = config_io.resolve(flags={"env": "webshop"})
    assert (shop.eval_split, shop.env_args["difficulty"]) == ("test", "easy")
    assert config_io.resolve(flags={"env": "webshop", "eval_split": "eval"}).eval_split == "eval"
    merged = config_io.resolve(flags={"env": "webshop", "env_args": {"goals": "synthetic"}})
    assert merged.env_args == shop.env_args | {"goals": "synthetic"}
    large = config_io.resolve(flags={"env": "webshop", "model": "some/model"})
    assert (large.eval_split, large.env_args) == ("test", {})
    file = tmp_path / "a.yaml"
    file.write_text("env: webshop\nenv_args: {difficulty: full}\n")
    assert config_io.resolve(file).env_args == {"difficulty": "full"}
    back = config_io.resolve(file, {"env": "alfworld"})
    assert (back.eval_split, back.env_args) == ("valid_unseen", {"difficulty": "small"})


def test_resume_takes_the_settings_of_the_run(tmp_path: Path) -> None:
    begun = Config(out=str(tmp_path), groups=3, steps=5, lr_schedule="constant")
    (tmp_path / "config.yaml").write_text(config_io.to_yaml(begun))
    now = config_io.resolve(flags={"out": str(tmp_path), "resume": True, "steps": 9})
    assert now == dataclasses.replace(begun, resume=True, steps=9)
    check_resume(begun, now)
    with pytest.raises(ConfigError, match="groups.*3 then, 4 now"):
        check_resume(begun, dataclasses.replace(now, groups=4))


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
    ],
)
def test_wrong_overrides_are_named(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config_io.resolve(overrides=overrides)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: 3\nlr: [1, 2\n", ["bad.yaml", "line 3"]),
        ("steps: 3\nsteps: 4\n", ["bad.yaml", "line 2", "'steps' occurs twice"]),
        ("- 1\n", ["key: value", "list"]),
        ("stepz: 3\n", ["stepz", "Did you mean 'steps'"]),
        ("steps: x\n", ["bad.yaml", "steps", "int", "'x'"]),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config_io.resolve(file)
    for word in words:
        assert word in str(caught.value)


def test_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config_io.resolve(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        config_io.resolve(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"groups": 0}, "groups.*at least 1.*0"),
        ({"lr": math.nan}, "lr.*above 0.*nan"),
        ({"temperature": 0.0}, "temperature.*above 0"),
        ({"clip_low": 1.5}, "clip_low.*below 1"),
        ({"dual_clip": 1.0}, "dual_clip.*above 1"),
        ({"warmstart_noise": 1.5}, "warmstart_noise.*at most 1"),
        ({"invalid_penalty": -0.1}, "invalid_penalty.*at least 0"),
        ({"max_new_tokens": 4096}, "max_new_tokens.*max_length"),
        ({"group_size": 1}, "group_size"),
        ({"device": "gpu"}, "device.*cuda:N"),
        ({"estimator": "grop"}, "Did you mean 'grpo'"),
        ({"modulator": "aemm"}, "Did you mean 'aem'"),
        ({"estimator": "no_such_module_x:f"}, "unknown estimator"),
        ({"model": "tinny"}, "Did you mean 'tiny'"),
        ({"model": "./nowhere"}, "config.json"),
        ({"model": "tests"}, "folder without config.json"),
        ({"env_args": {"dificulty": "small"}}, "dificulty.*Did you mean 'difficulty'"),
        ({"env": "Nowhere-v0"}, "unknown environment"),
    ],
)
def test_impossible_settings_are_refused(
    monkeypatch, changes: dict[str, object], words: str
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=words):
        validate(Config(**changes))  # type: ignore[arg-type]


def test_possible_settings_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    validate(Config())
    validate(Config(model=str(tmp_path)))
    validate(Config(model="Qwen/Qwen2.5-1.5B-Instruct", estimator="ppo", group_size=1))
    validate(Config(estimator="aem_gym.credit.estimators:grpo"))
    validate(Config(env="CartPole-v1"))


def test_split_goes_only_to_environments_that_take_one() -> None:
    assert env_kwargs(Config(), "train") == {"difficulty": "small", "split": "train"}
    fixed = Config(env_args={"split": "valid_seen"})
    assert env_kwargs(fixed, "train") == {"split": "valid_seen"}
    assert env_kwargs(Config(env="CartPole-v1"), "train") == {}


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_presets_are_valid(file: Path) -> None:
    validate(config_io.resolve(file))


def test_an_environment_suggests_settings_by_model() -> None:
    """Those for a small model come before those for any; what is set holds against both."""
    tiny, small, large = (
        config_io.resolve(flags={"env": "aem_gym/SWE-v0", "model": model})
        for model in ("tiny", "smollm2", "Qwen/Qwen3-8B")
    )
    assert tiny.mask_truncated and small.mask_truncated and large.mask_truncated
    assert tiny.env_args["repos"] == small.env_args["repos"] == "inflection"
    assert (large.env_args, large.steps) == ({}, Config().steps)
    assert (small.warmstart, large.warmstart) == ("expert", "auto")
    chosen = config_io.resolve(
        flags={"env": "aem_gym/SWE-v0"}, overrides=["steps=9", "env_args.repos=toolz"]
    )
    assert chosen.steps == 9 and chosen.env_args["repos"] == "toolz"


def test_cpu_preset_is_the_default() -> None:
    assert config_io.resolve(ROOT / "configs" / "cpu.yaml") == Config()
    assert set(config_io.load_values(ROOT / "configs" / "cpu.yaml")) == set(config_io.field_names())


def test_unknown_name_error_lists_all_keys() -> None:
    with pytest.raises(UnknownNameError) as caught:
        config_io.from_dict({"x": 1})
    assert set(caught.value.known) == set(config_io.field_names())


def test_checking_a_configuration_needs_no_torch() -> None:
    code = (
        "import sys; from aem_gym.training import config_io, config_check;"
        "config_check.validate(config_io.resolve()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
