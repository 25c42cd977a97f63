"""How the learner's weights reach vLLM servers: a version at a time, never two under one name.

Servers keep prefixes of what they have read. What was read under one version must not be used under
another: nothing would say so, and log-probabilities were seen to be off by 1.9 nats.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from aem_gym.agents.compact import merge_into
from aem_gym.agents.lora import merged_copy
from aem_gym.agents.sampler import MERGE_BELOW
from aem_gym.agents.vllm_client import VLLMClient
from aem_gym.agents.vllm_options import VLLMOptions
from aem_gym.errors import ConfigError, InfrastructureError
from aem_gym.protocols import Generation, Learner

logger = logging.getLogger(__name__)


class PublishedWeights(Protocol):
    """The versions that servers can sample under."""

    versions: Sequence[int]
    """Those that are kept, oldest first."""

    def publish(self, version: int, learner: Learner, servers: Sequence[VLLMClient]) -> None:
        """Keep the learner's present weights as `version`; the oldest one goes.

        Raises:
            InfrastructureError: no server answers.
        """
        ...

    def start(self, server: VLLMClient) -> None:
        """Give a server that has just been started what it needs."""
        ...

    def complete(self, server: VLLMClient, version: int, body: dict[str, Any]) -> Generation:
        """One completion under `version`. Raises as `VLLMClient.complete`."""
        ...

    def close(self, servers: Sequence[VLLMClient]) -> None:
        """Remove what is kept."""
        ...


class UnchangedWeights:
    """Nothing is published: there is no adapter."""

    versions: Sequence[int] = ()

    def publish(self, version: int, learner: Learner, servers: Sequence[VLLMClient]) -> None:
        """The base model never changes."""

    def start(self, server: VLLMClient) -> None:
        """It has all it needs."""

    def complete(self, server: VLLMClient, version: int, body: dict[str, Any]) -> Generation:
        return server.complete({**body, "model": server.base})

    def close(self, servers: Sequence[VLLMClient]) -> None:
        """Nothing is kept."""


class Adapters:
    """A LoRA adapter per version, under a name that was never used before.

    Of several processes that share servers, the first one alone publishes.

    Args:
        folder: where servers read them.
        name: what all names begin with.
        keep: how many versions are kept.
        shared: whether other processes of the run use the same servers.
    """

    def __init__(self, folder: Path, name: str, keep: int, shared: bool) -> None:
        self.folder, self.keep = folder, keep
        self._once, self._leads = (_in_first_process, _is_first()) if shared else (_here, True)
        self.name: str = self._once(lambda: name)
        self.versions: Sequence[int] = ()

    def publish(self, version: int, learner: Learner, servers: Sequence[VLLMClient]) -> None:
        self._once(lambda: self._hand_over(version, learner, servers))
        self.versions = (*self.versions, version)
        while len(self.versions) > self.keep:
            self._drop(self.versions[0], servers)
            self.versions = self.versions[1:]

    def _hand_over(self, version: int, learner: Learner, servers: Sequence[VLLMClient]) -> None:
        """One that is away gets it when it is back (`VLLMClient.complete`)."""
        learner.save(self._folder_of(version))
        failure, loaded = InfrastructureError(""), not servers
        for server in servers:
            try:
                server.load(self._folder_of(version))
                loaded = True
            except InfrastructureError as error:
                logger.warning("%s", error)
                failure = error
                server.leave_out()
        if not loaded:
            raise failure

    def start(self, server: VLLMClient) -> None:
        for version in self.versions:
            server.load(self._folder_of(version))

    def complete(self, server: VLLMClient, version: int, body: dict[str, Any]) -> Generation:
        folder = self._folder_of(version)
        return server.complete({**body, "model": folder.name}, folder)

    def close(self, servers: Sequence[VLLMClient]) -> None:
        for version in self.versions:
            self._drop(version, servers)

    def _drop(self, version: int, servers: Sequence[VLLMClient]) -> None:
        if self._leads:
            for server in servers:
                server.unload(self._folder_of(version))
            shutil.rmtree(self._folder_of(version), ignore_errors=True)

    def _folder_of(self, version: int) -> Path:
        return self.folder / f"{self.name}-v{version}"


class MergedWeights:
    """The model with its adapter merged, in place of the server's weights: one version at a time.

    vLLM on a CPU needs several times as long for an adapter. The server changes its weights when
    nothing is under way; a salt per version keeps prefixes apart.

    Args:
        folder: where the server reads them.
        name: what all names begin with.
        keep: how many versions are kept.
        adapted: the model below the adapters.

    Raises:
        ConfigError: its adapters cannot be merged.
    """

    def __init__(self, folder: Path, name: str, keep: int, adapted: Any) -> None:
        self.folder, self.name, self.keep = folder, name, keep
        self.versions: Sequence[int] = ()
        self._adapted, self._copy = adapted, merged_copy(adapted)
        if self._copy is None:
            raise ConfigError(
                "sampler_options.merge: the adapters of this model are on fused layers, which "
                "cannot be merged: leave it out"
            )
        self._loaded, self._under_way = 0, 0
        self._changed = threading.Condition()

    def publish(self, version: int, learner: Learner, servers: Sequence[VLLMClient]) -> None:
        merge_into(self._copy, self._adapted)
        with _without_progress():
            self._copy.save_pretrained(self._folder_of(version))
        self.versions = (*self.versions, version)
        while len(self.versions) > self.keep:
            shutil.rmtree(self._folder_of(self.versions[0]), ignore_errors=True)
            self.versions = self.versions[1:]

    def start(self, server: VLLMClient) -> None:
        self._loaded = 0

    def complete(self, server: VLLMClient, version: int, body: dict[str, Any]) -> Generation:
        with self._loading(server, version):
            salt = self._folder_of(version).name
            return server.complete({**body, "model": server.base, "cache_salt": salt})

    @contextlib.contextmanager
    def _loading(self, server: VLLMClient, version: int) -> Iterator[None]:
        """The server has the version's weights, and keeps them meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._loaded == version or not self._under_way)
            if self._loaded != version:
                server.replace(self._folder_of(version))
                self._loaded = version
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def close(self, servers: Sequence[VLLMClient]) -> None:
        for version in self.versions:
            shutil.rmtree(self._folder_of(version), ignore_errors=True)

    def _folder_of(self, version: int) -> Path:
        return self.folder / f"{self.name}-v{version}"


