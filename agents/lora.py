"""LoRA adapters: attach, freeze a reference, save and load."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.errors import CheckpointError, ConfigError
from aem_gym.models import not_plain_lora

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn

REFERENCE = "reference"
"""Name of the frozen copy of the adapter that KL penalties compare with."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_SCALE = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
"""Settings of peft that say by what an update is multiplied."""


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
    targets = _named(model, targets)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # a float works; the annotation says int
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=_unreached(model) if targets == "all-linear" else None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with _seeded(seed):
        try:
            with warnings.catch_warnings():
                # What peft asks the library by an old name, or says of its own settings.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                warnings.filterwarnings("ignore", "The following .*_pattern keys", RuntimeWarning)
                warnings.filterwarnings("ignore", "fan_in_fan_out is set", UserWarning)
                warnings.filterwarnings("ignore", "Model has `tie_word_embeddings", UserWarning)
                adapted = get_peft_model(model, config)
        except ValueError as error:
            # Of peft: kinds of layer it does not adapt, or settings it does not allow for them.
            reason = re.sub(r"\(\n.*\n\)", "", str(error), flags=re.DOTALL).partition(". ")[0]
            raise ConfigError(
                f"lora_targets {targets!r}, lora_dropout {dropout:g}: {reason}. Expected "
                f"all-linear or some of: {', '.join(linear_names(model))}"
            ) from error
    _check_targets(adapted, targets)
    return adapted


def _named(model: nn.Module, targets: str | Sequence[str]) -> str | list[str]:
    """The targets as peft takes them: one name is a list, other texts are regular expressions.

    Raises:
        ConfigError: one of them is no layer's.
    """
    if targets == "all-linear" or (isinstance(targets, str) and re.search(r"[^\w.]", targets)):
        return targets
    names = [targets] if isinstance(targets, str) else list(targets)
    layers = [f".{name}" for name in (*dict(model.named_modules()), *_fused_names(model))]
    unknown = [name for name in names if not any(layer.endswith(f".{name}") for layer in layers)]
    if unknown or not names:
        raise ConfigError(
            f"lora_targets: {', '.join(map(repr, unknown or ['nothing']))} names no layer of this "
            f"model. Expected all-linear or some of: {', '.join(linear_names(model))}"
        )
    return names


def _fused_names(model: nn.Module) -> tuple[str, ...]:
    """By what names peft finds experts whose weights are one tensor: those of single experts."""
    fused = any(p.ndim == 3 and ".experts." in name for name, p in model.named_parameters())
    return ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3") if fused else ()


def _unreached(model: nn.Module) -> list[str] | None:
    """Layers that look linear and cannot take an adapter.

    State-space mixers read the weights of `out_proj` and `dt_proj` past it; a router may be a
    linear layer by class that returns more than one tensor.
    """
    import torch
    from torch import nn

    mixer = ("conv1d", "D", "out_proj")
    odd = []
    for name, module in model.named_modules():
        if all(hasattr(module, part) for part in mixer):
            odd += [f"{name}.{part}" for part in ("out_proj", "dt_proj") if hasattr(module, part)]
        own = type(module).__module__.startswith(("transformers.models.", "transformers_modules."))
        if own and isinstance(module, nn.Linear) and type(module).forward is not nn.Linear.forward:
            some = module.weight.new_zeros(1, module.in_features)
            if not isinstance(module(some), torch.Tensor):
                odd.append(name)
    return odd or None


