"""Finds the model of a run: one registered by name, a folder, or a Hugging Face id."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.io import sample_files
from aem_gym.registry import MODELS
from aem_gym.types import Demo, PromptTemplate

if TYPE_CHECKING:
    from aem_gym.config import Config
    from aem_gym.protocols import BaseModel

ATTENTION = ("sdpa", "eager")
"""Attention code that takes a mask of any form."""
PRETRAINED_DEFAULTS: Mapping[str, Any] = {"max_length": 8192}
"""Pretrained models write long responses: 2048 tokens hold seven of them."""
_ELSEWHERE = {
    **{"dtype": "--dtype", "torch_dtype": "--dtype", "device": "--device"},
    **{"device_map": "--device", "max_length": "--max-length"},
    **{f"load_in_{n}bit": f"model_options.quantization={n}bit" for n in (4, 8)},
}
"""Options that transformers would read, and what a run reads in their place."""
_STARTS = ("gaussian", "eva", "orthogonal")
"""Values of peft's `init_lora_weights` that leave the base weights alone, as true and false do."""
_VARIANTS = ("use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config")
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


@dataclass(frozen=True, slots=True)
class PretrainedModel:
    """A `BaseModel` that is found as transformers finds it: a hub id or a folder."""

    source: str
    defaults: Mapping[str, Any] = field(default_factory=lambda: dict(PRETRAINED_DEFAULTS))
    from_scratch: bool = False
    prompt_template: str = ""

    def check(self, config: Config) -> None:
        """Its options are those of `from_pretrained`, which transformers checks."""
        check_model_options(config)

    def locate(self) -> str:
        """The hub id or folder itself."""
        return self.source

    def make(
        self,
        folder: Path,
        config: Config,
        template: PromptTemplate,
        demos: Sequence[Demo],
        lexicon: Sequence[str],
    ) -> None:
        """Not for a model that exists."""
        raise NotImplementedError(f"model {self.source!r} is pretrained")


def check_model_options(config: Config) -> None:
    """Raise ConfigError where an option of a pretrained model cannot work."""
    for key, other in _ELSEWHERE.items():
        if key in config.model_options:
            raise ConfigError(f"model_options.{key}: give it as {other} instead")
    for key in ("name_or_folder", "config", "state_dict", "output_loading_info"):
        if key in config.model_options:
            raise ConfigError(f"model_options.{key}: a run fills that in itself; leave it out")
    if not isinstance(compiled := config.model_options.get("compile", False), bool | str):
        raise ConfigError(
            "model_options.compile: expected true, false or the name of a backend of "
            f"torch.compile, got {compiled!r}"
        )
    attention = config.model_options.get("attn_implementation")
    if config.sampler == "hf" and attention not in (None, *ATTENTION):
        raise ConfigError(
            f"model_options.attn_implementation: expected {' or '.join(ATTENTION)}, got "
            f"{attention!r}: the sampler hf reads rows of unequal length with a mask, which that "
            "code cannot take. Leave it out: sdpa takes fused kernels where it can"
        )


def not_plain_lora(settings: Mapping[str, Any]) -> str:
    """Why an adapter is not an update B A of the base weights as they are; empty if it is one.

    Its tensors look like those of plain LoRA, so nothing else would tell.

    Args:
        settings: what its adapter_config.json holds.
    """
    start = settings.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _STARTS:
        return (
            f"init_lora_weights {start!r} changes the base weights, and the adapter is only right "
            "on the changed ones. Save it as plain LoRA: peft's save_pretrained(..., "
            "path_initial_model_for_weight_conversion=FOLDER_OF_THE_UNTRAINED_ADAPTER)"
        )
    found = [name for name in _VARIANTS if settings.get(name)]
    return f"{found[0]} makes another layer of it; expected plain LoRA" if found else ""


def fingerprint(config: Config) -> str:
    """Of the weights of a run's pretrained model; empty where they are not on this machine (yet).

    Another version at the same path, or of the same hub id, has another one.
    """
    where = find_model(config.model).locate()
    folder = Path(where).expanduser()
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        options = {k: v for k, v in config.model_options.items() if k in ("revision", "cache_dir")}
        found = try_to_load_from_cache(where, "config.json", **options)
        if not isinstance(found, str):
            return ""
        folder = Path(found).parent
    files = [path for pattern in _WEIGHTS for path in folder.glob(pattern)]
    return sample_files(files) if files else ""


def find_model(name: str) -> BaseModel:
    """The model called `name`. Loads no weights.

    Raises:
        ConfigError: a folder without config.json.
        UnknownNameError: neither registered, nor a folder, nor written like a Hugging Face id.
    """
    if name in MODELS.names():
        return _made(MODELS.load(name))
    folder = Path(name).expanduser()
    if name.strip() and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"model {name!r} is a folder without config.json, so not a model in the "
                "Hugging Face format. Point --model at the folder that save_pretrained wrote."
            )
        return PretrainedModel(name)
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if _HUB_ID.match(name) and not looks_like_path:
        return PretrainedModel(name)
    if ":" in name and not looks_like_path:
        MODELS.check(name)
        return _made(MODELS.load(name))
    hint = "Or a folder holding config.json, or a Hugging Face id (owner/name)."
    raise UnknownNameError("model", name, MODELS.names(), hint)


def _made(component: Any) -> BaseModel:
    """A registered component is a `BaseModel`, or a class that makes one."""
    model: BaseModel = component() if isinstance(component, type) else component
    return model
