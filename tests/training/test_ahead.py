"""Tickets, and batches that are sampled ahead of the learner by a policy that keeps versions."""

from __future__ import annotations

import asyncio
import copy
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aem_gym.agents.sampler import HFPolicy
from aem_gym.errors import ConfigError, InfrastructureError
from aem_gym.protocols import Generation, GenerationRequest, Learner, SamplingSettings
from tests.training.processes import finish, torchrun
from tests.training.runs import GUESS, flags, lines, result_files, run

HERE = "tests.training.test_ahead:Apart"
SHORT = {"eval_every": 0, "steps": 3}


class Apart:
    """The tiny policy as a server would be: it has weights of its own, and answers in any order."""

    exact = False

    def __init__(self, learner: Learner, settings: SamplingSettings) -> None:
        self.mirror: Any = copy.deepcopy(learner)
        self.inner = HFPolicy(self.mirror, settings)
        self.version, self.pinned, self.most = 0, None, settings.max_staleness + 1
        self.kept: dict[int, dict[str, torch.Tensor]] = {}
        self.rng = np.random.default_rng(os.getpid())

    def publish(self, learner: Learner) -> int:
        weights = {name: each.detach().clone() for name, each in learner.parameters().items()}
        self.kept = dict([*self.kept.items(), (self.version + 1, weights)][-self.most :])
        self.version += 1
        if self.pinned is None:
            self.pin(None)
        return self.version

    def rest(self) -> None:
        pass

    def pin(self, version: int | None) -> None:
        self.pinned = version
        weights = self.kept[self.version if version is None else version]
        with torch.no_grad():
            for name, each in self.mirror.parameters().items():
                each.copy_(weights[name])
        self.inner.publish(self.mirror)

    async def sample(self, request: GenerationRequest) -> Generation:
        await asyncio.sleep(float(self.rng.exponential(0.003)))
        return self.inner.generate([request])[0]

    def release(self, slot: int) -> None:
        self.inner.release(slot)

    def close(self) -> None:
        self.inner.close()


def drawn(folder: Path, step: int = 1) -> list[tuple[Any, ...]]:
    """Task, outcome, fate and tokens of every rollout of a step."""
    return [
        (e["task_id"], e["reward"], e["dropped"], [turn["response"] for turn in e["turns"]])
        for e in lines(folder / "episodes.jsonl")
        if e["step"] == step
    ]


