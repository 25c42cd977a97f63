"""Episodes as TRL wants them. What TRL makes of them is tested in tests/engines/test_trl.py."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.integrations.trl_rollouts import (
    ENTROPIES,
    PENALTIES,
    SPANS,
    EnvRollouts,
    episode_return,
    rollout_func,
)
from aem_gym.training.credit import training_rows
from tests.tiny import ENV, Tiny, flat

SETTINGS: dict[str, Any] = {
    **{"env_args": {"difficulty": "small"}, "prompt_template": "compact", "max_turns": 4},
    **{"max_new_tokens": 10, "invalid_penalty": 1.0},
}


class Trainer(SimpleNamespace):
    """The attributes of a GRPOTrainer that rollouts read, around a real model."""

    @staticmethod
    def of(tiny: Tiny, **changes: Any) -> Trainer:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        accelerator = SimpleNamespace(
            process_index=0,
            mixed_precision="no",
            unwrap_model=lambda model: model,
            autocast=nullcontext,
        )
        known = {
            "model": AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32).train(),
            "processing_class": AutoTokenizer.from_pretrained(tiny.folder),
            "accelerator": accelerator,
            **{"args": SimpleNamespace(seed=3), "state": SimpleNamespace(global_step=0)},
            **{"num_generations": 2, "num_generations_eval": 1, "temperature": 1.0},
            **{"use_vllm": False, "is_fsdp_enabled": False, "is_deepspeed_enabled": False},
            **{"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0},
        }
        return Trainer(**{**known, **changes})


@pytest.fixture
def rollouts(tiny: Tiny) -> Iterator[EnvRollouts]:
    with rollout_func(ENV.env_id, model=str(tiny.folder), **SETTINGS) as opened:
        yield opened


def test_rows_are_our_training_rows(tiny: Tiny, rollouts: EnvRollouts) -> None:
    episodes = flat(tiny.groups(tiny.agent(), groups=2, size=2))
    made = rollouts._columns(episodes, 0, exact=True)
    for number, row in enumerate(training_rows(enumerate(episodes))):
        prompt, ids = made["prompt_ids"][number], made["completion_ids"][number]
        assert (*prompt, *ids) == row.ids
        spans = [(span.start - len(prompt), span.end - len(prompt)) for span in row.spans]
        assert made[SPANS][number] == spans
        for turn, (start, end) in zip(episodes[number].turns, spans, strict=True):
            assert made["logprobs"][number][start:end] == list(turn.logprobs)
            assert made[ENTROPIES][number][start:end] == list(turn.entropies)
            wrong = -1.0 if not turn.format_valid else 0.0
            assert set(made[PENALTIES][number][start:end]) == {wrong}
        assert sum(made["env_mask"][number]) == sum(end - start for start, end in spans)
    assert ENTROPIES not in rollouts._columns(episodes, 0, exact=False)


def test_a_failed_episode_counts_nowhere(tiny: Tiny, rollouts: EnvRollouts) -> None:
    whole = flat(tiny.groups(tiny.agent(), groups=1, size=1))[0]
    failed, none = replace(whole, error="broken"), replace(whole, turns=(), error="broken")
    made = rollouts._columns([whole, failed, none], 7, exact=True)
    assert [any(mask) for mask in made["env_mask"]] == [True, False, False]
    assert made["completion_ids"][2] == [7] and made["prompt_ids"][2] == [7]
    logged: dict[str, float] = {}
    columns = {name: made[name] for name in ("env_return", "env_won", "env_turns")}
    found = episode_return([""] * 3, **columns, log_metric=logged.__setitem__)
    assert found[0] is not None and found[1:] == [None, None]
    assert logged["env/failed"] == pytest.approx(2 / 3) and "env/success_rate" in logged


def test_episodes_depend_on_step_and_place_alone(tiny: Tiny, rollouts: EnvRollouts) -> None:
    trainer = Trainer.of(tiny)
    first = rollouts(["5", "5", "6", "6"], trainer)
    assert all(module.training for module in trainer.model.modules())
    assert first["completion_ids"][0] != first["completion_ids"][1]
    trainer.state.global_step = 1
    assert rollouts(["5", "5", "6", "6"], trainer)["completion_ids"] != first["completion_ids"]
    with rollout_func(ENV.env_id, model=str(tiny.folder), **SETTINGS) as again:
        other = Trainer.of(tiny)
        other.accelerator.process_index = 1
        assert again(["6", "6"], other)["completion_ids"] == first["completion_ids"][2:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_vllm": True}, "use_vllm"),
        ({"is_fsdp_enabled": True}, "without FSDP"),
        ({"top_p": 0.9}, "top_p: expected 1, got 0.9"),
        ({"top_k": 20}, "top_k: expected 0, got 20"),
        ({"min_p": 0.1}, "min_p"),
    ],
)
def test_trainers_that_cannot_be_sampled_are_refused(
    tiny: Tiny, rollouts: EnvRollouts, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        rollouts(["1"], Trainer.of(tiny, **changes))


def test_wrong_settings_and_prompts_are_named(tiny: Tiny, rollouts: EnvRollouts) -> None:
    with pytest.raises(UnknownNameError, match="group_size"):
        rollout_func(ENV.env_id, model="tiny", group_size=4)
    with pytest.raises(ConfigError, match=r"seed of a task.*task_seeds"):
        rollouts(["Go to the fridge."], Trainer.of(tiny))


@pytest.mark.skipif(importlib.util.find_spec("trl") is not None, reason="TRL is installed here")
@pytest.mark.parametrize("module", ["trl", "trl_async"])
def test_without_trl_the_error_says_what_to_install(module: str) -> None:
    code = f"import aem_gym.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and 'pip install "aem-gym[trl]"' in done.stderr
