"""Records one part of a tree: what it gives, value by value, as JSON lines.

A script that runs in a process of its own, with the tree to record first on its path:

    python -P record.py PART TREE OUTPUT [--quick]

It uses `train.py`, `gymnasium.make` and the registries; names that have moved are in `PLACES`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

LEFT_OUT = 3
"""Exit status where no container engine answers."""

PLACES = {
    "ResponseBatch": ("aem_gym.credit:ResponseBatch", "aem_gym.credit.batch:ResponseBatch"),
    "LOSSES": ("aem_gym.registry:LOSSES", "aem_gym.credit.losses:LOSSES"),
    "gae": ("aem_gym.credit:gae", "aem_gym.credit.estimators:gae"),
    "aggregate": ("aem_gym.credit:aggregate", "aem_gym.credit.losses:aggregate"),
    "kl_k3": ("aem_gym.credit:kl_k3", "aem_gym.credit.losses:kl_k3"),
    "value_loss": ("aem_gym.credit:value_loss", "aem_gym.credit.losses:value_loss"),
}
"""Where each thing is, the first that exists."""

JOBS: Mapping[str, tuple[str, ...]] = {
    "alfworld_job": ("--steps", "3"),
    "webshop_job": ("--env", "aem_gym/WebShop-v0", "--steps", "2"),
    "window_job": ("--context", "window", "--steps", "2"),
}
"""Flags over the defaults, in spellings that both sides know."""
QUICK = (
    *("--warmstart-episodes", "96", "--warmstart-steps", "40", "--groups", "3"),
    *("--group-size", "4", "--eval-episodes", "8"),
)
CLOCKS = frozenset({"seconds", "aem_share", "run"})
"""Keys of the summary that say how long it took and where it is."""

Rows = Iterator[tuple[str, Any]]


def found(name: str) -> Any:
    """The thing of `PLACES` called `name`, wherever this tree has it."""
    for place in PLACES[name]:
        module, _, attribute = place.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"{name} is in none of {PLACES[name]}: add its place to {__file__}")


# Jobs ---------------------------------------------------------------------------------------


def record_job(part: str, tree: Path, quick: bool) -> Rows:
    """A training run with all token arrays: episodes, figures, summary and adapter."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        flags = [*JOBS[part], *(QUICK if quick else ()), "--save-tokens", "--seed", "0"]
        done = subprocess.run(
            [sys.executable, str(tree / "train.py"), *flags, "--out", str(run)],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            env={**os.environ, "AEM_GYM_CACHE": str(Path(folder, "cache"))},
        )
        summary = json.loads(done.stdout.splitlines()[-1])
        yield "summary", {key: v for key, v in summary.items() if key not in CLOCKS}
        adapter = (run / "adapter" / "adapter_model.safetensors").read_bytes()
        yield "adapter", {"bytes": len(adapter), "sha256": hashlib.sha256(adapter).hexdigest()}
        for name in ("metrics", "evaluations", "episodes"):
            with (run / f"{name}.jsonl").open(encoding="utf-8") as lines:
                for number, line in enumerate(lines):
                    yield f"{name}[{number}]", _without_seconds(json.loads(line))


def _without_seconds(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.startswith("seconds")}


# Credit -------------------------------------------------------------------------------------

ESTIMATORS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in ("grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline")),
    *((name, {}) for name in ("ppo", "dapo", "gspo", "gigpo")),
    ("grpo", {"over": "rows"}),
    ("rloo", {"penalty": "reward"}),
    ("ppo", {"gamma": 0.9, "lam": 0.8}),
    ("gigpo", {"gamma": 0.9, "omega": 0.5}),
)
MODULATORS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in ("none", "aem", "empg", "entropy_shaping")),
    ("aem", {"lam": 0.5, "threshold": 0.0, "scope": "batch"}),
    ("aem", {"direction": "reversed", "proxy": "mean-surprisal", "only": "negative"}),
    ("aem", {"shuffle": True, "generator": 7}),
)
LOSSES = ("ppo_clip", "gspo", "clip_cov", "kl_cov", "reinforce")