@pytest.mark.parametrize("more", [{}, {"oversample": 1.7}, {"max_rounds": 2, "groups": 6}])
def test_dapo_keeps_the_same_groups_in_any_order_of_arrival(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    changes = {**GUESS, "estimator": "dapo", "max_rounds": 5, "eval_every": 0, "steps": 1, **more}
    run(tmp_path / "here", **changes)
    run(tmp_path / "apart", sampler=HERE, **changes)
    run(tmp_path / "few", max_concurrent_episodes=5, **changes)
    here = drawn(tmp_path / "here")
    assert drawn(tmp_path / "apart") == drawn(tmp_path / "few") == here
    assert len({fate for _, _, fate, _ in here}) == 2


def test_oversampling_keeps_the_first_groups_and_counts_all_as_drawn(tmp_path: Path) -> None:
    run(tmp_path / "plain", steps=1, eval_every=0)
    run(tmp_path / "twice", steps=1, eval_every=0, oversample=2.0)
    plain, twice = drawn(tmp_path / "plain"), drawn(tmp_path / "twice")
    assert len(twice) == 2 * len(plain)
    assert [each[0] for each in twice if not each[2]] == [each[0] for each in plain]


@pytest.mark.parametrize("staleness", [0, 2])
def test_old_log_probabilities_are_of_the_version_that_sampled(
    tmp_path: Path, staleness: int
) -> None:
    """Those of the sampler and of the learner's kept weights agree however old the batch is."""
    run(
        tmp_path / "run",
        sampler=HERE,
        max_staleness=staleness,
        **{**SHORT, "steps": 4, "lr": 0.005},
    )
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [m["policy/staleness"] for m in metrics] == [min(n, staleness) for n in range(4)]
    first = metrics[0]["policy/version"]
    versions = [m["policy/version"] - first for m in metrics]
    assert versions == [max(0, n - staleness) for n in range(4)]
    assert max(m["mismatch/max"] for m in metrics) < 1e-4
    assert all(m["grad_norm"] > 0 for m in metrics)


def test_a_batch_sampled_ahead_does_not_depend_on_timing(tmp_path: Path) -> None:
    """Two runs, with an evaluation in between, draw the same tokens under the same versions."""
    changes = {"sampler": HERE, "max_staleness": 1, "steps": 4, "eval_every": 2}
    for name in ("one", "other"):
        run(tmp_path / name, **changes)
    for step in range(1, 5):
        assert drawn(tmp_path / "one", step) == drawn(tmp_path / "other", step)
    held_out = [
        [(e["success"], e["score"]) for e in lines(tmp_path / name / "evaluations.jsonl")]
        for name in ("one", "other")
    ]
    assert held_out[0] == held_out[1]


def test_a_resumed_run_goes_on_with_the_next_ticket(tmp_path: Path) -> None:
    changes = {"sampler": HERE, "max_staleness": 1, "eval_every": 0, "save_every": 1}
    run(tmp_path / "once", steps=4, **changes)
    run(tmp_path / "twice", steps=2, **changes)
    run(tmp_path / "twice", steps=4, resume=True, **changes)
    for step in range(1, 5):
        tasks = [[each[0] for each in drawn(tmp_path / n, step)] for n in ("once", "twice")]
        assert tasks[0] == tasks[1]
    ages = [m["policy/staleness"] for m in lines(tmp_path / "twice" / "metrics.jsonl")]
    assert ages == [0, 1, 0, 1]


def as_killed_after(step: int, run: Path) -> None:
    """Leave of a run what it had when it was killed behind a step."""
    for folder in (run / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    (run / "summary.json").unlink()


@pytest.mark.parametrize("staleness, at", [(1, 3), (2, 2), (3, 1)])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path: Path, staleness: int, at: int
) -> None:
    """Batches in flight are sampled again under the versions that they were begun with."""
    changes = {"sampler": HERE, "max_staleness": staleness, "lr": 0.005, "eval_every": 2}
    changes |= {"steps": 5, "save_every": 1, "keep_checkpoints": 9}
    run(tmp_path / "once", **changes)
    run(tmp_path / "twice", **changes)
    as_killed_after(at, tmp_path / "twice")
    run(tmp_path / "twice", resume=True, **changes)
    assert result_files(tmp_path / "twice") == result_files(tmp_path / "once")
    once, twice = (lines(tmp_path / name / "metrics.jsonl") for name in ("once", "twice"))
    ages = [[m["policy/staleness"] for m in each] for each in (once, twice)]
    assert ages[0] == ages[1] == [min(n, staleness) for n in range(5)]
    assert max(m["mismatch/max"] for m in twice) < 1e-4


def test_sampling_ahead_needs_versions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_staleness 1.*--sampler vllm"):
        run(tmp_path / "x", max_staleness=1, **SHORT)
    assert not (tmp_path / "x").exists()


def test_two_processes_sample_ahead_as_one_does(tmp_path: Path) -> None:
    """Groups straddle them. The first two batches are of the same weights: of the same tokens."""
    changes = {"sampler": HERE, "max_staleness": 1, "steps": 4, "eval_every": 3}
    changes |= {"keep_checkpoints": 9}
    run(tmp_path / "one", **changes)
    finish(torchrun(2, "train.py", *flags(tmp_path / "two", **changes)))
    one, two = (lines(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    for step in (1, 2):
        assert drawn(tmp_path / "two", step) == drawn(tmp_path / "one", step)
    for name in ("loss", "grad_norm", "alpha_mean", "alpha_min", "alpha_max"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-6, abs=1e-6), name
        assert two[1][name] == pytest.approx(one[1][name], rel=1e-4, abs=1e-5), name
    assert [m["policy/staleness"] for m in two] == [0, 1, 1, 1]
    assert [m["policy/version"] for m in two] == [m["policy/version"] for m in one]
    assert max(m["mismatch/max"] for m in two) < 1e-4
    assert all(m["grad_norm"] > 0 for m in two)
    tasks = [[each[0] for each in drawn(tmp_path / n, 4)] for n in ("one", "two")]
    assert tasks[0] == tasks[1]
    whole = result_files(tmp_path / "two")
    as_killed_after(2, tmp_path / "two")
    finish(torchrun(2, "train.py", *flags(tmp_path / "two", **changes), "--resume"))
    assert result_files(tmp_path / "two") == whole


def test_a_failure_ahead_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aem_gym.training.collect import TicketOffice

    played: list[int] = []
    whole = TicketOffice.collecting

    async def collecting(self: TicketOffice, cursor: int) -> Any:
        played.append(cursor)
        if len(played) == 3:
            raise RuntimeError("of the third batch")
        return await whole(self, cursor)

    monkeypatch.setattr(TicketOffice, "collecting", collecting)
    with pytest.raises(RuntimeError, match="of the third batch"):
        run(tmp_path / "x", sampler=HERE, max_staleness=1, **{**SHORT, "steps": 5})
    assert len(lines(tmp_path / "x" / "metrics.jsonl")) == 2


def test_a_server_that_is_away_when_weights_come_leaves_a_run_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Apart.publish

    def publish(self: Apart, learner: Learner) -> int:
        if self.version == 3:
            raise InfrastructureError("no server answers")
        return whole(self, learner)

    changes = {**SHORT, "sampler": HERE, "save_every": 1, "steps": 4}
    with monkeypatch.context() as patch:
        patch.setattr(Apart, "publish", publish)
        with pytest.raises(InfrastructureError, match=r"no server answers.*--resume"):
            run(tmp_path / "run", **changes)
    assert 0 < len(lines(tmp_path / "run" / "metrics.jsonl")) < 4
    run(tmp_path / "run", resume=True, **changes)
    assert [m["step"] for m in lines(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4]
