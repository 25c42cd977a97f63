"""The processes of one run: `torchrun --nproc_per_node N train.py`, on one machine or several.

Every process holds the whole policy and makes a share of the rollouts and of the learner's passes;
what they make is exchanged, so that each goes on with the same numbers. Process 0 alone writes.
A process that ends, or hangs so that it cannot say that it lives, ends them all within a minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from aem_gym.config import Config
from aem_gym.errors import ConfigError, WorldError, describe
from aem_gym.yaml_io import dump_yaml

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
T = TypeVar("T")

MEETING = timedelta(minutes=5)
"""How long processes wait for each other at the start."""
LONGEST = timedelta(hours=12)
"""How long one may wait for another's share: a lost process is noticed by its heartbeat."""
LEAVING = 25.0
"""Seconds that process 0 has for saving where all end because of an error or a signal."""
BEAT, SILENT = 2.0, 25.0
"""Seconds between two signs of life, and without one until a process counts as lost."""
_AFTER_STEP, _AT_ONCE = (30.0, 12.0), (4.0, 8.0)
"""Seconds from asking a process to end to insisting, and from there to ending it: where the others
still live, so that the step can be finished, and where one is lost."""


def process_count() -> int:
    """How many processes the launcher started; 1 without a launcher."""
    return _number("WORLD_SIZE", 1)


def process_rank() -> int:
    """The number of this process among them, from 0."""
    return _number("RANK", 0) if process_count() > 1 else 0


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise ConfigError(f"the environment variable {name}: expected a number, got {text!r}")
    return int(text) if text else default


@contextlib.contextmanager
def open_world(config: Config) -> Iterator[World | None]:
    """The other processes of the run; None where there is only this one.

    Raises:
        ConfigError: the launcher's environment or the settings do not fit several processes.
        WorldError: not all of them came.
    """
    _check_launcher(config)
    if process_count() == 1:
        yield None
        return
    world = _join(config)
    try:
        world.check_same("settings", _digest(config))
        yield world
        world.meet()
    except BaseException:
        if not (world.leads or world.watch.lost):
            world.watch.wait_for_leader()
        raise
    finally:
        world.close()


def _check_launcher(config: Config) -> None:
    if process_count() == 1:
        if "ACCELERATE_MIXED_PRECISION" in os.environ and "WORLD_SIZE" not in os.environ:
            raise ConfigError(
                "accelerate launch started one process only, whatever --num_processes says. Give "
                "torchrun --nproc_per_node N train.py for N processes, python train.py for one"
            )
        if config.shard_base:
            raise ConfigError(
                "shard_base: there is one process, so there is nothing to spread the base model "
                "over. Give torchrun --nproc_per_node N train.py, or leave --shard-base out"
            )
        return
    lacking = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if lacking:
        raise ConfigError(
            f"WORLD_SIZE is {process_count()}, but {', '.join(lacking)} is not set: start the "
            "processes with torchrun --nproc_per_node N train.py, or unset WORLD_SIZE"
        )
    if ":" in config.device:
        raise ConfigError(
            f"device: {config.device} names one GPU for {process_count()} processes. Leave "
            "--device out (each takes the GPU of its LOCAL_RANK), or choose some by "
            "CUDA_VISIBLE_DEVICES"
        )


def _join(config: Config) -> World:
    """Meet the others, and make the groups: NCCL between GPUs, gloo for everything else."""
    import torch

    dist: Any = importlib.import_module("torch.distributed")
    gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    if gpu:
        local, there = _number("LOCAL_RANK", 0), torch.cuda.device_count()
        if local >= there:
            raise ConfigError(
                f"process {local} of this machine has no GPU: {there} are visible. Give "
                f"torchrun --nproc_per_node {max(1, there)}"
            )
        torch.cuda.set_device(local)
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=MEETING))
        # A key for each process, as several runs in a row may share one store.
        name = f"aem-gym-{store.add(f'aem-gym-runs-{rank}', 1)}"
        mine = dist.PrefixStore(name, store)
        backend = "nccl" if gpu else "gloo"
        dist.init_process_group(
            backend, store=mine, rank=rank, world_size=size, timeout=LONGEST if not gpu else MEETING
        )
        objects = dist.new_group(backend="gloo", timeout=LONGEST) if gpu else dist.group.WORLD
    except (RuntimeError, ValueError) as error:
        raise WorldError(
            f"process {process_rank()} of {process_count()} did not meet the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} within {MEETING}: {error}"
        ) from error
    world = World(rank, size, objects, _Watch(mine.clone(), rank, size))
    found = [len(world.gather(rank)), dist.get_world_size(), process_count()]
    if len(set(found)) > 1:
        raise ConfigError(f"expected {process_count()} processes, met {found[0]}")
    world.watch.start()
    return world


