"""The cached warm start: used when nothing has changed, made again when anything has."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aem_gym.config import Config
from aem_gym.errors import ConfigError, NoExpertError, OutputError, UnknownNameError
from aem_gym.registry import Registry
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool
from aem_gym.settings import settle
from aem_gym.training import warmstart
from aem_gym.training.setup import check_run, choose_template
from aem_gym.training.warmstart import warm_start
from aem_gym.types import Demo, DemoStep

GUESS = settle(
    Config(
        env="tests.training.guess_env:guess-test/Guess-v0",
        warmstart_episodes=20,
        warmstart_steps=5,
        warmstart_batch=4,
        model_options={"hidden": 16, "layers": 1, "heads": 1, "mlp": 16},
        device="cpu",
        threads=1,
    )
).config


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "warmstarts"


def start(config: Config) -> tuple[str, Path | None]:
    with EnvPool(EnvSpec(config.env)) as pool:
        description = pool.describe()
    return warm_start(config, description, choose_template(config, description))


def info(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "warmstart.json").read_text())
    return found


def content(folder: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def test_the_second_run_takes_it_from_the_cache(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(GUESS)
    base, adapter = first
    assert adapter is None and Path(base).parent == cache
    assert info(base)["demonstrations"] == 20 and info(base)["source"] == "expert"
    before = content(base)
    monkeypatch.setattr(warmstart, "_make", None)  # would fail if it were called
    assert start(GUESS) == first
    # What says nothing about the clone does not make another one.
    others = {"steps": 3, "lr": 1.0, "estimator": "rloo", "modulator": "none", "workers": 2}
    assert start(replace(GUESS, **others)) == first
    assert content(base) == before


def test_made_twice_it_is_the_same(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = start(GUESS)[0]
    monkeypatch.setenv("AEM_GYM_CACHE", str(cache.parent / "other"))
    second = start(GUESS)[0]
    assert Path(first).name == Path(second).name and first != second
    assert content(first) == content(second)


def test_the_demonstrations_may_have_arguments_of_their_own() -> None:
    def played(**settings: Any) -> list[Demo]:
        config = replace(GUESS, **settings)
        with EnvPool(EnvSpec(config.env)) as pool:
            template = choose_template(config, pool.describe())
        return warmstart.collect_demonstrations(config, template, "expert")

    hinted = {"hint": True}
    demos = played(warmstart_env_args=hinted)
    assert demos == played(env_args=hinted) != played()
    assert demos == played(env_args={"hint": False}, warmstart_env_args=hinted)
    wrong = settle({"env": "aem_gym/WebShop-v0", "warmstart_env_args": {"expert_car": 0.5}})
    with pytest.raises(UnknownNameError, match="expert_car.*expert_care"):
        check_run(wrong.config)


CHANGES: list[dict[str, Any]] = [
    {"env": "tests.training.guess_env:guess-test/NoExpert-v0"},
    {"env_args": {"hint": True}},
    {"train_split": "other"},
    {"model_options": {"hidden": 32}},
    {"context": "window"},
    {"response_format": "tags"},
    {"history": 7},
    {"max_turns": 3},
    {"max_length": 1000},
    {"seed": 1},
    {"warmstart": "random"},
    {"warmstart_episodes": 21},
    {"warmstart_steps": 6},
    {"warmstart_batch": 5},
    {"warmstart_noise": 0.5},
    {"warmstart_keep": "all"},
    {"warmstart_env_args": {"hint": True}},
    {"warmstart_options": {"muon_lr": 0.1}},
    {"dtype": "float32"},
    {"device": "cuda"},
    {"threads": 2},
]


def key(config: Config) -> str:
    with EnvPool(EnvSpec(config.env)) as pool:
        description = pool.describe()
    source = warmstart._source(config, description)
    return warmstart._content_key(config, choose_template(config, description), source)


def test_every_setting_that_matters_makes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    base = key(GUESS)
    assert key(GUESS) == base
    keys = [key(replace(GUESS, **change)) for change in CHANGES]
    assert len({base, *keys}) == len(CHANGES) + 1
    assert key(replace(GUESS, reward_scale=10.0)) == base  # rewards are not cloned
    for change in ({"lora_rank": 4}, {"lora_targets": ["q_proj"]}):
        assert key(replace(GUESS, **change)) == base  # tiny is cloned without an adapter
        other = replace(GUESS, model="someone/model", warmstart="expert")
        assert key(replace(other, **change)) != key(other)
    monkeypatch.setattr(warmstart, "version", lambda name: "another")
    assert key(GUESS) != base


def test_changed_texts_of_an_environment_make_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "texts_env"
    package.mkdir()
    code = "from tests.training.guess_env import Guess\n\nclass Env(Guess): ...\n"
    (package / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    seen = set()
    for words in ("one", "two"):
        (package / "texts.json").write_text(f'"{words}"')
        seen.add(warmstart._class_digest("texts_env:Env"))
    assert len(seen) == 2


def test_changed_code_makes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's own module is part of the key."""
    import gymnasium as gym

    code = "from tests.training.guess_env import Guess\n\nclass Env(Guess): ...\n"
    (tmp_path / "their_env.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    monkeypatch.setattr(gym, "registry", gym.envs.registration.registry)
    gym.register("guess-test/Theirs-v0", "their_env:Env", disable_env_checker=True)
    config = replace(GUESS, env="guess-test/Theirs-v0")
    before = key(config)
    (tmp_path / "their_env.py").write_text(code + "#\n")
    assert key(config) != before


OWN = {
    "response_format": ("F", "from aem_gym.agents.formats import Short\n\nclass F(Short): ...\n"),
    "learner": ("L", "from aem_gym.agents.learner import HFLearner\n\nclass L(HFLearner): ...\n"),
    "model": ("M", "from aem_gym.agents.tiny import Tiny\n\nclass M(Tiny): ...\n"),
}


@pytest.mark.parametrize("setting", OWN)
@pytest.mark.parametrize("instance", [False, True])
def test_changed_code_of_a_component_of_ones_own_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, instance: bool
) -> None:
    (name, code), module = OWN[setting], f"their_{setting}_{instance}"
    if instance:
        code, name = f"{code}\nmade = {name}\n", "made"
        code += "" if setting == "learner" else "made = made()\n"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    config = replace(GUESS, **{setting: f"{module}:{name}"})
    before = key(config)
    assert key(config) == before != key(GUESS)
    (tmp_path / f"{module}.py").write_text(code + "#\n")
    assert key(config) != before


