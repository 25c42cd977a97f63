"""The learner's view of a model: log-probabilities, entropies and values of given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aem_gym.logprobs import linear_logprob_and_entropy
from aem_gym.errors import ModelError
from aem_gym.protocols import Scores
from aem_gym.types import TrainingRow

_CHUNK = 4096
_SPECIAL_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class Scorer:
    """Reads tokens through a causal language model.

    Args:
        model: the transformers model itself (adapters injected, no PEFT wrapper).
        pad_id: fills rows on the right; causal attention never lets it be seen.
        value_head: a linear map from hidden state to value, for PPO.
    """

    def __init__(self, model: nn.Module, pad_id: int, value_head: nn.Linear | None = None) -> None:
        config: Any = model.config
        odd = [name for name in _SPECIAL_HEADS if getattr(config, name, None) not in (None, 1, 1.0)]
        if odd:
            raise ModelError(
                f"the model rescales its logits ({', '.join(odd)}), which the learner does not "
                "support; use a model of the Llama, Qwen, Mistral or SmolLM families"
            )
        self.model, self.pad_id, self.value_head = model, pad_id, value_head
        self.decoder: Any = model.get_decoder()  # type: ignore[operator]
        self.head: Any = model.get_output_embeddings()  # type: ignore[operator]
        self.device = next(model.parameters()).device

    def score(self, sequences: Sequence[TrainingRow], *, temperature: float) -> Scores:
        """Scores of all spans of `sequences`, in their order. See `aem_gym.protocols.Scores`."""
        ids = self.pad(sequences)
        hidden = self._hidden(ids)
        spans = [(row, span) for row, seq in enumerate(sequences) for span in seq.spans]
        longest = max(span.end - span.start for _, span in spans)
        rows = torch.tensor([row for row, _ in spans], device=self.device)
        starts = torch.tensor([span.start for _, span in spans], device=self.device)
        lengths = torch.tensor([span.end - span.start for _, span in spans], device=self.device)
        offsets = torch.arange(longest, device=self.device)
        mask = offsets[None, :] < lengths[:, None]  # (N, T)
        columns = (starts[:, None] + offsets).clamp_(max=ids.shape[1] - 1)
        row_of = rows[:, None].expand_as(columns)
        chosen_rows, chosen = row_of[mask], columns[mask]
        logp, entropy = self._read(
            hidden[chosen_rows, chosen - 1], ids[chosen_rows, chosen], temperature
        )
        # masked_scatter keeps the gradient and the order of `mask`.
        logprobs = torch.zeros(mask.shape, dtype=logp.dtype, device=self.device)
        entropies = torch.zeros(mask.shape, dtype=entropy.dtype, device=self.device)
        values = None
        if self.value_head is not None:
            values = self.value_head(hidden[rows, starts - 1].float())[:, 0]
        return Scores(
            logprobs.masked_scatter(mask, logp),
            entropies.masked_scatter(mask, entropy),
            mask,
            values,
        )

    def logprobs_at(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Log-probabilities (M,) of the tokens of (B, L) `ids` at the True `positions`."""
        hidden = self._hidden(ids)
        logp, _ = self._read(hidden[:, :-1][positions[:, 1:]], ids[positions], 1.0)
        return logp

    def pad(self, sequences: Sequence[TrainingRow]) -> Tensor:
        """The ids of `sequences` as (B, L), padded on the right."""
        longest = max(len(seq.ids) for seq in sequences)
        rows = [[*seq.ids, *([self.pad_id] * (longest - len(seq.ids)))] for seq in sequences]
        return torch.tensor(rows, device=self.device)

    def _hidden(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    def _read(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        bias = getattr(self.head, "bias", None)
        return linear_logprob_and_entropy(
            hidden, self.head.weight, bias, targets, temperature or 1.0, _CHUNK
        )
