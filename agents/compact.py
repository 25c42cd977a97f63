"""The forward pass of small Llama-type models in few operations, adapters merged on the way.

On a small model the library's forward pass spends most of its time between operations, and three
matrix products per adapted layer where one would do. Here W + BA is formed once per pass, query,
key and value are one product, and so are gate and up; the gradients of A and B come from that of
the merged weight. What it gives is compared with the library when it is made, so that a model
whose layers only look alike keeps the library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, scaled_dot_product_attention

from aem_gym.agents.families import decoder_of, mask_rule

COMPACT_BELOW = 20_000_000
"""Parameters up to which forming W + BA, and its whole gradient, costs less than it saves."""
_ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_TOLERANCE = 1e-4


_Linear = tuple[Tensor, Tensor | None]
"""Weight and bias."""


class _Packed(NamedTuple):
    """Weights of a layer, the norms' folded into what follows them."""

    qkv: _Linear
    out: _Linear
    gate_up: _Linear
    down: _Linear


class CompactDecoder:
    """A decoder's own weights, run in fewer steps.

    Args:
        decoder: a Llama-type decoder of transformers.
    """

    def __init__(self, decoder: Any) -> None:
        self.decoder, config = decoder, decoder.config
        attention = decoder.layers[0].self_attn
        self.dim, self.scaling = int(attention.head_dim), float(attention.scaling)
        self.heads, self.kv = config.num_attention_heads, config.num_key_value_heads
        self.parts = [self.heads, self.kv, self.kv]
        self.eps, self.act = config.rms_norm_eps, decoder.layers[0].mlp.act_fn
        self._packed: list[_Packed] | None = None

    def forget(self) -> None:
        """The weights have changed."""
        self._packed = None

    def hidden_at(self, ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Hidden states (M, D) at chosen places of ids (B, L), differentiable."""
        x = self.decoder.embed_tokens(ids)
        turn = self._rotation(x, torch.arange(ids.shape[1], device=ids.device)[None])
        how = {"is_causal": True, "scale": self.scaling, "enable_gqa": self.kv != self.heads}
        final = len(self.decoder.layers) - 1
        for number, layer in enumerate(self._pack()):
            q, k, v = self._project(x, layer, turn)
            seen = scaled_dot_product_attention(q, k, v, **how).transpose(1, 2).flatten(2)
            if number == final:  # what follows is for each token by itself
                seen, x = seen[rows, columns], x[rows, columns]
            x = self._finish(x, seen, layer)
        return torch.mul(_normalize(x, self.eps), self.decoder.norm.weight)

    def append(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Read (R, W) tokens behind the cached ones: the last column's hidden state (R, D)."""
        x = self.decoder.embed_tokens(tokens)
        turn = self._rotation(x, positions)
        self._packed = self._pack() if self._packed is None else self._packed
        for number, layer in enumerate(self._packed):
            q, k, v = self._project(x, layer, turn)
            k, v = cache.layers[number].update(k, v)
            if number == len(self._packed) - 1:
                q, x, mask = q[:, :, -1:], x[:, -1:], mask[:, :, -1:]
            x = self._finish(x, self._attend(q, k, v, mask), layer)
        return torch.mul(_normalize(x[:, -1], self.eps), self.decoder.norm.weight)

    def _rotation(self, x: Tensor, positions: Tensor) -> Tensor:
        """By what each pair of a query, key or value is multiplied: (R, W, heads, d / 2)."""
        parts, half = self.decoder.rotary_emb(x, positions), self.dim // 2
        cos, sin = (part[..., None, :half] for part in parts)
        turn = torch.complex(cos, sin).expand(-1, -1, self.heads + self.kv, -1)
        still = torch.ones_like(turn[:, :, : self.kv])
        return torch.cat([turn, still], dim=2)

    def _project(self, x: Tensor, layer: _Packed, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (R, heads, W, d)."""
        pairs = linear(_normalize(x, self.eps), *layer.qkv).view(*x.shape[:2], *turn.shape[2:], 2)
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turn).flatten(-2)
        q, k, v = torch.split(turned.transpose(1, 2), self.parts, dim=1)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """(R, W, D) by plain products: with a mask and few queries the fastest on a CPU."""
        r, _, w, d = q.shape
        scores = q.reshape(r, self.kv, -1, d) @ k.transpose(2, 3)
        scores = scores.view(r, self.kv, -1, w, k.shape[2]).mul_(self.scaling)
        seen = torch.softmax(scores.add_(mask[:, :, None]), -1).flatten(2, 3) @ v
        return seen.view(r, self.heads, w, d).transpose(1, 2).flatten(2)

    def _finish(self, x: Tensor, seen: Tensor, layer: _Packed) -> Tensor:
        x = x + linear(seen, *layer.out)
        gate, up = linear(_normalize(x, self.eps), *layer.gate_up).chunk(2, -1)
        return x + linear(self.act(gate) * up, *layer.down)

    def _pack(self) -> list[_Packed]:
        return [self._pack_layer(layer) for layer in self.decoder.layers]

    def _pack_layer(self, layer: Any) -> _Packed:
        a, m = layer.self_attn, layer.mlp
        # Pairs that turn together lie side by side, which leaves their product as it is.
        q, k = (_interleaved(_merged(p), self.dim) for p in (a.q_proj, a.k_proj))
        first, second = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        qkv = _stacked([q, k, _merged(a.v_proj)], first)
        gate_up = _stacked([_merged(m.gate_proj), _merged(m.up_proj)], second)
        return _Packed(qkv, _merged(a.o_proj), gate_up, _merged(m.down_proj))


@torch.no_grad()
def merge_into(merged: Any, adapted: nn.Module) -> None:
    """Set each adapted weight of a copy to base + scale * B A, from scratch: nothing drifts."""
    from peft.tuners.lora import LoraLayer

    for name, module in adapted.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            weight: Tensor = merged.get_submodule(name).weight
            weight.copy_(layer.base_layer.weight)
            weight += layer.get_delta_weight("default")


def _merged(module: Any) -> _Linear:
    """Weight and bias of a linear layer, with its adapter."""
    if not hasattr(module, "lora_A"):
        return module.weight, module.bias
    name = module.active_adapters[0]
    base, down, up = module.base_layer, module.lora_A[name].weight, module.lora_B[name].weight
    return torch.addmm(base.weight, up, down, alpha=module.scaling[name]), base.bias


def _interleaved(layer: _Linear, dim: int) -> _Linear:
    """Rows of each head in the order 0, d/2, 1, d/2 + 1, ..."""
    weight, bias = layer
    weight = weight.view(-1, 2, dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
    bias = None if bias is None else bias.view(-1, 2, dim // 2).transpose(1, 2).reshape(-1)
    return weight, bias


def _stacked(layers: Sequence[_Linear], norm: Tensor) -> _Linear:
    """Several layers on one normalized input as one, `norm` multiplied into it."""
    biases = [bias for _, bias in layers if bias is not None]
    return torch.cat([weight for weight, _ in layers]) * norm, torch.cat(biases) if biases else None


# Is it right? -----------------------------------------------------------------------------------


@torch.no_grad()
def compact_decoder(model: Any) -> CompactDecoder | None:
    """The compact pass of a model on a CPU; None where the library's is the right one.

    Tried on a few tokens against the library's pass.
    """
    decoder, first, rule = decoder_of(model), next(model.parameters()), mask_rule(model)
    small = sum(p.numel() for p in model.parameters()) < COMPACT_BELOW
    usual = first.device.type == "cpu" and first.dtype == torch.float32
    # A window, or dropout, would not show on a few tokens.
    windows = rule is None or any(width is not None for width in rule.reach.values())
    if not (small and usual) or windows or not _plain_adapters(decoder):
        return None
    ids = torch.arange(18).view(2, 9) * 7 % model.config.get_text_config().vocab_size
    rows, columns = torch.arange(2).repeat_interleave(9), torch.arange(9).repeat(2)
    try:
        compact = CompactDecoder(decoder)
        wanted = decoder(input_ids=ids, use_cache=False).last_hidden_state[rows, columns]
        apart = (compact.hidden_at(ids, rows, columns) - wanted).abs().max()
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return None  # a decoder of another make
    return compact if float(apart) <= _TOLERANCE * max(1.0, float(wanted.abs().max())) else None


def _plain_adapters(decoder: Any) -> bool:
    """Whether all adapters are W + scale * BA on layers that `CompactDecoder` merges."""
    from peft.tuners.lora import Linear, LoraLayer

    for name, module in decoder.named_modules():
        if getattr(module, "gradient_checkpointing", False):
            return False
        if isinstance(module, LoraLayer):
            layer: Any = module
            dropout = any(getattr(drop, "p", 0.0) for drop in layer.lora_dropout.values())
            odd = dropout or layer.lora_variant or any(layer.lora_bias.values())
            if type(layer) is not Linear or odd or name.rpartition(".")[2] not in _ADAPTED:
                return False
    return True


# One operation -----------------------------------------------------------------------------------


class _Normalize(torch.autograd.Function):
    """x / rms(x): its backward pass needs two of the library's eight operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        scale = _scale(x, eps)
        normal = x * scale
        ctx.save_for_backward(normal, scale)
        return normal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        normal, scale = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, normal).div_(-normal.shape[-1])
        result: Tensor = torch.addcmul(grad, normal, along[..., None]).mul_(scale)
        return result, None


def _scale(x: Tensor, eps: float) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _normalize(x: Tensor, eps: float) -> Tensor:
    if not x.requires_grad:
        return x * _scale(x, eps)
    normal: Tensor = _Normalize.apply(x, eps)  # type: ignore[no-untyped-call]
    return normal
