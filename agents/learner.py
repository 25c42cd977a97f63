"""The learner on a transformers model: the weights that train, and their scores of given tokens.

With an adapter (the usual case) the base weights are frozen and only LoRA trains; without one
(cloning a fresh `tiny`) all weights do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aem_gym.agents.compact import compact_decoder
from aem_gym.agents.families import decoder_of, logit_map
from aem_gym.agents.lora import attach_lora, coverage, freeze_reference, load_adapter, save_adapter
from aem_gym.agents.models import load_model
from aem_gym.errors import CheckpointError, ConfigError
from aem_gym.logprobs import linear_logprob_and_entropy
from aem_gym.models import find_model
from aem_gym.protocols import LearnerSettings, Scores
from aem_gym.seeding import derive
from aem_gym.types import TrainingRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from aem_gym.config import Config

logger = logging.getLogger(__name__)

VALUE_HEAD = "value_head.safetensors"
CHUNK = 256
"""Rows of logits at a time: more takes more memory and no less time."""


class HFLearner:
    """A `Learner` on a transformers model.

    Attributes:
        model: the causal language model itself, adapters injected, no PEFT wrapper.
        peft_model: the wrapper; None where all weights train.
        tokenizer: the model's.
        vocabulary: how many token ids the model reads, from 0; some may be no token's.
        end_ids: tokens that end a response, sorted.
        pad_id: fills rows on the right; causal attention never lets it be seen.
        logit_map: what the model does to the output of its head.
        value_head: a linear map from hidden state to value (PPO), or None.

    Raises:
        ModelError: the model cannot be loaded, or its logits are not what `logit_map` says.
        ConfigError: `lora_targets` names a layer whose adapter would not train.
    """

    def __init__(self, settings: LearnerSettings) -> None:
        config = settings.config
        loaded = load_model(
            settings.base,
            device=config.device,
            dtype=config.dtype,
            max_length=config.max_length,
            **_load_options(config),
        )
        self.model: Any = loaded.model
        self.tokenizer: PreTrainedTokenizerBase = loaded.tokenizer
        self.peft_model, self.base_name = None, settings.base_name
        if settings.adapter:
            self.peft_model = attach_lora(
                self.model,
                rank=config.lora_rank,
                alpha=config.lora_alpha,
                dropout=config.lora_dropout,
                targets=config.lora_targets,
                seed=derive(config.seed, "lora") % 2**31,
            )
            self.model = self.peft_model.get_base_model()
            share, frozen = coverage(self.model)
            rest = f"; frozen: {', '.join(frozen)}" if frozen else ""
            logger.info("the adapter reaches %.0f%% of the weights%s", 100 * share, rest)
        self.device = next(self.model.parameters()).device
        self.logit_map = logit_map(self.model.config.get_text_config())
        _warn_of_positions(self.model, config.max_length)
        checkpointing = config.gradient_checkpointing
        if checkpointing == "on" or (checkpointing == "auto" and self.device.type == "cuda"):
            newer = hasattr(self.model, "activation_checkpointing_enable")
            name = "activation" if newer else "gradient"
            getattr(self.model, f"{name}_checkpointing_enable")({"use_reentrant": False})
        self.value_head = _value_head(self.model) if settings.value_head else None
        self.decoder, self.head = decoder_of(self.model), self.model.get_output_embeddings()
        self.compact = compact_decoder(self.model)
        # Layers that know whether they train; a walk through all modules takes 2% of a small step.
        self._switched = [m for m in self.model.modules() if _asks(m, config.lora_dropout)]
        self.model.eval()
        if compiled := config.model_options.get("compile"):
            self.decoder, self.compact = _compiled(self.decoder, compiled), None
        self.vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        self.end_ids = end_tokens(self.model, self.tokenizer)
        pad = self.tokenizer.pad_token_id
        self.pad_id = int(self.tokenizer.eos_token_id if pad is None else pad)

    def score(
        self, rows: Sequence[TrainingRow], *, temperature: float, reference: bool = False
    ) -> Scores:
        self._set_mode(torch.is_grad_enabled())
        score = self._score_reference if reference else self._score
        return score(rows, temperature)

    def _score_reference(self, rows: Sequence[TrainingRow], temperature: float) -> Scores:
        if self.peft_model is None:
            raise CheckpointError("a reference policy needs an adapter; this learner has none")
        with torch.no_grad():
            self._use_adapter("reference")
            try:
                return self._score(rows, temperature)
            finally:
                self._use_adapter("default")

    def logprobs_at(self, ids: Tensor, positions: Tensor) -> Tensor:
        self._set_mode(True)
        ids, positions = ids.to(self.device), positions.to(self.device)
        rows, columns = positions.nonzero().T
        logp, _ = self._read(self._hidden_at(ids, rows, columns - 1), ids[positions], 1.0)
        return logp

    def parameters(self) -> Mapping[str, nn.Parameter]:
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if self.value_head is not None:
            named |= {f"value_head.{n}": p for n, p in self.value_head.named_parameters()}
        return named

    def freeze_reference(self) -> None:
        """Keep a frozen copy of the adapter as it is now; without an adapter nothing happens."""
        if self.peft_model is not None:
            freeze_reference(self.peft_model)

    def shard_base(self) -> None:
        """Spread the frozen layers over the processes of the run; all of them call this."""
        from aem_gym.agents.sharding import shard_layers

        self.compact = None  # it reads weights without calling their layers
        shard_layers(self.model)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        if self.peft_model is not None:
            save_adapter(self.peft_model, folder, base=self.base_name)
        else:
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        if self.value_head is not None:
            save_file(self.value_head.state_dict(), folder / VALUE_HEAD)

    def load(self, folder: Path) -> None:
        """Read an adapter (and value head) that `save` wrote.

        Raises:
            CheckpointError: it is missing, damaged, or does not fit this learner.
        """
        if self.peft_model is None:
            raise CheckpointError(f"{folder}: this learner has no adapter to load into")
        load_adapter(self.peft_model, folder)
        if self.value_head is not None:
            _load_head(self.value_head, folder / VALUE_HEAD)

    def _set_mode(self, training: bool) -> None:
        """Only the adapter's dropout trains: some base models would route or drop at random."""
        if self.model.training or self._switched:
            self.model.eval()
        for module in self._switched if training else ():
            _switch_to_training(module)

    def _score(self, sequences: Sequence[TrainingRow], temperature: float) -> Scores:
        ids = self._pad(sequences)
        spans = [(row, s.start, s.end) for row, seq in enumerate(sequences) for s in seq.spans]
        offsets = torch.arange(max(end - start for _, start, end in spans), device=self.device)
        rows, starts, ends = torch.tensor(spans, device=self.device).T  # (N,) each
        columns = starts[:, None] + offsets
        mask = columns < ends[:, None]  # (N, T)
        chosen_rows, chosen = rows[:, None].expand_as(mask)[mask], columns[mask]
        targets = ids[chosen_rows, chosen]
        hidden = self._hidden_at(ids, chosen_rows, chosen - 1)
        logp, entropy = self._read(hidden, targets, temperature)
        values = None if self.value_head is None else self._values(hidden, mask)
        # masked_scatter keeps the gradient and the order of `mask`.
        empty = torch.zeros(mask.shape, dtype=logp.dtype, device=self.device)
        parts = (empty.masked_scatter(mask, logp), empty.masked_scatter(mask, entropy))
        return Scores(*parts, mask, values)

    def _values(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Values (N,) at the first token of each response, from the hidden states of all."""
        assert self.value_head is not None
        first = mask.sum(1).cumsum(0) - mask.sum(1)
        values: Tensor = self.value_head(hidden[first].float())[:, 0]
        return values

    def _pad(self, sequences: Sequence[TrainingRow]) -> Tensor:
        """Token ids (B, L), padded on the right."""
        longest = max(len(seq.ids) for seq in sequences)
        rows = [[*seq.ids, *([self.pad_id] * (longest - len(seq.ids)))] for seq in sequences]
        return torch.tensor(rows, device=self.device)

    def _hidden_at(self, ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Hidden states (M, D) at chosen places of ids (B, L)."""
        if self.compact is not None:
            return self.compact.hidden_at(ids, rows, columns)
        hidden: Tensor = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        return hidden[rows, columns]

    def _read(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (M,) of `targets` (M,) from hidden states (M, D)."""
        bias = getattr(self.head, "bias", None)
        return linear_logprob_and_entropy(
            hidden, self.head.weight, bias, targets, temperature or 1.0, CHUNK, self.logit_map
        )

    def _use_adapter(self, name: str) -> None:
        from peft.tuners.lora import LoraLayer

        # Switch the layers themselves: PeftModel.set_adapter would also unfreeze the reference.
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module._active_adapter = name


def _asks(module: nn.Module, dropout: float) -> bool:
    """Whether it matters to a layer that it trains."""
    checkpointing = bool(getattr(module, "gradient_checkpointing", False))
    return checkpointing or (dropout > 0 and hasattr(module, "lora_dropout"))


def _switch_to_training(module: Any) -> None:
    if getattr(module, "gradient_checkpointing", False):  # asks whether this layer trains
        module.training = True
    if hasattr(module, "lora_dropout"):
        module.lora_dropout.train()


def _load_options(config: Config) -> dict[str, Any]:
    """What of `model_options` goes to `load_model`: those of a scratch model are its sizes."""
    if find_model(config.model).from_scratch:
        return {}
    own = ("merge_for_sampling", "compile")
    return {k: v for k, v in config.model_options.items() if k not in own}


def _compiled(decoder: nn.Module, backend: bool | str) -> Any:
    """The decoder as torch.compile makes it on the first rows, for rows of any length."""
    from torch._dynamo.exc import InvalidBackend

    try:
        name = "inductor" if backend is True else backend
        return torch.compile(decoder, dynamic=True, backend=str(name))
    except InvalidBackend as error:
        raise ConfigError(f"model_options.compile: {str(error).splitlines()[0]}") from error


def _warn_of_positions(model: Any, max_length: int) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and max_length > positions:
        logger.warning(
            "max_length %d is more than the %d positions that the model was made for: give "
            "--max-length %d",
            *(max_length, positions, positions),
        )


def _value_head(model: Any) -> nn.Linear:
    head = nn.Linear(model.config.get_text_config().hidden_size, 1).to(
        next(model.parameters()).device
    )
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _load_head(head: nn.Linear, file: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        logger.warning("%s holds no value head: it starts at 0", file.parent)
        return
    try:
        head.load_state_dict(load_file(file))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{file} is damaged or of another model: {error}") from error


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a response: the tokenizer's, and those of the generation config."""
    more = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    end: Any = tokenizer.eos_token_id
    ids = {int(end)}
    ids |= set(more) if isinstance(more, list) else {more} if isinstance(more, int) else set()
    return sorted(ids)
