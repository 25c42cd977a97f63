"""LoRA adapters: attach, freeze a reference, save and load."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn

REFERENCE = "reference"
"""Name of the frozen copy of the adapter that KL penalties compare with."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def attach_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "all-linear",
    seed: int,
) -> PeftModel:
    """Put a fresh adapter on `model` (in place); only its weights train.

    The update has rank `rank` and is scaled by `alpha / rank`. `targets` names linear layers, or is
    "all-linear" (all but the output layer). `seed` fixes the initial weights.

    Raises:
        ConfigError: `targets` names no layer of this model; lists the ones there are.
    """
    from peft import LoraConfig, get_peft_model

    if rank < 1:
        raise ConfigError(f"lora_rank: expected at least 1, got {rank}")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # a float works; the annotation says int
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with _seeded(seed):
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            if "target modules" not in str(error).lower():
                raise
            raise ConfigError(
                f"lora_targets: {targets!r} names no layer of this model. Expected "
                f"all-linear or some of: {', '.join(linear_names(model))}."
            ) from error


def linear_names(model: nn.Module) -> list[str]:
    """The last names of the model's linear layers ("q_proj"), sorted."""
    from torch import nn

    named = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))
    return sorted({name.rpartition(".")[2] for name, _ in named})


def freeze_reference(peft_model: PeftModel) -> None:
    """Keep a frozen copy of the adapter as it is now, under the name "reference".

    A second call replaces the copy. The trained adapter stays the active one.
    """
    from copy import deepcopy

    if REFERENCE not in peft_model.peft_config:
        config = deepcopy(peft_model.peft_config["default"])
        config.inference_mode = True
        with _seeded(0):
            peft_model.add_adapter(REFERENCE, config)
    state = _adapter_state(peft_model, "default")
    _set_state(peft_model, {k: v.detach().clone() for k, v in state.items()}, REFERENCE)
    for name, parameter in peft_model.named_parameters():
        if f".{REFERENCE}." in name:
            parameter.requires_grad_(False)


def save_adapter(peft_model: PeftModel, folder: Path, *, base: str | None = None) -> None:
    """Write the adapter in PEFT format.

    `AutoPeftModelForCausalLM.from_pretrained(folder)` loads it where the base model is found by
    its name, `PeftModel.from_pretrained(base, folder)` anywhere.

    Equal weights give equal bytes: no date or generated text is written, and no path but `base`.

    Args:
        peft_model: the model whose adapter "default" is written.
        folder: where to write.
        base: hub id or folder of the base model to record; None: the name it was loaded by, of
            an absolute path only the last part.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = _adapter_state(peft_model, "default")
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in sorted(state.items())}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = peft_model.peft_config["default"].to_dict()
    name = base or public_name(config.get("base_model_name_or_path") or "")
    config |= {"base_model_name_or_path": name, "inference_mode": True}
    # PEFT holds names in sets, whose order differs from process to process.
    plain = {k: sorted(v) if isinstance(v, set | frozenset) else v for k, v in config.items()}
    text = json.dumps(plain, indent=2, sort_keys=True, default=str) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def load_adapter(peft_model: PeftModel, folder: Path) -> None:
    """Read the adapter in `folder` into the adapter "default" of `peft_model`.

    Raises:
        CheckpointError: there is none, it is damaged, or it does not fit this adapter.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{folder}: expected {WEIGHTS}, found {listing(folder)}")
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    own = {k: tuple(v.shape) for k, v in _adapter_state(peft_model, "default").items()}
    theirs = {k: tuple(v.shape) for k, v in state.items()}
    for key in sorted(own.keys() | theirs.keys()):
        if own.get(key) != theirs.get(key):
            raise CheckpointError(
                f"{file} does not fit this model: {key}: expected shape {own.get(key)}, got "
                f"{theirs.get(key)}. Use the base model, lora_rank and lora_targets it was "
                f"trained with (they are in {CONFIG})."
            )
    _set_state(peft_model, state, "default")


def public_name(base: str) -> str:
    """The name of a base model without the folders of this machine."""
    return Path(base).name if Path(base).is_absolute() else base


def listing(folder: Path, most: int = 8) -> str:
    """The names in a folder, for messages."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(p.name for p in folder.iterdir())
    shown = ", ".join(names[:most]) or "nothing"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch draws from `seed` inside; its generators are left as they were."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _adapter_state(peft_model: PeftModel, adapter: str) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    # "auto" would ask the hub about the base model's vocabulary.
    state: dict[str, Tensor] = get_peft_model_state_dict(
        peft_model, adapter_name=adapter, save_embedding_layers=False
    )
    return state


def _set_state(peft_model: PeftModel, state: dict[str, Any], adapter: str) -> None:
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(peft_model, state, adapter_name=adapter)
