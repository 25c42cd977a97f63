"""Several processes of torchrun make the same numbers as one.

tests/engines/test_torchrun.py has the slow ones: four processes, and processes that are killed.
"""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aem_gym.errors import ConfigError, WorldError
from aem_gym.settings import settle
from aem_gym.training import distributed
from aem_gym.training.distributed import World, bits_of, open_world, process_rank
from aem_gym.training.setup import check_run
from aem_gym.types import Episode, Group
from tests.tiny import Tiny
from tests.training import replays
from tests.training.processes import finish, torchrun
from tests.training.runs import SMALL, flags, lines, run

STRADDLING = {"groups": 3, "group_size": 6, "steps": 1, "eval_every": 0}
"""Groups of 6 over 2 or 4 processes: none is one process's own."""


# Updates on recorded episodes ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy, an adapter that acts, and two steps of episodes with made-up returns."""
    return record(tiny, tmp_path_factory.mktemp("recorded"))


def record(tiny: Tiny, folder: Path) -> Path:
    """The same in a folder."""
    agent = tiny.agent()
    agent.learner.save(folder / "adapter")
    (folder / "model").symlink_to(tiny.folder)
    draws = torch.Generator().manual_seed(3)
    steps = []
    for size in (3, 5):
        groups = tiny.groups(agent, 3, size)
        steps.append(
            [Group(g.seed, tuple(_rewarded(e, draws) for e in g.episodes)) for g in groups]
        )
    given = {**tiny.config.given(), "kl_coef": 0.1, "micro_batch": 2}
    content = {"groups": steps, "template": tiny.template, "settings": given}
    (folder / "recorded.pickle").write_bytes(pickle.dumps(content))
    return folder


def _rewarded(episode: Episode, draws: torch.Generator) -> Episode:
    last = replace(episode.turns[-1], reward=float(torch.randint(0, 2, (), generator=draws)))
    return replace(episode, turns=(*episode.turns[:-1], last))


def replayed(recorded: Path, count: int, way: str) -> dict[str, Any]:
    """The updates of so many processes: `compact`, `plain` or `sharded`."""
    file = recorded / f"out-{count}-{way}.pt"
    if count == 1:
        replays.main(recorded, way)
    elif not file.exists():
        finish(torchrun(count, "-m", "tests.training.replays", str(recorded), "compact", "sharded"))
    found: dict[str, Any] = torch.load(file)
    return found


