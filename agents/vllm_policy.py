"""Sampling through vLLM: servers that hold the base model, and a LoRA adapter per policy version.

Every version has a name of its own, never used before: servers keep prefixes by the adapter's name,
so under a name that is used again they would mix two policies, and nothing would say so. Entropies
come from the learner: vLLM knows none of whole vocabularies.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import urllib3

from aem_gym.agents.adapter_folder import Ownership, remove_abandoned
from aem_gym.agents.vllm_server import START_SECONDS, VLLMServer
from aem_gym.concurrency import in_thread
from aem_gym.errors import ConfigError, InfrastructureError, UnknownNameError
from aem_gym.protocols import Generation, GenerationRequest, Learner, SamplingSettings

logger = logging.getLogger(__name__)

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM serves: a server is made for the next one up."""
TRIES = 4
"""How often a request is made, with growing pauses, before its episode is given up."""
_PAUSE = 0.5
_SHOWN = 300
_BASE = "base"
_TEMPORARY = "aem-gym-vllm-"
_TOGETHER = 0.05
"""Rounding that probabilities may be off 1 by."""
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
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables of our own server: CUDA_VISIBLE_DEVICES, ..."""
    log: str | None = None
    """File for what our own server prints; unset: beside the adapters."""
    timeout: float = 600.0
    """Seconds that one response may take."""
    versions: int = 2
    """How many adapters a server keeps: those of responses that are under way, and the newest."""
    keyed: bool = False
    """Draw tokens as the sampler hf does, by the server's plug-in: for tests, in float32."""


