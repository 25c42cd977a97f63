"""A model that another library trains, as far as our samplers need it: nothing here learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aem_gym.agents.build import agent_of
from aem_gym.agents.families import logit_map
from aem_gym.agents.learner import end_tokens
from aem_gym.errors import ConfigError

if TYPE_CHECKING:
    from aem_gym.config import Config
    from aem_gym.protocols import TrainableAgent
    from aem_gym.types import PromptTemplate


class BorrowedModel:
    """The attributes of `HFLearner` that the sampler hf and the language agent read.

    Args:
        model: a causal language model of transformers, or PEFT's wrapper of one.
        tokenizer: the model's, with a chat template.

    Raises:
        ConfigError: the adapter has another name than PEFT's default.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        names = list(model.peft_config) if hasattr(model, "get_base_model") else []
        if names and "default" not in names:
            raise ConfigError(
                f"expected an adapter called 'default', got {', '.join(names)}: give its settings "
                "as peft_config, or load it with PeftModel.from_pretrained(..., is_trainable=True)"
            )
        self.model: Any = model.get_base_model() if names else model
        self.tokenizer = tokenizer
        self.logit_map = logit_map(self.model.config.get_text_config())
        self.vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        self.end_ids = end_tokens(self.model, tokenizer)
        pad = tokenizer.pad_token_id
        self.pad_id = int(tokenizer.eos_token_id if pad is None else pad)


def borrow_agent(
    config: Config, template: PromptTemplate, model: Any, tokenizer: Any
) -> TrainableAgent:
    """An agent that samples from `model` as it is now; `policy.publish` follows its weights.

    Its `learner` is the `BorrowedModel`, which cannot score. Raises as `agent_of` does.
    """
    borrowed: Any = BorrowedModel(model, tokenizer)
    with _own_forward(borrowed.model):
        return agent_of(config, template, borrowed)


@contextmanager
def _own_forward(model: Any) -> Iterator[None]:
    """The model with the forward pass of its class.

    A trainer's, set on the instance, would go along into a copy and there still run the original.
    """
    patched = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if patched is not None:
            model.forward = patched
