"""Evaluating: figures against plain counting, and runs finished, interrupted or moved elsewhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import aem_gym
from aem_gym.agents.lora import WEIGHTS
from aem_gym.errors import CheckpointError, ConfigError, UnknownNameError
from aem_gym.evaluation import (
    EvalResult,
    EvalSpec,
    Evaluation,
    _as_json,
    _changed,
    _unlike_others,
    evaluate,
    evaluate_run,
    find_agent,
    load_agent,
    run_episode,
    summarize,
    wilson_interval,
)
from aem_gym.protocols import TrainableAgent
from aem_gym.registry import AGENTS
from aem_gym.runs import CheckpointStore, run_config
from aem_gym.types import Episode, StopReason, Turn
from tests.training.guess_env import Guess, Hopeless
from tests.training.runs import SMALL, lines, run


@pytest.mark.parametrize(
    ("wins", "total", "low", "high"),
    [  # as R's prop.test(correct=FALSE) and the formula by hand give them
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (1, 2, 0.0945312, 0.9054688),
        (128, 256, 0.4392056, 0.5607944),
    ],
)
def test_wilson_against_known_values(wins: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(wins, total) == pytest.approx((low, high), abs=1e-6)


@given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate(case: tuple[int, int]) -> None:
    wins, total = case
    low, high = wilson_interval(wins, total)
    assert 0 <= low <= high <= 1
    if total:
        assert low <= wins / total <= high
        mirrored = wilson_interval(total - wins, total)
        assert mirrored == pytest.approx((1 - high, 1 - low))
        wider = wilson_interval(wins, total, z=3.0)
        assert wider[0] <= low and high <= wider[1]
    else:
        assert (low, high) == (0.0, 1.0)


def episode(kind: str, won: bool, error: str | None = None, turns: int = 2) -> Episode:
    some = tuple(
        Turn("o", "r", "", "a", format_valid=i > 0, action_valid=won) for i in range(turns)
    )
    score = 1.0 if won else 0.25
    return Episode("t", kind, "g", 0, 0, some, won=won, score=score, error=error)


def test_figures_by_hand() -> None:
    result = summarize(
        [
            episode("pick", True),
            episode("pick", False, turns=4),
            episode("cool", True),
            episode("cool", True, turns=0),
            episode("heat", True, error="EnvironmentFailure"),
        ]
    )
    assert (result.episodes, result.errors) == (4, 1) and result.stops == {"turn_limit": 5}
    assert result.success == 0.75
    assert (result.low, result.high) == wilson_interval(3, 4)
    assert result.score == (3 + 0.25) / 4
    assert result.turns == 2.0
    assert result.invalid_format == 3 / 8 and result.invalid_action == 4 / 8
    assert {k: (v.episodes, v.success) for k, v in result.by_type.items()} == {
        "cool": (2, 1.0),
        "pick": (2, 0.5),
    }


def test_nothing_that_counts() -> None:
    for episodes in ([], [episode("pick", True, error="failed")]):
        result = summarize(episodes)
        assert (result.episodes, result.success, result.low, result.high) == (0, 0.0, 0.0, 1.0)
        assert result.errors == len(episodes) and result.by_type == {}


def test_tasks_are_named_by_the_seed_alone() -> None:
    protocol = EvalSpec("env", {}, "test", 3, 100, 1.0, None, "default", "transcript")
    assert list(protocol.task_seeds) == [100, 101, 102]


def test_task_types_are_shown_in_the_order_of_the_environment() -> None:
    episodes = [episode(kind, True) for kind in ("b", "a", "z", "c")]
    assert list(summarize(episodes, ("z", "b")).by_type) == ["z", "b", "a", "c"]


# Runs --------------------------------------------------------------------------------------------


def plain(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(asdict(result)))
    return found


@pytest.fixture
def interrupted(finished: Path, tmp_path: Path) -> Path:
    """The finished run as it was before its end, in another place."""
    folder = tmp_path / "moved" / "interrupted"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "adapter")
    (folder / "summary.json").unlink()
    return folder


def test_the_run_is_scored_as_it_scored_itself(finished: Path, tmp_path: Path) -> None:
    """The same tasks, draws and weights: exactly the run's own last evaluation."""
    evaluation = evaluate_run(finished, out=tmp_path / "scores.json", device="cpu")
    assert list(evaluation.results) == ["finished", "random", "expert"]
    own = lines(finished / "evaluations.jsonl")[-1]
    ours = plain(evaluation.results["finished"])
    assert ours == {key: own[key] for key in ours}
    random, expert = (evaluation.results[name] for name in ("random", "expert"))
    assert random.episodes == expert.episodes == SMALL["eval_episodes"]
    assert expert.success >= random.success
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written == plain(evaluation)
    assert written["protocol"]["split"] == "valid_unseen"
    assert not list(finished.glob("eval-*"))


