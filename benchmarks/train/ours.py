"""One RL step of this package on the toy work, as often as the driver asks.

    python ours.py MODEL_FOLDER RUN_FOLDER [KEY=VALUE ...]

Runs with the tree to time first on its path; `signals.py` and `toy.py` lie beside this file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import signals
import toy

told = signals.Told()

# All that a run imports on its way, so that memory counts without it.
import peft.tuners.lora  # noqa: E402, F401
import torch  # noqa: E402
import torch._dynamo  # noqa: E402, F401
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402, F401

from aem_gym.agents import build  # noqa: E402, F401
from aem_gym.agents.learner import HFLearner  # noqa: E402
from aem_gym.agents.sampler import HFPolicy  # noqa: E402, F401
from aem_gym.config import Config  # noqa: E402
from aem_gym.runs import CheckpointStore  # noqa: E402
from aem_gym.settings import settle  # noqa: E402
from aem_gym.text_env import TextEnv  # noqa: E402
from aem_gym.training.loop import Trainer  # noqa: E402
from aem_gym.training.setup import open_components, prepare_torch  # noqa: E402
from aem_gym.types import PromptTemplate, StepResult, Task  # noqa: E402


class ToyEnv(TextEnv):
    """Words that mean nothing, and a reward for even numbers in the answer."""

    prompt_templates = {
        "compact": PromptTemplate(
            name="compact", first="{observation}", later="{observation}", response_format="plain"
        )
    }
    max_turns = toy.TURNS

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        self.task, self.turn = int(self.np_random.integers(2**31)), 0
        return Task(str(self.task)), StepResult(toy.observation(self.task, 0))

    def act(self, action: str) -> StepResult:
        self.turn += 1
        return StepResult(toy.observation(self.task, self.turn), toy.reward(action))


class Endless(HFLearner):
    """Responses end at their limit: the same work for every sample."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.end_ids = [2**31 - 1]


def settings(model: str, run: str) -> dict[str, Any]:
    return {
        "env": f"{__name__}:ToyEnv",
        "model": model,
        "learner": f"{__name__}:Endless",
        "out": run,
        "response_format": "plain",
        "warmstart": "none",
        "steps": 10_000,
        "groups": toy.GROUPS,
        "group_size": toy.GROUP_SIZE,
        "max_turns": toy.TURNS,
        "max_new_tokens": toy.NEW_TOKENS,
        "mini_batch": "1/1",
        "lr": toy.LR,
        "lr_schedule": "constant",
        "lora_rank": toy.LORA_RANK,
        "lora_alpha": toy.LORA_ALPHA,
        "eval_every": 0,
        "threads": 1,
        "device": "cpu",
        "dtype": "float32",
        "loggers": [],
    }


def main() -> None:
    told.imported()
    model, run = sys.argv[1:3]
    given: Config = settle(settings(model, run), overrides=sys.argv[3:]).config
    prepare_torch(given)
    Path(run).mkdir(parents=True, exist_ok=True)
    with open_components(given, Path(run)) as parts:
        trainer = Trainer(given, Path(run), parts, CheckpointStore(Path(run), 1))
        with trainer.recorder:

            def step() -> dict[str, Any]:
                figures = trainer.train_step()
                trainer.progress.step += 1
                trainer.recorder.metrics(trainer.progress.step, figures)
                kept = ("seconds/rollout", "seconds/update", "tokens", "return_mean")
                return {name: figures[name] for name in kept if name in figures}

            told.loop(step)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
