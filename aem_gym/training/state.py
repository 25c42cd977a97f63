"""How far a run is, and how that gets into a checkpoint and back."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aem_gym.errors import AemGymError, CheckpointError
from aem_gym.protocols import TrainableAgent
from aem_gym.training.checkpoint import Checkpoint, CheckpointStore
from aem_gym.training.learner import Learner

logger = logging.getLogger(__name__)

ADAPTER, OPTIMIZER = "adapter", "optimizer.pt"


@dataclass
class Progress:
    """What a run has done so far, weights and optimizer aside."""

    step: int = 0
    """RL steps done."""
    cursor: int = 0
    """Training tasks drawn, dropped ones included."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Step and success of each evaluation."""
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


def save_state(
    store: CheckpointStore,
    agent: TrainableAgent,
    learner: Learner,
    progress: Progress,
    offsets: Mapping[str, int],
) -> None:
    """Write a checkpoint.

    Args:
        store: of the run.
        agent: whose adapter (and value head) is saved.
        learner: whose optimizer is saved. The schedule and all randomness are functions of the
            step and the seed, so there is no other state.
        progress: of the run.
        offsets: sizes in bytes of the run's files (`Recorder.sync`).
    """
    import torch

    def write(folder: Path) -> None:
        agent.save(folder / ADAPTER)
        memory = io.BytesIO()  # torch's own writing to files hides that a disk is full
        torch.save(learner.optimizer.state_dict(), memory)
        (folder / OPTIMIZER).write_bytes(memory.getbuffer())

    meta = {
        "offsets": dict(offsets),
        "cursor": progress.cursor,
        "evaluations": progress.evaluations,
        "step_seconds": progress.step_seconds,
        "aem_seconds": progress.aem_seconds,
        "seconds": progress.seconds,
    }
    store.save(progress.step, write, meta)


def restore_state(checkpoint: Checkpoint, agent: TrainableAgent, learner: Learner) -> Progress:
    """Put agent and optimizer back as a checkpoint has them; how far the run was.

    Raises:
        CheckpointError: it belongs to another model, estimator or version.
    """
    import torch

    meta = checkpoint.meta
    try:
        agent.load(checkpoint.folder / ADAPTER)
        state = torch.load(checkpoint.folder / OPTIMIZER, weights_only=True)
        learner.optimizer.load_state_dict(state)
        progress = Progress(
            step=checkpoint.step,
            cursor=int(meta["cursor"]),
            evaluations=list(meta["evaluations"]),
            step_seconds=float(meta["step_seconds"]),
            aem_seconds=float(meta["aem_seconds"]),
            earlier_seconds=float(meta["seconds"]),
        )
    except AemGymError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint.folder} does not fit this run ({error}). Start anew with --out"
        ) from error
    logger.info("resumed from %s", checkpoint.folder)
    return progress
