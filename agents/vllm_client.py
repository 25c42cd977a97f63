"""One vLLM server: its address, and what it is asked."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3

from aem_gym.agents.vllm_options import VLLMOptions
from aem_gym.errors import ConfigError, InfrastructureError
from aem_gym.protocols import Generation

TRIES = 4
"""How often a request is made, with growing pauses, before its episode is given up."""
BASE = "base"
"""Name of the base model on servers of our own."""
PLAIN: Mapping[str, Any] = {
    **{"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
    **{"presence_penalty": 0.0, "frequency_penalty": 0.0},
}
"""Sampling from the distribution itself, whatever the model's own generation config says."""
_PAUSE = 0.5
_AWAY = 60.0
"""Seconds until a server that did not answer is asked again, while others answer."""
_SHOWN = 300
_TOGETHER = 0.05
"""Rounding that probabilities may be off 1 by."""


class VLLMClient:
    """What one server is asked.

    Args:
        url: http://HOST:PORT.
        key: its API key; empty without one.
        options: of the sampler.

    Attributes:
        base: the name of its base model.
    """

    def __init__(self, url: str, key: str, options: VLLMOptions) -> None:
        self.url, self.options, self.base = url.rstrip("/"), options, BASE
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._pool = urllib3.PoolManager(maxsize=1024, retries=False)
        self._loading = threading.Lock()
        self._away_until = 0.0

    @property
    def away(self) -> bool:
        """Whether it did not answer a short while ago."""
        return time.monotonic() < self._away_until

    def leave_out(self) -> None:
        """Ask others for a while: it did not answer."""
        self._away_until = time.monotonic() + _AWAY

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
        answer = self._complete({"model": self.base, "prompt": [0], **two, **PLAIN})
        scores = answer["choices"][0]["logprobs"]["top_logprobs"][0].values()
        if not abs(sum(map(math.exp, scores)) - 1) < _TOGETHER:
            raise ConfigError(
                f"sampler vllm: {self.url} returns log-probabilities of another temperature: start "
                "it with --logprobs-mode processed_logprobs"
            )

    def load(self, folder: Path) -> None:
        """Let it read the adapter in `folder`, named like it; one that it knows already is fine.

        Raises:
            InfrastructureError: it does not answer.
            ConfigError: it cannot.
        """
        body = {"lora_name": folder.name, "lora_path": str(folder.resolve())}
        with self._loading:
            answer = self._tried("/v1/load_lora_adapter", body)
            if answer.status >= 300 and not self._knows(folder):
                raise ConfigError(
                    f"sampler vllm: {self.url} cannot load the adapter {folder}: {_text(answer)}. "
                    "The server needs --enable-lora, a --max-lora-rank that holds it, the "
                    "environment variable VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and has to see this "
                    "folder"
                )

    def _knows(self, folder: Path) -> bool:
        answer = self._call("GET", "/v1/models")
        return any(each["id"] == folder.name for each in json.loads(answer.data).get("data", ()))

    def unload(self, folder: Path) -> None:
        """Let it forget an adapter; one that it does not know is no error."""
        with contextlib.suppress(InfrastructureError):
            self._tried("/v1/unload_lora_adapter", {"lora_name": folder.name})

    def replace(self, folder: Path) -> None:
        """Let it take the weights in `folder` instead of its own, nothing being under way.

        Raises:
            InfrastructureError: it does not, whatever the reason.
        """
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder.resolve())}}
        self._done("/collective_rpc", body)

    def sleep(self) -> None:
        """Let it free its GPU, nothing being under way. Raises InfrastructureError if it fails."""
        self._done("/sleep?level=1", {})

    def wake(self) -> None:
        """Let it take its GPU again. Raises InfrastructureError if it fails."""
        self._done("/wake_up", {})

    def _done(self, path: str, body: Mapping[str, Any]) -> None:
        answer = self._tried(path, body)
        if answer.status >= 300:
            raise InfrastructureError(f"{self.url}{path}: {_text(answer)}")

    def complete(self, body: Mapping[str, Any], adapter: Path | None = None) -> Generation:
        """The answer to a completion of one prompt.

        `adapter` is handed over again to a server that does not know it: it was started anew.

        Raises:
            InfrastructureError: it does not answer, or not with a completion of ours.
            ConfigError: it refuses.
        """
        return _generation(self._complete(body, adapter))

    def _complete(self, body: Mapping[str, Any], adapter: Path | None = None) -> dict[str, Any]:
        answer = self._tried("/v1/completions", body)
        if answer.status == 404 and adapter is not None:
            self.load(adapter)
            answer = self._tried("/v1/completions", body)
        if answer.status != 200:
            raise ConfigError(f"sampler vllm: {self.url} refused a request: {_text(answer)}")
        self._away_until = 0.0
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
