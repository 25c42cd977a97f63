"""The shape of a run's model from its config.json, on the meta device: no weights are read."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.errors import ModelError
from aem_gym.models import find_model
from aem_gym.shape import Chunks, LinearLayers, ModelShape

if TYPE_CHECKING:
    from aem_gym.config import Config

_KNOWN = "model_shapes.json"
"""Sizes of well-known models, for machines on which they are not."""
_TINY_VOCABULARY = 1100
"""Tokens of the tokenizers that are trained for household tasks, about."""


def model_shape(config: Config, file: str | Path | None = None) -> ModelShape:
    """The shape of the model of a run.

    It comes from `file` (a config.json or its folder), the model's own folder, the local cache of
    the hub, or the sizes that this package knows. Nothing is downloaded.

    Raises:
        ModelError: none of them has it; names the flag that gives one.
    """
    import torch
    from transformers import AutoModelForCausalLM

    settings = _settings(config, file)
    auto: Any = AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = auto.from_config(settings)
    except Exception as error:  # families of every age raise what they like
        reason = f"its config.json makes no model: {error}"
        raise ModelError(f"model {config.model!r}: {reason}") from error
    return _shape(model, settings)


def chunks() -> Chunks:
    """What the present sampler and learner treat at a time."""
    from aem_gym.agents.learner import CHUNK
    from aem_gym.agents.sampler import MERGE_BELOW, PREFILL_CHUNK

    return Chunks(head=CHUNK, prefill=PREFILL_CHUNK, merge_below=MERGE_BELOW)


def _settings(config: Config, file: str | Path | None) -> Any:
    """The transformers configuration of a run's model."""
    from transformers import AutoConfig, LlamaConfig

    if file is not None:
        return _read(Path(file))
    model = find_model(config.model)
    if model.from_scratch and config.model == "tiny":
        return LlamaConfig(**_tiny(config))
    if Path(config.model).expanduser().is_dir():
        return _read(Path(config.model).expanduser())
    known = json.loads(files(__package__).joinpath(_KNOWN).read_text(encoding="utf-8"))
    if config.model in known:
        sizes = dict(known[config.model])
        return AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    try:
        return AutoConfig.from_pretrained(config.model, local_files_only=True)
    except Exception as error:  # not there, damaged, of an unknown family
        raise ModelError(
            f"model {config.model!r}: its config.json is not on this machine. Give it with "
            "--model-config FILE (config.json or its folder); known without one: "
            f"{', '.join(known)}"
        ) from error


def _read(path: Path) -> Any:
    from transformers import AutoConfig

    if not path.exists():  # else the library would look for it on the hub
        raise ModelError(f"{path}: expected a config.json or its folder: there is no such file")
    try:
        return AutoConfig.from_pretrained(path)
    except Exception as error:  # as above
        raise ModelError(f"{path}: expected a config.json or its folder: {error}") from error


def _tiny(config: Config) -> dict[str, Any]:
    options = config.model_options
    heads = int(options.get("heads", 2))
    return {
        "vocab_size": min(int(options.get("vocab_size", 2048)), _TINY_VOCABULARY),
        "hidden_size": int(options.get("hidden", 64)),
        "intermediate_size": int(options.get("mlp", 128)),
        "num_hidden_layers": int(options.get("layers", 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "tie_word_embeddings": True,
        "attention_bias": True,
    }


def _shape(model: Any, settings: Any) -> ModelShape:
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings().weight
    heads = int(text.num_attention_heads)
    kinds = list(getattr(text, "layer_types", None) or ())
    window = int(getattr(text, "sliding_window", None) or 0)
    routed, of_token = _experts(model, text)
    return ModelShape(
        family=str(settings.model_type),
        parameters=sum(p.numel() for p in model.parameters()),
        embedding=embeddings.numel(),
        linears=_linears(model, head),
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        mlp=of_token or int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        vocabulary=int(embeddings.shape[0]),
        heads=heads,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        tied=head.weight is embeddings,
        idle=routed,
        stateful_layers=sum("attention" not in kind or "linear" in kind for kind in kinds),
        windows=tuple(window for kind in kinds if "sliding" in kind),
    )


def _linears(model: Any, head: Any) -> tuple[LinearLayers, ...]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found: Counter[tuple[str, int, int]] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            rows, columns = module.weight.shape
            inputs, outputs = (columns, rows) if isinstance(module, nn.Linear) else (rows, columns)
            found[name.rpartition(".")[2], inputs, outputs] += 1
    return tuple(LinearLayers(*each, count) for each, count in found.items())


def _experts(model: Any, text: Any) -> tuple[int, int]:
    """Of a mixture of experts: parameters that a token does not pass, and the width it passes."""
    number = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    number = number or getattr(text, "n_routed_experts", None)
    chosen = getattr(text, "num_experts_per_tok", None)
    if not (number and chosen):
        return 0, 0
    total = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    width = getattr(text, "moe_intermediate_size", None) or text.intermediate_size
    return int(total * (1 - chosen / number)), int(width * chosen)