def record_credit(part: str, tree: Path, quick: bool) -> Rows:
    """Every estimator with every modulator and loss on one batch, and what losses are made of."""
    import torch

    from aem_gym.registry import ESTIMATORS as estimators
    from aem_gym.registry import MODULATORS as modulators

    torch.set_num_threads(1)
    batch = _batch()
    drawn = torch.Generator().manual_seed(1)
    later = batch.logprobs + 0.2 * torch.randn(batch.logprobs.shape, generator=drawn)
    for name, options in ESTIMATORS:
        base = estimators.load(name)(batch, **options)
        yield f"{name} {options}", _tensors(advantages=base)
        for modulator, chosen in MODULATORS:
            made = modulators.load(modulator)(batch, base, **chosen)
            at = f"{name} {options} {modulator} {chosen}"
            yield at, _tensors(alpha=made.alpha, advantages=made.advantages) | {"info": made.info}
            for loss in LOSSES:
                yield f"{at} {loss}", _loss(loss, later, batch, made.advantages)
    yield from _pieces(batch, later)


def _batch() -> Any:
    """Four groups of four episodes with one to four turns; group 2 failed throughout."""
    import torch

    rng = random.Random(0)
    rows: list[dict[str, Any]] = []
    for episode in range(16):
        group = episode // 4
        won = 0.0 if group == 2 else rng.choice([0.0, 10.0, rng.uniform(0, 10)])
        turns = rng.randint(1, 4)
        for turn in range(turns):
            row = {"returns": won, "step_rewards": won if turn == turns - 1 else 0.0}
            row |= {"penalties": rng.choice([0.0, 0.0, -0.1]), "values": rng.uniform(-1, 1)}
            row |= {"group_ids": group, "trajectory_ids": episode, "turns": turn}
            row |= {"anchor_ids": rng.randint(0, 2), "length": rng.randint(1, 7)}
            rows.append(row)
    rng.shuffle(rows)
    drawn = torch.Generator().manual_seed(0)
    lengths = torch.tensor([row.pop("length") for row in rows])
    mask = torch.arange(8) < lengths[:, None]
    noise = torch.rand((2, *mask.shape), generator=drawn)
    columns = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    return found("ResponseBatch")(
        mask=mask, logprobs=-2 * noise[0] * mask, entropies=1.5 * noise[1] * mask, **columns
    )


def _loss(name: str, logprobs: Any, batch: Any, advantages: Any) -> dict[str, Any]:
    losses = found("LOSSES")
    function = losses.load(name) if hasattr(losses, "load") else losses[name]
    now = logprobs.clone().requires_grad_()
    output = function(now, batch.logprobs, advantages, batch.mask)
    output.per_token.sum().backward()
    metrics = {key: float(value) for key, value in output.metrics.items()}
    return _tensors(per_token=output.per_token, gradient=now.grad) | {"metrics": metrics}


def _pieces(batch: Any, later: Any) -> Rows:
    advantages, targets = found("gae")(batch, 0.9, 0.8)
    yield "gae", _tensors(advantages=advantages, targets=targets)
    yield "kl_k3", _tensors(value=found("kl_k3")(later, batch.logprobs))
    yield (
        "value_loss",
        _tensors(value=found("value_loss")(batch.values * 1.5, batch.values, targets)),
    )
    for mode in ("token-mean", "seq-mean-token-mean", "token-sum-norm"):
        options = {"total_tokens": 100.0, "total_rows": 40.0, "constant": 12.0}
        yield mode, _tensors(value=found("aggregate")(later, batch.mask, mode, **options))


def _tensors(**tensors: Any) -> dict[str, Any]:
    return {
        name: {"dtype": str(t.dtype), "values": t.detach().tolist()} for name, t in tensors.items()
    }


# Episodes -----------------------------------------------------------------------------------

EPISODES = 40
"""Of each variant."""
VARIANTS: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "alfworld_episodes": tuple(
        ("aem_gym/ALFWorld-v0", args)
        for args in (
            {"difficulty": "small"},
            {"difficulty": "full"},
            {"difficulty": "full", "dialect": "0.3", "split": "valid_seen"},
            {"difficulty": "small", "split": "valid_unseen", "expert_noise": 0.2},
            {
                "shuffle_numbers": True,
                "split": "valid_unseen",
                "task_types": "pick_two_obj_and_place",
            },
        )
    ),
    "webshop_episodes": tuple(
        ("aem_gym/WebShop-v0", args)
        for args in (
            {"difficulty": "easy"},
            {"difficulty": "full"},
            {"difficulty": "full", "observation": "text_rich", "split": "test"},
            {"difficulty": "easy", "goals": "synthetic", "split": "eval", "show_attributes": True},
            {"strict_official": True, "split_mode": "verl-agent", "expert_care": 0.5},
        )
    ),
}
IGNORED: frozenset[str] = frozenset()
"""Keys of `info` that are not compared."""
NONSENSE = ("", "look", "fly to the moon", "search[]", "click[nothing like it]", "examine fridge 1")
_CLOCK = re.compile(r"\b\d+\.\d+ ?s(?:econds)?\b")


