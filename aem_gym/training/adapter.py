"""An adapter that exists already, as the policy RL starts from (the setting `adapter`)."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from aem_gym.config import Config
from aem_gym.errors import CheckpointError, ConfigError
from aem_gym.io import atomic_folder
from aem_gym.models import find_model, fingerprint, not_plain_lora
from aem_gym.runs import ADAPTER, BASE, BASE_MARK, START, run_adapter
from aem_gym.settings import CONFIG_NAME, load_config

logger = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"


def check_adapter(config: Config) -> None:
    """Compare the adapter a run is to start from with its settings, before anything loads.

    Its layers are compared again, one by one, when it is loaded.

    Raises:
        CheckpointError: there is no adapter in that folder.
        ConfigError: it does not fit the run's base model, rank, alpha or targets.
    """
    if config.adapter is None:
        return
    if config.warmstart not in ("auto", "none"):
        raise ConfigError(
            f"adapter and warmstart {config.warmstart} are two beginnings: leave one of them out"
        )
    folder = _folder(config)
    found = _settings(folder)
    if found.get("peft_type", "LORA") != "LORA":
        raise ConfigError(f"adapter {folder}: expected plain LoRA, got {found.get('peft_type')}")
    if odd := not_plain_lora(found):
        raise ConfigError(f"adapter {folder}: {odd}")
    rank, alpha = config.lora_rank, config.lora_alpha
    if found.get("use_rslora"):
        raise ConfigError(
            f"adapter {folder}: it is scaled by lora_alpha / sqrt(rank) (use_rslora), which "
            "the run would not do"
        )
    for flag, ours, theirs in (
        ("--lora-rank", rank, found.get("r")),
        ("--lora-alpha", alpha, found.get("lora_alpha")),
    ):
        if theirs != ours:
            raise ConfigError(
                f"adapter {folder} does not fit: it has {flag} {theirs}, the run {ours}. Give "
                f"{flag} {theirs}"
            )
    _check_targets(config, folder, found)
    _check_base(config, folder, found)


def open_adapter(config: Config, run: Path) -> tuple[str, Path]:
    """The base model (name or folder) and the adapter a run starts from.

    The adapter is copied into the run, so that the run can go on wherever the other is by then.
    """
    start, source = run / START, _folder(config)
    if source != start:
        _compare_base(config, source)
        keep_start(source, run)
    theirs = _run_of(source)
    if find_model(config.model).from_scratch and theirs is not None:
        logger.info("start: adapter %s, and the base model of %s", source, theirs)
        return str(theirs / BASE), start
    return config.model, start


def keep_start(source: Path, run: Path) -> Path:
    """Copy the adapter RL starts from into the run; the copy."""
    with atomic_folder(run / START) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    return run / START


def _compare_base(config: Config, source: Path) -> None:
    """Warn where the run that an adapter lies in had a base of other weights."""
    mark = next((p / BASE_MARK for p in _around(source) if (p / BASE_MARK).is_file()), None)
    if mark is None or find_model(config.model).from_scratch:
        return
    theirs, ours = mark.read_text(encoding="utf-8"), fingerprint(config)
    if theirs and ours and theirs != ours:
        logger.warning(
            "adapter %s was trained on a base model with other weights (or other files of them) "
            "than those of %s now",
            *(source, config.model),
        )


def _folder(config: Config) -> Path:
    """The folder of the adapter: that of a run's newest, or the one that was given."""
    start = config.run_folder / START
    if config.resume and start.is_dir():
        return start
    folder = Path(str(config.adapter)).expanduser()
    if (folder / ADAPTER_CONFIG).is_file():
        return folder
    if (folder / ADAPTER / ADAPTER_CONFIG).is_file():  # a checkpoint
        return folder / ADAPTER
    if (folder / CONFIG_NAME).is_file():
        return run_adapter(folder)
    raise CheckpointError(
        f"adapter {folder}: expected a folder with {ADAPTER_CONFIG} (PEFT format), a run, or a "
        f"checkpoint of one: runs/NAME, runs/NAME/{ADAPTER}, runs/NAME/checkpoints/step-000010"
    )


def _settings(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} cannot be read: {error}") from error
    return dict(found)


def _check_targets(config: Config, folder: Path, found: dict[str, Any]) -> None:
    theirs, ours = found.get("target_modules"), config.lora_targets
    if isinstance(ours, str) or not isinstance(theirs, list):
        return  # all-linear has no names before the model is there
    if {name.rpartition(".")[2] for name in theirs} != {n.rpartition(".")[2] for n in ours}:
        names = ",".join(sorted(theirs))
        raise ConfigError(
            f"adapter {folder} does not fit: it has the layers {names}, the run {','.join(ours)}. "
            f"Give --lora-targets [{names}]"
        )


def _check_base(config: Config, folder: Path, found: dict[str, Any]) -> None:
    """A base made from scratch has to be at hand; others are compared by name."""
    theirs = _run_of(folder)
    if find_model(config.model).from_scratch:
        made_for = config.env if theirs is None else load_config(theirs).env
        if made_for != config.env:
            raise ConfigError(
                f"adapter {folder} is of a policy made for {made_for}, whose words are all that it "
                f"knows; the run is in {config.env}. Leave --adapter out"
            )
        if theirs is None and folder != config.run_folder / START:
            raise ConfigError(
                f"adapter {folder}: model {config.model} is made for a run, so its adapter fits "
                "no other: give the folder of that run, which holds the base model too"
            )
        return
    base = str(found.get("base_model_name_or_path") or "")
    if theirs is not None:  # which has a base made for it
        base = load_config(theirs).model
    if base and Path(base).name.lower() != Path(config.model).name.lower():
        raise ConfigError(
            f"adapter {folder} was trained on {base}, the run is on {config.model}. Give --model "
            f"{base}"
        )


def _run_of(folder: Path) -> Path | None:
    """The run that an adapter lies in, if it holds the base model too."""
    runs = (p for p in _around(folder) if (p / CONFIG_NAME).is_file() and (p / BASE).is_dir())
    return next(runs, None)


def _around(folder: Path) -> tuple[Path, ...]:
    """A folder and those it may lie in within a run, the nearest first."""
    return (folder, *folder.resolve().parents[:4])
