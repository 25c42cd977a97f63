"""Steps of TRL's asynchronous trainer on recorded groups: `python trl_async_job.py JOB.json`.

Everything is TRL's own but what needs a Hopper GPU: the attention kernel, for which the same
product in plain torch stands in, and the GPU's name. The rollouts are those of the file, through
TRL's own interface for them.
"""

import json
import os
import queue
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}

import numpy as np  # noqa: E402
import torch  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from trl.experimental.async_grpo import AsyncGRPOConfig, async_grpo_trainer, packing  # noqa: E402
from trl.experimental.async_grpo.async_rollout_worker import RolloutSample  # noqa: E402

from aem_gym.integrations import trl, trl_async  # noqa: E402


def varlen(
    q: Any, k: Any, v: Any, q_ends: Any, k_ends: Any, *_: Any, softmax_scale: float, **__: Any
) -> Any:
    """Causal attention of each segment of queries (N, heads, d) to the end of its own path."""
    parts = []
    for i in range(len(q_ends) - 1):
        rows, seen = slice(q_ends[i], q_ends[i + 1]), slice(k_ends[i], k_ends[i + 1])
        one, keys, values = (x.transpose(0, 1) for x in (q[rows], k[seen], v[seen]))
        late = torch.ones(one.shape[1], keys.shape[1], dtype=torch.bool)
        mask = late.tril(keys.shape[1] - one.shape[1])
        found = torch.nn.functional.scaled_dot_product_attention(
            one, keys, values, attn_mask=mask, scale=softmax_scale, enable_gqa=True
        )
        parts.append(found.transpose(0, 1))
    return torch.cat(parts)


class Worker:
    """A rollout worker whose groups are known beforehand."""

    def __init__(self, groups: Any) -> None:
        self.rollout_buffer: Any = queue.Queue()
        self.metrics_queue: Any = queue.Queue()
        # Again and again: the trainer reads ahead, and waits for what does not come.
        for number, group in enumerate(groups * 10):
            for sample in group:
                self.rollout_buffer.put(
                    RolloutSample(
                        prompt=[],
                        completion=[],
                        input_ids=np.array(sample["ids"]),
                        completion_mask=np.array(sample["mask"]),
                        old_log_probs=np.array(sample["logprobs"], dtype=np.float32),
                        advantage=sample["advantage"],
                        model_version=1,
                        group_id=number,
                        metrics={"reward": 0.0},
                    )
                )

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def update_model_version(self, model_version: int) -> None: ...
    def check_health(self, stale_after_s: float) -> None: ...


class NoTransfer(Worker):
    """The rollouts know their weights: nothing is sent."""

    def __init__(self) -> None:
        super().__init__([])

    def init_weight_transfer(self) -> None: ...
    def pause(self) -> None: ...
    def send_weights(self, iterator: Any) -> None:
        list(iterator)

    def resume(self) -> None: ...
    def destroy(self) -> None: ...


class Trainer(trl_async.AEMAsyncGRPOTrainer):
    seen: list[list[float]]

    def compute_loss(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        self.seen.append(inputs["advantages"][inputs["token_index"] >= 0].tolist())
        return super().compute_loss(model, inputs, *given, **named)


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    packing._flash_attn = lambda: SimpleNamespace(flash_attn_varlen_func=varlen)
    async_grpo_trainer.get_peak_flops_per_device = lambda *_: None  # asks for the GPU's name
    out, alpha, modulate = Path(job["out"]), [], trl_async.modulate

    def recorded(*given: Any) -> Any:
        credit = modulate(*given)
        alpha.append(credit.alpha.tolist())
        return credit

    trl_async.modulate = recorded
    Trainer.seen = []
    trainer = Trainer(
        model=job["model"],
        args=AsyncGRPOConfig(
            output_dir=str(out / "trl"),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=job["accumulate"],
            num_generations=job["size"],
            max_steps=job["steps"],
            token_budget=job["budget"],
            dtype="float32",
            learning_rate=1e-3,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
        ),
        train_dataset=trl.task_seeds(range(4)),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
        rollout_worker=Worker(job["groups"]),
        weight_transfer=NoTransfer(),
        aem_options=job.get("aem", {}),
    )
    trainer.train()
    found = {"alpha": alpha, "advantages": trainer.seen, "history": trainer.state.log_history}
    (out / "0.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
