"""`tiny`: a fresh policy of 0.1 to 1 million parameters that learns on a CPU within minutes.

Its shape is Llama's with attention biases (what Qwen2 is), so that everything that loads a Llama
loads it: transformers, peft, vLLM. It does not call itself Qwen2, because transformers 5 then
ignores the folder's own tokenizer rules in favour of Qwen2's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.agents.language import rewritten
from aem_gym.agents.tokenizer import find_lexicon, train_tokenizer
from aem_gym.errors import ConfigError, ModelError, UnknownNameError
from aem_gym.seeding import derive
from aem_gym.types import Demo, PromptTemplate

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerBase

    from aem_gym.config import Config

_SIZES = ("hidden", "layers", "heads", "mlp", "vocab_size")
_TOKENIZER_DEMOS = 1000
"""Demonstrations the tokenizer is trained on: more change nothing but the time."""


class Tiny:
    """The `BaseModel` called `tiny`.

    `model_options` may hold hidden, layers, heads, mlp and vocab_size. Names of things that the
    environment does not give (`lexicon`) are found in the demonstrations.
    """

    defaults: Mapping[str, Any] = {
        "lr": 2e-3,
        "max_new_tokens": 48,
        "invalid_penalty": 1.0,
        "threads": 1,  # too small to share: 2 threads were slower
    }
    from_scratch = True
    prompt_template = "compact"

    @staticmethod
    def check(config: Config) -> None:
        """Raise where a size is unknown (UnknownNameError) or no whole number above 0."""
        for name in config.model_options:
            if name not in _SIZES:
                raise UnknownNameError("option in model_options (of make_tiny)", name, _SIZES)
        for name, value in config.model_options.items():
            if not (isinstance(value, int) and not isinstance(value, bool) and value > 0):
                raise ConfigError(f"model_options.{name}: expected int above 0, got {value!r}")
        _check_heads(config.model_options.get("hidden", 64), config.model_options.get("heads", 2))

    @staticmethod
    def locate() -> str:
        """Raise ModelError: there is no `tiny` before a run has made one."""
        raise ModelError("model 'tiny' is made for a run, so it cannot be fetched")

    @staticmethod
    def make(
        folder: Path,
        config: Config,
        template: PromptTemplate,
        demos: Sequence[Demo],
        lexicon: Sequence[str],
    ) -> None:
        """Write a randomly initialized model, and a tokenizer trained on the demonstrations."""
        options = dict(config.model_options)
        vocabulary = int(options.pop("vocab_size", 2048))
        some = demos[:_TOKENIZER_DEMOS]
        names = list(lexicon) or find_lexicon(
            [(step.observation, step.admissible_actions) for demo in some for step in demo.steps]
        )
        tokenizer = train_tokenizer(_parts(template, some), names, vocab_size=vocabulary)
        seed = derive(config.seed, "model") % 2**31
        positions = max(8192, config.max_length)
        make_tiny(folder, tokenizer, seed=seed, max_positions=positions, **options)


def _parts(template: PromptTemplate, demos: Sequence[Demo]) -> list[str]:
    """The texts of demonstrations as they will be shown, each part by itself."""
    parts = [template.system] if template.system else []
    for demo in demos:
        for step in demo.steps:
            shown = rewritten(step.observation, template.rewrite)
            parts += [part for part in (shown, step.thought, step.action) if part]
    return parts


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
    """Write a randomly initialized model and its tokenizer to `folder`.

    `seed` fixes the bytes of the weights. `mlp` is the width inside the MLP, `max_positions` the
    longest sequence in tokens.

    Raises:
        ConfigError: `hidden` is no multiple of `2 * heads`.
    """
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM

    _check_heads(hidden, heads)
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


def _check_heads(hidden: int, heads: int) -> None:
    if hidden % (2 * heads):
        raise ConfigError(
            f"model_options.hidden: expected a multiple of 2 * heads ({2 * heads}), got {hidden}"
        )


def _config(tokenizer: PreTrainedTokenizerBase, *sizes: int) -> LlamaConfig:
    from transformers import LlamaConfig

    hidden, layers, heads, mlp, max_positions = sizes
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
