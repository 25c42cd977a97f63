"""The progress of a run, its checkpoints, and its end on a signal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from aem_gym.errors import AemGymError, CheckpointError, NotLearningError
from aem_gym.protocols import Policy
from aem_gym.runs import ADAPTER, Checkpoint, CheckpointStore
from aem_gym.training.ahead import Ahead, InFlight
from aem_gym.training.collect import TicketOffice
from aem_gym.training.update import Updater

logger = logging.getLogger(__name__)

OPTIMIZER, AHEAD = "optimizer.pt", "ahead.pt"


@dataclass
class Progress:
    """The progress of a run, except weights and optimizer."""

    step: int = 0
    """RL steps done."""
    cursor: int = 0
    """Training tasks drawn, dropped ones included."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Step and success of each evaluation."""
    learned: int = 0
    """Steps that changed the weights."""
    best: dict[str, float] = field(default_factory=dict)
    """Step, success and score of the best evaluation on the split of `keep_best`."""
    stale: int = 0
    """Evaluations since then."""
    step_seconds: float = 0.0
    """Wall time of all RL steps."""
    aem_seconds: float = 0.0
    """Wall time of the modulator within them."""
    earlier_seconds: float = 0.0
    """Wall time of the processes that had this run before."""
    started: float = field(default_factory=time.perf_counter)
    """When this process began, on `time.perf_counter`."""

    @property
    def seconds(self) -> float:
        """Wall time of the run, warm start and evaluation included, in all its processes."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def note_best(self, step: int, figures: Mapping[str, float]) -> bool:
        """Whether an evaluation is the best so far: of equal ones the first is."""
        now = (figures["success"], figures["score"])
        better = not self.best or now > (self.best["success"], self.best["score"])
        if better:
            self.best = {"step": float(step), **figures}
        self.stale = 0 if better else self.stale + 1
        return better


def check_finite(updater: Updater, step: int) -> None:
    """Raise NotLearningError where weights or optimizer hold NaN or inf: nothing is saved then."""
    import torch

    damaged = [
        name
        for name, weight in updater.learner.parameters().items()
        if not bool(torch.isfinite(weight).all())
    ]
    for state in updater.optimizer.state_dict()["state"].values():
        parts = {name: part for name, part in state.items() if isinstance(part, torch.Tensor)}
        damaged += [n for n, part in parts.items() if not bool(torch.isfinite(part).all())]
    if damaged:
        raise NotLearningError(
            f"after step {step} {len(damaged)} tensors of weights and optimizer hold NaN or inf "
            f"({damaged[0]}, ...), so they were not saved. A lower --lr in a new run may help"
        )


def save_state(
    store: CheckpointStore,
    updater: Updater,
    progress: Progress,
    offsets: Mapping[str, int],
    ahead: InFlight | None = None,
) -> None:
    """Write a checkpoint.

    Args:
        store: of the run.
        updater: whose adapter (and value head) and optimizer are saved. The schedule and all
            randomness are functions of the step and the seed, so there is no other state.
        progress: of the run.
        offsets: sizes in bytes of the run's files (`Recorder.sync`).
        ahead: the batches that are being sampled (`max_staleness`).
    """
    check_finite(updater, progress.step)

    def write(folder: Path) -> None:
        updater.learner.save(folder / ADAPTER)
        _write(folder / OPTIMIZER, updater.optimizer.state_dict())
        if ahead is not None and ahead.ages:
            _write(folder / AHEAD, {"ages": ahead.ages, "weights": ahead.weights})

    meta = {
        "offsets": dict(offsets),
        "cursor": progress.cursor,
        "evaluations": progress.evaluations,
        "learned": progress.learned,
        "best": progress.best,
        "stale": progress.stale,
        "step_seconds": progress.step_seconds,
        "aem_seconds": progress.aem_seconds,
        "seconds": progress.seconds,
    }
    store.save(progress.step, write, meta)


def _write(file: Path, state: object) -> None:
    import torch

    memory = io.BytesIO()  # torch's own writing to files hides that a disk is full
    torch.save(state, memory)
    file.write_bytes(memory.getbuffer())


def restore_state(checkpoint: Checkpoint, updater: Updater, policy: Policy) -> Progress:
    """Put weights, optimizer and sampler back as a checkpoint has them; how far the run was.

    Raises:
        CheckpointError: it belongs to another model, estimator or version.
    """
    import torch

    meta = checkpoint.meta
    try:
        updater.learner.load(checkpoint.folder / ADAPTER)
        policy.publish(updater.learner)
        state = torch.load(checkpoint.folder / OPTIMIZER, weights_only=True)
        updater.optimizer.load_state_dict(state)
        progress = Progress(
            step=checkpoint.step,
            cursor=int(meta["cursor"]),
            evaluations=list(meta["evaluations"]),
            learned=int(meta.get("learned", checkpoint.step)),
            best=dict(meta.get("best", {})),
            stale=int(meta.get("stale", 0)),
            step_seconds=float(meta["step_seconds"]),
            aem_seconds=float(meta["aem_seconds"]),
            earlier_seconds=float(meta["seconds"]),
        )
    except AemGymError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint.folder} does not fit this run ({error}). Start a new run: --out"
        ) from error
    logger.info("resumed from %s, with the settings of the run", checkpoint.folder)
    return progress


def restore_ahead(checkpoint: Checkpoint, source: TicketOffice | Ahead) -> None:
    """Let the batches that were being sampled at a checkpoint be sampled again as they were."""
    import torch

    file = checkpoint.folder / AHEAD
    if isinstance(source, Ahead) and file.exists():
        source.restore(InFlight(**torch.load(file, weights_only=True, map_location="cpu")))


_Handlers = dict[int, Any]


class StopAfterStep:
    """Turns the first SIGINT, SIGTERM or SIGHUP of a block into the flag `requested`.

    Outside the main thread it does nothing: signals are not handled there.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: _Handlers = {}

    def __enter__(self) -> StopAfterStep:
        self._previous = _handle(("SIGINT", "SIGTERM", "SIGHUP"), self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def sleep(self, seconds: float) -> None:
        """Wait, at most until a signal comes."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if number == getattr(signal, "SIGHUP", None) and sys.stderr.isatty():
            # The connection is lost, and with it the terminal: every further line would fail.
            silence = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(silence, stream)
        logger.warning("stopping after this step, then saving (again to stop at once)")


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt inside, as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = _handle(("SIGTERM", "SIGHUP"), interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(names: Sequence[str], handler: Callable[[int, FrameType | None], None]) -> _Handlers:
    """The handlers before. SIGHUP stays ignored where it is: that is what `nohup` asks for."""
    before: _Handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            ignored = signal.getsignal(number) is signal.SIG_IGN
            if not (ignored and number == getattr(signal, "SIGHUP", None)):
                before[number] = signal.signal(number, handler)
    return before
