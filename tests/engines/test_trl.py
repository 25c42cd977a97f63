"""TRL trains the tiny policy with AEM, in one process and in two; alpha is that of our own loop.

`make test-engines` makes the environment that AEM_TRL_PYTHON names, and runs this.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from aem_gym.rollout.collector import grouped
from aem_gym.training.credit import Credit, CreditRule, Rewards, TrainBatch, make_batch
from aem_gym.types import Episode
from tests.test_docs import blocks
from tests.tiny import ENV, Tiny

PYTHON = os.environ.get("AEM_TRL_PYTHON", "")
pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON, reason="needs TRL: make test-engines"),
]
ROOT = Path(__file__).parents[2]
TRL_EPSILON = 1e-4
"""What TRL adds to the standard deviation of a group."""
SETTINGS: dict[str, Any] = {
    **{"env_args": {"difficulty": "small"}, "prompt_template": "compact"},
    **{"max_new_tokens": 10, "max_turns": 4, "invalid_penalty": 1.0},
    # The policy is too weak to win within 4 turns: returns differ by the lengths of responses.
    **{"overlong_buffer": 9, "overlong_penalty": 0.5},
}


@dataclass(frozen=True)
class Done:
    """What the processes of a job wrote, in the order of their ranks."""

    ranks: list[dict[str, Any]]

    def episodes(self, step: int = 0) -> list[Episode]:
        lines = [line for rank in self.ranks for line in rank["episodes"][step]]
        return [Episode.from_json(line) for line in lines]

    def advantages(self, step: int = 0) -> list[list[float]]:
        return [row for rank in self.ranks for row in rank["advantages"][step]]

    def figures(self, step: int = 0) -> dict[str, float]:
        return dict(self.ranks[0]["history"][step])


Play = Callable[..., Done]


def start(*command: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environ}
    return subprocess.run(
        [PYTHON, *command], cwd=folder, env=known, capture_output=True, text=True, timeout=300
    )


def torchrun(processes: int, script: str, *args: str) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    how = ["--nproc_per_node", str(processes), "--master_port", port]
    return ["-m", "torch.distributed.run", *how, script, *args]


@pytest.fixture(scope="module")
def play(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Runs a job in TRL, each different one once."""
    known: dict[str, Done] = {}

    def run(processes: int = 1, **changes: Any) -> Done:
        job: dict[str, Any] = {"model": str(tiny.folder), "env": ENV.env_id, "groups": 2, "size": 4}
        job |= {"settings": {**SETTINGS, **changes.pop("settings", {})}, "processes": processes}
        job |= changes
        name = json.dumps(job, sort_keys=True)
        if name not in known:
            folder = tmp_path_factory.mktemp("job")
            (folder / "job.json").write_text(json.dumps({**job, "out": str(folder)}))
            command = [str(Path(__file__).with_name("trl_job.py")), "job.json"]
            if processes > 1:
                command = torchrun(processes, *command)
            done = start(*command, folder=folder)
            assert done.returncode == 0, done.stderr[-4000:]
            files = [folder / f"{rank}.json" for rank in range(processes)]
            known[name] = Done([json.loads(file.read_text()) for file in files])
        return known[name]

    return run


def ours(tiny: Tiny, done: Done, size: int, **aem: Any) -> tuple[TrainBatch, Credit]:
    """The credit of our own loop on the episodes of a job's first step."""
    changes = {name: value for name, value in SETTINGS.items() if name.startswith(("inv", "over"))}
    changes |= {"max_new_tokens": 10, "estimator_options": {"epsilon": TRL_EPSILON}}
    config = tiny.changed(**changes, modulator_options=aem)
    batch = make_batch(grouped(done.episodes(), size), Rewards.of(config, tiny.template))
    assert batch is not None
    return batch, CreditRule.of(config).assign(batch.batch, 0)


def close(found: Any, expected: Any, most: float) -> bool:
    one, other = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    return one.shape == other.shape and float((one - other).abs().max()) <= most


