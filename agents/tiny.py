"""`tiny`: a fresh policy of 0.1 to 1 million parameters that learns on a CPU within minutes.

Its shape is Llama's with attention biases (what Qwen2 is), so that everything that loads a Llama
loads it: transformers, peft, vLLM. It does not call itself Qwen2, because transformers 5 then
ignores the folder's own tokenizer rules in favour of Qwen2's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from aem_gym.errors import ConfigError

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerBase


def make_tiny(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    hidden: int = 64,
    layers: int = 3,
    heads: int = 2,
    mlp: int = 128,
    max_positions: int = 8192,
) -> Path:
    """Write a randomly initialised model and its tokenizer to `folder`.

    Args:
        folder: where to write; made if it is not there.
        tokenizer: gives the vocabulary and the special tokens (see `train_tokenizer`).
        seed: of the initial weights. The same seed gives the same bytes, whatever torch's own
            generator did before, and that generator is left as it was.
        hidden: width of the model; a multiple of `2 * heads`.
        layers: number of blocks.
        heads: attention heads.
        mlp: width inside the MLP.
        max_positions: the longest sequence, in tokens.

    Returns:
        `folder`, which `AutoModelForCausalLM.from_pretrained` can load.

    Raises:
        ConfigError: `hidden` cannot be split among the heads.
    """
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM

    if hidden % (2 * heads):
        raise ConfigError(f"hidden: expected a multiple of 2 * heads ({2 * heads}), got {hidden}")
    config = _config(tokenizer, hidden, layers, heads, mlp, max_positions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(
    tokenizer: PreTrainedTokenizerBase,
    hidden: int,
    layers: int,
    heads: int,
    mlp: int,
    max_positions: int,
) -> LlamaConfig:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        attention_bias=True,
        # The usual 0.02 is meant for wide models: at this width it did not learn at all.
        initializer_range=0.7 / math.sqrt(hidden),
        dtype="float32",
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