def merges(model: Any, options: VLLMOptions) -> bool:
    """Whether our own server gets merged weights: by default that of a small model on a CPU."""
    if options.merge is not None:
        return options.merge
    base = [p for name, p in model.named_parameters() if ".lora_" not in name]
    small = sum(p.numel() for p in base) < MERGE_BELOW
    exact = base[0].device.type == "cpu" and base[0].dtype == torch.float32
    return not options.urls and small and exact


@contextlib.contextmanager
def _without_progress() -> Iterator[None]:
    """The library draws a bar for every file that it writes."""
    import transformers

    bars: Any = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def has_company() -> bool:
    """Whether this run has several processes (torchrun)."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _in_first_process(work: Callable[[], Any]) -> Any:
    """What `work` gives in the first process of a run, which alone does it, on every process."""
    import torch.distributed as dist

    told: list[Any] = [(None, "")]
    if _is_first():
        try:
            told = [(work(), "")]
        except Exception as error:
            told = [(None, str(error))]
            raise
        finally:
            dist.broadcast_object_list(told, src=0)
        return told[0][0]
    dist.broadcast_object_list(told, src=0)
    result, failure = told[0]
    if failure:
        raise InfrastructureError(f"the first process of this run: {failure}")
    return result


def _is_first() -> bool:
    import torch.distributed as dist

    return dist.get_rank() == 0


def _here(work: Callable[[], Any]) -> Any:
    return work()
