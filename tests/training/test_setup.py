"""What is checked before a model loads: by `check_run`, and so by `--dry-run`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from aem_gym.config import Config
from aem_gym.credit import LossOutput, Modulated
from aem_gym.errors import ConfigError, ModelError, UnknownNameError
from aem_gym.rollout.envs import EnvDescription
from aem_gym.rollout.pool import env_kwargs, env_parameters, open_pool
from aem_gym.settings import settle
from aem_gym.text_env import TextEnv
from aem_gym.training.credit import Rewards
from aem_gym.training.setup import check_run, choose_template
from aem_gym.types import PromptTemplate, StepResult, Task

ROOT = Path(__file__).resolve().parents[2]
HERE = "tests.training.test_setup"


def settled(**given: Any) -> Config:
    return settle(given).config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_new_tokens": 4096}, "max_new_tokens.*max_length"),
        ({"group_size": 1}, "group_size 1.*'grpo'"),
        ({"device": "gpu"}, "device.*cuda:N"),
        ({"mini_batch": "2/3"}, "mini_batch.*1/2"),
        ({"token_samples": "some"}, "token_samples.*all"),
        ({"lora_targets": []}, "lora_targets.*all-linear"),
        ({"out": " "}, "out: expected a folder"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize: cannot"),
        ({"modulator": "aemm"}, "Did you mean 'aem'"),
        ({"sampler": "vlm"}, "unknown sampler 'vlm'.*hf"),
        ({"learner": "tl"}, "unknown learner 'tl'.*hf"),
        ({"loggers": ["tensorbord"]}, "Did you mean 'tensorboard'"),
        ({"response_format": "tag"}, "Did you mean 'tags'"),
        ({"prompt_template": "compat"}, "Did you mean 'compact'"),
        ({"env_args": {"dificulty": "small"}}, "dificulty.*Did you mean 'difficulty'"),
        ({"warmstart_env_args": {"hnt": 1}}, "argument of aem_gym/ALFWorld-v0: 'hnt'"),
        # What only the run itself used to refuse:
        ({"modulator_options": {"lambda": 0.5}}, "modulator_options.*lambda.*lam"),
        ({"env_args": {"difficulty": "medium"}}, "difficulty.*medium.*full, small"),
        ({"eval_split": "foo"}, "split.*foo.*valid_unseen"),
        ({"train_split": "foo"}, "split.*foo"),
        ({"env": "CartPole-v1"}, "text observation_space"),
        ({"loss": "kl_kov"}, "Did you mean 'kl_cov'"),
        ({"loss_options": {"clap": 1}}, "loss_options.*clap.*clip_low"),
        ({"estimator_options": {"normalize": False}}, "Did you mean 'normalise'"),
        ({"modulator_options": {"scope": "grup"}}, "Did you mean 'group'"),
        ({"warmstart": "none"}, "starts from nothing.*--warmstart"),
        ({"warmstart_options": {"muon": 1}}, "warmstart_options.*muon.*muon_lr"),
        ({"warmstart_options": {"steps": 7}}, "'steps'.*--warmstart-steps"),
        ({"warmstart_options": {"muon_lr": "abc"}}, "warmstart_options: .*float.*muon_lr"),
        ({"model": "someone/model", "model_options": {"dtype": "bfloat16"}}, "--dtype instead"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_run(settled(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"estimator": "no_such_module_x:f"}, "unknown estimator|cannot be imported"),
        ({"model": "./nowhere"}, "config.json"),
        ({"model": "tests"}, "folder without config.json"),
        ({"env": "Nowhere-v0"}, "unknown environment"),
        ({"max_turns": 9, "env_args": {"max_turns": 8}}, "max_turns: 9"),
    ],
)
def test_some_are_refused_when_they_are_settled(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=words):
        settled(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="device=cpu"):
        check_run(settled(device="cuda"))


def test_possible_settings_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    check_run(settled())
    check_run(settled(model=str(tmp_path)))
    check_run(settled(model=tmp_path))
    check_run(settled(model="Qwen/Qwen2.5-1.5B-Instruct", estimator="ppo", group_size=1))
    check_run(settled(estimator="aem_gym.credit.estimators:grpo"))


def test_checking_a_configuration_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib.util as util; real = util.find_spec\n"
        "util.find_spec = lambda n, *a: None if n == 'torch' else real(n, *a)\n"
        "from aem_gym.settings import settle; from aem_gym.training.setup import check_run\n"
        "check_run(settle().config)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# The environment ---------------------------------------------------------------------------------


def test_split_goes_only_to_environments_that_take_one() -> None:
    assert env_kwargs(settled(), "train") == {"difficulty": "small", "split": "train"}
    fixed = settled(env_args={"split": "valid_seen"})
    assert env_kwargs(fixed, "train") == {"split": "valid_seen"}
    assert env_kwargs(settled(env="CartPole-v1"), "train") == {}


class Fixed(gym.Env[str, str]):
    """A third party's environment with a limit that nobody can change."""

    observation_space = action_space = gym.spaces.Text(100)
    max_turns = 6

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        return "hello", {}


