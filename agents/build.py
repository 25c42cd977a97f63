"""Makes agents from a configuration: the one place that knows how the parts fit together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.agents.contexts import rewritten
from aem_gym.agents.formats import response_format
from aem_gym.agents.lora import attach_lora
from aem_gym.agents.models import load_model
from aem_gym.agents.sampler import MERGE_BELOW, MergedCopy
from aem_gym.agents.tiny import make_tiny
from aem_gym.agents.tokenizer import find_lexicon, train_tokenizer
from aem_gym.agents.trainable import GenerationSettings, TrainableLanguageAgent
from aem_gym.seeding import derive
from aem_gym.training.config import Config
from aem_gym.types import Demo, PromptTemplate

if TYPE_CHECKING:
    from peft import PeftModel

_TOKENIZER_DEMOS = 1000
"""Demonstrations the tokenizer is trained on: more change nothing but the time."""


def make_fresh(
    folder: Path,
    config: Config,
    recipe: PromptTemplate,
    demos: Sequence[Demo],
    lexicon: Sequence[str],
) -> Path:
    """A `tiny` model with a tokenizer made for the demonstrations, randomly initialised.

    Args:
        folder: where it is written.
        config: `model_options` may hold hidden, layers, heads, mlp and vocab_size.
        recipe: how the environment is shown: its text is learned too.
        demos: what the tokenizer is trained on.
        lexicon: names of things; empty: found in the demonstrations.
    """
    options = dict(config.model_options)
    vocabulary = int(options.pop("vocab_size", 2048))
    some = demos[:_TOKENIZER_DEMOS]
    names = list(lexicon) or find_lexicon(
        [(step.observation, step.admissible_actions) for demo in some for step in demo.steps]
    )
    parts = [recipe.system] if recipe.system else []
    for demo in some:
        for step in demo.steps:
            shown = rewritten(step.observation, recipe.rewrite)
            parts += [part for part in (shown, step.thought, step.action) if part]
    tokenizer = train_tokenizer(parts, names, vocab_size=vocabulary)
    seed = derive(config.seed, "model") % 2**31
    return make_tiny(
        folder, tokenizer, seed=seed, max_positions=max(8192, config.max_length), **options
    )


def open_agent(
    config: Config,
    recipe: PromptTemplate,
    base: str,
    *,
    adapter: bool = True,
    value_head: bool = False,
) -> TrainableLanguageAgent:
    """Load a base model and make it an agent.

    Args:
        config: model options, LoRA, context, lengths.
        recipe: its response format is used where the configuration leaves it open.
        base: hub id, packaged name or folder.
        adapter: train a LoRA adapter (new); False: train all weights.
        value_head: add one (PPO).
    """
    options: dict[str, Any] = {} if config.model == "tiny" else dict(config.model_options)
    merge = options.pop("merge_for_sampling", None)
    loaded = load_model(base, device=config.device, dtype=config.dtype, **options)
    model: Any = loaded.model
    peft_model, merged = None, None
    if adapter:
        small = sum(p.numel() for p in model.parameters()) < MERGE_BELOW
        merged = MergedCopy(model) if (small if merge is None else merge) else None
        peft_model = _with_adapter(model, config)
        model = peft_model.get_base_model()
    _save_memory(model, config.gradient_checkpointing)
    name = recipe.response_format if config.response_format == "auto" else config.response_format
    settings = GenerationSettings(
        config.context,
        response_format(name),
        config.max_length,
        config.max_new_tokens,
        config.temperature,
        value_head,
    )
    return TrainableLanguageAgent(
        model,
        loaded.tokenizer,
        settings,
        peft_model=peft_model,
        merged=merged,
        # A tiny base lives in the run's own folder, whatever that is called.
        base_name="model" if config.model == "tiny" else None,
    )


def _save_memory(model: Any, checkpointing: str) -> None:
    on_gpu = next(model.parameters()).device.type == "cuda"
    if checkpointing == "on" or (checkpointing == "auto" and on_gpu):
        model.gradient_checkpointing_enable({"use_reentrant": False})


def _with_adapter(model: Any, config: Config) -> PeftModel:
    return attach_lora(
        model,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        targets=config.lora_targets,
        seed=derive(config.seed, "lora") % 2**31,
    )
