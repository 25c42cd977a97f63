"""The training loop: collect, batch, assign credit, update, publish, log, evaluate, save.

`Trainer.train_step` is one step, top to bottom. What runs before the first step is in `setup`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from math import nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from aem_gym.config import Config
from aem_gym.episodes import has_episodes
from aem_gym.errors import (
    BadCredit,
    ConfigError,
    EnvironmentFailure,
    InfrastructureError,
    NotFiniteError,
    NotLearningError,
    SamplerMismatchError,
)
from aem_gym.evaluation import EvalResult, play
from aem_gym.io import atomic_folder, atomic_write
from aem_gym.protocols import Logger
from aem_gym.runs import (
    ADAPTER,
    SUMMARY,
    Checkpoint,
    CheckpointStore,
    check_begun,
    check_resume,
    how_to_go_on,
    how_to_go_on_otherwise,
    is_finished,
    remove_results,
    resume_command,
    run_summary,
)
from aem_gym.seeding import derive
from aem_gym.settings import CONFIG_NAME, load_config, settle, to_yaml
from aem_gym.training.ahead import open_source
from aem_gym.training.breaker import Breaker, Rule, nothing_learned, nothing_usable
from aem_gym.training.credit import (
    Credit,
    CreditRule,
    Rewards,
    TrainBatch,
    make_batch,
)
from aem_gym.training.distributed import World, open_world
from aem_gym.training.mismatch import IMPORTANCE_CAP, importance
from aem_gym.training.records import (
    Recorder,
    episode_records,
    open_loggers,
    open_recorder,
    rise,
    step_metrics,
    with_scores,
)
from aem_gym.training.setup import RunComponents, check_run, open_components, prepare_torch
from aem_gym.training.shared import SilentRecorder, claim_run, open_updater, shard_base
from aem_gym.training.state import (
    Progress,
    StopAfterStep,
    check_finite,
    interrupted_by_signals,
    restore_ahead,
    restore_state,
    save_state,
)
from aem_gym.types import Episode, StopReason

logger = logging.getLogger(__name__)

Figures = dict[str, float]
_NOT_BEGUN = "stopped before the run began: give the same command"


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
        OutputError: the output folder is in use, read-only or full; or `resume` and no run there.
        CheckpointError: `resume` found only damaged checkpoints.
        NotLearningError: the breaker ended the run, or no step changed a weight.
        SamplerMismatchError: sampler and learner are different policies.
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
    with open_world(config) as world:
        return _train(config, world, objects, started)


def _train(
    config: Config, world: World | None, loggers: Sequence[Logger], started: float
) -> dict[str, Any]:
    run = Path(config.run_folder)
    if config.resume:
        check_begun(run)
    check_run(config)
    claim, store = claim_run(run, config, world)
    try:
        checkpoint = store.recover() if claim.resuming else None
        if (run / CONFIG_NAME).exists():
            check_resume(load_config(run), config)
        if checkpoint is not None:
            finished = run_summary(run)
            if finished is not None and is_finished(checkpoint, config):
                logger.warning("%s is finished: %d steps. Nothing to do", run, checkpoint.step)
                return finished
        prepare_torch(config)
        with interrupted_by_signals(), open_components(config, run, world) as parts:
            return Trainer(config, run, parts, store, checkpoint, started, loggers).run()
    except BaseException as error:
        begun = has_episodes(run)
        if not begun:
            claim.withdraw()
        if isinstance(error, KeyboardInterrupt) and not (begun and error.args):
            raise KeyboardInterrupt(
                f"stopped at once. {how_to_go_on(store)}" if begun else _NOT_BEGUN
            ) from None
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
        self.world, exact = parts.world, self.policy.exact
        self.leads = self.world is None or self.world.leads
        self.updater = open_updater(self.learner, config, self.world, exact=exact)
        self.learner.freeze_reference()
        if config.shard_base:
            shard_base(self.learner, config)
        self.progress, offsets = Progress(), {}
        if checkpoint is not None:
            self.progress = restore_state(checkpoint, self.updater, self.policy)
            offsets = checkpoint.meta["offsets"]
        if started is not None:
            self.progress.started = started
        self.recorder: Recorder = SilentRecorder()
        if self.leads:
            named = open_loggers(config, folder, self.progress.step)
            self.recorder = open_recorder(config, folder, offsets, [*named, *loggers])
        self.source = open_source(config, parts.collector, self.rewards, self.agent)
        if checkpoint is not None:
            restore_ahead(checkpoint, self.source)
        self.rescores = not self.policy.exact or bool(config.importance_cap)
        given = config.importance_cap
        self.cap = (0.0 if self.policy.exact else IMPORTANCE_CAP) if given is None else given
        given = config.modulator_options.get("threshold")  # of AEM; another's may be anything
        self.threshold = float(given) if isinstance(given, int | float) else 0.1
        self.breaker = Breaker(config)
        self._trouble = ""
        """What gave NaN or inf in the present step."""
        self._repeated = 0
        """Groups recorded of the present step in earlier attempts at it."""
        self._figures: dict[str, float] = {}
        """Of the last step that counted."""

    def run(self) -> dict[str, Any]:
        """Train to the last step and return the summary."""
        progress = self.progress
        # Only now: what has refused to go on before has left an earlier result as it was.
        if self.leads:
            saved = replace(self.config, resume=False, replan=False, out=None)
            atomic_write(self.folder / CONFIG_NAME, to_yaml(saved))
            remove_results(self.folder)
        with self.recorder, closing(self.source), StopAfterStep() as stop:
            if progress.step == 0 and not progress.evaluations and self._evaluate():
                self._save()
            try:
                self._loop(stop)
                if progress.step not in self.store.steps():
                    self._save()
            except (InfrastructureError, NotLearningError, SamplerMismatchError) as error:
                raise type(error)(f"{error}. {how_to_go_on_otherwise(self.store)}") from error
            if stop.requested and progress.step < self.config.steps:
                raise KeyboardInterrupt(
                    f"stopped after step {progress.step}, saved. Continue with: "
                    f"{resume_command(self.folder)}"
                )
        if progress.step and not progress.learned:
            report = nothing_learned(progress.step, self._figures, self.config)
            few = progress.step < self.config.max_bad_steps
            if not few or nothing_usable(self._figures) or "bad" in self._figures:
                raise NotLearningError(report)
            logger.warning("%s", report)  # so few steps may all be unlucky
        return self._finish()

    def _loop(self, stop: StopAfterStep) -> None:
        progress, config, breaker = self.progress, self.config, self.breaker
        save = False
        how: dict[str, Any] = {"unit": "step", "smoothing": 0.1, "disable": not self.leads}
        with tqdm(total=config.steps, initial=progress.step, desc="training", **how) as bar:
            while progress.step < config.steps:
                asked = stop.requested
                if self.world is not None:  # all stop after the same step
                    asked = self.world.any(asked)
                if asked:
                    stop.requested = True
                    break
                if 0 < config.patience <= progress.stale:
                    self._say_ended()
                    break
                clock = time.perf_counter()
                figures = self.train_step()
                figures["seconds/step"] = time.perf_counter() - clock
                in_trouble = [
                    r for r in breaker.rules
                    if r.sign * figures.get(r.figure, nan) >= r.bound * figures.get(r.share_of, 1)
                ]  # fmt: skip
                breaker.streaks = {r.name: breaker.streaks.get(r.name, 0) + 1 for r in in_trouble}
                due = [r for r in in_trouble if breaker.streaks[r.name] % r.every == 0]
                if due and self._lost(due, figures, stop):
                    continue
                progress.step += 1
                progress.learned += figures["learned"] > 0
                progress.step_seconds += figures["seconds/step"]
                self._figures, self._repeated = figures, 0
                self.recorder.metrics(progress.step, figures)
                bar.set_postfix(_shown(figures, progress.evaluations), refresh=False)
                bar.update()
                if breaker.stop:
                    if "bad" not in figures:
                        self._save()
                    raise NotLearningError(breaker.stop)
                every, last = config.eval_every, progress.step == config.steps
                if every and (progress.step % every == 0 or last):
                    save |= self._evaluate(keep="bad" not in figures)  # the best so far is kept
                save |= progress.step % config.save_every == 0
                if save and "bad" not in figures:  # else the last good checkpoint stays the newest
                    self._save()
                    save = False

    def _say_ended(self) -> None:
        progress, best = self.progress, int(self.progress.best["step"])
        form = "no better result on %s in %d evaluations than in step %d: ended. Its weights: %s"
        place = self.store.load(best).folder / ADAPTER
        logger.info(form, self.config.keep_best, progress.stale, best, place)

    def train_step(self) -> dict[str, float]:
        """One step: collect, make a batch, assign credit, update, record. Returns its figures."""
        config, number = self.config, self.progress.step
        torch.manual_seed(derive(config.seed, "torch", number) % 2**63)
        clock = time.perf_counter()
        collected = self.source.collect(self.progress.cursor, config.steps - number - 1)
        self.progress.cursor, seconds = collected.cursor, time.perf_counter() - clock
        groups, dropped = collected.groups, collected.dropped
        everything = [e for group in (*groups, *dropped) for e in group.episodes]
        if number == 0:
            self._check_begun(everything)
        figures = {"seconds/rollout": seconds, "groups_dropped": float(len(dropped))}
        credit: Credit | None = None
        batch = make_batch(groups, self.rewards, mask_truncated=config.mask_truncated)
        if batch is not None:
            batch, credit, more = self._learn(batch, number)
            figures |= more
            groups = with_scores(groups, batch) if self.rescores else groups
        figures |= step_metrics(everything, self.rewards, batch, credit, self.threshold)
        # Where no response can be parsed, all that a gradient holds is the penalty for that.
        taught = figures.get("grad_norm", 0.0) > 0 and figures.get("invalid_format_rate", 0.0) < 1
        figures["learned"] = float(taught)
        parts, first = (groups, dropped, batch, credit, config.token_samples), self._repeated
        self.recorder.episodes(number + 1, list(episode_records(number + 1, *parts, first=first)))
        self._repeated += len(groups) + len(dropped)
        return figures

    def _learn(self, batch: TrainBatch, number: int) -> tuple[TrainBatch, Credit | None, Figures]:
        """Score, assign credit, update and publish; no update where a number is not finite."""
        try:
            batch, weights, figures = self._scored(batch, number)
            credit = self.credit.assign(batch.batch, number)
        except (BadCredit, NotFiniteError) as error:
            return batch, None, self._bad(error)
        clock = time.perf_counter()
        figures |= self.updater.update(batch, credit, number, weights)
        self.policy.publish(self.learner)
        figures["seconds/update"] = time.perf_counter() - clock
        self.progress.aem_seconds += credit.seconds
        return batch, credit, figures

    @staticmethod
    def _check_begun(episodes: Sequence[Episode]) -> None:
        """Stop if every episode of the first step failed; later failures may be transient.

        So may those of infrastructure be: the breaker sees to them.
        """
        failed = [e for e in episodes if e.error is not None]
        away = any(e.stop_reason is StopReason.INFRASTRUCTURE for e in failed)
        if failed and len(failed) == len(episodes) and not away:
            raise EnvironmentFailure(
                f"each of the first {len(failed)} episodes failed, the last one with: "
                f"{failed[-1].error}"
            )

    def _scored(self, batch: TrainBatch, number: int) -> tuple[TrainBatch, Tensor | None, Figures]:
        """The batch with what only the learner knows, weights of the loss, and the mismatch."""
        if self.rescores or self.credit.needs.needs_values:
            return self._with_scores(batch)
        return batch, None, self.updater.check_sampler(batch, number)

    def _with_scores(self, batch: TrainBatch) -> tuple[TrainBatch, Tensor | None, Figures]:
        """The same from the learner's pass over the whole batch.

        Where the sampler is not exact, log-probabilities and entropies are replaced together, so
        that both are of one policy; its own are what the weights compare with.
        """
        with self.source.weights():
            scores, figures = self.updater.compare(batch)
        figures |= self.source.figures()
        if self.credit.needs.needs_values and scores.values is None:
            raise ConfigError(
                f"the estimator {self.config.estimator!r} needs values, which the learner "
                f"{self.config.learner!r} does not give"
            )
        responses, weights = replace(batch.batch, values=scores.values), None
        if self.rescores:
            responses = replace(responses, logprobs=scores.logprobs, entropies=scores.entropies)
        if self.cap:
            sampled, mask = batch.batch.logprobs, batch.batch.mask
            weights = importance(scores.logprobs, sampled, mask, self.cap)
            figures["importance/mean"] = float(weights[mask].mean())
            figures["importance/capped"] = float((weights[mask] >= self.cap).float().mean())
        return replace(batch, batch=responses), weights, figures

    def _bad(self, error: BadCredit | NotFiniteError) -> dict[str, float]:
        """The figures of a step without an update, because of NaN or inf."""
        if isinstance(error, BadCredit):
            what, text = f"credit_{error.kind}", f"{error} (bad_credit:{error.kind})"
        else:
            what, text = f"{error.what}_nan", str(error)
        self._trouble = text
        logger.warning("step %d: no update: %s", self.progress.step + 1, text)
        return {"bad": 1.0, f"bad/{what}": 1.0}

    def _lost(self, due: Sequence[Rule], figures: Mapping[str, float], stop: StopAfterStep) -> bool:
        """Whether a step in trouble does not count; waits before it is taken again."""
        kinds = ", ".join(name for name in figures if name.startswith("bad/"))
        parts = f"loss {self.updater.loss.name!r}, learner {self.config.learner!r}"
        detail = self._trouble or (f"{kinds} ({parts})" if kinds else "")
        self._trouble = ""
        self.breaker.react(due, figures, self.progress.step + 1, detail)
        if self.breaker.wait is None:
            return False
        stop.sleep(self.breaker.wait)
        return True

    def _evaluate(self, *, keep: bool = True) -> bool:
        """Evaluate on the held-out tasks; whether to `keep` the policy as the best so far."""
        if not self.config.eval_every:
            return False
        step, clock = self.progress.step, time.perf_counter()
        self.source.pause()
        result = play(self.parts.evaluator, self.parts.eval_spec, f"evaluation {step}")
        chosen = self._selection(result)
        more = {f"selection_{name}": value for name, value in chosen.items()}
        seconds = time.perf_counter() - clock
        self.recorder.evaluation(step, asdict(result) | more | {"seconds": seconds})
        if not result.episodes:  # 0 would be the failure's, not the policy's
            logger.warning("evaluation %d: each of %d episodes failed", step, result.errors)
            self.progress.evaluations.append({"step": step})
            return False
        figures = {"success": result.success, "score": result.score}
        self.progress.evaluations.append({"step": step, **figures})
        graded = "" if result.score == result.success else f", mean score {result.score:.3f},"
        compared = f"; {chosen['success']:.3f} on {self.config.keep_best}" if chosen else ""
        text = (
            f"step {step}: held-out success {result.success:.3f} "
            f"[{result.low:.3f}, {result.high:.3f}]{graded} on {result.episodes} tasks{compared}"
        )
        if self.leads:
            tqdm.write(text, file=sys.stderr)
        return keep and bool(chosen) and self.progress.note_best(step, chosen)

    def _selection(self, held_out: EvalResult) -> dict[str, float]:
        """Success and score by which the best checkpoint is chosen; empty without `keep_best`."""
        if self.config.keep_best is None:
            return {}
        result, parts = held_out, self.parts
        if parts.selector is not None:
            selector, step = parts.selector, self.progress.step
            result = play(selector.collector, selector.spec, f"selection {step}")
        if not result.episodes:
            return {}
        return {"success": result.success, "score": result.score}

    def _save(self) -> None:
        self.store.spare = int(self.progress.best["step"]) if self.progress.best else None
        offsets, ahead = self.recorder.sync(), self.source.in_flight()
        save_state(self.store, self.updater, self.progress, offsets, ahead)

    def _finish(self) -> dict[str, Any]:
        check_finite(self.updater, self.progress.step)
        progress = self.progress
        share = progress.aem_seconds / progress.step_seconds if progress.step_seconds else 0.0
        summary: dict[str, Any] = {
            **rise("success", progress.evaluations),
            **rise("score", progress.evaluations),
            "steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "aem_share": share,
            "run": str(self.folder),
        }
        if progress.best:
            step = int(progress.best["step"])
            summary["best"] = {**progress.best, "step": step, "split": self.config.keep_best}
        if not self.leads:
            return summary
        with atomic_folder(self.folder / ADAPTER) as folder:
            self.learner.save(folder)
        atomic_write(self.folder / SUMMARY, json.dumps(summary))
        logger.info("%s took %.3f%% of the step time", self.config.modulator, 100 * share)
        logger.info("look at it: aem-gym replay %s; aem-gym eval %s", self.folder, self.folder)
        return summary


def _shown(figures: Mapping[str, float], evaluations: list[dict[str, float]]) -> dict[str, str]:
    held_out = evaluations[-1].get("success") if evaluations else None
    low, high = figures.get("alpha_min"), figures.get("alpha_max")
    success, entropy = figures.get("success_rate", 0.0), figures.get("response_entropy_mean")
    shown = {"success": success, "held-out": held_out, "H": entropy}
    texts = {name: f"{value:.2f}" for name, value in shown.items() if value is not None}
    return texts | ({} if low is None else {"alpha": f"{low:.2f}-{high:.2f}"})