def test_the_limit_that_is_set_is_the_one_that_holds() -> None:
    """On the default job, whose prompt template has a smaller limit of its own."""
    config = settled(max_turns=30)
    with open_pool(config, "train") as pool:
        assert pool.describe().max_turns == 30
        assert choose_template(config, pool.describe()).max_turns == 30
    assert env_kwargs(config, "train")["max_turns"] == 30
    free = settled()
    assert "max_turns" not in env_kwargs(free, "train")


def test_a_limit_above_one_that_cannot_be_changed_is_refused() -> None:
    env = f"{HERE}:Fixed"
    for most in (1, 6):
        config = settled(env=env, max_turns=most)
        with open_pool(config, "train") as pool:
            assert choose_template(config, pool.describe()).max_turns == most
    with pytest.raises(ConfigError, match="max_turns: 7 is above the limit of .*, 6"):
        open_pool(settled(env=env, max_turns=7), "train")
    with pytest.raises(ConfigError, match="max_turns: 7 is above the limit of .*, 6"):
        check_run(settled(env=env, max_turns=7))


asked: list[dict[str, Any]] = []


def preflight(kwargs: dict[str, Any]) -> None:
    asked.append(kwargs)
    raise ConfigError("the engine does not answer: start it")


class NeedsEngine(TextEnv):
    """What it runs on is not there."""

    tools = {"preflight": f"{HERE}:preflight"}

    def start(self, options: Any) -> tuple[Task, StepResult]:
        return Task("t"), StepResult("hello")

    def act(self, action: str) -> StepResult:
        return StepResult("hello")


def test_what_an_environment_runs_on_is_asked_for_once() -> None:
    asked.clear()
    with pytest.raises(ConfigError, match="the engine does not answer: start it"):
        check_run(settled(env=f"{HERE}:NeedsEngine"))
    assert len(asked) == 1


