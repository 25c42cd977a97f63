"""The training loop: collect, batch, assign credit, update, publish, log, evaluate, save.

`Trainer.train_step` is one step, top to bottom. What runs before the first step is in `setup`.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from aem_gym.config import Config
from aem_gym.errors import ConfigError, EnvironmentFailure
from aem_gym.evaluation import play
from aem_gym.io import atomic_folder, atomic_write
from aem_gym.protocols import Logger
from aem_gym.rollout.collector import RolloutRequest, grouped, requests_for
from aem_gym.runs import ADAPTER, EPISODES, SUMMARY, Checkpoint, CheckpointStore, claim_output
from aem_gym.seeding import derive
from aem_gym.settings import CONFIG_NAME, load_config, settle, to_yaml
from aem_gym.training.credit import (
    Credit,
    CreditRule,
    Rewards,
    TrainBatch,
    equal_returns,
    make_batch,
)
from aem_gym.training.records import Recorder, episode_records, open_loggers, step_metrics
from aem_gym.training.setup import RunComponents, check_run, open_components, prepare_torch
from aem_gym.training.state import (
    Progress,
    StopAfterStep,
    interrupted_by_signals,
    restore_state,
    save_state,
)
from aem_gym.training.update import Updater
from aem_gym.types import Episode, Group
from aem_gym.yaml_io import dump_yaml

logger = logging.getLogger(__name__)

AFTER = 3
"""Evaluations at the end whose mean is `success_after`."""
_MAY_CHANGE = {
    *("out", "resume", "steps", "device", "threads", "workers", "step_timeout", "save_every"),
    *("keep_checkpoints", "loggers", "micro_batch", "gradient_checkpointing"),
    *("reset_timeout", "max_concurrent_episodes", "card"),
}
"""Settings that may differ on resume. Some change results by rounding: `device`, `threads`,
`micro_batch`, `gradient_checkpointing`, `max_concurrent_episodes`."""
_NOT_BEGUN = "stopped before the run began: give the same command"
_WHY_STEPS = (
    " (steps may change where lr_schedule is constant; any other schedule ends with the last step.)"
)


def train(
    config: Config | None = None,
    *,
    loggers: Sequence[Logger | str] | str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Run a training job and return its summary (the last line that `train.py` prints).

    Args:
        config: settings of the run; those that are not given come from the environment, the model
            and the estimator, and last from the built-in defaults.
        loggers: objects that receive metrics, evaluations and episodes (`aem_gym.protocols.Logger`)
            beside those named in the settings; names (or an empty list) replace those.
        settings: the same by name, over `config`: `train(env="aem_gym/WebShop-v0", steps=10)`.
            `env` may be an environment class.

    Returns:
        success_before, success_after, success_gain and the same of score (fractions, or None
        without evaluation), steps, seconds, aem_share (fraction of step time), run.

    Raises:
        ConfigError: a bad setting, before any model loads.
        OutputError: the output folder is in use, read-only or full.
        CheckpointError: `resume` found only damaged checkpoints.
        KeyboardInterrupt: Ctrl-C; the first one after the step was finished and saved.
    """
    started = time.perf_counter()
    if config is not None and not isinstance(config, Config):
        raise ConfigError(
            f"train: expected a Config, got {config!r:.60}. Settings go by name: env=..."
        )
    names, objects = _by_kind([loggers] if isinstance(loggers, str) else loggers or ())
    if names or (loggers is not None and not objects):
        settings["loggers"] = names
    config = settle({**(config.given() if config else {}), **settings}).config
    check_run(config)
    run = Path(config.run_folder)
    claim = claim_output(run, config.resume)
    store = CheckpointStore(run, config.keep_checkpoints)
    try:
        checkpoint = store.recover() if claim.resuming else None
        if (run / CONFIG_NAME).exists():
            _check_resume(load_config(run), config)
        if checkpoint is not None:
            finished = _summary(run)
            if checkpoint.step >= config.steps and finished is not None:
                logger.warning("%s is finished: %d steps. Nothing to do", run, checkpoint.step)
                return finished
        atomic_write(run / CONFIG_NAME, to_yaml(replace(config, resume=False, out=None)))
        _remove_results(run)
        prepare_torch(config)
        with interrupted_by_signals(), open_components(config, run) as parts:
            return Trainer(config, run, parts, store, checkpoint, started, objects).run()
    except BaseException as error:
        begun = (run / EPISODES).exists()
        if not begun:
            claim.withdraw()
        if isinstance(error, KeyboardInterrupt) and not (begun and error.args):
            raise KeyboardInterrupt(_how_to_go_on(store, run) if begun else _NOT_BEGUN) from None
        raise
    finally:
        claim.release()