def _digest(config: Config) -> str:
    """The settings that all processes have to have in common."""
    return hashlib.blake2b(dump_yaml(vars(replace(config, threads=0))).encode()).hexdigest()


@dataclass
class World:
    """The processes of a run, seen from one of them. All have to call the same methods in turn.

    Raises WorldError from any of them where another process has ended.
    """

    rank: int
    size: int
    objects: Any
    """The gloo group, for what is not on a GPU."""
    watch: _Watch = field(repr=False)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sibling(self) -> World:
        """The same processes, with a group of its own: for another thread."""
        dist: Any = importlib.import_module("torch.distributed")
        return replace(self, objects=dist.new_group(backend="gloo", timeout=LONGEST))

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of some items."""
        return items[self.rank :: self.size]

    def gather(self, value: T) -> list[T]:
        """The value of each process, in their order."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        with self._explained():
            dist.all_gather_object(found, value, group=self.objects)
        return found

    def joined(self, share: Sequence[T]) -> list[T]:
        """The items whose share, by `mine`, each process hands in, in the items' order."""
        parts = self.gather(share)
        return [parts[i % self.size][i // self.size] for i in range(sum(map(len, parts)))]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return any(self.gather(flag))

    def first(self, work: Callable[[], T]) -> T:
        """What `work` gives in process 0, which alone does it, on every process."""
        if not self.leads:
            told: T = self._told()
            return told
        try:
            result = work()
        except BaseException as error:
            with contextlib.suppress(WorldError):
                self._tell((None, describe(error)))
            raise
        self._tell((result, ""))
        return result

    def _tell(self, told: tuple[object, str]) -> None:
        import torch.distributed as dist

        with self._explained():
            dist.broadcast_object_list([told], src=0, group=self.objects)

    def _told(self) -> Any:
        import torch.distributed as dist

        told: list[Any] = [None]
        with self._explained():
            dist.broadcast_object_list(told, src=0, group=self.objects)
        result, failure = told[0]
        if failure:
            raise WorldError(f"process {self.rank} ends, as process 0 does: {failure}")
        return result

    def check_same(self, what: str, value: object) -> None:
        """Raise WorldError where a value differs between processes."""
        found = self.gather((value, socket.gethostname()))
        odd = [n for n, (other, _) in enumerate(found) if other != found[0][0]]
        if odd:
            raise WorldError(
                f"{what} of process {odd[0]} (on {found[odd[0]][1]}) differ from those of process "
                f"0 (on {found[0][1]}): give all processes the same command, files and versions"
            )

    def add_up(self, parameters: Sequence[Tensor], sums: Counter[str]) -> None:
        """Add up gradients and sums over all processes, in place.

        Raises:
            WorldError: the weights are no longer the same on all of them.
        """
        import torch
        import torch.distributed as dist

        there = bytes(p.grad is not None for p in parameters)
        found = self.gather((dict(sums), there, bits_of(parameters)))
        if len({bits for *_, bits in found}) > 1:
            raise WorldError(
                "the processes hold different weights, so their updates would be of different "
                "policies. All need the same kind of device and the same versions: see "
                "--deterministic, and pip freeze on each machine"
            )
        reached = [any(marks) for marks in zip(*(marks for _, marks, _ in found), strict=True)]
        chosen = [p for p, by_any in zip(parameters, reached, strict=True) if by_any]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in chosen]
        if grads:
            flat = torch.cat([grad.flatten().float() for grad in grads])
            with self._explained():
                dist.all_reduce(flat)
            parts = torch.split(flat, [p.numel() for p in chosen])
            for p, grad in zip(chosen, parts, strict=True):
                p.grad = grad.view_as(p).to(p.dtype)
        sums.clear()
        for others, *_ in found:
            sums.update(others)

    def meet(self) -> None:
        """Wait for the others at the end of a run that went well."""
        import torch.distributed as dist

        with contextlib.suppress(RuntimeError):  # they are done, too, whatever ended them
            dist.monitored_barrier(self.objects, timeout=LONGEST)

    def close(self) -> None:
        """Leave the group. Those who still wait for this process learn that it has ended."""
        import torch.distributed as dist

        self.watch.stop()
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self.watch.lost = True
            raise WorldError(
                f"process {self.rank} lost another one: see what that said. {error}"[:400]
            ) from error


def bits_of(tensors: Sequence[Tensor]) -> int:
    """The sum of the bits of tensors, read as whole numbers: equal where they are."""
    import torch

    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [x.detach().contiguous().view(kinds[x.element_size()]).sum() for x in tensors]
    return int(torch.stack(sums).sum()) if sums else 0


class _Watch(threading.Thread):
    """Says that this process lives, and ends it where the launcher or another process does not."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        super().__init__(name="aem-gym-watch", daemon=True)
        self.store, self.rank, self.size = store, rank, size
        self._parent, self._done = os.getppid(), threading.Event()
        self._alone = False
        """Whether the store does not answer."""
        self.lost = False
        """Whether another process has ended, so that nothing can be exchanged any more."""

    def stop(self) -> None:
        """End the watch, and tell the others that this process is leaving."""
        if not self._done.is_set():
            self._done.set()
            if self._reached():
                with contextlib.suppress(RuntimeError):
                    self.store.set(f"left-{self.rank}", "")
            if self.is_alive():  # torch aborts where a thread is inside it at the end
                self.join(BEAT)

    def wait_for_leader(self) -> None:
        """On the way out with an error: wait until process 0, which saves, is leaving.

        The launcher ends all as soon as one has ended.
        """
        until = time.monotonic() + LEAVING
        with contextlib.suppress(RuntimeError):
            while self._reached() and time.monotonic() < until and not self.store.check(["left-0"]):
                time.sleep(0.1)

    def _reached(self) -> bool:
        """Whether the store should answer: where it does not, torch fills the screen."""
        return not self._alone and os.getppid() == self._parent

    def run(self) -> None:
        beats, heard = 0, [(b"", time.monotonic())] * self.size
        while not self._done.wait(BEAT):
            if os.getppid() != self._parent:
                return self._end("what started it (torchrun) has ended", _AFTER_STEP)
            beats, now = beats + 1, time.monotonic()
            try:
                self.store.set(f"alive-{self.rank}", str(beats))
                signs = [self._sign(rank) for rank in range(self.size)]
            except RuntimeError as error:
                self._alone = True
                if os.getppid() == self._parent and not self._done.wait(BEAT):
                    return self._end(f"the others cannot be reached ({error})"[:200], _AT_ONCE)
                continue
            if time.monotonic() - now > SILENT / 2:
                heard = [(sign, time.monotonic()) for sign in signs]  # it was we who slept
            heard = [
                last if last[0] == sign else (sign, now)
                for last, sign in zip(heard, signs, strict=True)
            ]
            lost = [rank for rank, (_, since) in enumerate(heard) if now - since > SILENT]
            if lost:
                return self._end(f"process {lost[0]} gives no sign of life", _AT_ONCE)
        return None

    def _sign(self, rank: int) -> bytes:
        key = f"alive-{rank}"
        return bytes(self.store.get(key)) if self.store.check([key]) else b""

    def _end(self, why: str, patience: tuple[float, float]) -> None:
        """Ask this process to end, as Ctrl-C would, then insist, then end it."""
        logger.error("process %d ends: %s. What is saved can be resumed", self.rank, why)
        for seconds in patience:
            os.kill(os.getpid(), signal.SIGTERM)
            if self._done.wait(seconds):
                return
        os._exit(1)
