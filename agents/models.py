"""Base models by name: a hub id, a folder, or a registered name such as `smollm2`.

An incomplete model is refused here, with the reason and the command that helps; transformers alone
would fill missing weights with random numbers and go on.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.agents.families import longest_exact, position_rows, turn_dropout_off
from aem_gym.agents.lora import listing
from aem_gym.errors import ConfigError, ModelError, UnknownNameError
from aem_gym.models import find_model
from aem_gym.registry import MODELS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PLAIN_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- message['content'] + eos_token -}}"
    "{%- elif message['role'] == 'system' -%}"
    "{{- message['content'] + '\n\n' -}}"
    "{%- else -%}"
    "{{- '\n### User\n' + message['content'] + '\n### Assistant\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
)
"""For base models that come without a chat template."""

_DTYPES = ("float32", "bfloat16", "float16")
_HUB_KEYS = ("revision", "local_files_only", "token", "cache_dir", "trust_remote_code")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A base model, ready to take an adapter."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    notes: tuple[str, ...] = ()
    """What was filled in (a chat template, a padding token)."""


def load_model(
    name_or_folder: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attn_implementation: str | None = None,
    quantization: str | None = None,
    max_length: int = 0,
    **options: Any,
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Args:
        name_or_folder: hub id ("Qwen/Qwen2.5-0.5B-Instruct"), folder, or registered name.
        device: see `resolve_device`.
        dtype: see `resolve_dtype`.
        attn_implementation: "sdpa", "eager", "flash_attention_2"; None: transformers' choice.
        quantization: "4bit" or "8bit" (bitsandbytes, on a GPU), or None.
        max_length: tokens of the longest sequence that the model will read.
        options: of `from_pretrained` (revision, local_files_only, ...).

    Raises:
        ModelError: the model cannot be found, is damaged, or does not fit this machine.
        ConfigError: it takes no such option, has fewer than `max_length` positions, or cannot read
            that many tokens alike in one pass and in pieces.
    """
    source = str(name_or_folder)
    place = resolve_device(device)
    number = resolve_dtype(dtype, place)
    where = _locate(source)
    settings: dict[str, Any] = {**options, "dtype": number}
    if attn_implementation:
        settings["attn_implementation"] = attn_implementation
    if quantization:
        settings["quantization_config"] = _quantization(quantization, place, number)
    if place.type != "cpu":
        settings["device_map"] = {"": str(place)}
    hub = {k: v for k, v in options.items() if k in _HUB_KEYS}
    tokenizer, notes = _load_tokenizer(source, where, hub)
    model = _load_weights(source, where, settings, max_length)
    _check_vocabulary(source, model, tokenizer)
    _check_positions(source, model, max_length)
    for note in notes:
        logger.warning("model %s: %s", source, note)
    return LoadedModel(model, tokenizer, notes)


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _locate(source: str) -> str:
    """The hub id or folder by which transformers finds the model."""
    if not source.strip():
        names = ", ".join(MODELS.names())
        raise ModelError(f"model: expected a hub id, a folder or one of {names}, got nothing")
    folder = Path(source).expanduser()
    if source in MODELS.names() or (":" in source and not folder.exists()):
        known = find_model(source)
        if known.from_scratch:
            raise ModelError(
                f"model {source!r} is made for an environment, by training: "
                f"python train.py --model {source}. To load one, give its folder."
            )
        return known.locate()
    if folder.is_file():
        raise ModelError(f"model {source!r} is a file; expected the folder of a model")
    if not folder.is_dir():
        is_path = folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1
        if is_path:
            raise ModelError(f"model {source!r}: there is no such folder, and it is no hub id")
        return source
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"model {source!r} is an adapter; expected its base model, "
            f"{_adapter_base(folder)!r} according to its adapter_config.json"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model {source!r} is not a model: expected config.json, found {listing(folder)}"
        )
    return str(folder)


def _adapter_base(folder: Path) -> str:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return str(config["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _load_tokenizer(
    source: str, where: str, hub: dict[str, Any]
) -> tuple[PreTrainedTokenizerBase, tuple[str, ...]]:
    """The tokenizer, its gaps filled in, and notes on them."""
    from transformers import AutoTokenizer

    files = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if Path(where).is_dir() and not any((Path(where) / name).is_file() for name in files):
        raise ModelError(
            f"model {source!r} has no tokenizer: expected one of {', '.join(files)}, "
            f"found {listing(Path(where))}"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **hub)
    except Exception as error:  # as above: many libraries, many kinds
        raise _explain(source, where, error, "tokenizer") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"model {source!r}: its tokenizer has no end token, so no response could end. "
            "Set eos_token in tokenizer_config.json."
        )
    notes = []
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        notes.append("its tokenizer has no padding token; the end token pads")
    if not tokenizer.chat_template:
        # A base model has seen each text begin with that token, where the tokenizer writes it.
        begins = tokenizer.bos_token and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = ("{{- bos_token -}}" if begins else "") + PLAIN_TEMPLATE
        notes.append("it has no chat template; a plain one is used (better: an -Instruct model)")
    return tokenizer, tuple(notes)