def test_the_component_of_another_package_counts_by_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name from an entry point does not say where its code is."""
    code = "from aem_gym.agents.formats import Short\n\nclass F(Short): ...\n"
    (tmp_path / "their_package.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    formats = Registry("response format", "aem_gym.formats", {"theirs": "their_package:F"})
    monkeypatch.setattr(warmstart, "FORMATS", formats)
    config = replace(GUESS, response_format="theirs")
    before = key(config)
    (tmp_path / "their_package.py").write_text(code + "#\n")
    assert key(config) != before


def test_half_of_one_is_not_used(cache: Path) -> None:
    first = start(GUESS)
    base = first[0]
    whole = content(base)
    (Path(base) / "warmstart.json").unlink()
    (Path(base) / "model.safetensors").write_bytes(b"half")
    half = cache / f".{Path(base).name}.tmp"  # what a killed process leaves
    half.mkdir()
    (half / "warmstart.json").write_text("{}")
    assert start(GUESS) == first
    assert content(base) == whole
    assert not half.exists()


def test_runs_begun_together_share_one(cache: Path, tmp_path: Path) -> None:
    """Two processes want the same clone: one makes it, the other waits and takes it."""
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "from tests.training.test_warmstart import GUESS, start\n"
        "print(start(GUESS)[0])"
    )
    root = Path(__file__).resolve().parents[2]
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len({text.splitlines()[-1] for text in said}) == 1
    assert sum("taken from the cache" in text for text in said) == 1
    assert not list(cache.glob(".*.tmp"))


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="Set AEM_GYM_CACHE"):
        start(GUESS)


def test_a_cache_that_can_only_be_read_will_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(GUESS)
    monkeypatch.setattr(warmstart, "exclusive", None)  # would fail if it were called
    assert start(GUESS) == first


def test_random_play_is_cloned_where_there_is_no_expert(cache: Path) -> None:
    made = start(replace(GUESS, env="guess-test/NoExpert-v0"))[0]
    assert info(made)["source"] == "random"
    with pytest.raises(NoExpertError, match="--model"):
        start(replace(GUESS, env="guess-test/Hopeless-v0", warmstart_episodes=2))
    assert not [p for p in cache.iterdir() if p.is_dir() and p != Path(made)]


def test_settings_that_cannot_be_used(cache: Path) -> None:
    with pytest.raises(ConfigError, match="starts from nothing.*--warmstart"):
        start(replace(GUESS, warmstart="none"))
    with pytest.raises(ConfigError, match="warmstart_options.*muon.*muon_lr"):
        start(replace(GUESS, warmstart_options={"muon": 1}))
    assert not cache.exists()  # noticed before anything was made
    with pytest.raises(NoExpertError, match="--max-length"):
        start(replace(GUESS, max_length=8))
    assert start(replace(GUESS, model="someone/model")) == ("someone/model", None)


def test_the_cache_says_what_was_done(cache: Path) -> None:
    made = info(start(GUESS)[0])
    assert made["rows"] == 20 and made["steps"] == 5 and made["loss"] > 0


def test_demonstrations_that_are_too_long_are_counted(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Most of them may be, and the clone is one of short episodes."""
    caplog.set_level("INFO")
    config = replace(GUESS, context="window")
    rows = info(start(config)[0])["rows"]
    assert "left out" not in caplog.text
    short = replace(config, max_length=20)  # first turns, with the instructions, are longer
    made = info(start(short)[0])
    assert 0 < made["too_long"] < rows == made["rows"] + made["too_long"]
    said = f"{made['too_long']} of {rows} rows of demonstrations are longer than max_length 20"
    assert [r.levelname for r in caplog.records if said in r.getMessage()] == ["WARNING"]
    assert "raise --max-length" in caplog.text
    caplog.clear()
    start(short)
    assert "taken from the cache" in caplog.text and said in caplog.text


@pytest.mark.parametrize(("context", "rows"), [("transcript", 2), ("window", 3)])
def test_rows_with_nothing_to_imitate_are_not_missed(context: str, rows: int) -> None:
    step = DemoStep("a room", "", "go")
    idle = replace(step, imitate=False)
    demos = [Demo("", (step, idle, step)), Demo("", (idle,)), Demo("", (idle, step)), Demo("", ())]
    assert warmstart._possible_rows(replace(GUESS, context=context), demos) == rows
