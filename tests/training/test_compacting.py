"""A run whose contexts are too short for its episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aem_gym.errors import ConfigError
from aem_gym.runs import BASE
from aem_gym.settings import load_config
from aem_gym.training.workload import workload_of_run
from tests.training.runs import GUESS, lines, run

CORRIDOR: dict[str, Any] = {
    **GUESS,
    "env": "tests.training.guess_env:guess-test/Corridor-v0",
    "max_turns": 24,
    "max_length": 90,
    "steps": 2,
    "eval_every": 2,
    "warmstart_steps": 150,
    "token_samples": "all",
}


def test_episodes_longer_than_the_context_are_won_and_learned_from(tmp_path: Path) -> None:
    summary = run(tmp_path / "on", CORRIDOR, context_limit="compact")
    metrics = lines(tmp_path / "on" / "metrics.jsonl")
    for figures in metrics:
        assert figures["stop/context_full"] == 0 and figures["success_rate_all"] > 0
        assert figures["compactions"] >= figures["stop/won"]  # nobody wins without
        assert figures["mismatch/max"] < 1e-4 and figures["grad_norm"] > 0
    assert summary["success_before"] > 0
    turns = [t for e in lines(tmp_path / "on" / "episodes.jsonl") for t in e["turns"]]
    counted = sum(t.get("compacted", False) for t in turns)
    assert counted == sum(figures["compactions"] for figures in metrics)
    assert all("alpha" in turn for turn in turns)  # each has its credit
    work = workload_of_run(tmp_path / "on", load_config(tmp_path / "on"))
    assert work.longest <= 90 and work.rows_per_episode > 1.5


def test_the_same_policy_wins_where_the_limit_stopped_it(tmp_path: Path) -> None:
    """One that was cloned in a context that holds all, and has never seen a compacted prompt."""
    run(tmp_path / "long", CORRIDOR, max_length=1000, steps=0, warmstart_steps=200)
    base = {"model": str(tmp_path / "long" / BASE), "warmstart": "none"}
    found = {}
    for limit in ("stop", "compact"):
        run(tmp_path / limit, CORRIDOR, **base, context_limit=limit, steps=1, eval_every=0)
        found[limit] = lines(tmp_path / limit / "metrics.jsonl")[0]
    assert found["stop"]["stop/context_full"] == found["stop"]["episodes"]
    assert "compactions" not in found["stop"]
    assert found["compact"]["stop/won"] > 0 == found["compact"]["stop/context_full"]


def test_a_window_has_nothing_to_compact(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="context_limit compact.*--context transcript"):
        run(tmp_path / "run", CORRIDOR, context="window", context_limit="compact")
    assert not (tmp_path / "run").exists()