def record_episodes(part: str, tree: Path, quick: bool) -> Rows:
    """Seeded episodes of an environment: all that it answers, and all that its expert says."""
    import gymnasium as gym

    for env_id, args in VARIANTS[part]:
        env: Any = gym.make(f"aem_gym:{env_id}", **args).unwrapped
        yield f"{args}", {"instructions": env.instructions, "max_turns": env.max_turns}
        for seed in range(5 if quick else EPISODES):
            rng = random.Random(f"{env_id} {seed}")
            choose = partial(_mixed, rng)
            for turn, record in enumerate(_episode(env, seed, choose)):
                yield f"{args} seed {seed} turn {turn}", record
        env.close()


def _mixed(rng: random.Random, expert: str, info: Mapping[str, Any]) -> str:
    """The expert's action in most turns, else a random admissible one, seldom nonsense."""
    draw = rng.random()
    if draw < 0.6:
        return expert
    admissible = list(info["admissible_actions"])
    return rng.choice(admissible) if draw < 0.95 and admissible else rng.choice(NONSENSE)


def _episode(
    env: Any, seed: int, choose: Callable[[str, Mapping[str, Any]], str]
) -> Iterator[dict[str, Any]]:
    observation, info = env.reset(seed=seed)
    yield {"observation": observation, "info": _facts(info)}
    over = False
    while not over:
        thought, expert = env.expert()
        action = choose(expert, info)
        observation, reward, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        yield {
            **{"thought": thought, "expert": expert, "action": action},
            **{"observation": observation, "reward": reward, "info": _facts(info)},
            **{"terminated": terminated, "truncated": truncated},
        }


def _facts(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in IGNORED}


# Software engineering -----------------------------------------------------------------------


def _need_engine() -> None:
    import docker

    try:
        docker.from_env().ping()
    except Exception as error:  # whatever the client raises: there is no engine to be had
        print(f"no engine answers: {error}", file=sys.stderr)
        sys.exit(LEFT_OUT)


def _swe() -> Any:
    import gymnasium as gym

    return gym.make("aem_gym:aem_gym/SWE-v0", engine="docker", max_turns=20).unwrapped


def record_swe_episodes(part: str, tree: Path, quick: bool) -> Rows:
    """Twelve resets of the shipped suite, each played by the expert; times are left out."""
    _need_engine()
    env = _swe()
    try:
        for seed in range(3 if quick else 12):
            for turn, record in enumerate(_episode(env, seed, lambda expert, info: expert)):
                record["observation"] = _CLOCK.sub("N s", record["observation"])
                yield f"seed {seed} turn {turn}", record
    finally:
        env.close()


def record_grading(part: str, tree: Path, quick: bool) -> Rows:
    """Six tasks of the suite, graded with the gold patch (the expert's) and with none."""
    _need_engine()
    env = _swe()
    graded: set[str] = set()
    try:
        for seed in range(100, 200):
            _, info = env.reset(seed=seed)
            if info["task_id"] in graded:
                continue
            graded.add(info["task_id"])
            *_, last = _episode(env, seed, lambda expert, info: expert)
            yield f"{info['task_id']} gold", last
            env.reset(seed=seed)
            observation, reward, *_, info = env.step("submit")
            yield f"{info['task_id']} empty", {"observation": observation, "info": _facts(info)}
            if len(graded) == (2 if quick else 6):
                return
    finally:
        env.close()


PARTS: Mapping[str, Callable[[str, Path, bool], Rows]] = {
    **dict.fromkeys(JOBS, record_job),
    "credit": record_credit,
    **dict.fromkeys(VARIANTS, record_episodes),
    "swe_episodes": record_swe_episodes,
    "grading": record_grading,
}


def main() -> None:
    """Record one part."""
    part, tree, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    import aem_gym

    package = Path(aem_gym.__file__ or "").parent
    if package != tree / "aem_gym":
        sys.exit(f"aem_gym: expected the package of {tree}, got {package}")
    with output.open("w", encoding="utf-8") as file:
        for at, value in PARTS[part](part, tree, "--quick" in sys.argv):
            file.write(json.dumps({"at": at, "value": value}, default=str) + "\n")


if __name__ == "__main__":
    main()
