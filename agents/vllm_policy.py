"""Sampling through vLLM: servers that hold the model, and the learner's weights by version.

Entropies come from the learner: vLLM knows none of whole vocabularies.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aem_gym.agents.adapter_folder import Ownership, remove_abandoned
from aem_gym.agents.vllm_client import BASE, PLAIN, VLLMClient
from aem_gym.agents.vllm_options import VLLMOptions, check_here, key_of, read_options
from aem_gym.agents.vllm_server import START_SECONDS, VLLMServer
from aem_gym.agents.vllm_weights import (
    Adapters,
    MergedWeights,
    PublishedWeights,
    UnchangedWeights,
    has_company,
    merges,
)
from aem_gym.concurrency import in_thread
from aem_gym.errors import ConfigError, InfrastructureError
from aem_gym.protocols import Generation, GenerationRequest, Learner, SamplingSettings

logger = logging.getLogger(__name__)

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM serves: a server is made for the next one up."""
_BATCHED = 8192
"""Tokens that a server on a CPU reads at once."""
_TEMPORARY = "aem-gym-vllm-"


class VLLMPolicy:
    """A `VersionedPolicy` on vLLM servers.

    Raises:
        ConfigError: an option is wrong, or a server refuses us.
    """

    exact = False

    def __init__(self, learner: Learner, settings: SamplingSettings) -> None:
        self.options, self.settings = self.check_options(settings.options), settings
        weights: Any = learner
        for need in ("peft_model", "model", "end_ids"):
            if not hasattr(weights, need):
                raise ConfigError(f"sampler vllm: expected a learner with {need}. Use --learner hf")
        self.end_ids = sorted({*weights.end_ids, *settings.end_ids})
        self.version = 0
        self._pinned: int | None = None
        self._own: VLLMServer | None = None
        self._asleep = False
        self._starting = threading.Lock()
        urls, key = self.options.urls, key_of(self.options)
        self._servers = [VLLMClient(url, key, self.options) for url in urls]
        for server in self._servers:
            server.check()
        keep = max(self.options.versions, settings.max_staleness + 2)
        self._arguments = _arguments(weights, settings, self.options, keep)
        self._folder = Path(self.options.adapters or tempfile.mkdtemp(prefix=_TEMPORARY))
        name = f"aem-{secrets.token_hex(4)}"
        self._ownership = self._claim(name)
        self._weights = _weights(weights, self.options, self._folder, name, keep)

    @staticmethod
    def check_options(given: Mapping[str, Any], starts: bool = True) -> VLLMOptions:
        """The options, checked before a model loads.

        Raises:
            UnknownNameError, ConfigError: an option does not exist or is wrong; where a run
                `starts`, also a key, a package or an interpreter that is missing here.
        """
        options = read_options(given)
        try:
            check_here(options)
        except ConfigError as error:
            if starts:
                raise
            logger.warning("%s", error)
        return options

    def publish(self, learner: Learner) -> int:
        """Hand the learner's weights to the servers as a new version; old ones are dropped.

        Raises:
            InfrastructureError: no server answers.
        """
        self._weights.publish(self.version + 1, learner, self._servers)
        self.version += 1
        return self.version

    def pin(self, version: int | None) -> None:
        """Sample under `version`; None: under the newest. Raises ValueError if it was dropped."""
        kept = self._weights.versions
        if kept and version is not None and version not in kept:
            raise ValueError(f"expected one of {list(kept)}, got version {version}")
        self._pinned = version

    def rest(self) -> None:
        """Nothing is sampled for a while: with `sleep`, our own server frees its GPU.

        Raises:
            InfrastructureError: it does not.
        """
        with self._starting:
            if self.options.sleep and self._servers and not self._asleep:
                self._servers[0].sleep()
                self._asleep = True

    async def sample(self, request: GenerationRequest) -> Generation:
        """One continuation, all under the pinned version, or the newest one as it begins.

        Raises:
            InfrastructureError: no server answers.
        """
        if not self._servers or self._asleep:
            await in_thread(self._start)
        first = request.slot % len(self._servers)
        order = [*self._servers[first:], *self._servers[:first]]
        order.sort(key=lambda server: server.away)  # those last; they may be back
        body, error = self._body(request), InfrastructureError("")
        version = self.version if self._pinned is None else self._pinned
        for server in order:
            try:
                return await in_thread(partial(self._weights.complete, server, version, body))
            except InfrastructureError as failure:
                if self._own is not None:
                    self._own.check()
                error = failure
                server.leave_out()
                logger.warning("%s", failure)
        raise error

    def release(self, slot: int) -> None:
        """Servers forget prefixes by themselves."""

    def close(self) -> None:
        """Drop our weights, and end our own server."""
        self._weights.close(() if self._own else self._servers)
        if self._own is not None:
            self._own.close()
        if self.options.adapters is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._ownership.release()

    def _claim(self, name: str) -> Ownership:
        """Remove what runs that were killed have left, and mark what will be ours."""
        temporary = Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*")
        for folder in temporary if self.options.adapters is None else [self._folder]:
            if gone := remove_abandoned(folder):
                logger.info("%s: removed %d versions of runs that were killed", folder, len(gone))
        return Ownership(self._folder, name)

    def _start(self) -> None:
        """Start or wake a server of our own."""
        with self._starting:
            if self._asleep:
                self._servers[0].wake()
                self._asleep = False
            if self._servers:
                return
            log = Path(self.options.log or self._folder / "server.log")
            python = self.options.python or sys.executable
            logger.info("starting a vLLM server; its log: %s", log)
            environment = {name: str(value) for name, value in self.options.env.items()}
            if self.options.sleep or isinstance(self._weights, MergedWeights):
                environment["VLLM_SERVER_DEV_MODE"] = "1"  # of a server on the loopback address
            self._own = VLLMServer(python, self._arguments, environment, log)
            server = VLLMClient(self._own.url, self._own.key, self.options)
            _wait_for(self._own, server)
            server.check()
            self._weights.start(server)
            self._servers = [server]

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        """The request as JSON. All that a model's own generation config could change is set."""
        limit = self.settings.max_new_tokens
        body: dict[str, Any] = {
            "prompt": list(request.prompt_ids),
            "max_tokens": min(request.max_new_tokens or limit, limit),
            "temperature": request.temperature,
            "seed": request.key,
            "logprobs": 0,
            "return_token_ids": True,
            "ignore_eos": True,  # it is among our own
            "stop_token_ids": self.end_ids,
            "skip_special_tokens": False,
            **PLAIN,
        }
        if self.options.keyed:
            body["vllm_xargs"] = {"aem_key": str(request.key)}
        return body


