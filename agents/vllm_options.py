"""`sampler_options` of the sampler vllm, checked before a model loads."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec
import urllib3

from aem_gym.errors import ConfigError, UnknownNameError

_OURS = frozenset(
    ("model", "served_model_name", "host", "port", "api_key", "enable_lora", "max_lora_rank")
)
"""Arguments of the server that are set here."""


@dataclass(frozen=True)
class VLLMOptions:
    """`sampler_options` of the sampler vllm.

    Without `urls` a server of our own is started when the first response is wanted, and ended with
    the run. Servers elsewhere are started by hand (docs/cluster.md); each episode stays with one of
    them, and `adapters` is a folder that they see under the same path.
    """

    urls: tuple[str, ...] = ()
    """Servers that run already: http://HOST:PORT[,...]."""
    key: str = "VLLM_API_KEY"
    """Environment variable with the key of `urls`."""
    adapters: str | None = None
    """Folder for adapters on their way to the servers; needed with `urls`."""
    python: str | None = None
    """Interpreter with vLLM, for a server of our own; unset: the present one."""
    server: dict[str, Any] = field(default_factory=dict)
    """Arguments of our own server: tensor_parallel_size, gpu_memory_utilization, ..."""
    env: dict[str, str | int] = field(default_factory=dict)
    """Environment variables of our own server: CUDA_VISIBLE_DEVICES, ..."""
    log: str | None = None
    """File for what our own server prints; unset: beside the adapters."""
    timeout: float = 600.0
    """Seconds that one response may take."""
    versions: int = 2
    """How many adapters a server keeps: those of responses that are under way, and the newest."""
    merge: bool | None = None
    """Give our own server merged weights instead of adapters. Unset: small models on a CPU, where
    vLLM needs several times as long for an adapter."""
    sleep: bool = False
    """Let our own server free its GPU while the learner works there."""
    keyed: bool = False
    """Draw tokens as the sampler hf does, by the server's plug-in: for tests, in float32."""


def read_options(given: Mapping[str, Any]) -> VLLMOptions:
    """The options, checked as far as this needs nothing of this machine.

    Raises:
        UnknownNameError, ConfigError: an option does not exist or is wrong.
    """
    known = [item.name for item in fields(VLLMOptions)]
    for name in given:
        if name not in known:
            raise UnknownNameError("option of the sampler vllm", name, known)
    given = dict(given)
    if isinstance(given.get("urls"), str):
        given["urls"] = [url for url in given["urls"].split(",") if url]
    try:
        options = msgspec.convert(given, VLLMOptions)
    except msgspec.ValidationError as error:
        raise ConfigError(f"sampler_options: {error}") from error
    taken = sorted(_OURS & options.server.keys())
    if taken:
        raise ConfigError(f"sampler_options.server.{taken[0]}: cannot be set; the sampler sets it")
    if options.urls:
        _check_elsewhere(options)
    return options


def _check_elsewhere(options: VLLMOptions) -> None:
    for url in options.urls:
        if urllib3.util.parse_url(url).scheme not in ("http", "https"):
            raise ConfigError(f"sampler_options.urls: expected http://HOST:PORT, got {url!r}")
    if not options.adapters:
        raise ConfigError(
            "sampler_options.adapters: name a folder that this machine and the servers see under "
            "the same path: adapters travel through it"
        )
    for name in ("merge", "sleep"):
        if getattr(options, name):
            raise ConfigError(
                f"sampler_options.{name}: for a server of our own only. Servers at "
                "sampler_options.urls get adapters, and stay awake: leave it out"
            )


def check_here(options: VLLMOptions) -> None:
    """Raise ConfigError where a key, a package or an interpreter is missing on this machine."""
    if options.urls:
        key_of(options)
    elif options.python is None and importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "sampler vllm: vLLM is not installed here. Name an interpreter that has it (--set "
            "sampler_options.python=PATH), or servers that run already (--sampler-url)"
        )
    elif options.python is not None and shutil.which(options.python) is None:
        raise ConfigError(f"sampler_options.python: no interpreter at {options.python}")


def key_of(options: VLLMOptions) -> str:
    """The key of the servers; ConfigError where they may be reached by others without one."""
    key = os.environ.get(options.key, "")
    if not key and any(not _loopback(url) for url in options.urls):
        raise ConfigError(
            f"sampler vllm: set the environment variable {options.key} to the servers' "
            "API key. Without one anybody who reaches them can change their weights"
        )
    return key


def _loopback(url: str) -> bool:
    return urllib3.util.parse_url(url).host in ("127.0.0.1", "localhost", "[::1]")
