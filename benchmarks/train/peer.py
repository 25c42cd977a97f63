"""The same step by TRL: GRPOTrainer with a `rollout_func`, as often as the driver asks.

    TRL_PYTHON peer.py MODEL_FOLDER OUTPUT_FOLDER {plain | kv} BATCH_SIZE

plain: `generate` once a turn, on everything said so far. kv: a loop written by hand that keeps keys
and values across turns. BATCH_SIZE: rows in one forward pass of the update.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import signals
import toy

told = signals.Told()

# All that a run imports on its way, so that memory counts without it.
import peft.tuners.lora  # noqa: E402, F401
import torch  # noqa: E402
import torch._dynamo  # noqa: E402, F401
from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LlamaForCausalLM,  # noqa: F401
    PreTrainedTokenizerFast,  # noqa: F401
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

Texts = list[str]


class Rollouts:
    """All episodes of a step, played together; `respond` gives the next ten tokens of each row."""

    def __init__(self, way: str, tokenizer: Any) -> None:
        self.way, self.tokenizer = way, tokenizer
        self.end = int(tokenizer.eos_token_id)

    def __call__(self, prompts: Texts, trainer: Any) -> dict[str, Any]:
        """Prompts are first observations with the number of their task before them."""
        tasks = [int(prompt) for prompt in prompts]
        heads = [self.encode(toy.observation(task, 0)) for task in tasks]
        rows: list[list[int]] = [[] for _ in tasks]
        masks: list[list[int]] = [[] for _ in tasks]
        rewards = [0.0] * len(tasks)
        model = trainer.model
        model.eval()
        with torch.inference_mode():
            session = KV(model) if self.way == "kv" else Plain(model, trainer)
            news = heads
            for turn in range(toy.TURNS):
                made = session.respond(news)
                texts = self.tokenizer.batch_decode(made, skip_special_tokens=True)
                for i, (ids, text) in enumerate(zip(made, texts, strict=True)):
                    rows[i] += ids
                    masks[i] += [1] * len(ids)
                    rewards[i] += toy.reward(text)
                if turn + 1 < toy.TURNS:
                    shown = [self.encode(toy.observation(task, turn + 1)) for task in tasks]
                    news = [[self.end, *ids] for ids in shown]
                    for i, ids in enumerate(news):
                        rows[i] += ids
                        masks[i] += [0] * len(ids)
        model.train()
        nothing = [[0.0] * len(row) for row in rows]  # TRL reads them with vLLM only
        return {
            "prompt_ids": heads,
            "completion_ids": rows,
            "logprobs": nothing,
            "env_mask": masks,
            "env_reward": rewards,
        }

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


class Plain:
    """`generate` on the whole history each turn."""

    def __init__(self, model: Any, trainer: Any) -> None:
        self.model, self.rows = model, []
        self.config = trainer.generation_config
        self.config.update(
            max_new_tokens=toy.NEW_TOKENS, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
        )
        self.config.eos_token_id = None  # every response has ten tokens

    def respond(self, news: list[list[int]]) -> list[list[int]]:
        held = self.rows or [[] for _ in news]
        ids = torch.tensor([[*a, *b] for a, b in zip(held, news, strict=True)])
        made = self.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=self.config
        )
        self.rows = made.tolist()
        answers: list[list[int]] = made[:, ids.shape[1] :].tolist()
        return answers


class KV:
    """Keys and values stay: only what is new is read. All rows are equally long."""

    def __init__(self, model: Any) -> None:
        self.model, self.cache = model, DynamicCache()
        self.last: torch.Tensor | None = None

    def respond(self, news: list[list[int]]) -> list[list[int]]:
        tokens = torch.tensor(news)
        if self.last is not None:  # sampled last, and not read yet
            tokens = torch.cat([self.last, tokens], dim=1)
        made = []
        for _ in range(toy.NEW_TOKENS):
            logits = self.model(
                input_ids=tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1
            ).logits[:, -1]
            tokens = torch.multinomial(torch.softmax(logits.float(), -1), 1)
            made.append(tokens)
        self.last = tokens
        answers: list[list[int]] = torch.cat(made, dim=1).tolist()
        return answers


def env_reward(completions: Any, env_reward: list[float], **_: Any) -> list[float]:
    return env_reward


class Turns(TrainerCallback):
    """Waits for the driver before each step, and answers after it."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not told.wait():
            os._exit(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        told.done(**self.figures)


def main() -> None:
    told.imported()
    folder, out, way, size = sys.argv[1:5]
    torch.set_num_threads(1)
    rows, batch = toy.GROUPS * toy.GROUP_SIZE, int(size)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    draws = random.Random(0)
    tasks = Dataset.from_list([{"prompt": str(draws.randrange(2**31))} for _ in range(4096)])
    config = GRPOConfig(
        output_dir=out,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=rows // batch,
        num_generations=toy.GROUP_SIZE,
        max_completion_length=toy.ROW,
        learning_rate=toy.LR,
        lr_scheduler_type="constant",
        max_steps=10_000,
        beta=0.0,
        temperature=1.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
    )
    lora = LoraConfig(
        r=toy.LORA_RANK,
        lora_alpha=toy.LORA_ALPHA,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=env_reward,
        args=config,
        train_dataset=tasks,
        processing_class=tokenizer,
        peft_config=lora,
        rollout_func=Rollouts(way, tokenizer),
        callbacks=[Turns()],
    )
    trainer.train()


if __name__ == "__main__":
    main()
