"""Train the tiny policy in TRL with AEM, on ALFWorld's small tasks: `--help`.

Runs in an environment with TRL (docs/trl.md), in one process or, by torchrun, in several. The last
line is one JSON object: the share of episodes won in the first and the last five steps.
"""

from __future__ import annotations

import argparse
import json
import os

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig

from aem_gym.integrations.trl import AEMGRPOTrainer, episode_return, rollout_func, task_seeds


def settings(given: argparse.Namespace, processes: int) -> GRPOConfig:
    return GRPOConfig(
        output_dir=given.out,
        per_device_train_batch_size=given.groups * given.group_size // (2 * processes),
        steps_per_generation=2,  # two updates with the episodes of a step, as our default job
        gradient_accumulation_steps=1,
        num_generations=given.group_size,
        max_completion_length=2048,
        temperature=1.0,
        learning_rate=2e-3,
        lr_scheduler_type="constant",
        max_steps=2 * given.steps,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="runs/start/model", help="a cloned tiny policy")
    parser.add_argument("--out", default="runs/trl")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--lam", type=float, default=1.0, help="of AEM; 0 is TRL's own GRPO")
    given = parser.parse_args()
    processes = int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(1)  # the policy is too small to share
    with rollout_func(
        "aem_gym/ALFWorld-v0", model="tiny", env_args={"difficulty": "small"}
    ) as rollouts:
        trainer = AEMGRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(given.policy, dtype=torch.float32),
            reward_funcs=episode_return,
            args=settings(given, processes),
            train_dataset=task_seeds(range(4096)),
            processing_class=AutoTokenizer.from_pretrained(given.policy),
            peft_config=LoraConfig(
                r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            rollout_func=rollouts,
            aem_options={"lam": given.lam},
            processes=processes,
        )
        trainer.train()
        trainer.save_model()
    name = "env/success_rate"
    won = [entry[name] for entry in trainer.state.log_history if name in entry]
    first, last = sum(won[:5]) / len(won[:5]), sum(won[-5:]) / len(won[-5:])
    if trainer.accelerator.is_main_process:
        print(json.dumps({"steps": len(won), "first": first, "last": last}))


if __name__ == "__main__":
    main()