class VLLMPolicy:
    """An `AsyncPolicy` on vLLM servers.

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
        self._own: VLLMServer | None = None
        self._keep = max(self.options.versions, settings.max_staleness + 2)
        self._arguments = _arguments(weights, settings, self.options, self._keep)
        self._servers = [
            _Server(url, _key(self.options), self.options) for url in self.options.urls
        ]
        self._starting = threading.Lock()
        self._adapted = weights.peft_model is not None
        self._token, self.version = secrets.token_hex(4), 0
        self._pinned: int | None = None
        self._folder = Path(self.options.adapters or tempfile.mkdtemp(prefix=_TEMPORARY))
        self._published: dict[int, Path] = {}
        """Folders of the versions that servers keep, oldest first."""
        for server in self._servers:
            server.check()
        temporary = Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*")
        for folder in temporary if self.options.adapters is None else [self._folder]:
            if gone := remove_abandoned(folder):
                logger.info("%s: removed %d adapters of runs that were killed", folder, len(gone))
        self._ownership = Ownership(self._folder, f"aem-{self._token}")

    @staticmethod
    def check_options(given: Mapping[str, Any], starts: bool = True) -> VLLMOptions:
        """The options, checked before a model loads.

        Raises:
            UnknownNameError, ConfigError: an option does not exist or is wrong; where a run
                `starts`, also a key, a package or an interpreter that is missing here.
        """
        options = _options(given)
        try:
            _check_here(options)
        except ConfigError as error:
            if starts:
                raise
            logger.warning("%s", error)
        return options

    def publish(self, learner: Learner) -> int:
        """Hand the learner's adapter to the servers under a new name; old ones are dropped.

        Raises:
            InfrastructureError: no server answers.
        """
        version = self.version + 1
        if self._adapted:
            folder = self._folder_of(version)
            learner.save(folder)
            self._load(folder)
            self._published = {**self._published, version: folder}
            for old in list(self._published)[: -self._keep]:
                self._drop(old)
        self.version = version
        return version

    def _load(self, folder: Path) -> None:
        """Give an adapter to the servers. One that is away gets it when it is back (`complete`)."""
        error, loaded = InfrastructureError(""), not self._servers
        for server in self._servers:
            try:
                server.load(folder)
                loaded = True
            except InfrastructureError as failure:
                logger.warning("%s", failure)
                error, server.alive = failure, False
        if not loaded:
            raise error

    def pin(self, version: int | None) -> None:
        """Sample under `version`; None: under the newest. Raises ValueError if it was dropped."""
        if self._adapted and version is not None and version not in self._published:
            raise ValueError(f"expected one of {sorted(self._published)}, got version {version}")
        self._pinned = version

    def _drop(self, version: int) -> None:
        self._published = {v: each for v, each in self._published.items() if v != version}
        for server in self._servers:
            server.unload(self._folder_of(version))
        shutil.rmtree(self._folder_of(version), ignore_errors=True)

    def _folder_of(self, version: int) -> Path:
        return self._folder / f"aem-{self._token}-v{version}"

    async def sample(self, request: GenerationRequest) -> Generation:
        """One continuation, all under the pinned version, or the newest one as it begins.

        Raises:
            InfrastructureError: no server answers.
        """
        if not self._servers:
            await in_thread(self._start)
        first = request.slot % len(self._servers)
        order = [*self._servers[first:], *self._servers[:first]]
        living = [server for server in order if server.alive] or order
        body, error = self._body(request), InfrastructureError("")
        version = self.version if self._pinned is None else self._pinned
        adapter = self._published[version] if self._adapted else None
        for server in living:
            body["model"] = server.base if adapter is None else adapter.name
            try:
                return _generation(await in_thread(partial(server.complete, dict(body), adapter)))
            except InfrastructureError as failure:
                if self._own is not None:
                    self._own.check()
                error, server.alive = failure, False
                logger.warning("%s", failure)
        raise error

    def release(self, slot: int) -> None:
        """Servers forget prefixes by themselves."""

    def close(self) -> None:
        """Drop our adapters, and end our own server."""
        for server in self._servers if self._own is None else ():
            for folder in self._published.values():
                with contextlib.suppress(InfrastructureError):
                    server.unload(folder)
        if self._own is not None:
            self._own.close()
        for folder in self._published.values():
            shutil.rmtree(folder, ignore_errors=True)
        if self.options.adapters is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._ownership.release()

    def _start(self) -> None:
        """Start a server of our own, and give it the newest adapter."""
        with self._starting:
            if self._servers:
                return
            log = Path(self.options.log or self._folder / "server.log")
            python = self.options.python or sys.executable
            logger.info("starting a vLLM server; its log: %s", log)
            self._own = VLLMServer(python, self._arguments, self.options.env, log)
            server = _Server(self._own.url, self._own.key, self.options)
            until = time.monotonic() + START_SECONDS
            while not server.answers():
                try:
                    self._own.check()
                except InfrastructureError as error:
                    raise self._own.failed_to_start() from error
                if time.monotonic() > until:
                    self._own.close()
                    raise self._own.failed_to_start()
                time.sleep(0.25)
            server.check()
            for folder in self._published.values():
                server.load(folder)
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
            **_PLAIN,
        }
        if self.options.keyed:
            body["vllm_xargs"] = {"aem_key": str(request.key)}
        return body


_PLAIN: Mapping[str, Any] = {
    **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
    **{"presence_penalty": 0.0, "frequency_penalty": 0.0},
}
"""Sampling from the distribution itself."""


class _Server:
    """One server: its address, and what it is asked."""

    def __init__(self, url: str, key: str, options: VLLMOptions) -> None:
        self.url, self.alive, self.options = url.rstrip("/"), True, options
        self.base = _BASE
        """The name of its base model."""
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._pool = urllib3.PoolManager(maxsize=1024, retries=False)
        self._loading = threading.Lock()

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            return self._call("GET", "/health", seconds=5.0).status == 200
        except InfrastructureError:
            return False

    def check(self) -> None:
        """Raise ConfigError where it is not there, refuses our key, or returns other scores."""
        try:
            answer = self._refuse(self._call("GET", "/v1/models"))
        except InfrastructureError as error:
            raise ConfigError(f"{error}. Start it, or check sampler_options.urls") from error
        try:
            models = json.loads(answer.data)["data"]
            self.base = next(each["id"] for each in models if not each.get("parent"))
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise ConfigError(f"sampler vllm: {self.url} is no vLLM server") from error
        if not self.options.keyed:
            self._check_scores()

    def _check_scores(self) -> None:
        """Where two tokens alone may be drawn, their probabilities have to add up to 1."""
        two = {"allowed_token_ids": [0, 1], "logprobs": 2, "temperature": 0.5, "max_tokens": 1}
        answer = self.complete({"model": self.base, "prompt": [0], **two, **_PLAIN})
        scores = answer["choices"][0]["logprobs"]["top_logprobs"][0].values()
        if not abs(sum(map(math.exp, scores)) - 1) < _TOGETHER:
            raise ConfigError(
                f"sampler vllm: {self.url} returns log-probabilities of another temperature: start "
                "it with --logprobs-mode processed_logprobs"
            )

    def load(self, folder: Path) -> None:
        """Let it read the adapter in `folder`, named like it. Raises ConfigError if it cannot."""
        body = {"lora_name": folder.name, "lora_path": str(folder.resolve())}
        answer = self._tried("/v1/load_lora_adapter", body)
        if answer.status >= 300:
            raise ConfigError(
                f"sampler vllm: {self.url} cannot load the adapter {folder}: {_text(answer)}. The "
                "server needs --enable-lora, a --max-lora-rank that holds it, the environment "
                "variable VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and has to see this folder"
            )

    def _knows(self, folder: Path) -> bool:
        answer = self._call("GET", "/v1/models")
        return any(each["id"] == folder.name for each in json.loads(answer.data).get("data", ()))

    def unload(self, folder: Path) -> None:
        """Let it forget an adapter; one that it does not know is no error."""
        with contextlib.suppress(InfrastructureError):
            self._tried("/v1/unload_lora_adapter", {"lora_name": folder.name})

    def complete(self, body: Mapping[str, Any], adapter: Path | None = None) -> dict[str, Any]:
        """The answer to a completion. Raises InfrastructureError, or ConfigError if refused.

        `adapter` is handed over again to a server that does not know it: it was started anew.
        """
        answer = self._tried("/v1/completions", body)
        if answer.status == 404 and adapter is not None:
            with self._loading:
                if not self._knows(adapter):
                    self.load(adapter)
            answer = self._tried("/v1/completions", body)
        if answer.status != 200:
            raise ConfigError(f"sampler vllm: {self.url} refused a request: {_text(answer)}")
        self.alive = True
        found: dict[str, Any] = json.loads(answer.data)
        return found

    def _tried(self, path: str, body: Mapping[str, Any]) -> urllib3.BaseHTTPResponse:
        """A POST, made again where the server is busy or away for a moment."""
        for number in range(TRIES):
            try:
                answer = self._call("POST", path, body, self.options.timeout)
                if answer.status < 500 and answer.status != 429:
                    return self._refuse(answer)
                error = InfrastructureError(f"{self.url}{path}: {_text(answer)}")
            except InfrastructureError as failure:
                error = failure
            if number + 1 < TRIES:
                time.sleep(_PAUSE * 2**number)
        raise error

    def _refuse(self, answer: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
        if answer.status in (401, 403):
            raise ConfigError(
                f"sampler vllm: {self.url} refuses our API key: set the environment variable "
                f"{self.options.key} to the server's"
            )
        return answer

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, seconds: float = 30.0
    ) -> urllib3.BaseHTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        try:
            return self._pool.request(
                method, self.url + path, body=data, headers=self._headers, timeout=seconds
            )
        except urllib3.exceptions.HTTPError as error:
            raise InfrastructureError(f"{self.url} does not answer ({error})") from error


def _text(answer: urllib3.BaseHTTPResponse) -> str:
    return f"{answer.status} {answer.data.decode('utf-8', 'replace')[:_SHOWN]}"


def _generation(answer: Mapping[str, Any]) -> Generation:
    """What a server answered. Raises InfrastructureError where it is no completion of ours."""
    try:
        choice = answer["choices"][0]
        ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        return Generation(tuple(ids), tuple(logprobs), (), choice["finish_reason"] == "length")
    except (KeyError, IndexError, TypeError) as error:
        raise InfrastructureError(
            f"expected token_ids and logprobs of a completion, got {str(answer)[:_SHOWN]}: the "
            "server is too old, or no vLLM server"
        ) from error


def _options(given: Mapping[str, Any]) -> VLLMOptions:
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
    for url in options.urls:
        if urllib3.util.parse_url(url).scheme not in ("http", "https"):
            raise ConfigError(f"sampler_options.urls: expected http://HOST:PORT, got {url!r}")
    if options.urls and not options.adapters:
        raise ConfigError(
            "sampler_options.adapters: name a folder that this machine and the servers see under "
            "the same path: adapters travel through it"
        )
    taken = sorted(_OURS & options.server.keys())
    if taken:
        raise ConfigError(f"sampler_options.server.{taken[0]}: cannot be set; the sampler sets it")
    return options


def _check_here(options: VLLMOptions) -> None:
    """Raise ConfigError where a key, a package or an interpreter is missing on this machine."""
    if options.urls:
        _key(options)
    elif options.python is None and importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "sampler vllm: vLLM is not installed here. Name an interpreter that has it (--set "
            "sampler_options.python=PATH), or servers that run already (--sampler-url)"
        )
    elif options.python is not None and shutil.which(options.python) is None:
        raise ConfigError(f"sampler_options.python: no interpreter at {options.python}")


def _key(options: VLLMOptions) -> str:
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
        "served_model_name": _BASE,
        "dtype": str(first.dtype).removeprefix("torch."),
        "max_model_len": settings.max_length,
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        "generation_config": "vllm",  # not the model's own top_k and the like
    }
    if first.device.type == "cpu":
        found |= {"enforce_eager": True, "block_size": 32}
    if weights.peft_model is not None:
        rank = weights.peft_model.peft_config["default"].r
        found["enable_lora"] = True
        found["max_lora_rank"] = next((known for known in RANKS if known >= rank), rank)
        found["max_loras"] = versions
    if options.keyed:
        found["logits_processors"] = "aem_gym.agents.vllm_keyed:KeyedDraws"
        found |= {"logprobs_mode": "raw_logprobs", "no_async_scheduling": True}
    return found | options.server