def test_an_interrupted_run_is_its_last_checkpoint(finished: Path, interrupted: Path) -> None:
    agent = load_agent(interrupted, device="cpu")
    assert isinstance(agent, TrainableAgent)
    saved = load_file(finished / "adapter" / WEIGHTS)
    for name, weight in agent.learner.parameters().items():
        key = f"base_model.model.{name.replace('.default', '')}"
        assert torch.equal(weight, saved[key]), name
    results = evaluate_run(interrupted, episodes=2, baselines=False, device="cpu").results
    assert list(results) == ["interrupted"] and results["interrupted"].episodes == 2
    assert (interrupted / "eval-valid_unseen-t1.json").exists()


def test_other_protocols(interrupted: Path) -> None:
    evaluation = evaluate_run(
        interrupted,
        episodes=3,
        split="train",
        temperature=0.0,
        seed=7,
        env_args={"difficulty": "small"},
        baselines=False,
        device="cpu",
    )
    protocol = evaluation.protocol
    assert (protocol.split, protocol.temperature, protocol.episodes) == ("train", 0.0, 3)
    assert list(protocol.task_seeds) == [7, 8, 9]
    assert (interrupted / "eval-train-t0.json").exists()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"env_args": {"split": "train"}}, "eval-train-t1.json"),
        ({"env": "guess-test/NoExpert-v0"}, "eval-t1.json"),
    ],
)
def test_the_file_is_named_by_the_split_that_was_played(
    interrupted: Path, changes: dict[str, Any], name: str
) -> None:
    evaluate_run(interrupted, episodes=1, baselines=False, device="cpu", **changes)
    assert [file.name for file in interrupted.glob("eval-*")] == [name]


def test_what_is_given_goes_over_the_runs_own_arguments(interrupted: Path) -> None:
    own = _changed(run_config(interrupted)).env_args
    assert own
    changed = _changed(run_config(interrupted), env="alfworld", env_args={"dialect": "0.3"})
    assert changed.env_args == {**own, "dialect": "0.3"}
    assert changed.eval_split == run_config(interrupted).eval_split
    assert _changed(run_config(interrupted), env="webshop", env_args={}).env_args == {}


def test_scores_of_other_tasks_are_kept(interrupted: Path) -> None:
    settings: dict[str, Any] = {"baselines": False, "device": "cpu", "split": "train"}
    for episodes in (1, 2, 1, 2):
        evaluate_run(interrupted, episodes=episodes, **settings)
    written = {
        file.name: json.loads(file.read_text())["protocol"]["episodes"]
        for file in interrupted.glob("eval-*")
    }
    assert written == {"eval-train-t1.json": 1, "eval-train-t1-2.json": 2}


def test_a_protocol_may_hold_numpys_numbers(interrupted: Path) -> None:
    spec = EvalSpec("env", {}, "test", 3, 0, 1.0, None, "t", "window", {"n": np.int64(3)})
    target = interrupted / "scores.json"
    target.write_text(_as_json(Evaluation(spec, {})))
    assert json.loads(target.read_text())["protocol"]["tasks"] == {"n": 3}
    assert _unlike_others(target, Evaluation(spec, {})) == target