class Handing(NeedsEngine):
    """Hands its further arguments on."""

    tools = {}

    def __init__(self, *, size: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Swallowing(NeedsEngine):
    """Takes any argument for itself."""

    tools = {}

    def __init__(self, **options: Any) -> None:
        super().__init__()


class Bare(NeedsEngine):
    """No constructor of its own."""

    tools = {}


@pytest.mark.parametrize(("name", "own"), [("Handing", ["size"]), ("Bare", [])])
def test_a_text_environment_takes_the_limit_however_it_is_written(name: str, own: list) -> None:
    env = f"{HERE}:{name}"
    names, takes_any = env_parameters(env)
    assert names == sorted(["max_episode_steps", "max_turns", "render_mode", *own])
    assert takes_any == (name == "Handing")
    config = settled(env=env, max_turns=77)
    check_run(config)
    with open_pool(config, "train") as pool:
        assert pool.describe().max_turns == 77


def test_arguments_that_an_environment_keeps_for_itself() -> None:
    env = f"{HERE}:Swallowing"
    check_run(settled(env=env, env_args={"anything": 1}))
    with pytest.raises(ConfigError, match="max_turns: 77 is above the limit"):
        check_run(settled(env=env, max_turns=77))
    with pytest.raises(UnknownNameError, match="argument of .*Bare.*'anything'"):
        check_run(settled(env=f"{HERE}:Bare", env_args={"anything": 1}))
    assert env_parameters("CartPole-v1")[1] is False


# Templates ---------------------------------------------------------------------------------------


def test_the_template_suits_model_and_context() -> None:
    compact, published, plain = (
        PromptTemplate(name="compact"),
        PromptTemplate(name="published", history=2, max_turns=50),
        PromptTemplate(),
    )
    env = "tests.training.guess_env:guess-test/Guess-v0"
    own = settled(env=env)
    hub = settled(env=env, model="someone/model")
    description = EnvDescription(prompt_templates={"default": plain, "compact": compact})
    assert choose_template(own, description) == compact
    assert choose_template(hub, description) == plain
    both = EnvDescription(prompt_templates={"default": plain, "published": published})
    window = settled(env=env, model="someone/model", context="window")
    assert choose_template(window, both) == published
    named = {"env": env, "prompt_template": "published"}
    assert choose_template(settled(**named, history=5), both).history == 5
    assert choose_template(settled(**named, max_turns=9), both).max_turns == 9
    scaled = settled(**named, reward_scale=3.0)
    assert Rewards.of(scaled, choose_template(scaled, both)).scale == 3.0
    with pytest.raises(UnknownNameError, match="Did you mean 'published'"):
        choose_template(settled(env=env, prompt_template="publish"), both)


# Own components ----------------------------------------------------------------------------------


def parted(batch: Any, advantages: torch.Tensor, *, part: str = "all") -> Modulated:
    """An own modulator with an option called `part`."""
    if part not in ("all", "half"):
        raise ValueError(f"part: {part}")
    scaled = advantages * (0.5 if part == "half" else 1.0)
    return Modulated(scaled[:, None] * batch.mask, torch.ones_like(advantages))


def wrong_shape(batch: Any) -> torch.Tensor:
    return batch.returns[:-1]


def no_tensor(batch: Any) -> list[float]:
    return batch.returns.tolist()


def not_finite(batch: Any) -> torch.Tensor:
    return batch.returns / 0


def bare_modulator(batch: Any, advantages: torch.Tensor) -> torch.Tensor:
    return advantages


def wide_modulator(batch: Any, advantages: torch.Tensor) -> Modulated:
    return Modulated(advantages, advantages)


def bare_loss(logprobs: torch.Tensor, old: Any, advantages: Any, mask: Any) -> torch.Tensor:
    return logprobs


def short_loss(logprobs: torch.Tensor, old: Any, advantages: Any, mask: Any) -> LossOutput:
    return LossOutput(logprobs.sum(-1))


def test_an_option_called_part_goes_to_the_own_modulator() -> None:
    from aem_gym.training.credit import CreditRule

    given: dict[str, Any] = {"modulator": f"{HERE}:parted", "modulator_options": {"part": "half"}}
    check_run(settled(**given))
    assert CreditRule.of(settled(**given)).modulator_options == {"part": "half"}
    both = settled(**given, estimator="gigpo")
    assert CreditRule.of(both).estimator_options == {}
    with pytest.raises(ConfigError, match="part: none"):
        check_run(settled(**{**given, "modulator_options": {"part": "none"}}))
    # In AEM's own options `part` is the old spelling of GiGPO's `modulate`.
    old = settled(estimator="gigpo", modulator_options={"part": "episode"})
    rule = CreditRule.of(old)
    assert (rule.estimator_options, rule.modulator_options) == ({"modulate": "episode"}, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"estimator": f"{HERE}:wrong_shape"}, r"estimator '.*wrong_shape'.*\(4,\).*\(3,\)"),
        ({"estimator": f"{HERE}:no_tensor"}, "estimator '.*no_tensor'.*a tensor .*, got list"),
        ({"estimator": f"{HERE}:not_finite"}, "estimator '.*not_finite'.*4 of 4.*not finite"),
        ({"modulator": f"{HERE}:bare_modulator"}, "modulator '.*bare.*Modulated.*got torch.Tensor"),
        ({"modulator": f"{HERE}:wide_modulator"}, r"modulator '.*advantages.*\(4, 2\).*\(4,\)"),
        ({"loss": f"{HERE}:bare_loss"}, "loss '.*bare_loss'.*LossOutput.*got torch.Tensor"),
        ({"loss": f"{HERE}:short_loss"}, r"loss '.*short_loss'.*\(2, 2\).*\(2,\)"),
    ],
)
def test_what_a_component_returns_is_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_run(settled(**changes))


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"max_length": 100, "max_new_tokens": 12}, True),
        ({"max_length": 100, "max_new_tokens": 12, "context": "window"}, False),
        ({"max_length": 100, "max_new_tokens": 12, "max_turns": 8}, False),
        ({}, False),
        ({"model": "someone/model"}, False),
        ({"model": "someone/model", "max_length": 2048}, True),
    ],
)
def test_a_context_that_is_too_short_for_the_turns_is_said(
    changes: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    check_run(settle(changes).config)
    assert ("long responses will end it" in caplog.text) == warned
    assert ("of max_new_tokens 12, and an episode has up to 14 turns" in caplog.text) == (
        warned and "model" not in changes
    )