def check(tiny: Tiny, done: Done, size: int, most: float = 1e-6, **aem: Any) -> None:
    """Alpha, and the advantage of every token, are those of our own loop."""
    batch, credit = ours(tiny, done, size, **aem)
    for rank in done.ranks:  # each computes them for all
        assert close(rank["alpha"][0], credit.modulated.alpha, most)
    found = iter(done.advantages())
    for row in batch.rows:
        tokens, prompt = torch.tensor(next(found)), row.spans[0].start
        expected = torch.zeros_like(tokens)
        for span in row.spans:
            place = batch.batch.trajectory_ids == span.episode
            place &= batch.batch.turns == span.turn
            expected[span.start - prompt : span.end - prompt] = credit.modulated.advantages[place][
                0, : span.end - span.start
            ]
        assert close(tokens, expected, most * 10)


@pytest.mark.parametrize(
    ("processes", "groups", "size"),
    [(1, 2, 8), (2, 2, 8), (2, 1, 16), (2, 5, 4)],
    ids=["one", "two", "a group in both", "half a group in each"],
)
def test_alpha_and_advantages_are_those_of_our_loop(
    tiny: Tiny, play: Play, processes: int, groups: int, size: int
) -> None:
    done = play(processes, groups=groups, size=size)
    assert len(done.episodes()) == groups * size and len(done.ranks) == processes
    alpha = torch.tensor(done.ranks[0]["alpha"][0])
    assert float(alpha.max() - alpha.min()) > 0.2
    assert len({tuple(row) for row in done.advantages()}) > groups
    check(tiny, done, size)


@pytest.mark.parametrize(("groups", "size"), [(2, 8), (1, 16)])
def test_two_processes_are_one(play: Play, groups: int, size: int) -> None:
    """The same episodes, alpha, loss and gradient in step 1."""
    one, two = (play(n, groups=groups, size=size) for n in (1, 2))
    assert [[turn.response_ids for turn in episode.turns] for episode in one.episodes()] == [
        [turn.response_ids for turn in episode.turns] for episode in two.episodes()
    ]
    assert close(one.ranks[0]["alpha"][0], two.ranks[0]["alpha"][0], 1e-6)
    for name in ("loss", "grad_norm", "aem/alpha_max", "reward"):
        assert one.figures()[name] == pytest.approx(two.figures()[name], abs=2e-6), name


def test_it_trains(play: Play) -> None:
    """Over several steps with two processes: other figures, episodes and a policy that moves."""
    done = play(2, groups=2, size=8, steps=4, lr=3e-3)
    history = done.ranks[0]["history"]
    assert [entry["loss"] for entry in history if "loss" in entry] and len(history) == 5
    assert all(entry["grad_norm"] > 0 for entry in history[:4])
    assert history[3]["aem/response_entropy_mean"] != history[0]["aem/response_entropy_mean"]
    # The sampler follows the policy, step by step.
    assert len(done.ranks[1]["mismatch"]) == 4 and max(done.ranks[1]["mismatch"]) < 1e-5
    assert history[0]["env/failed"] == 0 and history[0]["env/turns"] > 1


def test_aem_off_is_the_plain_advantage(tiny: Tiny, play: Play) -> None:
    done = play(groups=2, size=8, aem={"lam": 0.0})
    assert set(done.ranks[0]["alpha"][0]) == {1.0}
    check(tiny, done, 8, lam=0.0)
    check(tiny, play(groups=2, size=8, aem={"scope": "batch"}), 8, scope="batch")


def test_without_recorded_entropies_they_come_from_a_pass_of_the_policy(
    tiny: Tiny, play: Play
) -> None:
    """TRL's own pass, or the one that it makes for old log-probabilities."""
    check(tiny, play(groups=2, size=8, inexact=True), 8, most=1e-5)
    reused = {"num_iterations": 2}
    check(tiny, play(groups=2, size=8, inexact=True, config=reused), 8, most=1e-5)
    reference = {"beta": 0.1}
    check(tiny, play(groups=2, size=8, inexact=True, config=reference), 8, most=1e-5)