def test_a_run_called_like_a_baseline_is_not_mistaken_for_it(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = interrupted.rename(interrupted.parent / "random")
    results = evaluate_run(named, episodes=1, device="cpu").results
    assert list(results) == ["random (run)", "random", "expert"]
    monkeypatch.chdir(named)
    assert list(evaluate_run(".", episodes=1, baselines=False, device="cpu").results) == [
        "random (run)"
    ]


def test_an_interrupted_second_half_is_not_hidden_by_the_first(tmp_path: Path) -> None:
    """A finished run that goes on: the adapter of its first end is not the newest any more."""
    out = tmp_path / "run"
    run(out, steps=1, eval_every=0)
    first = (out / "adapter" / WEIGHTS).read_bytes()
    store, save = CheckpointStore, CheckpointStore.save

    def killed(self: CheckpointStore, step: int, *args: Any, **kwargs: Any) -> Any:
        save(self, step, *args, **kwargs)
        if step == 2:
            raise SystemExit("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save", killed)
        with pytest.raises(SystemExit):
            run(out, steps=3, eval_every=0, resume=True)
    newest = load_agent(out, device="cpu")
    newest.learner.save(tmp_path / "newest")
    second = (out / "checkpoints" / "step-000002" / "adapter" / WEIGHTS).read_bytes()
    assert (tmp_path / "newest" / WEIGHTS).read_bytes() == second != first


def test_folders_that_are_no_runs(tmp_path: Path, interrupted: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError, match="not a run: it has no config.yaml.*train.py"):
            load_agent(folder)
    shutil.rmtree(interrupted / "checkpoints")
    with pytest.raises(CheckpointError, match="no adapter and no checkpoint yet.*--resume"):
        load_agent(interrupted)
    (interrupted / "prompt_template.json").write_text("{")
    with pytest.raises(CheckpointError, match="before or in its warm start"):
        evaluate_run(interrupted)


def test_the_public_name() -> None:
    assert aem_gym.load_agent is load_agent
    with pytest.raises(AttributeError, match="has no attribute 'load_agents'"):
        _ = aem_gym.load_agents


# From Python -------------------------------------------------------------------------------------


def test_an_agent_is_found_by_object_name_and_folder(finished: Path) -> None:
    random = AGENTS.load("random")()
    assert find_agent(random) == (random, None)
    assert find_agent("random")[0].name == "random"
    for folder in (finished, str(finished)):
        agent, run_folder = find_agent(folder)
        assert isinstance(agent, TrainableAgent) and run_folder == finished
    with pytest.raises(ConfigError, match="agent: expected the folder of a run, a name.*got 7"):
        find_agent(7)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Did you mean 'expert'"):
        find_agent("expret")


def test_evaluating_an_agent_needs_an_environment() -> None:
    with pytest.raises(ConfigError, match="env is missing"):
        evaluate("random")


@pytest.mark.parametrize("env", [Guess, "guess-test/Guess-v0"])
def test_agents_play_in_classes_and_ids(env: Any) -> None:
    expert = evaluate("expert", env=env, episodes=9)
    assert isinstance(expert, EvalResult)
    assert (expert.episodes, expert.success, expert.score) == (9, 1.0, 1.0)
    assert expert.low < 1.0 == expert.high
    assert evaluate("expert", env=env, episodes=9) == expert
    seeds = [evaluate("random", env=env, episodes=9, seed=seed) for seed in (0, 1)]
    assert seeds[0] != seeds[1]
    episode = run_episode(env, "expert", seed=3)
    assert (episode.won, episode.stop_reason, len(episode.turns)) == (True, StopReason.WON, 2)
    assert episode.seed == 3 and episode == run_episode(env, "expert", seed=3)


@pytest.mark.parametrize("folder", [str, Path])
def test_a_run_is_evaluated_and_plays_by_its_folder(finished: Path, folder: Any) -> None:
    """The environment, its arguments, the template and the context are the run's own."""
    result = evaluate(folder(finished))
    own = lines(finished / "evaluations.jsonl")[-1]
    assert plain(result) == {key: own[key] for key in plain(result)}
    fewer = evaluate(folder(finished), episodes=2, temperature=0.0, split="train", seed=1)
    assert fewer.episodes == 2
    agent = load_agent(folder(finished), device="cpu")
    args = {"difficulty": "small", "max_turns": 6}
    episode = run_episode("aem_gym/ALFWorld-v0", folder(finished), seed=5, env_args=args)
    assert episode.error is None and 1 <= len(episode.turns) <= 6
    assert run_episode("aem_gym/ALFWorld-v0", agent, seed=5, env_args=args) == episode


def test_an_environment_that_was_made_stays_open() -> None:
    import gymnasium as gym

    env = gym.make("guess-test/Guess-v0")
    closed: list[bool] = []
    env.unwrapped.close = lambda: closed.append(True)  # type: ignore[method-assign]
    first = run_episode(env, "expert", seed=1)
    assert first.won and run_episode(env, "expert", seed=1) == first
    assert not closed


def test_settings_of_an_evaluation_are_checked() -> None:
    with pytest.raises(ConfigError, match="eval_episodes.*at least 1"):
        evaluate("random", env=Guess, episodes=0)
    with pytest.raises(ConfigError, match="eval_temperature.*at least 0"):
        evaluate("random", env=Guess, temperature=-1.0)


def test_an_episode_that_is_lost_says_so() -> None:
    assert run_episode(Hopeless, "random").stop_reason == StopReason.LOST