def _by_kind(loggers: Sequence[Logger | str]) -> tuple[list[str], list[Logger]]:
    for each in loggers:
        if not isinstance(each, str | Logger):
            raise ConfigError(f"train: expected a name or a Logger in loggers, got {each!r:.60}")
    names = [each for each in loggers if isinstance(each, str)]
    return names, [each for each in loggers if not isinstance(each, str)]


class Trainer:
    """The state of a run and the loop that advances it.

    Args:
        config: settled and checked.
        folder: the run's folder, claimed.
        parts: agent and environments.
        store: its checkpoints.
        checkpoint: where to continue; None starts at step 0.
        started: when this process began the job, on `time.perf_counter`; None: now.
        loggers: beside those of the settings.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        parts: RunComponents,
        store: CheckpointStore,
        checkpoint: Checkpoint | None = None,
        started: float | None = None,
        loggers: Sequence[Logger] = (),
    ) -> None:
        self.config, self.folder, self.parts, self.store = config, folder, parts, store
        self.agent, self.learner, self.policy = parts.agent, parts.agent.learner, parts.agent.policy
        self.rewards = Rewards.of(config, parts.template)
        self.credit = CreditRule.of(config)
        self.updater = Updater(self.learner, config, exact=self.policy.exact)
        self.learner.freeze_reference()
        self.progress, offsets = Progress(), {}
        if checkpoint is not None:
            self.progress = restore_state(checkpoint, self.updater, self.policy)
            offsets = checkpoint.meta["offsets"]
        if started is not None:
            self.progress.started = started
        named = open_loggers(config, folder, self.progress.step)
        self.recorder = Recorder(folder, offsets, [*named, *loggers])
        self._sampler_checked = False

    def run(self) -> dict[str, Any]:
        """Train to the last step and return the summary."""
        progress = self.progress
        with self.recorder, StopAfterStep() as stop:
            if progress.step == 0 and not progress.evaluations:
                self._evaluate()
            self._loop(stop)
            if progress.step not in self.store.steps():
                self._save()
            if stop.requested and progress.step < self.config.steps:
                raise KeyboardInterrupt(
                    f"stopped after step {progress.step}, saved. Continue with: --resume --out "
                    f"{self.folder}"
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
                figures = self.train_step()
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

    def train_step(self) -> dict[str, float]:
        """One step: collect, make a batch, assign credit, update, record. Returns its figures."""
        config, number = self.config, self.progress.step
        torch.manual_seed(derive(config.seed, "torch", number) % 2**63)
        clock = time.perf_counter()
        groups, dropped = self._collect()
        collected = time.perf_counter() - clock
        if number + 1 < config.steps:  # the environments prepare while the learner works
            self.parts.collector.prefetch(self._requests(config.groups))
        everything = [e for group in (*groups, *dropped) for e in group.episodes]
        self._check_begun(everything)
        figures = {"seconds/rollout": collected, "groups_dropped": float(len(dropped))}
        credit: Credit | None = None
        batch = make_batch(groups, self.rewards, mask_truncated=config.mask_truncated)
        if batch is None:
            logger.warning("step %d: no usable episode, nothing to learn from", number + 1)
        else:
            batch = self._scored(batch)
            credit = self.credit.assign(batch.batch, number)
            clock = time.perf_counter()
            figures |= self.updater.update(batch, credit, number)
            self.policy.publish(self.learner)
            figures["seconds/update"] = time.perf_counter() - clock
            self.progress.aem_seconds += credit.seconds
        given = config.modulator_options.get("threshold")  # of AEM; another's may be anything
        threshold = float(given) if isinstance(given, int | float) else 0.1
        figures |= step_metrics(everything, self.rewards, batch, credit, threshold)
        records = episode_records(number + 1, groups, dropped, batch, credit, config.token_samples)
        self.recorder.episodes(number + 1, list(records))
        return figures

    def _collect(self) -> tuple[list[Group], list[Group]]:
        """The groups of a step, and those dropped by dynamic sampling."""
        config = self.config
        kept: list[Group] = []
        dropped: list[Group] = []
        for _ in range(config.max_rounds if config.drop_equal_groups else 1):
            requests = self._requests(config.groups - len(kept), advance=True)
            episodes = self.parts.collector.run(requests, temperature=config.temperature)
            for group in grouped(episodes, config.group_size):
                equal = config.drop_equal_groups and equal_returns(
                    group, self.rewards, mask_truncated=config.mask_truncated
                )
                (dropped if equal else kept).append(group)
            if len(kept) == config.groups:
                break
        return kept, dropped

    def _requests(self, groups: int, *, advance: bool = False) -> list[RolloutRequest]:
        """The rollouts of the tasks that are next; `advance` counts the tasks as drawn."""
        config, cursor = self.config, self.progress.cursor
        seeds = [derive(config.seed, "task", cursor + i) >> 31 for i in range(groups)]
        if advance:
            self.progress.cursor += groups
        return requests_for(seeds, config.group_size, config.seed, "rollout", cursor + groups)

    def _check_begun(self, episodes: list[Episode]) -> None:
        """Stop if every episode of the first step failed; later failures may be transient."""
        errors = [episode.error for episode in episodes if episode.error is not None]
        if self.progress.step == 0 and errors and len(errors) == len(episodes):
            raise EnvironmentFailure(
                f"each of the first {len(errors)} episodes failed, the last one with: {errors[-1]}"
            )

    def _scored(self, batch: TrainBatch) -> TrainBatch:
        """The batch with what only the learner knows; the first one of a process is compared."""
        if not self._sampler_checked:
            difference = self.updater.check_sampler(batch)
            logger.info("sampler and learner log-probabilities agree to %.1e nats", difference)
            self._sampler_checked = True
        if self.policy.exact and not self.credit.needs.needs_values:
            return batch
        return self._with_scores(batch)

    def _with_scores(self, batch: TrainBatch) -> TrainBatch:
        """The batch with values, and with the learner's scores where the sampler is not exact.

        Log-probabilities and entropies are replaced together: both are of one policy.
        """
        scores = self.updater.score(batch)
        if self.credit.needs.needs_values and scores.values is None:
            raise ConfigError(
                f"the estimator {self.config.estimator!r} needs values, which the learner "
                f"{self.config.learner!r} does not give"
            )
        responses = replace(batch.batch, values=scores.values)
        if not self.policy.exact:
            responses = replace(responses, logprobs=scores.logprobs, entropies=scores.entropies)
        return replace(batch, batch=responses)

    def _evaluate(self) -> None:
        if not self.config.eval_every:
            return
        step, clock = self.progress.step, time.perf_counter()
        result = play(self.parts.evaluator, self.parts.eval_spec, f"evaluation {step}")
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
        save_state(self.store, self.updater, self.progress, self.recorder.sync())

    def _finish(self) -> dict[str, Any]:
        with atomic_folder(self.folder / ADAPTER) as folder:
            self.learner.save(folder)
        progress = self.progress
        share = progress.aem_seconds / progress.step_seconds if progress.step_seconds else 0.0
        summary = {
            **_rise("success", progress.evaluations),
            **_rise("score", progress.evaluations),
            "steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "aem_share": share,
            "run": str(self.folder),
        }
        atomic_write(self.folder / SUMMARY, json.dumps(summary))
        logger.info("%s took %.3f%% of the step time", self.config.modulator, 100 * share)
        logger.info("look at it: aem-gym replay %s; aem-gym eval %s", self.folder, self.folder)
        return summary


def _rise(name: str, evaluations: list[dict[str, float]]) -> dict[str, float | None]:
    """A figure before training, after it (the mean of the last evaluations), and the gain."""
    values = [evaluation[name] for evaluation in evaluations if name in evaluation]
    last = values[1:][-AFTER:]
    before = values[0] if values else None
    after = sum(last) / len(last) if last else None
    gain = None if before is None or after is None else after - before
    return {f"{name}_before": before, f"{name}_after": after, f"{name}_gain": gain}


def _how_to_go_on(store: CheckpointStore, run: Path) -> str:
    step = max(store.steps(), default=0)
    saved = f"step {step} is saved" if step else "no step is saved yet"
    return f"stopped at once; {saved}. Continue with: --resume --out {run}"


def _check_resume(saved: Config, now: Config) -> None:
    """May a run begun with `saved` continue with `now`? Only what changes no result may differ.

    Raises:
        ConfigError: other settings differ; names them with both values.
    """
    free = _MAY_CHANGE - ({"steps"} if saved.lr_schedule != "constant" else set())
    differing = [
        f"{name} ({getattr(saved, name)!r} then, {getattr(now, name)!r} now)"
        for name in vars(saved)
        if name not in free and dump_yaml(getattr(saved, name)) != dump_yaml(getattr(now, name))
    ]
    if differing:
        raise ConfigError(
            f"--resume: the run in {now.run_folder} was begun with other settings: "
            f"{'; '.join(differing)}. Leave those flags out, or start a new run with another --out."
            f"{_WHY_STEPS if saved.steps != now.steps and 'steps' not in free else ''}"
        )


def _summary(run: Path) -> dict[str, Any] | None:
    """The summary of a finished run; None if it cannot be read, and is then written again."""
    try:
        found = json.loads((run / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _remove_results(run: Path) -> None:
    """Remove what an earlier end of this run left; its checkpoint holds the same adapter."""
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
