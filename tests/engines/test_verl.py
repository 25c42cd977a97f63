"""AEM in verl's trainer, and our episodes in its agent loop, against our own collector and credit.

`make test-engines` makes the environment that AEM_VERL_PYTHON names, and runs this. `verl_job.py`
says what is real in it; verl's own server and actor need GPUs.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import Tiny

PYTHON = os.environ.get("AEM_VERL_PYTHON", "")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON, reason="needs verl: make test-engines"),
]
COMMON = {
    "env": "aem_gym/ALFWorld-v0",
    "env_args": {"difficulty": "small"},
    "prompt_template": "compact",
    "max_turns": 6,
    "max_new_tokens": 10,
    "penalize": "inadmissible",
    # The tiny policy solves nothing here: this lets the returns of episodes differ.
    "overlong_buffer": 8,
    "overlong_penalty": 0.5,
}
CASES: dict[str, dict[str, Any]] = {
    "transcript": {"modulator_options": {"lam": 1.0, "threshold": 0.1}},
    "window": {"context": "window", "modulator_options": {"lam": 2.0, "threshold": 0.0}},
    "a failed episode": {"modulator_options": {"scope": "batch", "recentre": True}},
}


def in_verl(*command: str) -> str:
    """What a program prints in verl's environment; with its errors where it fails."""
    path = {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    answer = subprocess.run(
        [PYTHON, *command], env={**os.environ, **path}, capture_output=True, text=True, timeout=400
    )
    assert answer.returncode == 0, answer.stderr[-6000:]
    return answer.stdout


@pytest.fixture(scope="module", params=CASES)
def step(request: pytest.FixtureRequest, tiny: Tiny) -> dict[str, Any]:
    """A step of verl, and the same of ours."""
    settings = json.dumps({**COMMON, **CASES[request.param]})
    more = ["fails"] if request.param == "a failed episode" else []
    job = str(Path(__file__).with_name("verl_job.py"))
    printed = in_verl(job, str(tiny.folder), settings, *more)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return {
        **found,
        "window": request.param == "window",
        "episodes": 12 - len(more),
        "recentred": bool(more),
    }


Name = tuple[int, int, int]
"""Task, rollout and turn."""


def of_verl(step: Mapping[str, Any]) -> dict[Name, dict[str, Any]]:
    """The responses in verl's queue, by name."""
    found: dict[Name, dict[str, Any]] = {}
    for row in step["verl"]["rows"]:
        if not row["padding"]:
            rollout = int(row["key"].split("_")[1])
            notes = row["notes"]
            for turn, (start, end) in zip(notes["turns"], notes["spans"], strict=True):
                found[row["index"], rollout, turn] = {
                    "row": row,
                    "ids": row["responses"][start:end],
                    "before": row["responses"][:start],
                    "logprobs": row["rollout_log_probs"][start:end],
                    "mask": row["response_mask"][start:end],
                    "advantages": row["advantages"][start:end],
                }
    return found


def of_ours(step: Mapping[str, Any]) -> dict[Name, dict[str, Any]]:
    return {
        (each["task"], each["rollout"], each["turn"]): each for each in step["ours"]["responses"]
    }


def test_the_agent_loop_gives_the_tokens_of_our_collector(step: dict[str, Any]) -> None:
    theirs, ours = of_verl(step), of_ours(step)
    assert theirs.keys() == ours.keys() and len({name[:2] for name in ours}) == step["episodes"]
    for name, mine in ours.items():
        found = theirs[name]
        assert found["ids"] == mine["ids"]
        assert found["logprobs"] == pytest.approx(mine["logprobs"], abs=1e-5)
        assert found["mask"] == [1] * len(mine["ids"])
        prompt = found["row"]["prompts"] if step["window"] or not name[2] else found["before"]
        assert prompt[len(prompt) - len(mine["prompt"]) :] == mine["prompt"]


def test_everything_but_the_responses_is_masked_and_the_reward_is_the_return(
    step: dict[str, Any],
) -> None:
    rows = [row for row in step["verl"]["rows"] if not row["padding"]]
    returns = {(e["task"], e["rollout"]): e["return"] for e in step["ours"]["responses"]}
    for row in rows:
        inside = {place for start, end in row["notes"]["spans"] for place in range(start, end)}
        length = len(row["responses"])
        assert row["response_mask"] == [int(place in inside) for place in range(length)]
        earned = returns[row["index"], int(row["key"].split("_")[1])]
        assert sum(row["rm_scores"]) == row["rm_scores"][-1] == pytest.approx(earned, abs=1e-6)
    assert len(set(returns.values())) > 1, "all episodes earned the same"


def test_the_trainer_writes_the_advantages_of_our_credit(step: dict[str, Any]) -> None:
    theirs, ours = of_verl(step), of_ours(step)
    for name, mine in ours.items():
        wanted = [mine["advantage"]] * len(mine["ids"])
        found = theirs[name]["advantages"]
        assert found == pytest.approx(wanted, abs=1e-6)
        # The sampler's entropies are those of other passes, with other rounding.
        assert found[0] == pytest.approx(mine["by_the_sampler"], abs=1e-5)
        if abs(mine["base"]) > 0.5 and not step["recentred"]:
            assert found[0] / mine["base"] == pytest.approx(mine["alpha"], abs=1e-6)
    assert max(abs(e["alpha"] - 1) for e in ours.values()) > 0.3
    assert any(e["base"] < 0 for e in ours.values()) and any(e["base"] > 0 for e in ours.values())


def test_padding_is_left_alone_and_figures_are_logged(step: dict[str, Any]) -> None:
    padding = [row for row in step["verl"]["rows"] if row["padding"]]
    assert padding and all(not any(row["advantages"]) for row in padding)
    alphas = [each["alpha"] for each in step["ours"]["responses"]]
    metrics = step["verl"]["metrics"]
    assert metrics["aem/alpha_max"] == pytest.approx(max(alphas), abs=1e-5)
    assert metrics["aem/alpha_min"] == pytest.approx(min(alphas), abs=1e-5)
    assert metrics["aem/alpha_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["difference"] < 1e-4  # between sampler and actor, as verl measures it
    assert step["verl"]["updates"] == 1


def test_validation_reports_success(step: dict[str, Any]) -> None:
    found = step["verl"]["validation"]
    assert any(name.startswith("val-core/") and "/acc/" in name for name in found), found


# What verl is told, before anything starts -------------------------------------------------------

CHECKS = """
import json, os, sys
os.environ["VERL_USE_EXTERNAL_MODULES"] = "aem_gym.integrations.verl"
from hydra import compose, initialize_config_dir
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.config import validate_config

def trainer(*changes):
    with initialize_config_dir(sys.argv[1], version_base=None):
        config = compose("alfworld", overrides=list(changes))
    needs = need_reference_policy(config), need_critic(config)
    validate_config(config, *needs)
    try:
        made = get_trainer_cls(config.trainer.v1.trainer_mode)(config=config)
    except ValueError as error:
        return str(error)
    return [type(made).__mro__[2].__name__, made.trainer_mode, type(made.replay_buffer).__name__]

mode = "trainer.v1.trainer_mode="
print(json.dumps({
    "sync": trainer(),
    "colocate": trainer(mode + "aem_colocate_async"),
    "separate": trainer(mode + "aem_separate_async", "data.train_batch_size=16",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4", "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=8",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl"),
    "bypass": trainer("algorithm.rollout_correction.bypass_mode=true"),
    "option": trainer("+aem_gym.modulator_options.lamda=2"),
    "setting": trainer("+aem_gym.lr=1"),
    "no section": trainer("~data.aem_gym", "~aem_gym"),
}))
"""


def test_verl_takes_the_recipe_and_what_cannot_work_is_refused() -> None:
    answer = json.loads(in_verl("-c", CHECKS, str(ROOT / "examples/verl")).splitlines()[-1])
    assert answer["sync"] == ["PPOTrainerSync", "sync", "ReplayBuffer"]
    colocate = ["PPOTrainerColocateAsync", "colocate_async", "ReplayBufferAsync"]
    assert answer["colocate"] == colocate
    separate = ["PPOTrainerSeparateAsync", "separate_async", "ReplayBufferAsync"]
    assert answer["separate"] == separate
    assert "rollout_correction.bypass_mode=false" in answer["bypass"]
    assert "unknown option" in answer["option"] and "lam" in answer["option"]
    assert "unknown setting in aem_gym" in answer["setting"]
    assert "no such section" in answer["no section"]
