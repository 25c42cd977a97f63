"""A job in TRL, for test_trl.py: `python trl_job.py JOB.json`, or by torchrun.

Runs in an environment with TRL. Each process writes what it did to OUT/RANK.json.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}

import torch  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl import GRPOConfig  # noqa: E402

from aem_gym.integrations import trl  # noqa: E402
from aem_gym.integrations.trl_rollouts import ENTROPIES  # noqa: E402
from aem_gym.seeding import generator  # noqa: E402


class Recorder:
    """What one process saw: episodes, alpha, advantages, whether the model trains again."""

    def __init__(self) -> None:
        self.episodes: list[list[Any]] = []
        self.alpha: list[list[float]] = []
        self.advantages: list[Any] = []
        self.mismatch: list[float] = []
        self.modulate = trl.modulate
        trl.modulate = self.recorded

    def recorded(self, *given: Any) -> Any:
        credit = self.modulate(*given)
        self.alpha.append(credit.alpha.tolist())
        return credit


class Trainer(trl.AEMGRPOTrainer):
    recorder: Recorder

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        self.recorder.advantages.append(output["advantages"].tolist())
        self.recorder.mismatch.append(self.mismatch(output))
        self.all_train = all(module.training for module in self.model.modules())
        return output

    def mismatch(self, output: Any) -> float:
        """The largest difference of the sampler's log-probabilities to the trainer's own."""
        ids, mask = (
            torch.cat([output[f"prompt_{kind}"], output[f"completion_{kind}"]], dim=1)
            for kind in ("ids", "mask")
        )
        width = output["completion_ids"].shape[1]
        with torch.no_grad():
            scores = self._get_per_token_logps_and_entropies(self.model, ids, mask, width)
        found = (scores[0] - output["sampling_per_token_logps"]) * output["tool_mask"]
        return float((found * output["completion_mask"]).abs().max())


def moved(model: Any, seed: int = 7) -> None:
    """An adapter that changes what the model does."""
    for name, weight in model.named_parameters():
        if "lora_" in name:
            draws = generator("lora", seed, name.split("base_model.model.")[-1])
            weight.data = 0.05 * torch.from_numpy(draws.standard_normal(weight.shape)).float()


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    recorder, processes = Recorder(), int(os.environ.get("WORLD_SIZE", 1))
    rows, out = job["groups"] * job["size"], Path(job["out"])
    config = GRPOConfig(
        output_dir=str(out / "trl"),
        per_device_train_batch_size=rows // processes,
        num_generations=job["size"],
        max_completion_length=512,
        learning_rate=job.get("lr", 1e-3),
        lr_scheduler_type="constant",
        max_steps=job.get("steps", 1),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=job.get("checkpointing", False),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        **job.get("config", {}),
    )
    rollouts: Any = trl.rollout_func(
        job["env"],
        model=job["model"],
        on_episodes=lambda found: recorder.episodes.append([e.to_json().decode() for e in found]),
        **job["settings"],
    )

    def inexact(prompts: Any, trainer: Any) -> Any:
        return {k: v for k, v in rollouts(prompts, trainer).items() if k != ENTROPIES}

    with rollouts:
        Trainer.recorder = recorder
        trainer = Trainer(
            model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
            reward_funcs=trl.episode_return,
            args=config,
            train_dataset=trl.task_seeds(range(100)),
            processing_class=AutoTokenizer.from_pretrained(job["model"]),
            peft_config=LoraConfig(
                r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            rollout_func=inexact if job.get("inexact") else rollouts,
            aem_options=job.get("aem", {}),
            processes=job.get("processes"),
        )
        moved(trainer.model)
        trainer.train()
    found = {
        "episodes": recorder.episodes,
        "alpha": recorder.alpha,
        "advantages": recorder.advantages,
        "mismatch": recorder.mismatch,
        "history": trainer.state.log_history,
        "trains": trainer.all_train,
    }
    (out / f"{trainer.accelerator.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