def _wait_for(own: VLLMServer, server: VLLMClient) -> None:
    """Raise ConfigError where it never answers."""
    until = time.monotonic() + START_SECONDS
    while not server.answers():
        try:
            own.check()
        except InfrastructureError as error:
            raise own.failed_to_start() from error
        if time.monotonic() > until:
            own.close()
            raise own.failed_to_start()
        time.sleep(0.25)


def _weights(
    weights: Any, options: VLLMOptions, folder: Path, name: str, keep: int
) -> PublishedWeights:
    """How the learner's weights reach the servers."""
    if weights.peft_model is None:
        return UnchangedWeights()
    if merges(weights.model, options):
        return MergedWeights(folder, name, keep, weights.model)
    return Adapters(folder, name, keep, shared=bool(options.urls) and has_company())


def _arguments(
    weights: Any, settings: SamplingSettings, options: VLLMOptions, versions: int
) -> dict[str, object]:
    """Arguments of a server of our own."""
    model = weights.model
    if getattr(model, "is_quantized", False) or hasattr(model, "quantization_method"):
        raise ConfigError(
            "sampler vllm: the base model is quantized for training, which vLLM does not serve "
            "alike: its log-probabilities would be of another model. Use --sampler hf"
        )
    first = next(model.parameters())
    found: dict[str, object] = {
        "model": model.name_or_path,
        "served_model_name": BASE,
        "dtype": str(first.dtype).removeprefix("torch."),
        "max_model_len": settings.max_length,
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        "generation_config": "vllm",  # not the model's own top_k and the like
        "disable_uvicorn_access_log": True,
        "disable_log_stats": True,
    }
    if first.device.type == "cpu":
        found |= {"enforce_eager": True, "block_size": 32}
        # A prompt that is read in parts ends vLLM 0.32 where the request has a seed.
        found["no_enable_chunked_prefill"] = True
        found["max_num_batched_tokens"] = max(settings.max_length, _BATCHED)
    if weights.peft_model is not None and not merges(model, options):
        rank = weights.peft_model.peft_config["default"].r
        found["enable_lora"] = True
        found["max_lora_rank"] = next((known for known in RANKS if known >= rank), rank)
        found["max_loras"] = versions
    if options.keyed:
        found["logits_processors"] = "aem_gym.agents.vllm_keyed:KeyedDraws"
        found |= {"logprobs_mode": "raw_logprobs", "no_async_scheduling": True}
    if options.sleep:
        if first.device.type == "cpu":
            raise ConfigError("sampler_options.sleep: vLLM sleeps on GPUs only: leave it out")
        found["enable_sleep_mode"] = True
    return found | options.server