def _load_weights(
    source: str, where: str, settings: dict[str, Any], max_length: int
) -> PreTrainedModel:
    """The model, all of its weights read from files, its dropout turned off."""
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    known = {k: v for k, v in settings.items() if k in (*_HUB_KEYS, "gguf_file")}
    try:
        config = AutoConfig.from_pretrained(where, **known)
        _check_length(source, config, max_length)
        turn_dropout_off(config)
        if getattr(config.get_text_config(), "attn_logit_softcapping", None):
            settings = {"attn_implementation": "eager", **settings}  # sdpa leaves the cap out
        model, info = auto.from_pretrained(
            where, config=config, output_loading_info=True, **settings
        )
    except ConfigError:
        raise
    except ImportError as error:
        raise ModelError(f"model {source!r} needs a package: {_first_line(error)}") from error
    except Exception as error:  # many libraries read the files, each with errors of its own
        raise _unknown_option(source, error, settings) or _explain(source, where, error) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"model {source!r} is damaged: {len(missing)} weights are missing, {missing[0]} "
            "first. Download it again, or save it again."
        )
    model.config._name_or_path = model.name_or_path = source
    for module in model.modules():  # a rate that was written into the code
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    loaded: PreTrainedModel = model
    return loaded


def _check_length(source: str, config: Any, max_length: int) -> None:
    most = longest_exact(config.get_text_config())
    if most is not None and max_length > most:
        raise ConfigError(
            f"max_length {max_length}: beyond {most} tokens the model {source!r} computes other "
            "values for a sequence read at once than for one read in pieces, so what is sampled "
            f"is not what is trained. Give --max-length {most}"
        )


def _check_positions(source: str, model: PreTrainedModel, max_length: int) -> None:
    most = position_rows(model)
    if most is not None and max_length > most:
        raise ConfigError(
            f"max_length {max_length}: the model {source!r} has a table of {most} positions and "
            f"can read no token behind them. Give --max-length {most}"
        )


def _check_vocabulary(
    source: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a model with too few embeddings for its tokenizer."""
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"model {source!r}: its tokenizer has {len(tokenizer)} tokens, but the model only "
            f"{rows} embeddings: the two do not belong together"
        )


def _unknown_option(
    source: str, error: Exception, settings: Mapping[str, Any]
) -> ConfigError | None:
    """The error for an option that a model does not take, where `error` says so."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not isinstance(error, TypeError) or found is None or found[1] not in settings:
        return None
    return ConfigError(
        f"model_options.{found[1]}: the model {source!r} takes no such option. Expected "
        "quantization, compile or arguments of transformers' from_pretrained (revision, "
        "attn_implementation, ...); what config.json holds is changed in a copy of the folder"
    )


def _explain(source: str, where: str, error: Exception, part: str = "model") -> ModelError:
    """An error with the reason, and the command that helps."""
    reason = _first_line(error)
    if Path(where).is_dir():
        return ModelError(
            f"model {source!r}: its {part} is damaged or of a kind that cannot be loaded: "
            f"{reason} The folder holds {listing(Path(where))}."
        )
    from huggingface_hub import constants

    offline = (
        " HF_HUB_OFFLINE=1 forbids downloads: unset it, or" if constants.HF_HUB_OFFLINE else ""
    )
    return ModelError(
        f"model {source!r}: no such folder, not in the local cache, and not available from the "
        f"hub.{offline} Download it where there is a network: hf download {source} (gated "
        f"models: hf auth login first). Without a network: --model tiny or --model smollm2. "
        f"Reason: {reason}"
    )


def _quantization(kind: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The bitsandbytes configuration (4bit is the QLoRA one: NF4, nested)."""
    from importlib.util import find_spec

    import transformers

    bits: Any = transformers.BitsAndBytesConfig

    if kind not in ("4bit", "8bit"):
        raise UnknownNameError("quantization", kind, ("4bit", "8bit"))
    if device.type != "cuda":
        raise ModelError(f"quantization {kind}: expected a CUDA device, got {device}")
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"quantization {kind} needs the package 'bitsandbytes': pip install bitsandbytes"
        )
    if kind == "8bit":
        return bits(load_in_8bit=True)
    return bits(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def resolve_device(name: str = "auto") -> torch.device:
    """The device called `name`: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.

    Raises:
        UnknownNameError: no such kind of device.
        ModelError: this machine, or this build of torch, has no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps"):
        raise UnknownNameError("device", name, ("auto", "cpu", "cuda", "mps"))
    if index and not index.isdecimal():
        raise ConfigError(f"device: expected a number after {kind + ':'!r}, got {name!r}")
    if kind == "cuda":
        return _cuda(name, int(index) if index else None)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device mps: this machine has none. Use device=cpu or device=auto.")
    return torch.device(kind)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype called `name`; auto is bfloat16 on a GPU that has it, else float32.

    Raises:
        UnknownNameError: no such dtype.
    """
    import torch

    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    if name not in _DTYPES:
        raise UnknownNameError("dtype", name, ("auto", *_DTYPES))
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _cuda(name: str, index: int | None) -> torch.device:
    """A CUDA device that is really there."""
    import torch

    if not torch.cuda.is_available():
        why = (
            "torch sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES"
            if torch.version.cuda or torch.version.hip
            else f"torch {torch.__version__} is a build without CUDA; see "
            "https://pytorch.org/get-started for the command that installs one"
        )
        raise ModelError(f"device {name}: {why}. Without a GPU use device=cpu or device=auto.")
    count = torch.cuda.device_count()
    if index is not None and index >= count:
        raise ModelError(f"device {name}: expected cuda:0 to cuda:{count - 1} on this machine")
    return torch.device("cuda", torch.cuda.current_device() if index is None else index)
