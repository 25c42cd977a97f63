"""TRL's own advantages and losses on the tensors of a file: `trl_side.py CASE ANSWER`.

Runs in an environment with TRL, and imports nothing of this package. The trainers are TRL's, with a
random model of a few weights; only the reading of log-probabilities is replaced, by the case's.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import torch  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer  # noqa: E402
from trl.rewards import get_soft_overlong_punishment  # noqa: E402

WORDS = ["<pad>", "<eos>", *(f"w{i}" for i in range(14))]


def trainer(case: dict[str, Any], folder: str, kind: str = "grpo", **options: Any) -> Any:
    """One of TRL's trainers with a tiny random model, rewards as in the case."""
    table = models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<eos>")
    words = Tokenizer(table)
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(WORDS)}
    model = LlamaForCausalLM(LlamaConfig(**shape, **heads, eos_token_id=1, pad_token_id=0))
    common = {
        "output_dir": folder,
        "per_device_train_batch_size": len(case["rewards"]),
        "num_generations": case["group_size"],
        "max_completion_length": len(case["mask"][0]),
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    config, make = (GRPOConfig, GRPOTrainer) if kind == "grpo" else (RLOOConfig, RLOOTrainer)
    data = Dataset.from_list([{"prompt": "w1 w2"}] * len(case["rewards"]))
    return make(
        model=model,
        reward_funcs=lambda **_: case["rewards"],
        args=config(**common, **options),
        train_dataset=data,
        processing_class=tokenizer,
    )


def advantages(case: dict[str, Any], folder: str, kind: str = "grpo", **options: Any) -> Any:
    """The advantages that TRL gives the case's rewards; the completions are random."""
    made = trainer(case, folder, kind, **options)
    rows = [{"prompt": "w1 w2"} for _ in case["rewards"]]
    return made._generate_and_score_completions(rows)["advantages"].tolist()


def loss(case: dict[str, Any], folder: str, kl: float = 0.0, **options: Any) -> dict[str, Any]:
    """TRL's loss on the case's log-probabilities, and its gradient."""
    made = trainer(case, folder, **options)
    made.beta = kl  # given to the trainer, it would load a reference model
    made.current_gradient_accumulation_steps = 1
    now, old, reference, given = (
        torch.tensor(case[name], dtype=torch.float64)
        for name in ("logprobs", "old", "reference", "advantages")
    )
    now.requires_grad_()
    made._get_per_token_logps_and_entropies = lambda *_, **__: (now, now.detach().abs(), None)
    mask = torch.tensor(case["mask"]).long()
    inputs = {
        "prompt_ids": torch.full((len(mask), 2), 2),
        "prompt_mask": torch.ones(len(mask), 2, dtype=torch.long),
        "completion_ids": torch.full(mask.shape, 3),
        "completion_mask": mask,
        "advantages": given,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    made.model.train()
    value = made._compute_loss(made.model, inputs)
    (gradient,) = torch.autograd.grad(value, now)
    return {"value": value.tolist(), "gradient": gradient.tolist()}


def main(source: str, target: str) -> None:
    case = json.loads(Path(source).read_text())
    folder = str(Path(target).with_suffix(".run"))
    limit = len(case["mask"][0])
    punish = get_soft_overlong_punishment(max_completion_len=limit, soft_punish_cache=4)
    plain = {"beta": 0.0, "epsilon": 0.2}
    answers = {
        "trl": trl.__version__,
        "advantages_grpo": advantages(case, folder, scale_rewards="group"),
        "advantages_dr_grpo": advantages(case, folder, scale_rewards="none"),
        "advantages_rloo": advantages(case, folder, "rloo", beta=0.0),
        "loss_grpo": loss(case, folder, loss_type="grpo", **plain),
        "loss_grpo_kl": loss(
            case, folder, loss_type="grpo", kl=0.1, use_bias_correction_kl=False, **plain
        ),
        "loss_grpo_kl_weighted": loss(case, folder, loss_type="grpo", kl=0.1, **plain),
        "loss_dapo": loss(case, folder, loss_type="dapo", epsilon_high=0.28, **plain),
        "loss_dr_grpo": loss(case, folder, loss_type="dr_grpo", **plain),
        "loss_delta": loss(case, folder, loss_type="dapo", delta=1.5, **plain),
        "loss_gspo": loss(
            case,
            folder,
            loss_type="grpo",
            importance_sampling_level="sequence",
            beta=0.0,
            epsilon=0.1,
            epsilon_high=0.2,
        ),
        "overlong": punish(completion_ids=[[1] * sum(row) for row in case["mask"]]),
    }
    Path(target).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
