"""Evaluating runs: finished, interrupted, moved elsewhere, or no run at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason='pip install "aem-gym[train]"')

from safetensors.torch import load_file  # noqa: E402

import aem_gym  # noqa: E402
from aem_gym.agents.lora import WEIGHTS  # noqa: E402
from aem_gym.errors import CheckpointError  # noqa: E402
from aem_gym.evaluation.runner import evaluate_run, load_agent  # noqa: E402
from aem_gym.protocols import TrainableAgent  # noqa: E402
from aem_gym.training.checkpoint import CheckpointStore  # noqa: E402
from tests.training.runs import SMALL, lines, run  # noqa: E402


def plain(result: Any) -> dict[str, Any]:
    return json.loads(json.dumps(vars_of(result)))


def vars_of(result: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(result)


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
    assert written == json.loads(json.dumps(vars_of(evaluation)))
    assert written["protocol"]["split"] == "valid_unseen"
    assert not list(finished.glob("eval-*"))


def test_an_interrupted_run_is_its_last_checkpoint(finished: Path, interrupted: Path) -> None:
    agent = load_agent(interrupted, device="cpu")
    assert isinstance(agent, TrainableAgent)
    saved = load_file(finished / "adapter" / WEIGHTS)
    for name, weight in agent.parameters().items():
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
    newest.save(tmp_path / "newest")
    second = (out / "checkpoints" / "step-000002" / "adapter" / WEIGHTS).read_bytes()
    assert (tmp_path / "newest" / WEIGHTS).read_bytes() == second != first


def test_folders_that_are_no_runs(tmp_path: Path, interrupted: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError, match="not a run: it has no config.yaml.*train.py"):
            load_agent(folder)
    shutil.rmtree(interrupted / "checkpoints")
    with pytest.raises(CheckpointError, match="no adapter and no checkpoint yet.*--resume"):
        load_agent(interrupted)
    (interrupted / "recipe.json").write_text("{")
    with pytest.raises(CheckpointError, match="never got past its warm start"):
        evaluate_run(interrupted)


def test_the_public_name() -> None:
    assert aem_gym.load_agent is load_agent
    with pytest.raises(AttributeError, match="has no attribute 'load_agents'"):
        _ = aem_gym.load_agents
