"""The trainable language agent: sampler and learner around one model.

With an adapter (the usual case) the base weights are frozen and only LoRA trains; without one
(cloning a fresh `tiny`) all weights do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aem_gym.agents.contexts import PromptBuilder
from aem_gym.agents.generation.hf import HFGenerator
from aem_gym.agents.llm import LanguageAgent
from aem_gym.agents.lora import freeze_reference, load_adapter, save_adapter
from aem_gym.agents.sampler import MergedCopy
from aem_gym.agents.scoring import Scorer
from aem_gym.errors import CheckpointError
from aem_gym.protocols import ResponseFormat, Scores
from aem_gym.types import TrainingRow

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

VALUE_HEAD = "value_head.safetensors"


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How the agent reads and writes."""

    context: str
    response_format: ResponseFormat
    max_length: int
    max_new_tokens: int
    temperature: float
    value_head: bool = False


class TrainableLanguageAgent(LanguageAgent):
    """A `TrainableAgent` (aem_gym.protocols) on a transformers model.

    Args:
        model: the causal language model, adapters injected if there are any.
        peft_model: its PEFT wrapper; None trains all weights of `model`.
        merged: where sampling happens, if not in `model` itself.
        base_name: what saved adapters call their base model; None: the name it was loaded by.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        settings: GenerationSettings,
        *,
        peft_model: PeftModel | None = None,
        merged: MergedCopy | None = None,
        base_name: str | None = None,
    ) -> None:
        self.model, self.peft_model, self.tokenizer = model, peft_model, tokenizer
        self.merged, self.base_name = merged, base_name
        config: Any = model.config
        head = None
        if settings.value_head:
            head = nn.Linear(config.hidden_size, 1).to(next(model.parameters()).device)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        pad = tokenizer.pad_token_id
        self.scorer = Scorer(model, int(tokenizer.eos_token_id if pad is None else pad), head)
        self.exact_sampling = next(model.parameters()).dtype == torch.float32
        self.generator = HFGenerator(
            model if merged is None else merged.model,
            end_ids=end_tokens(model, tokenizer),
            pad_id=self.scorer.pad_id,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
        )
        super().__init__(
            self.generator,
            PromptBuilder(tokenizer, settings.context),
            settings.response_format,
            lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
            max_length=settings.max_length,
            max_new_tokens=settings.max_new_tokens,
        )
        self._stale = merged is not None

    def act(self, situations: Any) -> Any:
        """One response per situation, sampled from the present weights."""
        self._refresh()
        self.model.eval()
        return super().act(situations)

    def score(
        self, sequences: Sequence[TrainingRow], *, temperature: float, reference: bool = False
    ) -> Scores:
        """Scores of all spans; `reference` reads them with the frozen adapter."""
        self.model.train(torch.is_grad_enabled())
        if not reference:
            return self.scorer.score(sequences, temperature=temperature)
        if self.peft_model is None:
            raise CheckpointError("a reference policy needs an adapter; this agent has none")
        with torch.no_grad():
            self._use_adapter("reference")
            try:
                return self.scorer.score(sequences, temperature=temperature)
            finally:
                self._use_adapter("default")

    def logprobs_at(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Differentiable log-probabilities of chosen tokens (cloning)."""
        self.model.train()
        device = self.scorer.device
        return self.scorer.logprobs_at(ids.to(device), positions.to(device))

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The weights that train: the adapter's (or all), and the value head's."""
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if self.scorer.value_head is not None:
            named |= {f"value_head.{n}": p for n, p in self.scorer.value_head.named_parameters()}
        return named

    def weights_changed(self) -> None:
        """The sampler must take over the weights, and forget what it read with the old ones."""
        self._stale = self.merged is not None
        self.generator.clear()

    def sampling(self, temperature: float) -> None:
        """Sample at this temperature from now on.

        Forgets what was read before: a cache left over from other episodes changes rounding, and
        a resumed run has none.
        """
        self.generator.temperature = temperature
        self.generator.clear()

    def freeze_reference(self) -> None:
        """Keep a frozen copy of the adapter as it is now."""
        if self.peft_model is not None:
            freeze_reference(self.peft_model)

    def save(self, folder: Path) -> None:
        """The adapter in PEFT format (or the whole model), and the value head."""
        from safetensors.torch import save_file

        if self.peft_model is not None:
            save_adapter(self.peft_model, folder, base=self.base_name)
        else:
            self.model.save_pretrained(folder)  # type: ignore[operator]
            self.tokenizer.save_pretrained(folder)
        if self.scorer.value_head is not None:
            save_file(self.scorer.value_head.state_dict(), folder / VALUE_HEAD)

    def load(self, folder: Path) -> None:
        """Read back an adapter (and value head) that `save` wrote."""
        from safetensors.torch import load_file

        if self.peft_model is None:
            raise CheckpointError(f"{folder}: this agent has no adapter to load into")
        load_adapter(self.peft_model, folder)
        if self.scorer.value_head is not None and (folder / VALUE_HEAD).exists():
            self.scorer.value_head.load_state_dict(load_file(folder / VALUE_HEAD))
        self.weights_changed()

    def _refresh(self) -> None:
        if self._stale and self.merged is not None and self.peft_model is not None:
            self.merged.refresh(self.model)
        self._stale = False

    def _use_adapter(self, name: str) -> None:
        from peft.tuners.lora import LoraLayer

        # Switch the layers themselves: PeftModel.set_adapter would also unfreeze the reference.
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module._active_adapter = name


def end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a response: the tokenizer's, and those of the generation config."""
    generation: Any = getattr(model, "generation_config", None)
    more = getattr(generation, "eos_token_id", None)
    ids = {int(tokenizer.eos_token_id)}
    ids |= set(more) if isinstance(more, list) else {more} if isinstance(more, int) else set()
    return sorted(ids)
