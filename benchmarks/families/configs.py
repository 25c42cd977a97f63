"""Small random models of many families, from transformers' own configurations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WINDOW = 16
"""Of every family with windowed attention; conversations are shorter and longer than it."""
LAYERS = 4
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_MIXED = ["sliding_attention", "full_attention"] * (LAYERS // 2)
_LINEAR = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
_GPT2 = {"n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": 1024}
_MLA = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 24,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
_GLM_ROUTING = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}


@dataclass(frozen=True)
class Family:
    """A small model: the name of its type in transformers and what differs from `_SIZES`."""

    name: str
    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    moe: bool = False
    only: bool = False
    """`settings` are all there is, for configurations with sizes by other names."""

    def config(self, vocabulary: int, **tokens: int | None) -> Any:
        """The configuration, with `vocabulary` tokens."""
        from transformers import AutoConfig

        sizes = {} if self.only else _SIZES
        return AutoConfig.for_model(
            self.model_type, vocab_size=vocabulary, **{**sizes, **self.settings}, **tokens
        )


def _windowed(name: str, model_type: str, moe: bool = False, **more: Any) -> Family:
    return Family(name, model_type, {"sliding_window": WINDOW, **more}, moe)


FAMILIES = (
    Family("Llama", "llama", {"tie_word_embeddings": True}),
    Family("Llama, biases", "llama", {"attention_bias": True, "mlp_bias": True}),
    Family("Qwen2", "qwen2"),
    _windowed("Qwen2, windows", "qwen2", use_sliding_window=True, max_window_layers=2),
    Family("Qwen3", "qwen3", {"head_dim": 16}),
    Family("Qwen3-MoE", "qwen3_moe", {"head_dim": 16, **_EXPERTS}, moe=True),
    _windowed("Mistral", "mistral"),
    _windowed("Mixtral", "mixtral", True, num_local_experts=4, num_experts_per_tok=2),
    _windowed("Phi-3", "phi3"),
    Family("Phi-4", "phi3", {"partial_rotary_factor": 0.75}),
    Family("Phi-2", "phi", {"partial_rotary_factor": 0.5}),
    Family("Phi-3.5-MoE", "phimoe", {"num_local_experts": 4, "lm_head_bias": True}, moe=True),
    Family("Gemma", "gemma", {"head_dim": 16}),
    _windowed("Gemma-2", "gemma2", head_dim=16, layer_types=_MIXED, final_logit_softcapping=5.0),
    _windowed("Gemma-3", "gemma3_text", head_dim=16, layer_types=_MIXED),
    _windowed("gpt-oss", "gpt_oss", True, head_dim=16, layer_types=_MIXED, num_local_experts=4),
    Family("OLMo", "olmo"),
    Family("OLMo-2", "olmo2"),
    _windowed("OLMo-3", "olmo3", layer_types=_MIXED),
    Family(
        "Granite",
        "granite",
        {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 6.0},
    ),
    Family("Granite-MoE", "granitemoe", {"logits_scaling": 4.0, "num_local_experts": 4}, moe=True),
    Family("Cohere", "cohere", {"logit_scale": 0.25}),
    _windowed("Cohere-2", "cohere2", head_dim=16, layer_types=_MIXED, logit_scale=0.25),
    Family("GPT-2", "gpt2", _GPT2 | {"initializer_range": 0.2}, only=True),
    Family("NeoX", "gpt_neox", {"rotary_pct": 0.5}),
    Family("Falcon", "falcon", {"alibi": False, "new_decoder_architecture": False}),
    Family("Falcon, alibi", "falcon", {"alibi": True, "new_decoder_architecture": False}),
    Family("BLOOM", "bloom", {"n_layer": LAYERS, "n_head": 4}),
    Family("OPT", "opt", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    Family("GLM-4", "glm4", {"head_dim": 16}),
    Family("SmolLM3", "smollm3", {"no_rope_layer_interval": 2}),
    _windowed("Starcoder2", "starcoder2"),
    Family("StableLM", "stablelm", {"use_qkv_bias": True}),
    Family("DeepSeek-V3", "deepseek_v3", _MLA, moe=True),
    Family(
        "Qwen3-Next",
        "qwen3_next",
        {
            **{"head_dim": 16, "layer_types": _LINEAR, "shared_expert_intermediate_size": 48},
            **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
            **{"linear_key_head_dim": 16, "linear_value_head_dim": 16},
            **_EXPERTS,
        },
        moe=True,
    ),
    Family("LFM2", "lfm2", {"layer_types": ["conv", "conv", "full_attention", "conv"]}),
    Family("Falcon-H1", "falcon_h1", {**_MAMBA, "mamba_d_ssm": 128, "lm_head_multiplier": 0.5}),
    Family(
        "Granite-4",
        "granitemoehybrid",
        {
            **_MAMBA,
            "layer_types": _LINEAR,
            "logits_scaling": 4.0,
            "num_local_experts": 0,
            "shared_intermediate_size": 96,
        },
    ),
    Family(
        "Jamba",
        "jamba",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "num_experts": 4,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
        },
        moe=True,
    ),
    Family("Mamba", "mamba", {"state_size": 8}),
    Family(
        "Mamba-2",
        "mamba2",
        {"state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    ),
    Family("Ministral", "ministral", {"sliding_window": WINDOW, "head_dim": 16}),
    Family("ERNIE-4.5", "ernie4_5", {"head_dim": 16}),
    Family("HunYuan", "hunyuan_v1_dense", {"head_dim": 16}),
    Family("EXAONE-4", "exaone4", {"sliding_window": WINDOW, "sliding_window_pattern": 2}),
    Family("Seed-OSS", "seed_oss", {"head_dim": 16}),
    Family("Arcee", "arcee", {}),
    Family("Nemotron", "nemotron", {}),
    Family(
        "Llama-4",
        "llama4_text",
        {
            **{"head_dim": 16, "attention_chunk_size": WINDOW, "no_rope_layers": [1, 1, 1, 0]},
            **{"num_local_experts": 2, "intermediate_size_mlp": 96},
        },
        moe=True,
    ),
    Family(
        "Gemma-3n",
        "gemma3n_text",
        {
            **{"head_dim": 16, "sliding_window": WINDOW, "layer_types": _MIXED},
            **{"num_kv_shared_layers": 2, "laurel_rank": 8, "intermediate_size": [96] * LAYERS},
            **{"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 400},
            "activation_sparsity_pattern": [0.0] * LAYERS,
        },
    ),
    Family(
        "Qwen3.5",
        "qwen3_5_text",
        {
            **{"head_dim": 16, "layer_types": _LINEAR},
            **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
            **{"linear_key_head_dim": 16, "linear_value_head_dim": 16},
        },
    ),
    Family("GLM-4-MoE", "glm4_moe", {**_EXPERTS, **_GLM_ROUTING, "head_dim": 16}, moe=True),
    Family("OLMoE", "olmoe", {"num_experts": 4, "num_experts_per_tok": 2}, moe=True),
    Family("DeepSeek-V2", "deepseek_v2", {**_MLA, "v_head_dim": 16}, moe=True),
    Family("GPT-J", "gptj", {**_GPT2, "rotary_dim": 8, "initializer_range": 0.2}, only=True),
    Family(
        "GPT-Neo",
        "gpt_neo",
        {
            **{"hidden_size": 64, "num_layers": LAYERS, "num_heads": 4, "window_size": WINDOW},
            **{"attention_types": [[["global", "local"], 2]], "max_position_embeddings": 1024},
            "initializer_range": 0.2,
        },
        only=True,
    ),
    Family("BigCode", "gpt_bigcode", {**_GPT2, "initializer_range": 0.2}, only=True),
    Family("MPT", "mpt", {"d_model": 64, "n_heads": 4, "n_layers": LAYERS}, only=True),
)