def test_checkpointing_changes_no_token_and_training_goes_on(play: Play) -> None:
    """Without a merged copy the model itself samples; in training it would drop its cache."""
    unmerged = {"sampler_options": {"merge": False}}
    plain = play(groups=2, size=8)
    kept = play(groups=2, size=8, checkpointing=True, settings=unmerged)
    assert plain.ranks[0]["trains"] and kept.ranks[0]["trains"]
    assert [[t.response_ids for t in e.turns] for e in plain.episodes()] == [
        [t.response_ids for t in e.turns] for e in kept.episodes()
    ]


def test_the_wrong_number_of_processes_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """What `accelerate launch --cpu --num_processes 2` comes to."""
    job = {"model": str(tiny.folder), "env": ENV.env_id, "groups": 2, "size": 4}
    job |= {"settings": SETTINGS, "processes": 2, "out": str(tmp_path)}
    (tmp_path / "job.json").write_text(json.dumps(job))
    script = str(Path(__file__).with_name("trl_job.py"))
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = start(*launch, script, "job.json", folder=tmp_path)
    assert done.returncode != 0 and "torchrun --nproc_per_node 2" in done.stderr


def test_the_page_runs_and_prints_what_is_shown(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "runs" / "start").mkdir(parents=True)
    (tmp_path / "runs" / "start" / "model").symlink_to(tiny.folder)
    found = [b for b in blocks(ROOT / "docs" / "trl.md") if b.language == "python"]
    done = start("-c", "\n".join(block.text for block in found), folder=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    expected = "".join(block.output or "" for block in found)
    assert expected and done.stdout.endswith(expected)


def test_the_example_trains_in_two_processes(tiny: Tiny, tmp_path: Path) -> None:
    flags = ["--policy", str(tiny.folder), "--steps", "2", "--groups", "2", "--group-size", "4"]
    script = str(ROOT / "examples" / "trl" / "train_trl.py")
    done = start(*torchrun(2, script, *flags, "--out", "out"), folder=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == 2
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


# The asynchronous trainer ------------------------------------------------------------------------


def sample_of(batch: TrainBatch, number: int) -> dict[str, Any]:
    """A training row as TRL's workers put it into their queue."""
    row = batch.rows[number]
    logprobs, mask = [0.0] * len(row.ids), [0] * len(row.ids)
    for span in row.spans:
        turn = batch.episodes[span.episode].turns[span.turn]
        logprobs[span.start : span.end] = turn.logprobs
        mask[span.start : span.end] = [1] * len(turn.logprobs)
    # The advantage is the business of a worker: any number will do.
    return {"ids": row.ids, "mask": mask, "logprobs": logprobs, "advantage": 1.0 + number}


def test_the_asynchronous_trainer_modulates_whole_groups(tiny: Tiny, tmp_path: Path) -> None:
    """TRL's own loop on recorded episodes of the same policy; its GPU kernel in plain torch."""
    batch = make_batch(tiny.groups(tiny.agent(adapted=False), groups=3, size=4), Rewards())
    assert batch is not None
    alpha = CreditRule.of(tiny.config).assign(batch.batch, 0).modulated.alpha
    samples = [sample_of(batch, number) for number in range(12)]
    job: dict[str, Any] = {"model": str(tiny.folder), "out": str(tmp_path), "size": 4}
    job |= {"groups": [samples[i : i + 4] for i in range(0, 12, 4)], "steps": 2}
    job |= {"budget": 400, "accumulate": 2}
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = start(str(Path(__file__).with_name("trl_async_job.py")), "job.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "0.json").read_text())
    assert close([a for group in found["alpha"][:3] for a in group], alpha, 1e-5)
    # What the loss is given: of each token the advantage of its response.
    scaled = (1 + batch.batch.trajectory_ids) * alpha
    expected = scaled.repeat_interleave(batch.batch.lengths)
    trained = torch.tensor(found["advantages"][0])
    assert 0 < len(trained) < len(expected)
    assert close(trained, expected[: len(trained)], 1e-4)
    steps = [entry for entry in found["history"] if "loss" in entry]
    assert len(steps) == 2 and all(step["grad_norm"] > 0 for step in steps)
    assert steps[0]["aem/alpha_mean"] == pytest.approx(1, abs=1e-5)
