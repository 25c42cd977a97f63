"""Sampling from a transformers model, with the KV cache kept across turns.

A language agent's prompt at turn t+1 is its prompt at turn t, its own response and the new
observation; only the part after the longest common prefix with what is cached is read again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aem_gym.agents.generation.kv_cache import RaggedCache
from aem_gym.protocols import Generation, GenerationRequest
from aem_gym.seeding import uniforms


class HFGenerator:
    """Samples continuations; a `Policy` in the sense of aem_gym.protocols.

    Args:
        model: a causal language model, in eval mode. Its weights may change between calls if
            `clear` is called after each change.
        end_ids: tokens that end a response.
        max_new_tokens: longest response, end token included.
        temperature: the logits are divided by it; 0 takes the most likely token (reported
            log-probabilities and entropies are then those at temperature 1).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        end_ids: Sequence[int],
        pad_id: int,
        max_new_tokens: int,
        temperature: float = 1.0,
    ) -> None:
        self.model, self.pad_id = model, pad_id
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.decoder = model.get_decoder()  # type: ignore[operator]
        self.head = model.get_output_embeddings()  # type: ignore[operator]
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.end_ids = torch.tensor(sorted(end_ids), device=self.device)
        self._cache: RaggedCache | None = None

    def clear(self) -> None:
        """Forget all conversations (the weights have changed, or all episodes are over)."""
        self._cache = None

    def release(self, slot: int) -> None:
        """Nothing to do: a slot that is not asked for again is dropped at the next call."""

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Sample one response per request. Row i's draws depend on `requests[i].key` alone."""
        if not requests:
            return []
        hidden = self._read_prompts(requests)
        keys = np.array([r.key for r in requests], dtype=np.uint64)
        rows = len(requests)
        alive = torch.ones(rows, dtype=torch.bool, device=self.device)
        tokens, logps, entropies, lives = [], [], [], []
        for step in range(self.max_new_tokens):
            token, logp, entropy = self._sample(self.head(hidden), keys, step)
            tokens.append(token)
            logps.append(logp)
            entropies.append(entropy)
            lives.append(alive)
            alive = alive & ~torch.isin(token, self.end_ids)
            if step + 1 == self.max_new_tokens or not bool(alive.any()):
                break
            hidden = self._forward(token[:, None], alive[:, None])
        return _collect(tokens, logps, entropies, lives, alive)

    def _read_prompts(self, requests: Sequence[GenerationRequest]) -> Tensor:
        """Bring every row's cache up to its prompt; the hidden state of each last token (R, D)."""
        cache = self._prepare(requests)
        news = [r.prompt_ids[len(cache.ids[i]) :] for i, r in enumerate(requests)]
        width = max(map(len, news))
        tokens = np.full((len(news), width), self.pad_id, dtype=np.int64)
        valid = np.zeros((len(news), width), dtype=bool)
        for row, new in enumerate(news):
            tokens[row, width - len(new) :] = new
            valid[row, width - len(new) :] = True
        return self._forward(
            torch.from_numpy(tokens).to(self.device), torch.from_numpy(valid).to(self.device)
        )

    def _prepare(self, requests: Sequence[GenerationRequest]) -> RaggedCache:
        """The cache, its rows cut back to what they share with the new prompts.

        A cache that would save less than a third of the reading is dropped: reading in one dense
        piece is then faster.
        """
        if self._cache is not None:
            cache = self._cache
            cache.arrange([r.slot for r in requests])
            shared = [
                _common_prefix(held, r.prompt_ids)
                for held, r in zip(cache.ids, requests, strict=True)
            ]
            if sum(shared) * 3 >= sum(len(r.prompt_ids) for r in requests):
                for row, length in enumerate(shared):
                    cache.cut(row, length)
                return cache
        layers = int(self.model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
        self._cache = RaggedCache(layers, self.device)
        self._cache.arrange([r.slot for r in requests])
        return self._cache

    def _forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Append (R, W) tokens, right-aligned; the hidden state of the last column (R, D)."""
        cache = self._cache
        assert cache is not None
        before = torch.tensor([len(ids) for ids in cache.ids], device=self.device)
        positions = (before[:, None] + valid.cumsum(1) - 1).clamp_(min=0)
        start, width = cache.used, tokens.shape[1]
        cache.extend(tokens, valid)
        # (R, 1, W, columns): a token sees its row's columns up to its own.
        seen = cache.visible[:, None, None, :].expand(-1, 1, width, -1)
        if width > 1:
            causal = torch.arange(start + width, device=self.device)[None, :] <= (
                start + torch.arange(width, device=self.device)[:, None]
            )
            seen = seen & causal
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(~seen, torch.finfo(self.dtype).min)
        output = self.decoder(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache.cache,
            use_cache=True,
        )
        last: Tensor = output.last_hidden_state[:, -1]
        return last

    def _sample(
        self, logits: Tensor, keys: np.ndarray[tuple[int], np.dtype[np.uint64]], step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one token per row from (R, V) logits; its log-probability and the entropy (R,)."""
        greedy = self.temperature == 0
        scaled = logits.float() / (1.0 if greedy else self.temperature)
        logp_all = torch.log_softmax(scaled, dim=-1)
        probabilities = logp_all.exp()
        entropy = torch.special.entr(probabilities).sum(-1)
        if greedy:
            token = logits.argmax(-1)
        else:
            # Inverse CDF in double: the draw of a row does not depend on the rows beside it.
            cdf = probabilities.double().cumsum(-1)
            draw = torch.from_numpy(uniforms(keys, step)).to(self.device)
            token = torch.searchsorted(cdf, (draw * cdf[:, -1])[:, None], right=True)[:, 0]
            token = token.clamp_(max=logits.shape[-1] - 1)
        return token, logp_all.gather(-1, token[:, None])[:, 0], entropy


def _common_prefix(held: list[int], prompt: tuple[int, ...]) -> int:
    """How many cached tokens the prompt starts with; at least its last token is left to read."""
    limit = min(len(held), len(prompt) - 1)
    if list(prompt[:limit]) == held[:limit]:
        return limit
    return next(i for i in range(limit) if held[i] != prompt[i])


def _collect(
    tokens: list[Tensor],
    logps: list[Tensor],
    entropies: list[Tensor],
    lives: list[Tensor],
    alive: Tensor,
) -> list[Generation]:
    lengths = torch.stack(lives).sum(0).tolist()
    columns = [torch.stack(x, dim=1).tolist() for x in (tokens, logps, entropies)]
    return [
        Generation(
            ids=tuple(columns[0][row][:length]),
            logprobs=tuple(columns[1][row][:length]),
            entropies=tuple(columns[2][row][:length]),
            cut=cut,
        )
        for row, (length, cut) in enumerate(zip(lengths, alive.tolist(), strict=True))
    ]