def _check_targets(adapted: Any, targets: str | Sequence[str]) -> None:
    """Refuse adapters that would not train.

    The learner reads the output layer's weight itself, in chunks, and tied weights are one tensor
    in two places; elsewhere code may read a layer's weight without calling the layer.
    """
    from peft.tuners.lora import LoraLayer

    base = adapted.get_base_model()
    ends = (base.get_output_embeddings(), base.get_input_embeddings())
    layers = {n: m for n, m in base.named_modules() if isinstance(m, LoraLayer)}
    odd = [name for name, layer in layers.items() if layer in ends]
    real = next(base.parameters()).device.type != "meta"
    if real and targets != "all-linear":  # of routed experts, a few tokens reach only some
        called = _called(base, layers)
        odd += [name for name in layers if name not in (*called, *odd)]
    if odd:
        names = ", ".join(sorted({name.rpartition(".")[2] for name in odd}))
        raise ConfigError(
            f"lora_targets: an adapter on {names} would not train: the model reads that weight "
            f"without calling the layer. Leave {names} out, or use all-linear"
        )


def _called(model: Any, layers: dict[str, Any]) -> set[str]:
    """Which layers a forward pass calls."""
    import torch

    called: set[str] = set()
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, layer in layers.items()
    ]
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model(input_ids=torch.arange(4, device=device)[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return called


def coverage(adapted: nn.Module) -> tuple[float, list[str]]:
    """The share of the base weights under adapters, and names of the larger ones that are not.

    Names are last names with their share, the largest first; those of 1% or more.
    """
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    wrapper: Any = ParamWrapper
    layers: list[Any] = [m for m in adapted.modules() if isinstance(m, LoraLayer)]
    reached = {
        id(each.get_param() if isinstance(each, wrapper) else each.get_base_layer().weight)
        for each in layers
    }
    sizes: dict[str, int] = {}
    total = 0
    for name, parameter in adapted.named_parameters():
        if ".lora_" not in name:
            total += parameter.numel()
            if id(parameter) not in reached:
                last = name.removesuffix(".weight").rpartition(".")[2]
                sizes[last] = sizes.get(last, 0) + parameter.numel()
    frozen = [
        f"{name} ({size / total:.0%})"
        for name, size in sorted(sizes.items(), key=lambda item: -item[1])
        if size >= 0.01 * total
    ]
    return 1 - sum(sizes.values()) / total, frozen


def linear_names(model: nn.Module) -> list[str]:
    """The last names of the layers that take an adapter ("q_proj"), sorted."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    return sorted({name.rpartition(".")[2] for name, m in layers.items() if m is not head})


def merged_copy(adapted: nn.Module) -> Any:
    """A copy of the model below the adapters, in float32, to merge them into.

    None where an adapter is on something else than a layer's weight (fused experts): such a model
    samples unmerged.
    """
    from copy import deepcopy

    from peft.tuners.lora import LoraLayer
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    layers = {n: m for n, m in adapted.named_modules() if isinstance(m, LoraLayer)}
    plain = (nn.Linear, Conv1D)
    if not all(isinstance(layer.base_layer, plain) for layer in layers.values()):
        return None
    # In half precision most of a small update would be rounded away.
    model: Any = deepcopy(adapted).float()
    for name in layers:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, model.get_submodule(name).base_layer)
    model.eval().requires_grad_(False)
    if next(model.parameters()).device.type == "cpu":
        # One query and a mask: the plain product is the fastest attention on a CPU.
        model.set_attn_implementation("eager")
    return model


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
        if ".lora_" in name:  # some versions of peft freeze all adapters when one is added so
            parameter.requires_grad_(f".{REFERENCE}." not in name)


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
    _check_scale(peft_model, folder / CONFIG)
    _set_state(peft_model, state, "default")


def _check_scale(peft_model: PeftModel, file: Path) -> None:
    """Refuse an adapter whose update counts otherwise than in this model. A lone file may do."""
    if not file.is_file():
        return
    try:
        theirs = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    if odd := not_plain_lora(theirs):
        raise CheckpointError(f"{file}: {odd}")
    own = peft_model.peft_config["default"].to_dict()
    for key in _SCALE:
        if key in theirs and (theirs[key] or None) != (own.get(key) or None):
            raise CheckpointError(
                f"{file}: {key}: expected {own.get(key)!r}, got {theirs[key]!r}. The update of an "
                "adapter counts by it: give the lora_rank and lora_alpha it was trained with"
            )


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