def check_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Figures to 1e-6; scores, and weights after two updates of Adam, as rounding allows."""
    for ours, theirs in zip(found["figures"], wanted["figures"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)
    assert wanted["figures"][0]["grad_norm"] > 0
    for name, tensor in wanted["tensors"].items():
        torch.testing.assert_close(found["tensors"][name], tensor, rtol=1e-5, atol=1e-5, msg=name)
        if "lora" in name:
            torch.testing.assert_close(found["tensors"][name], tensor, rtol=0, atol=1e-6)


def test_two_processes_update_like_one(recorded: Path) -> None:
    check_equal(replayed(recorded, 2, "compact"), replayed(recorded, 1, "compact"))


def test_a_base_model_over_two_processes_updates_like_a_whole_one(recorded: Path) -> None:
    check_equal(replayed(recorded, 2, "sharded"), replayed(recorded, 1, "plain"))


# A step -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step of one process, all tokens kept."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run(folder, **STRADDLING, token_samples="all")
    return folder


def check_step(together: Path, alone: Path) -> None:
    """The same tokens, and the same figures to 1e-6.

    The alpha of a single response may differ a little more: each process samples with fewer rows
    beside it, which rounds its entropies otherwise.
    """
    ours, theirs = lines(together / "metrics.jsonl")[0], lines(alone / "metrics.jsonl")[0]
    names = [name for name in theirs if not name.startswith("seconds/")]
    assert {"loss", "grad_norm", "alpha_mean", "alpha_min", "alpha_max"} <= set(names)
    assert theirs["alpha_spread"] > 0.1 and theirs["grad_norm"] > 0
    for name in names:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-6), name
    pairs = zip(*(lines(each / "episodes.jsonl") for each in (together, alone)), strict=True)
    for one, other in pairs:
        tokens = [[turn["response_ids"] for turn in each["turns"]] for each in (one, other)]
        assert tokens[0] == tokens[1] and one["rollout"] == other["rollout"]
        for turn, wanted in zip(one["turns"], other["turns"], strict=True):
            assert turn["alpha"] == pytest.approx(wanted["alpha"], abs=5e-6)


def test_two_processes_make_the_step_of_one(alone: Path, tmp_path: Path) -> None:
    arguments = flags(tmp_path / "run", **STRADDLING, token_samples="all")
    stdout = finish(torchrun(2, "train.py", *arguments))
    assert len(stdout.splitlines()) == 1  # of the first alone
    check_step(tmp_path / "run", alone)


# Refusals -----------------------------------------------------------------------------------------


def opened(**changes: Any) -> None:
    with open_world(settle({**SMALL, **changes}).config) as world:
        assert world is None


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    opened()
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    opened()
    assert process_rank() == 0


@pytest.mark.parametrize(
    ("environ", "changes", "message"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no"}, {}, "torchrun --nproc_per_node"),
        ({"WORLD_SIZE": "2"}, {}, "RANK, MASTER_ADDR, MASTER_PORT is not set"),
        ({"WORLD_SIZE": "two"}, {}, "expected a number, got 'two'"),
        ({}, {"shard_base": True}, "leave --shard-base out"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            {"device": "cuda:1"},
            "names one GPU for 2 processes",
        ),
    ],
)
def test_a_wrong_start_is_refused(
    environ: dict[str, str],
    changes: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        opened(**changes)


def test_processes_that_do_not_come_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "MEETING", distributed.timedelta(seconds=1))
    environ = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WorldError, match=r"process 1 of 2 did not meet the others at 127.0.0.1:9"):
        opened()


def test_sampling_through_a_base_model_that_is_spread_is_refused() -> None:
    with pytest.raises(ConfigError, match="--sampler vllm"):
        check_run(settle({**SMALL, "shard_base": True}).config)


# A world of threads -------------------------------------------------------------------------------


class _Threads(World):
    """A world whose processes are threads of this one."""

    def __init__(self, rank: int, size: int, table: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, size, None, SimpleNamespace())  # type: ignore[arg-type]
        self.table, self.barrier = table, barrier

    def gather(self, value: Any) -> list[Any]:
        self.table[self.rank] = value
        self.barrier.wait()
        found = list(self.table)
        self.barrier.wait()
        return found


@pytest.mark.parametrize("items", [0, 1, 3, 4, 11])
def test_what_all_hand_in_comes_back_in_order(items: int) -> None:
    table, barrier, found = [None] * 3, threading.Barrier(3), [[0]] * 3

    def hand_in(rank: int) -> None:
        world = _Threads(rank, 3, table, barrier)
        found[rank] = world.joined(world.mine(range(items)))

    threads = [threading.Thread(target=hand_in, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list(range(items))] * 3


def test_different_weights_are_noticed() -> None:
    world = _Threads(0, 2, [None, (Counter(), b"\0", bits_of([torch.ones(3) + 1e-7]))], None)  # type: ignore[arg-type]
    world.barrier = SimpleNamespace(wait=lambda: None)  # type: ignore[assignment]
    with pytest.raises(WorldError, match="different weights"):
        world.add_up([torch.ones(3)], Counter())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_one_bit_changes_the_sum(dtype: torch.dtype) -> None:
    tensors = [torch.ones(5, dtype=dtype), torch.zeros(2, 3, dtype=dtype)]
    before = bits_of(tensors)
    assert before == bits_of([t.clone() for t in tensors])
    tensors[0].view(torch.uint8)[0] ^= 1
    assert bits_of(tensors) != before
