"""End-to-end runs: what a user of train.py relies on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

from aem_gym.agents.learner import VALUE_HEAD
from aem_gym.config import Config
from aem_gym.credit import Modulated, ResponseBatch
from aem_gym.credit.modulators import identity
from aem_gym.errors import ConfigError, NotLearningError, OutputError
from aem_gym.runs import CheckpointStore
from aem_gym.settings import load_config, settle
from aem_gym.training.loop import Trainer
from aem_gym.training.setup import open_components
from aem_gym.training.state import StopAfterStep, interrupted_by_signals
from tests.training.runs import (
    GUESS,
    SMALL,
    flags,
    lines,
    result_files,
    run,
    train_process,
)
from tests.weights import base_weights_hash


def test_a_run_leaves_what_is_promised(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == SMALL["steps"]
    assert 0 <= summary["aem_share"] < 1
    gain = summary["success_after"] - summary["success_before"]
    assert summary["success_gain"] == pytest.approx(gain)
    episodes = lines(finished / "episodes.jsonl")
    assert len(episodes) == 4 * 3 * 3
    for episode in episodes:
        for turn in episode["turns"]:
            assert turn["advantage"] == pytest.approx(turn["alpha"] * turn["base_advantage"])
    assert [e["step"] for e in lines(finished / "evaluations.jsonl")] == [0, 2, 4]
    metrics = lines(finished / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    for name in ("alpha_mean", "response_entropy_mean", "grad_norm", "clipped", "seconds/step"):
        assert all(name in m for m in metrics), name
    assert str(finished) not in (finished / "episodes.jsonl").read_text()


def test_token_arrays_are_kept_for_a_sample(finished: Path) -> None:
    first = [e for e in lines(finished / "episodes.jsonl") if e["step"] == 1]
    with_tokens = [e for e in first if "logprobs" in e["turns"][0]]
    assert len(with_tokens) == settle().config.token_samples
    turn = with_tokens[0]["turns"][0]
    assert len(turn["logprobs"]) == len(turn["response_ids"]) == len(turn["entropies"])
    assert turn["response_entropy"] == pytest.approx(
        sum(turn["entropies"]) / len(turn["entropies"])
    )


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # asked by peft itself
def test_peft_finds_the_base_model_of_a_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = AutoPeftModelForCausalLM.from_pretrained(finished / "adapter")
    base = AutoModelForCausalLM.from_pretrained(finished / "model")
    plain = PeftModel.from_pretrained(base, finished / "adapter")
    assert all(map(torch.equal, found.state_dict().values(), plain.state_dict().values()))


def test_the_same_seed_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    """Also with another number of worker processes and smaller micro-batches of the learner."""
    run(tmp_path / "again", workers=1)
    assert result_files(tmp_path / "again") == result_files(finished)


def test_another_seed_gives_others(finished: Path, tmp_path: Path) -> None:
    other = run(tmp_path / "other", seed=1, steps=1, eval_every=0)
    assert other["success_gain"] is None
    ours = (finished / "episodes.jsonl").read_bytes()
    assert not ours.startswith((tmp_path / "other" / "episodes.jsonl").read_bytes()[:500])


@pytest.mark.parametrize("wait_for", ["step-000001", "step-000003"])
def test_sigkill_and_resume_give_the_same_bytes(
    finished: Path, tmp_path: Path, wait_for: str
) -> None:
    out = tmp_path / "killed"
    process = train_process(flags(out), cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / wait_for).exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    run(out, resume=True)
    assert result_files(out) == result_files(finished)
    again = run(out, resume=True)
    assert again == json.loads((out / "summary.json").read_text())


def test_ctrl_c_saves_and_says_how_to_go_on(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = train_process(flags(out, save_every=100), cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_bytes():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "--resume" in stderr
    assert stdout == ""
    assert len(list((out / "checkpoints").glob("step-*"))) == 1
    run(out, resume=True, save_every=100)
    assert result_files(out) == result_files(finished)


class InterruptedTwice:
    """A logger in whose second step Ctrl-C is pressed, and again."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None: ...

    def episodes(self, step: int, records: Sequence[Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(("save_every", "saved"), [(1, "Step 1 is saved"), (9, "No step is saved")])
def test_a_second_signal_says_what_is_saved(tmp_path: Path, save_every: int, saved: str) -> None:
    with pytest.raises(KeyboardInterrupt) as told:
        run(tmp_path / "run", save_every=save_every, eval_every=0, objects=[InterruptedTwice()])
    assert saved in str(told.value) and f"--resume --out {tmp_path / 'run'}" in str(told.value)


def test_more_steps_are_refused_with_the_reason(tmp_path: Path) -> None:
    settings = {"lr_schedule": "linear", "steps": 1, "eval_every": 0}
    run(tmp_path / "run", **settings)
    with pytest.raises(
        ConfigError, match="1 then, 2 now.*linear schedule.*--replan.*lr_schedule constant"
    ):
        run(tmp_path / "run", resume=True, **{**settings, "steps": 2})


def test_a_schedule_is_planned_anew_on_request(tmp_path: Path) -> None:
    """Of a finished run with a linear schedule, whose rate has come down to 0."""
    settings: dict[str, Any] = {"lr_schedule": "linear", "lr_warmup": 1, "eval_every": 0}
    settings |= {"modulator": "none", "keep_checkpoints": 9}
    out = tmp_path / "run"
    run(out, **settings, steps=2)
    summary = run(out, **settings, steps=4, resume=True, replan=True)
    assert summary["steps"] == 4
    rates = [m["lr"] / settle(Config(**SMALL)).config.lr for m in lines(out / "metrics.jsonl")]
    # Steps 1 and 2 of a run of 2, then 3 and 4 of a run of 4.
    assert rates == pytest.approx([1.0, 1.0, 2 / 3, 1 / 3])
    assert load_config(out).steps == 4 and not load_config(out).replan
    run(out, **settings, steps=4, resume=True)  # finished: nothing to do


def test_going_on_with_a_run_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
    with pytest.raises(OutputError, match=r"no run in .*secnod\. Did you mean --out .*second\?"):
        run(tmp_path / "secnod", resume=True)
    with pytest.raises(OutputError, match="Runs in .*: first, second. Without --resume"):
        run(tmp_path / "other", resume=True)
    assert not (tmp_path / "secnod").exists() and not (tmp_path / "other").exists()


def test_other_settings_are_refused_before_the_first_checkpoint_too(tmp_path: Path) -> None:
    """The base model of a run that was killed early is kept: it belongs to its settings."""
    run(tmp_path / "run", steps=1, eval_every=0)
    for gone in ("checkpoints", "adapter"):
        shutil.rmtree(tmp_path / "run" / gone)
    with pytest.raises(ConfigError, match=r"seed \(0 then, 5 now\)"):
        run(tmp_path / "run", steps=1, eval_every=0, resume=True, seed=5)
    run(tmp_path / "run", steps=1, eval_every=0, resume=True)


def test_the_same_call_resumes_whatever_its_sequences_are(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "steps": 1,
        "eval_every": 0,
        "env_args": {"task_types": ("pick_and_place_simple",)},
    }
    first = run(tmp_path / "run", **settings)
    assert run(tmp_path / "run", resume=True, **settings) == first


def test_an_own_option_called_like_one_of_aem_may_be_anything(tmp_path: Path) -> None:
    own = {"modulator": f"{__name__}:thresholded", "modulator_options": {"threshold": "auto"}}
    assert run(tmp_path / "run", steps=1, eval_every=0, **own)["steps"] == 1


def thresholded(batch: ResponseBatch, advantages: torch.Tensor, *, threshold: str) -> Modulated:
    assert threshold == "auto"
    return identity(batch, advantages)


def test_signals_end_a_run_that_has_not_begun() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("block", [StopAfterStep, interrupted_by_signals])
def test_a_run_under_nohup_outlives_its_terminal(block: Callable[[], Any]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with block():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_damaged_checkpoint_falls_back(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "damaged"
    run(out, steps=3)
    (out / "summary.json").unlink()
    (out / "checkpoints" / "step-000003" / "optimizer.pt").write_bytes(b"damaged")
    run(out, resume=True)
    assert "optimizer.pt" in caplog.text
    assert result_files(out) == result_files(finished)


def test_the_last_line_of_stdout_is_the_summary(finished: Path) -> None:
    stdout = (finished.parent / "stdout").read_text()
    summary = json.loads(stdout.splitlines()[-1])
    assert summary == json.loads((finished / "summary.json").read_text())
    assert set(summary) == {
        *("success_before", "success_after", "success_gain"),
        *("score_before", "score_after", "score_gain"),
        *("steps", "seconds", "aem_share", "run"),
    }


def test_a_used_folder_is_refused(finished: Path) -> None:
    with pytest.raises(OutputError, match="--resume"):
        run(finished)


def test_resume_with_other_settings_is_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match="lr"):
        run(finished, resume=True, lr=1e-5)


def test_wrong_options_stop_before_any_model_loads(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="temprature"):
        run(tmp_path / "x", modulator_options={"temprature": 2})
    assert not (tmp_path / "x").exists()


COMBINATIONS = {
    "gigpo": {"context": "window", "estimator": "gigpo", "history": 2},
    "ppo": {"estimator": "ppo", "kl_coef": 0.01},
    "dapo": {"estimator": "dapo", "modulator": "empg", "max_rounds": 4},
    "gspo": {"estimator": "gspo", "modulator": "entropy_shaping", "epochs": 2},
    "kl_cov": {"estimator": "rloo", "loss": "kl_cov", "micro_batch": 2, "mini_batch": 4},
    "episode": {"estimator": "gigpo", "modulator_options": {"part": "episode", "shuffle": True}},
    "calls": {"response_format": "tool_call", "max_new_tokens": 90, "max_length": 4096},
    "react": {"response_format": "react", "invalid_feedback": "No: {observation}"},
    "plain": {"estimator": "dr_grpo", "modulator": "none", "lr_schedule": "cosine"},
    "whitened": {"estimator": "reinforce_pp", "loss": "clip_cov", "mask_truncated": True},
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations_train(tmp_path: Path, name: str) -> None:
    """Contexts, estimators, modulators and losses combine by name."""
    summary = run(tmp_path / "run", GUESS, steps=2, eval_every=0, groups=6, **COMBINATIONS[name])
    assert summary["steps"] == 2 and summary["success_gain"] is None
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert all(m["grad_norm"] >= 0 for m in metrics)
    assert any(m["grad_norm"] > 0 for m in metrics)


def test_resuming_right_after_an_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    """What the sampler read in the evaluation must not round the next rollouts otherwise.

    With this template prompts begin with long instructions, which a cache would offer.
    """
    changes = {
        "prompt_template": "default",
        "response_format": "short",
        "warmstart_steps": 5,
        "steps": 2,
    }
    changes |= {"eval_every": 1, "warmstart_episodes": 40, "eval_episodes": 10}
    run(tmp_path / "once", **changes)
    run(tmp_path / "twice", **{**changes, "steps": 1})
    assert (tmp_path / "twice" / "adapter").exists()
    run(tmp_path / "twice", resume=True, **changes)
    assert result_files(tmp_path / "twice") == result_files(tmp_path / "once")
    evaluations = [lines(tmp_path / out / "evaluations.jsonl") for out in ("once", "twice")]
    for one, other in zip(*evaluations, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_dynamic_sampling(tmp_path: Path) -> None:
    """Dropped groups are logged and their draws counted; a resumed run draws on from there."""
    changes = {"estimator": "dapo", "max_rounds": 5, "eval_every": 0}
    once, twice = tmp_path / "once", tmp_path / "twice"
    run(once, GUESS, **changes)
    run(twice, GUESS, steps=2, **changes)
    run(twice, GUESS, resume=True, **changes)
    assert result_files(twice) == result_files(once)
    episodes, metrics = lines(once / "episodes.jsonl"), lines(once / "metrics.jsonl")
    drawn: list[int] = []
    for figures in metrics:
        mine = [e for e in episodes if e["step"] == figures["step"]]
        groups = {e["group"]: [x for x in mine if x["group"] == e["group"]] for e in mine}
        for members in groups.values():
            returns = {e["reward"] for e in members}
            assert len(members) == GUESS["group_size"]
            assert {e["dropped"] for e in members} == {len(returns) == 1}
            trained = ["alpha" in turn for e in members for turn in e["turns"]]
            assert set(trained) == {len(returns) > 1}
            drawn.append(members[0]["seed"])
        dropped = sum(members[0]["dropped"] for members in groups.values())
        assert figures["groups_dropped"] == dropped
        assert len(groups) - dropped <= GUESS["groups"]
        assert figures["episodes"] == len(mine)
    assert 0 < sum(m["groups_dropped"] for m in metrics) < len(drawn)
    assert len(set(drawn)) == len(drawn)  # no task is drawn twice
    store = CheckpointStore(once)
    cursors = [store.load(step).meta["cursor"] for step in store.steps()]
    assert cursors[-1] == len(drawn)


def test_the_base_stays_and_the_value_head_comes_back(tmp_path: Path) -> None:
    """A whole PPO run with KL: base weights and reference as before, all that trained saved."""
    changes = {"estimator": "ppo", "kl_coef": 0.1, "steps": 3, "mini_batch": "1/1"}
    changes |= {"groups": 10, "eval_every": 0}
    config = settle({**GUESS, **changes, "out": str(tmp_path)}).config
    store = CheckpointStore(tmp_path)
    with open_components(config, tmp_path) as parts:
        agent = parts.agent
        base = base_weights_hash(agent.learner.model)
        trainer = Trainer(config, tmp_path, parts, store, None)
        reference = {
            k: v.clone() for k, v in agent.learner.model.named_parameters() if "reference" in k
        }
        trainer.run()
        assert base_weights_hash(agent.learner.model) == base
        after = dict(agent.learner.model.named_parameters())
        assert reference and all(torch.equal(v, after[k]) for k, v in reference.items())
        trained = {k: v.detach().clone() for k, v in agent.learner.parameters().items()}
    first, *_, last = lines(tmp_path / "metrics.jsonl")
    assert first["kl_reference"] == pytest.approx(0.0, abs=1e-7)
    assert last["kl_reference"] > 0
    checkpoint = store.latest()
    assert checkpoint is not None and (checkpoint.folder / "adapter" / VALUE_HEAD).exists()
    with open_components(config, tmp_path) as parts:
        again = Trainer(config, tmp_path, parts, store, checkpoint)
        again.recorder.close()
        restored = parts.agent.learner.parameters()
        assert trained.keys() == restored.keys() and any("value_head" in k for k in trained)
        assert all(torch.equal(v, restored[k]) for k, v in trained.items())
        assert bool(restored["value_head.weight"].any())
        assert again.updater.optimizer.state_dict()["state"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_goes_on_past_failing_environments(tmp_path: Path, workers: int) -> None:
    """Resets and steps that raise or hang and answers of the wrong type: masked, and recorded."""
    changes = {"env": "tests.training.guess_env:guess-test/Troubled-v0", "warmstart_episodes": 30}
    changes |= {"step_timeout": 0.1, "groups": 8, "group_size": 2, "steps": 2, "eval_every": 2}
    run(tmp_path / "run", GUESS, workers=workers, **changes)
    episodes = lines(tmp_path / "run" / "episodes.jsonl")
    failed = [e for e in episodes if e["error"]]
    assert 0 < len(failed) < len(episodes) == 2 * 8 * 2
    for episode in failed:
        assert episode["truncated"] and not episode["won"]
        assert not any("alpha" in turn for turn in episode["turns"])
    for figures in lines(tmp_path / "run" / "metrics.jsonl"):
        mine = [e for e in failed if e["step"] == figures["step"]]
        assert figures["episode_errors"] == len(mine)
    for result in lines(tmp_path / "run" / "evaluations.jsonl"):
        assert result["episodes"] + result["errors"] == GUESS["eval_episodes"]
        assert result["errors"] > 0


def test_steps_without_usable_episodes_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything hit a limit and is masked: nothing to learn from, which is said."""
    changes = {"mask_truncated": True, "max_new_tokens": 1, "steps": 2, "eval_every": 0}
    with pytest.raises(NotLearningError, match="nothing was learned in 2 steps.*12 turn_limit"):
        run(tmp_path / "run", GUESS, **changes)
    assert "nothing to learn from" in caplog.text
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2]
    assert all("grad_norm" not in m and m["truncated_rate"] == 1.0 for m in metrics)
    assert len(lines(tmp_path / "run" / "episodes.jsonl")) == 2 * 3 * 4
