"""The best checkpoint, an early end, an adapter to start from, and samplers that are not exact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aem_gym.agents.sampler import HFPolicy
from aem_gym.errors import CheckpointError, ConfigError
from aem_gym.evaluation import EvalResult
from aem_gym.protocols import Generation, GenerationRequest, Learner, SamplingSettings
from aem_gym.runs import CheckpointStore
from aem_gym.settings import settle
from aem_gym.training import loop
from aem_gym.training.adapter import check_adapter
from aem_gym.training.setup import check_run
from tests.tiny import Tiny
from tests.training.runs import GUESS, SMALL, lines, result_files, run

HERE = "tests.training.test_selection"


# The best checkpoint -----------------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, scores: Sequence[float]) -> list[str]:
    """Evaluations with these results on the split `train`; the labels of all that were played."""
    played: list[str] = []
    chosen = iter(scores)

    def play(collector: Any, spec: Any, label: str) -> EvalResult:
        played.append(f"{label} {spec.split}")
        success = next(chosen) if spec.split == "train" else 0.5
        return EvalResult(4, success, 0.0, 1.0, success, 3.0, 0.0, 0.0, {}, 0)

    monkeypatch.setattr(loop, "play", play)
    return played


BEST: dict[str, Any] = {**SMALL, "eval_every": 1, "save_every": 99, "keep_best": "train"}


def test_the_best_checkpoint_is_kept_beside_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen on the split that was named, of equal ones the first; also after a resumption."""
    out = tmp_path / "run"
    played = scripted(monkeypatch, [0.1, 0.2, 0.6, 0.6, 0.3, 0.5])
    given = {**BEST, "keep_checkpoints": 1, "save_every": 1}
    run(out, given, steps=3)
    assert CheckpointStore(out).steps() == [2, 3]
    summary = run(out, given, steps=5, resume=True)
    assert CheckpointStore(out).steps() == [2, 5]
    assert summary["best"] == {"step": 2, "success": 0.6, "score": 0.6, "split": "train"}
    kept = CheckpointStore(out).load(2)
    assert kept.meta["best"]["step"] == 2 and (kept.folder / "adapter").is_dir()
    assert played[:2] == ["evaluation 0 valid_unseen", "selection 0 train"] and len(played) == 12
    records = lines(out / "evaluations.jsonl")
    assert [r["selection_success"] for r in records] == [0.1, 0.2, 0.6, 0.6, 0.3, 0.5]
    assert {r["success"] for r in records} == {0.5}


def test_a_run_ends_early_where_nothing_becomes_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.1, 0.4, 0.4, 0.2, 0.9])
    summary = run(tmp_path / "run", BEST, steps=9, patience=2)
    assert summary["steps"] == 3 and summary["best"]["step"] == 1
    assert CheckpointStore(tmp_path / "run").steps() == [0, 1, 3]  # two newest, and the best
    assert (tmp_path / "run" / "adapter").is_dir()
    again = run(tmp_path / "run", BEST, steps=9, patience=2, resume=True)
    assert again == summary
    assert (tmp_path / "run" / "adapter").is_dir()


def test_what_ended_early_without_learning_says_the_same_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.4, 0.4])
    monkeypatch.setattr(loop.Trainer, "train_step", lambda self: dict(IDLE))
    summary = run(tmp_path / "run", BEST, steps=9, patience=1)
    assert summary["steps"] == 1
    assert run(tmp_path / "run", BEST, steps=9, patience=1, resume=True) == summary


IDLE = {"learned": 0.0, "episodes": 4.0, "episodes_masked": 0.0, "groups_with_spread": 0.0}
"""Figures of a step without a gradient."""


