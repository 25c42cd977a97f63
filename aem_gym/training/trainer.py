"""The RL loop: collect, assign credit, update, log, save, evaluate. Reads top to bottom."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from aem_gym.errors import EnvironmentFailure
from aem_gym.evaluation.runner import play
from aem_gym.io import atomic_folder, atomic_write, claim_output
from aem_gym.registry import import_object
from aem_gym.rollout.collector import grouped, requests_for
from aem_gym.rollout.recorder import EPISODES, Recorder
from aem_gym.seeding import derive
from aem_gym.training.assignment import Assigner, Credit, check_assignment
from aem_gym.training.batching import Rewards, TrainBatch, make_step, usable
from aem_gym.training.checkpoint import Checkpoint, CheckpointStore
from aem_gym.training.config import Config
from aem_gym.training.config_check import check_resume, validate
from aem_gym.training.config_io import load_config, to_yaml
from aem_gym.training.figures import episode_records, step_figures
from aem_gym.training.interrupt import StopAfterStep
from aem_gym.training.learner import Learner
from aem_gym.training.policy_loss import check_loss
from aem_gym.training.setup import Parts, open_parts, prepare_torch
from aem_gym.training.state import ADAPTER, Progress, restore_state, save_state
from aem_gym.types import Episode, Group

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"
AFTER = 3
"""Evaluations at the end whose mean is `success_after`."""


def train(config: Config) -> dict[str, Any]:
    """Run a training job as configured; the summary (last line of `train.py`).

    Returns:
        success_before, success_after, success_gain and the same of score (fractions, or None
        without evaluation), steps, seconds, aem_share (fraction of step time), run.

    Raises:
        ConfigError: a bad setting, before any model loads.
        OutputError: the output folder is in use, read-only or full.
        CheckpointError: `resume` found only damaged checkpoints.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
    """
    started = time.perf_counter()
    validate(config)
    check_assignment(config)
    check_loss(config)
    import_object("aem_gym.agents.devices:resolve_device")(config.device)
    run = Path(config.run_folder)
    claim = claim_output(run, config.resume)
    try:
        store = CheckpointStore(run, config.keep_checkpoints)
        checkpoint = store.recover() if claim.resuming else None
        if (run / "config.yaml").exists() and checkpoint is not None:
            check_resume(load_config(run / "config.yaml"), config)
            finished = _summary(run)
            if checkpoint.step >= config.steps and finished is not None:
                logger.warning("%s is finished: %d steps. Nothing to do", run, checkpoint.step)
                return finished
        atomic_write(run / "config.yaml", to_yaml(replace(config, resume=False, out=None)))
        _forget_results(run)
        prepare_torch(config)
        with open_parts(config, run) as parts:
            return Trainer(config, run, parts, store, checkpoint, started).run()
    except BaseException as error:
        begun = (run / EPISODES).exists()
        if not begun:
            claim.withdraw()
        if isinstance(error, KeyboardInterrupt) and not begun:
            raise KeyboardInterrupt("stopped before the run began: give the same command") from None
        raise
    finally:
        claim.release()


class Trainer:
    """The state of a run and the loop that advances it.

    Args:
        config: validated.
        run: the run's folder, claimed.
        parts: agent and environments.
        store: its checkpoints.
        checkpoint: where to go on; None starts at step 0.
        started: when this process began the job, on `time.perf_counter`; None: now.
    """

    def __init__(
        self,
        config: Config,
        run: Path,
        parts: Parts,
        store: CheckpointStore,
        checkpoint: Checkpoint | None,
        started: float | None = None,
    ) -> None:
        self.config, self.run_folder, self.parts, self.store = config, run, parts, store
        self.learner = Learner(parts.agent, config)
        self.assign = Assigner(config)
        self.rewards = Rewards(
            parts.recipe.reward_scale,
            config.invalid_penalty,
            config.invalid_means,
            parts.recipe.reward_source,
        )
        parts.agent.freeze_reference()
        self.progress, offsets = Progress(), {}
        if checkpoint is not None:
            self.progress = restore_state(checkpoint, parts.agent, self.learner)
            offsets = checkpoint.meta["offsets"]
        if started is not None:
            self.progress.started = started
        self.recorder = Recorder(
            run, offsets, step=self.progress.step, tensorboard=config.tensorboard
        )
        self._checked = False

    def run(self) -> dict[str, Any]:
        """Train to the last step; the summary."""
        progress = self.progress
        with self.recorder, StopAfterStep() as stop:
            if progress.step == 0 and not progress.evaluations:
                self._evaluate()
            self._loop(stop)
            if progress.step not in self.store.steps():
                self._save()
            if stop.requested and progress.step < self.config.steps:
                raise KeyboardInterrupt(
                    f"stopped after step {progress.step}, saved. Go on with: --resume --out "
                    f"{self.run_folder}"
                )
        return self._finish()

    def _loop(self, stop: StopAfterStep) -> None:
        progress, config = self.progress, self.config
        bar = tqdm(
            total=config.steps, initial=progress.step, desc="training", unit="step", smoothing=0.1
        )
        with bar:
            while progress.step < config.steps and not stop.requested:
                clock = time.perf_counter()
                figures = self._train_step()
                figures["seconds/step"] = time.perf_counter() - clock
                progress.step += 1
                progress.step_seconds += figures["seconds/step"]
                self.recorder.metrics(progress.step, figures)
                bar.set_postfix(_shown(figures, progress.evaluations), refresh=False)
                bar.update()
                every, last = config.eval_every, progress.step == config.steps
                if every and (progress.step % every == 0 or last):
                    self._evaluate()
                if progress.step % config.save_every == 0:
                    self._save()

    def _train_step(self) -> dict[str, float]:
        """One step: collect, assign, update, record. Returns its figures."""
        import torch

        number = self.progress.step
        torch.manual_seed(derive(self.config.seed, "torch", number) % 2**63)
        clock = time.perf_counter()
        groups, dropped = self._collect()
        collected = time.perf_counter() - clock
        self._expect(number + 1)
        step = make_step(groups, self.rewards, mask_truncated=self.config.mask_truncated)
        everything = [e for group in (*groups, *dropped) for e in group.episodes]
        self._check_begun(everything)
        figures = {"seconds/rollout": collected, "groups_dropped": float(len(dropped))}
        credit: Credit | None = None
        if step is None:
            logger.warning("step %d: no usable episode, nothing to learn from", number + 1)
        else:
            step, credit = self._credit(step)
            clock = time.perf_counter()
            figures |= self.learner.update(step, credit, number)
            figures["seconds/update"] = time.perf_counter() - clock
            self.progress.aem_seconds += credit.seconds
        threshold = float(self.config.modulator_options.get("threshold", 0.1))
        figures |= step_figures(everything, self.rewards, step, credit, threshold)
        tokens = None if self.config.save_tokens else self.config.token_samples
        self.recorder.episodes(episode_records(number + 1, groups, dropped, step, credit, tokens))
        return figures

    def _credit(self, step: TrainBatch) -> tuple[TrainBatch, Credit]:
        if not self._checked:
            difference = self.learner.check_sampler(step)
            logger.info("sampler and learner log-probabilities agree to %.1e nats", difference)
            self._checked = True
        if self.learner.needs_values:
            values = self.learner.score(step).values
            assert values is not None
            step = replace(step, batch=replace(step.batch, values=values.cpu()))
        return step, self.assign(step.batch, self.progress.step)

    def _collect(self) -> tuple[list[Group], list[Group]]:
        """The groups of a step, and those dropped by dynamic sampling."""
        config, progress = self.config, self.progress
        self.parts.agent.sampling(config.temperature)
        kept: list[Group] = []
        dropped: list[Group] = []
        for _ in range(config.max_rounds if self.learner.drops_equal_groups else 1):
            wanted = config.groups - len(kept)
            seeds = self._seeds(wanted)
            progress.cursor += wanted
            size = config.group_size
            tickets = requests_for(seeds, size, config.seed, "rollout", progress.cursor)
            for group in grouped(self.parts.collector.run(tickets), size):
                equal = self.learner.drops_equal_groups and self._equal_returns(group)
                (dropped if equal else kept).append(group)
            if len(kept) == config.groups:
                break
        return kept, dropped

    def _check_begun(self, episodes: list[Episode]) -> None:
        """Stop a run in which nothing works from the start; later on it may come back."""
        errors = [episode.error for episode in episodes if episode.error is not None]
        if self.progress.step == 0 and errors and len(errors) == len(episodes):
            raise EnvironmentFailure(
                f"each of the first {len(errors)} episodes failed, the last one with: {errors[-1]}"
            )

    def _seeds(self, count: int) -> list[int]:
        """The tasks that are next."""
        cursor = self.progress.cursor
        return [derive(self.config.seed, "task", cursor + i) >> 31 for i in range(count)]

    def _expect(self, step: int) -> None:
        """Let the environments prepare for a step while the learner works."""
        if step < self.config.steps:
            tickets = requests_for(self._seeds(self.config.groups), self.config.group_size, 0)
            self.parts.collector.expect(tickets)

    def _equal_returns(self, group: Group) -> bool:
        mask = self.config.mask_truncated
        counted = [episode for episode in group.episodes if usable(episode, mask_truncated=mask)]
        return len({sum(self.rewards.of(episode)) for episode in counted}) <= 1

    def _evaluate(self) -> None:
        if not self.config.eval_every:
            return
        protocol, step = self.parts.protocol, self.progress.step
        self.parts.agent.sampling(protocol.temperature)
        clock = time.perf_counter()
        result = play(self.parts.evaluator, protocol, f"evaluation {step}")
        self.recorder.evaluation(step, asdict(result) | {"seconds": time.perf_counter() - clock})
        figures = {"success": result.success, "score": result.score}
        self.progress.evaluations.append({"step": step, **figures})
        graded = "" if result.score == result.success else f", mean score {result.score:.3f},"
        tqdm.write(
            f"step {step}: held-out success {result.success:.3f} "
            f"[{result.low:.3f}, {result.high:.3f}]{graded} on {result.episodes} tasks",
            file=sys.stderr,
        )

    def _save(self) -> None:
        offsets = self.recorder.sync()
        save_state(self.store, self.parts.agent, self.learner, self.progress, offsets)

    def _finish(self) -> dict[str, Any]:
        with atomic_folder(self.run_folder / ADAPTER) as folder:
            self.parts.agent.save(folder)
        progress = self.progress
        share = progress.aem_seconds / progress.step_seconds if progress.step_seconds else 0.0
        summary = {
            **_rise("success", progress.evaluations),
            **_rise("score", progress.evaluations),
            "steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "aem_share": share,
            "run": str(self.run_folder),
        }
        atomic_write(self.run_folder / SUMMARY, json.dumps(summary))
        logger.info("%s took %.3f%% of the step time", self.config.modulator, 100 * share)
        return summary


def _rise(name: str, evaluations: list[dict[str, float]]) -> dict[str, float | None]:
    """A figure before training, after it (the mean of the last evaluations), and the gain."""
    values = [evaluation[name] for evaluation in evaluations if name in evaluation]
    last = values[1:][-AFTER:]
    before = values[0] if values else None
    after = sum(last) / len(last) if last else None
    gain = None if before is None or after is None else after - before
    return {f"{name}_before": before, f"{name}_after": after, f"{name}_gain": gain}


def _summary(run: Path) -> dict[str, Any] | None:
    """What a finished run came to; None if that cannot be read, and is then made again."""
    try:
        found = json.loads((run / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _forget_results(run: Path) -> None:
    """What an earlier end of this run left; its checkpoint holds the same adapter."""
    (run / SUMMARY).unlink(missing_ok=True)
    shutil.rmtree(run / ADAPTER, ignore_errors=True)


def _shown(figures: Mapping[str, float], evaluations: list[dict[str, float]]) -> dict[str, str]:
    shown = {"success": f"{figures.get('success_rate', 0.0):.2f}"}
    if evaluations:
        shown["held-out"] = f"{evaluations[-1]['success']:.2f}"
    if "response_entropy_mean" in figures:
        shown["H"] = f"{figures['response_entropy_mean']:.2f}"
    if "alpha_max" in figures:
        shown["alpha"] = f"{figures['alpha_min']:.2f}-{figures['alpha_max']:.2f}"
    return shown