def test_the_best_one_is_one_that_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of which an update was left out is not saved, so it is not the best one either."""
    scripted(monkeypatch, [0.1, 0.2, 0.9, 0.3])
    train_step = loop.Trainer.train_step

    def once_bad(self: loop.Trainer) -> dict[str, float]:
        figures = train_step(self)
        return figures | ({"bad": 1.0} if self.progress.step == 1 else {})

    monkeypatch.setattr(loop.Trainer, "train_step", once_bad)
    summary = run(tmp_path / "run", BEST, steps=3, save_every=1, keep_checkpoints=1)
    assert summary["best"]["step"] == 3 and CheckpointStore(tmp_path / "run").steps() == [3]


def test_an_evaluation_of_failed_episodes_only_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its success of 0 would be the failure's; the best checkpoint is not chosen by it either."""
    results = iter([(4, 0.25), (0, 0.0), (4, 0.75)])

    def play(collector: Any, spec: Any, label: str) -> EvalResult:
        episodes, success = next(results)
        return EvalResult(
            episodes, success, 0.0, 1.0, success, 3.0, 0.0, 0.0, {}, errors=4 - episodes
        )

    monkeypatch.setattr(loop, "play", play)
    summary = run(tmp_path / "run", BEST, steps=2, keep_best="valid_unseen", patience=1)
    assert "evaluation 1: each of 4 episodes failed" in caplog.text
    assert (summary["success_before"], summary["success_after"]) == (0.25, 0.75)
    assert summary["best"]["step"] == summary["steps"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": 2}, "patience: .*--keep-best"),
        ({"keep_best": "train", "eval_every": 0}, "keep_best: .*--eval-every"),
        ({"keep_best": "tests"}, "tests"),
        ({"keep_best": "x", "env": GUESS["env"]}, "keep_best: .*no splits.*valid_unseen"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_run(settle({**SMALL, **changes}).config)


# The base model ----------------------------------------------------------------------------------


@pytest.fixture
def pretrained(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.folder, tmp_path / "base"))


def retrained(folder: Path) -> None:
    """Other weights at the same place."""
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: 1.01 * weight for name, weight in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def test_a_run_goes_on_with_the_base_it_began_with(
    tmp_path: Path, pretrained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Sampler and learner would agree on other weights, and every figure would be another run's."""
    out, given = tmp_path / "run", {"model": str(pretrained), "warmstart": "none", "eval_every": 0}
    run(out, GUESS, **given, steps=1, max_bad_steps=9)
    run(out, GUESS, **given, steps=2, max_bad_steps=9, resume=True)
    retrained(pretrained)
    kept = {file.name: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match="other weights now than when the run began"):
        run(out, GUESS, **given, steps=3, max_bad_steps=9, resume=True)
    assert {f.name: f.read_bytes() for f in out.rglob("*") if f.is_file()} == kept
    given |= {"adapter": str(out)}
    run(tmp_path / "next", GUESS, **given, steps=1, max_bad_steps=9)
    assert "was trained on a base model with other weights" in caplog.text


def test_a_clone_is_of_the_weights_that_are_there(
    tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made anew for others; a run that goes on keeps its own, whatever the cache holds."""
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path / "cache"))
    given = {"model": str(pretrained), "warmstart": "expert", "warmstart_steps": 2, "eval_every": 0}
    given |= {"steps": 1, "max_bad_steps": 9, "kl_coef": 0.1}
    run(tmp_path / "one", GUESS, **given)
    retrained(pretrained)
    run(tmp_path / "other", GUESS, **given)
    starts = [weights_in(tmp_path / name / "start") for name in ("one", "other")]
    assert any(not torch.equal(w, starts[1][name]) for name, w in starts[0].items())
    shutil.rmtree(tmp_path / "cache")
    run(tmp_path / "other", GUESS, **{**given, "steps": 2}, resume=True)
    assert not list((tmp_path / "cache").rglob("warmstart.json"))


# An adapter to start from ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("begun") / "run"
    run(out, GUESS, steps=2, eval_every=0, groups=6, lr=0.02)
    return out


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "inside", ["", "adapter", "checkpoints/step-000002", "checkpoints/step-000002/adapter"]
)
def test_a_run_starts_from_an_adapter(tmp_path: Path, begun: Path, inside: str) -> None:
    """From another run, or a folder in it; the KL term compares with it; it goes on without it."""
    out = tmp_path / "run"
    given = {"adapter": str(begun / inside), "kl_coef": 0.1, "eval_every": 0, "groups": 6}
    run(out, GUESS, **given, steps=0)
    start = weights_in(begun / "adapter")
    assert all(torch.equal(w, start[name]) for name, w in weights_in(out / "adapter").items())
    assert (out / "model" / "model.safetensors").read_bytes() == (
        begun / "model" / "model.safetensors"
    ).read_bytes()
    if inside:
        return
    run(out, GUESS, **given, steps=2, resume=True)
    first, second = lines(out / "metrics.jsonl")
    assert 0 <= first["kl_reference"] < 0.005 < 0.05 > second["kl_reference"] > 0
    once = tmp_path / "once"
    run(once, GUESS, **given, steps=2)
    results = [result_files(folder) for folder in (once, out)]
    for found in results:  # each names the copy of the base model in its own folder
        plain = json.loads(found.pop("adapter_config.json"))
        assert Path(plain["base_model_name_or_path"]).name == "model"
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 8}, "has --lora-rank 16, the run 8. Give --lora-rank 16"),
        ({"lora_alpha": 8.0}, "the run 8.0. Give --lora-alpha 32"),
        ({"lora_targets": ["q_proj"]}, "q_proj.*Give --lora-targets"),
        ({"warmstart": "expert"}, "two beginnings"),
        ({"model": "someone/other"}, "on tiny, the run is on someone/other. Give --model tiny"),
        ({"env": "aem_gym/ALFWorld-v0"}, "a policy made for tests.*Guess-v0.*Leave --adapter out"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    begun: Path, changes: dict[str, Any], message: str
) -> None:
    given = {**GUESS, "adapter": str(begun), **changes}
    config = settle(given).config
    with pytest.raises(ConfigError, match=message):
        check_adapter(config)


def test_an_adapter_that_changed_its_base_is_refused(begun: Path) -> None:
    pissa = begun / "pissa"
    shutil.copytree(begun / "adapter", pissa)
    file = pissa / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"init_lora_weights": "pissa"}))
    with pytest.raises(ConfigError, match="init_lora_weights 'pissa' changes the base weights"):
        check_adapter(settle({**GUESS, "adapter": str(pissa)}).config)


def test_an_adapter_that_is_none_or_damaged_is_named(tmp_path: Path, begun: Path) -> None:
    config = settle({**GUESS, "adapter": str(tmp_path)}).config
    with pytest.raises(CheckpointError, match="expected a folder with adapter_config.json"):
        check_adapter(config)
    lone = tmp_path / "lone"
    lone.mkdir()
    for file in (begun / "adapter").iterdir():
        (lone / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="give the folder of that run"):
        check_adapter(replace(config, adapter=str(lone)))
    inside = begun / "damaged"
    inside.mkdir()
    for file in (begun / "adapter").iterdir():
        (inside / file.name).write_bytes(file.read_bytes())
    state = weights_in(inside)
    state[next(iter(state))][0, 0] = float("nan")
    save_file(state, inside / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="holds NaN or inf"):
        run(tmp_path / "run", GUESS, adapter=str(inside), steps=1)


# Samplers that are not exact ---------------------------------------------------------------------


class Rounded(HFPolicy):
    """Reports log-probabilities with an error of up to `error`, and entropies of its own."""

    error = 0.05

    def __init__(self, learner: Learner, settings: SamplingSettings) -> None:
        super().__init__(learner, settings)
        self.exact = False

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        found = super().generate(requests)
        return [
            replace(
                g,
                logprobs=tuple(p - self.error * (i % 2) for i, p in enumerate(g.logprobs)),
                entropies=(),
            )
            for g in found
        ]


class Gross(Rounded):
    error = 2.0


class Heard:
    """A logger that keeps figures and episodes."""

    def __init__(self) -> None:
        self.figures: list[Mapping[str, float]] = []
        self.records: list[Mapping[str, Any]] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.figures.append(values)

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None: ...

    def episodes(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        self.records += records

    def close(self) -> None: ...


@pytest.mark.parametrize("cap", [None, 1.02, 0.0])
def test_small_differences_are_corrected_and_shown(tmp_path: Path, cap: float | None) -> None:
    """Log-probabilities and entropies are the learner's, in the credit and in what is written."""
    heard = Heard()
    given = {"sampler": f"{HERE}:Rounded", "importance_cap": cap, "token_samples": "all"}
    run(tmp_path / "run", GUESS, **given, steps=2, eval_every=0, groups=6, objects=[heard])
    for figures in heard.figures:
        assert 0.01 < figures["mismatch/mean"] < 0.05
        assert figures["mismatch/max"] == pytest.approx(0.05, abs=1e-3)
        assert ("importance/mean" in figures) == (cap != 0.0)
        if cap != 0.0:
            assert 1.0 < figures["importance/mean"] < 1.05
            assert (figures["importance/capped"] > 0) == (cap == 1.02)
        assert figures["ratio"] == pytest.approx(1.0, abs=0.1)
    entropies = [t["response_entropy"] for r in heard.records for t in r["turns"]]
    mean = heard.figures[0]["response_entropy_mean"]
    of_first = [t["response_entropy"] for r in heard.records if r["step"] == 1 for t in r["turns"]]
    assert min(entropies) > 0 and sum(of_first) / len(of_first) == pytest.approx(mean, rel=1e-4)
    for record in heard.records:
        for turn in record["turns"]:
            assert len(turn["entropies"]) == len(turn["logprobs"]) == turn["tokens"]
            assert turn["surprisal"] == pytest.approx(-sum(turn["logprobs"]))


@pytest.mark.parametrize("given", [{"importance_cap": 2.0}, {"dtype": "bfloat16"}])
def test_weights_of_an_exact_sampler_and_of_bfloat16(tmp_path: Path, given: dict[str, Any]) -> None:
    run(tmp_path / "run", GUESS, **given, steps=2, eval_every=0, groups=6)
    for figures in lines(tmp_path / "run" / "metrics.jsonl"):
        exact = "dtype" not in given
        assert 0 < figures["mismatch/mean"] < (1e-4 if exact else 0.1)
        assert figures["importance/mean"] == pytest.approx(1.0, abs=1e-3 if exact else 0.1)


def test_gross_differences_end_the_run(tmp_path: Path) -> None:
    from aem_gym.errors import SamplerMismatchError

    with pytest.raises(SamplerMismatchError, match="mean difference .*No step is saved yet"):
        run(tmp_path / "run", GUESS, sampler=f"{HERE}:Gross", steps=2, eval_every=0)


def test_the_comparison_goes_on_through_the_run(tmp_path: Path) -> None:
    """Not only in the first step; an exact sampler needs no weights."""
    run(tmp_path / "run", GUESS, steps=3, eval_every=0, groups=6)
    for figures in lines(tmp_path / "run" / "metrics.jsonl"):
        assert 0 < figures["mismatch/mean"] <= figures["mismatch/max"] < 1e-4
        assert "importance/mean" not in figures


class Drifting(HFPolicy):
    """Misses every publication after the first two: the weights it samples from grow old."""

    def publish(self, learner: Learner) -> int:
        if self._version >= 2:
            self._version += 1
            return self._version
        return super().publish(learner)


def test_a_sampler_that_drifts_away_later_is_noticed(tmp_path: Path) -> None:
    from aem_gym.errors import SamplerMismatchError

    given = {"sampler": f"{HERE}:Drifting", "lr": 0.05, "lr_warmup": 0, "groups": 6}
    with pytest.raises(SamplerMismatchError, match="expected at most 0.001"):
        run(tmp_path / "run", GUESS, **given, steps=6, eval_every=0)
    assert len(lines(tmp_path / "run" / "metrics.jsonl")) >= 2
