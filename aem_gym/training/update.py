"""The update of a step: clipped policy losses on modulated advantages, one optimizer."""

from __future__ import annotations

import inspect
import logging
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aem_gym.config import Config
from aem_gym.credit.checks import describe_value, loss_fault
from aem_gym.credit.estimators import needs_of
from aem_gym.credit.losses import LossOutput, aggregate, kl_k3, log_ratio_of, value_loss
from aem_gym.errors import ComponentError, ConfigError, NotFiniteError, NotLearningError
from aem_gym.options import NotNegative, Positive, check_options, check_values
from aem_gym.protocols import Learner, Scores
from aem_gym.registry import ESTIMATORS, LOSSES
from aem_gym.seeding import derive, generator
from aem_gym.training.credit import Credit, TrainBatch
from aem_gym.training.mismatch import EXACT_LIMIT, GROSS_LIMIT, refuse_mismatch
from aem_gym.types import TrainingRow

if TYPE_CHECKING:
    from aem_gym.training.distributed import World

logger = logging.getLogger(__name__)

COMPARED = 4
"""Responses of a step on which sampler and learner are compared, where nothing else needs the
learner's pass over all of them."""
_OF_ALL = ("aggregation", "constant", "value_coef", "kl_weighted")
"""Options that every loss has."""
_GIVEN = ("selected", "generator")
"""Keyword arguments that the updater gives to a loss that takes them: not options."""


@dataclass(frozen=True)
class LossSettings:
    """The loss of a run.

    Besides the loss's own options `loss_options` may hold `aggregation` (mode of
    `aem_gym.credit.losses.aggregate`), `constant` (its length; default: max_new_tokens),
    `value_coef` (weight of the value loss; default 0.5) and `kl_weighted` (multiply the divergence
    from the reference by the ratio, as TRL does; default false).
    """

    name: str
    function: Callable[..., LossOutput]
    options: dict[str, Any]
    aggregation: str
    kl_coef: float
    constant: Positive
    value_coef: NotNegative
    kl_weighted: bool = False
    select: Callable[..., Tensor] | None = None
    """Picks tokens of a mini-batch for the loss, see `aem_gym.credit.losses.selects`."""
    draws: bool = False
    """It draws or picks tokens: the updater gives it `generator`, a seed, or `selected`."""

    @staticmethod
    def of(config: Config) -> LossSettings:
        """The run's settings, and the estimator's where the run gives none.

        Raises:
            UnknownNameError: no loss of that name, or an option it does not have.
            ConfigError: an option that it cannot use, or one that is given twice.
        """
        needs = needs_of(ESTIMATORS.load(config.estimator))
        name = needs.loss if config.loss == "auto" else config.loss
        function: Callable[..., LossOutput] = LOSSES.load(name)
        options = dict(config.loss_options)
        general = {key: options.pop(key) for key in _OF_ALL if key in options}
        for key in ("clip_low", "clip_high", "dual_clip"):
            if getattr(config, key) is not None:
                _check_one_clip(config, key)
                options[key] = getattr(config, key)
            elif key in inspect.signature(function).parameters:
                options.setdefault(key, getattr(needs, key))
        check_options("loss_options", function, options, _GIVEN)
        check_values("loss_options", LossSettings, general)
        return LossSettings(
            name,
            function,
            options,
            aggregation=general.get("aggregation", needs.aggregation),
            kl_coef=needs.kl_coef if config.kl_coef is None else config.kl_coef,
            constant=float(general.get("constant", config.max_new_tokens)),
            value_coef=float(general.get("value_coef", 0.5)),
            kl_weighted=general.get("kl_weighted", False),
            select=getattr(function, "select", None),
            draws=not inspect.signature(function).parameters.keys().isdisjoint(_GIVEN),
        )

    def per_token(
        self, logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, **given: Any
    ) -> LossOutput:
        """The loss (n, T) of each token. Raises ComponentError if it is no LossOutput."""
        output = self.function(logprobs, old, advantages, mask, **self.options, **given)
        found, metrics = getattr(output, "per_token", None), getattr(output, "metrics", None)
        sound = isinstance(output, LossOutput) and isinstance(found, Tensor)
        sound = sound and isinstance(metrics, Mapping) and all(map(_is_number, metrics.values()))
        if not (sound and _kind(found) == _kind(logprobs)):
            raise loss_fault(f"loss {self.name!r}", output, logprobs)
        return output

    def choose(
        self, logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, seed: int
    ) -> Tensor:
        """The tokens (n, T) that the loss picks from a mini-batch. Raises ComponentError."""
        assert self.select is not None
        known = inspect.signature(self.select).parameters
        options = {key: value for key, value in self.options.items() if key in known}
        if "generator" in known:
            options["generator"] = seed
        found = self.select(logprobs, old, advantages, mask, **options)
        if not (isinstance(found, Tensor) and found.shape == mask.shape):
            wanted = f"a bool tensor (n, T) = {tuple(mask.shape)}"
            got = describe_value(found)
            raise ComponentError(f"selection of loss {self.name!r}: expected {wanted}, got {got}")
        return found.bool()

    def total(self, per_token: Tensor, mask: Tensor, tokens: float, rows: float) -> Tensor:
        """The loss of (n, T) `per_token` as its part of a mini-batch of `tokens` and `rows`."""
        sizes = {"total_tokens": tokens, "total_rows": rows, "constant": self.constant}
        return aggregate(per_token, mask, self.aggregation, **sizes)


def _check_one_clip(config: Config, key: str) -> None:
    chosen, inner = getattr(config, key), config.loss_options.get(key, getattr(config, key))
    if inner != chosen:
        raise ConfigError(
            f"{key}: {chosen} and loss_options.{key}: {inner} differ: give one of them"
        )


def check_loss(config: Config) -> None:
    """Try the loss and its options on two made-up responses, before any model loads.

    Raises:
        ConfigError: an option that the loss does not take or cannot use.
    """
    some = torch.tensor([[-0.1, -0.9], [-0.5, -0.2]], requires_grad=True)
    mask = torch.ones_like(some, dtype=torch.bool)
    try:
        settings = LossSettings.of(config)
        advantages = torch.ones(2, 2)
        given: dict[str, Any] = {}
        if settings.select is not None:
            given["selected"] = settings.choose(some.detach(), some.detach(), advantages, mask, 0)
        elif settings.draws:
            given["generator"] = 0
        output = settings.per_token(some, some, advantages, mask, **given)
        total = settings.total(output.per_token, mask, 4.0, 2.0)
        if not bool(torch.isfinite(total)):
            raise ComponentError(f"expected a finite loss, got {total.item()}")
    except ConfigError:
        raise
    except Exception as error:  # a user's own loss raises whatever it likes
        raise ConfigError(f"loss_options: {error} (loss {config.loss!r})") from error


def _kind(x: Any) -> tuple[Any, ...]:
    return x.shape, x.device, x.requires_grad, x.is_floating_point()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


@dataclass(frozen=True)
class Targets:
    """The quantities that a step's tokens are compared with."""

    credit: Credit
    old: Tensor
    """(N, T) log-probabilities under the policy that sampled."""
    weights: Tensor | None = None
    """(N, T) of the loss of each token; None: all 1."""
    seed: int = 0
    """Of the draws of the loss in one mini-batch."""
    selected: Tensor | None = None
    """(N, T) bool: what the loss picked from the mini-batch; None: it picks nothing."""


class Updater:
    """The optimizer of a run and its updates.

    Args:
        learner: whose `parameters()` are trained.
        config: learning rate, clipping, batch sizes.
        exact: the sampler's log-probabilities are the learner's (`Policy.exact`).
    """

    def __init__(self, learner: Learner, config: Config, *, exact: bool = True) -> None:
        self.learner, self.config, self.exact = learner, config, exact
        self.world: World | None = None  # `SharedUpdater` has one
        self.limit = EXACT_LIMIT if exact else GROSS_LIMIT
        self.loss = LossSettings.of(config)
        self.parameters = list(learner.parameters().values())
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(), lr=config.lr, weight_decay=config.weight_decay
        )

    def _parameter_groups(self) -> list[Any]:
        """The weights, those of the value head apart where they have their own learning rate."""
        if self.config.value_lr is None:
            return self.parameters
        named = self.learner.parameters()
        of_head = {name for name in named if name.startswith("value_head.")}
        rest = [weight for name, weight in named.items() if name not in of_head]
        head = {"params": [named[name] for name in of_head]}
        scale = self.config.value_lr / self.config.lr
        return [{"params": rest}, *([head | {"scale": scale}] if of_head else [])]

    def learning_rate(self, step: int) -> float:
        """Of step `step` (from 0): a linear rise over the warm-up, then the schedule."""
        warmup = self.config.lr_warmup
        warm = min(1.0, (step + 1) / max(1, warmup))
        progress = min(1.0, max(0, step - warmup) / max(1, self.config.steps - warmup))
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        shapes = {"constant": 1.0, "linear": 1.0 - progress, "cosine": cosine}
        return self.config.lr * warm * shapes[self.config.lr_schedule]

    @torch.no_grad()
    def score(self, step: TrainBatch, *, reference: bool = False) -> Scores:
        """Scores of all responses of a step, without gradient, on the CPU, in batch order."""
        parts = [
            self._score(step, rows, reference=reference)
            for rows in self._micro_batches(step, list(range(len(step.rows))))
        ]
        width = step.batch.mask.shape[1]
        values = [part.values for part in parts if part.values is not None]
        return Scores(
            torch.cat([widen(p.logprobs, width) for p in parts]).cpu(),
            torch.cat([widen(p.entropies, width) for p in parts]).cpu(),
            torch.cat([widen(p.mask, width) for p in parts]).cpu(),
            torch.cat(values).cpu() if values else None,
        )

    def compare(self, step: TrainBatch) -> tuple[Scores, dict[str, float]]:
        """The learner's scores of a whole step, and how far the sampler is from them.

        Raises:
            SamplerMismatchError: they are different policies, so every gradient would be wrong.
            NotFiniteError: one of the two gave NaN.
        """
        scores, mask = self.score(step), step.batch.mask
        apart = (scores.logprobs - step.batch.logprobs)[mask].abs()
        if not float(apart.mean()) <= self.limit:
            chosen = list(range(0, len(mask), -(-len(mask) // self.config.micro_batch)))
            rows = [_up_to(step, response) for response in chosen]
            sampled = step.batch.logprobs[torch.tensor(chosen)]
            refuse_mismatch(self.learner, rows, sampled, self.config, self.limit)
        for name in ("entropies", "values"):
            given: Tensor | None = getattr(scores, name)
            if given is not None and not bool(torch.isfinite(given).all()):
                raise NotFiniteError(
                    name, f"learner {self.config.learner!r}: {name} are NaN or inf"
                )
        return scores, {"mismatch/mean": float(apart.mean()), "mismatch/max": float(apart.max())}

    def check_sampler(self, step: TrainBatch, number: int) -> dict[str, float]:
        """How far sampler and learner are apart on a few responses; refuses what is too far."""
        some, draws = len(step.batch.mask), generator(self.config.seed, "compared", number)
        chosen = draws.permutation(some)[: min(COMPARED, self.config.micro_batch)].tolist()
        rows = [_up_to(step, response) for response in chosen]
        if self.config.micro_batch_tokens:  # as many as one pass may hold
            sizes = [(number, len(row.ids)) for number, row in enumerate(rows)]
            number = len(next(by_tokens(sizes, self.config.micro_batch_tokens)))
            rows, chosen = rows[:number], chosen[:number]
        # As the update will read them: with a gradient, and dropout where the model has it.
        with torch.set_grad_enabled(not self.config.lora_dropout):
            scores = self.learner.score(rows, temperature=self.config.temperature)
        mask = scores.mask.cpu()
        sampled = step.batch.logprobs[chosen, : mask.shape[1]]
        apart = (scores.logprobs.detach().cpu() - sampled)[mask].abs()
        if not float(apart.mean()) <= self.limit:
            refuse_mismatch(self.learner, rows, sampled, self.config, self.limit)
        return {"mismatch/mean": float(apart.mean()), "mismatch/max": float(apart.max())}

    def update(
        self, step: TrainBatch, credit: Credit, number: int, weights: Tensor | None = None
    ) -> dict[str, float]:
        """Train; mean figures over tokens. `weights` (N, T) multiply the loss of each token."""
        rate = self.learning_rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        targets = Targets(credit, step.batch.logprobs, weights)
        sums, counts, seed = Counter[str](), Counter[str](), self.config.seed
        for epoch in range(self.config.epochs):
            rows = generator(seed, "order", number, epoch).permutation(step.learned).tolist()
            minis = _chunks(rows, mini_batch_rows(self.config.mini_batch, len(rows)))
            for index, mini in enumerate(minis):
                seeded = replace(targets, seed=derive(seed, "loss", number, epoch, index))
                of_step, of_tokens = self._optimizer_step(step, seeded, mini)
                counts.update(of_step)
                sums.update(of_tokens)
        size = float(torch.nn.utils.get_total_norm(self.parameters))
        if counts["bad"] or not math.isfinite(size):
            self._report_bad(number, counts, size)
        tokens, done = max(1.0, sums.pop("tokens", 0.0)), float(counts["updates"])
        figures = {name: total / tokens for name, total in sums.items()} | {"lr": rate, **counts}
        return figures | {"updates": done, "grad_norm": counts["grad_norm"] / max(1.0, done)}

    def _optimizer_step(
        self, step: TrainBatch, targets: Targets, mini: list[int]
    ) -> tuple[dict[str, float], Counter[str]]:
        """One update on the training rows `mini`: its counts, and sums over its tokens."""
        responses = step.responses(mini)
        tokens = float(step.batch.mask[responses].sum())
        rows = float((step.batch.lengths[responses] > 0).sum())
        sums: Counter[str] = Counter()
        self.optimizer.zero_grad(set_to_none=True)
        # Rows of like length together: less padding, and the sum does not depend on the cut.
        mini = sorted(mini, key=lambda row: len(step.rows[row].ids))
        if self.loss.select is not None:
            targets = replace(targets, selected=self._selected(step, targets, mini))
        for micro in self._micro_batches(step, mini):
            loss, more = self._loss(step, targets, micro, tokens, rows)
            loss.backward()  # type: ignore[no-untyped-call]
            sums.update(more)
        if self.world is not None:
            self.world.add_up(self.parameters, sums)
        clip = self.config.grad_clip or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, clip))
        if not math.isfinite(norm + sums["loss"]):
            return _left_out(sums), Counter()
        self.optimizer.step()
        return {"updates": 1.0, "grad_norm": norm}, sums

    def _report_bad(self, number: int, counts: Mapping[str, float], size: float) -> None:
        """Say what was left out. Raises NotLearningError where the weights are damaged."""
        if not math.isfinite(size):
            raise NotLearningError(f"the update of step {number + 1} made weights NaN or inf")
        learner = f"learner {self.config.learner!r}"
        for what in ("reference", "loss", "gradient"):
            if times := counts.get(f"bad/{what}_nan"):
                total = counts["updates_skipped"] + counts["updates"]
                text = f"{what} of {self.loss.name!r} ({learner})"
                if what == "reference":
                    text = f"log-probability under the reference policy ({learner})"
                form = "step %d: %d of %d updates were skipped: the %s is NaN or inf (bad_%s:nan)"
                logger.warning(form, number + 1, times, total, text, what)

    def _loss(
        self, step: TrainBatch, targets: Targets, micro: list[int], tokens: float, rows: float
    ) -> tuple[Tensor, dict[str, float]]:
        """The part of some training rows in a mini-batch's loss, and sums over their tokens."""
        numbers = step.responses(micro)
        chosen, temperature = [step.rows[row] for row in micro], self.config.temperature
        reference = self._reference(chosen) if self.loss.kl_coef else None
        scores = self.learner.score(chosen, temperature=temperature)
        mask, device, width = scores.mask, scores.logprobs.device, scores.mask.shape[1]
        advantages = targets.credit.modulated.advantages[numbers, :width].to(device)
        old = targets.old[numbers, :width].to(device)
        given = self._given(targets, numbers, mask) if self.loss.draws else {}
        output = self.loss.per_token(scores.logprobs, old, advantages, mask, **given)
        per_token = output.per_token
        if targets.weights is not None:
            per_token = per_token * targets.weights[numbers, :width].to(device)
        sums = {name: float(total) for name, total in output.metrics.items()}
        if reference is not None:
            kl, of_kl = self._divergence(scores, old, reference)
            per_token, sums = per_token + self.loss.kl_coef * kl, sums | of_kl
        sums |= {"loss": float(per_token.detach().sum()), "tokens": float(mask.sum())}
        loss = self.loss.total(per_token, mask, tokens, rows)
        if scores.values is not None and targets.credit.value_targets is not None:
            wanted = targets.credit.value_targets[numbers].to(device)
            loss = loss + self._value_error(step, scores.values, wanted, numbers) / rows
        return loss, sums

    def _reference(self, rows: list[TrainingRow]) -> Tensor:
        """Log-probabilities (n, T) under the reference policy.

        Of the very rows, and under the very dropout, that the policy reads next: otherwise rounding
        or chance would be a divergence, and Adam would make full steps of it.
        """
        temperature, device = self.config.temperature, self.parameters[0].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            scores = self.learner.score(rows, temperature=temperature, reference=True)
        return scores.logprobs.detach()

    def _divergence(
        self, scores: Scores, old: Tensor, reference: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """k3 from the reference policy (n, T), with `kl_weighted` times the ratio; and sums."""
        kl = kl_k3(scores.logprobs, reference).masked_fill(~scores.mask, 0)
        if self.loss.kl_weighted:
            kl = kl * log_ratio_of(scores.logprobs, old, scores.mask).exp()
        sums = {"kl_reference": float(kl.detach().sum())}
        finite = bool(torch.isfinite(reference[scores.mask]).all())
        return kl, sums if finite else sums | {"bad_reference": 1.0}

    def _value_error(
        self, step: TrainBatch, values: Tensor, wanted: Tensor, numbers: Tensor
    ) -> Tensor:
        """The value loss of some responses, weighted and summed."""
        assert step.batch.values is not None
        before = step.batch.values[numbers].to(values.device)
        errors = value_loss(values, before, wanted, clip=self.config.value_clip or None)
        return self.loss.value_coef * errors.sum()

    @torch.no_grad()
    def _selected(self, step: TrainBatch, targets: Targets, mini: list[int]) -> Tensor:
        """(N, T) bool: the tokens that the loss picks from the whole mini-batch, read once more."""
        numbers = step.responses(mini)
        logprobs = self._policy_logprobs(step, mini)
        advantages = targets.credit.modulated.advantages[numbers]
        tokens = (logprobs, targets.old[numbers], advantages, step.batch.mask[numbers])
        selected = torch.zeros_like(step.batch.mask)
        selected[numbers] = self.loss.choose(*tokens, targets.seed)
        return selected

    def _policy_logprobs(self, step: TrainBatch, rows: list[int]) -> Tensor:
        """Log-probabilities (n, T) of the responses of some training rows, in their order."""
        parts = [self._score(step, micro) for micro in self._micro_batches(step, rows)]
        width = step.batch.mask.shape[1]
        return torch.cat([widen(part.logprobs, width) for part in parts]).cpu()

    def _given(self, targets: Targets, numbers: Tensor, mask: Tensor) -> dict[str, Any]:
        """What the loss takes besides its options: the tokens it picked, or a seed for draws."""
        if targets.selected is not None:
            return {"selected": targets.selected[numbers, : mask.shape[1]].to(mask.device)}
        return {"generator": derive(targets.seed, "draws", int(numbers[0]))}

    def _micro_batches(self, step: TrainBatch, rows: list[int]) -> Iterator[list[int]]:
        most = self.config.micro_batch_tokens
        if most:
            return by_tokens([(row, len(step.rows[row].ids)) for row in rows], most)
        return _chunks(rows, self.config.micro_batch)

    def _score(self, step: TrainBatch, rows: list[int], *, reference: bool = False) -> Scores:
        chosen = [step.rows[row] for row in rows]
        return self.learner.score(chosen, temperature=self.config.temperature, reference=reference)


def _left_out(sums: Mapping[str, float]) -> dict[str, float]:
    """The counts of an update that was not applied, because of `sums` over its tokens."""
    what = "gradient" if math.isfinite(sums["loss"]) else "loss"
    what = "reference" if "bad_reference" in sums else what
    return {"updates_skipped": 1.0, "bad": 1.0, f"bad/{what}_nan": 1.0}


def mini_batch_rows(mini_batch: int | str, rows: int) -> int:
    """How many of `rows` training rows make one update, for a setting such as 32 or 1/2."""
    share = None if isinstance(mini_batch, int) else int(mini_batch.partition("/")[2])
    return int(mini_batch) if share is None else -(-rows // share)


def _up_to(step: TrainBatch, response: int) -> TrainingRow:
    """The training row of a response, cut off behind it."""
    row = bisect_right(step.first_span, response) - 1
    span = step.rows[row].spans[response - step.first_span[row]]
    return TrainingRow(step.rows[row].ids[: span.end], (span,))


def by_tokens(rows: Sequence[tuple[int, int]], most: int) -> Iterator[list[int]]:
    """Cut (row, length) pairs, in their order, into parts of at most `most` tokens when padded.

    A row longer than that is a part by itself.
    """
    part: list[int] = []
    width = 0
    for row, length in rows:
        width = max(width, length)
        if part and width * (len(part) + 1) > most:
            yield part
            part, width = [], length
        part.append(row)
    if part:
        yield part


def _chunks(items: Sequence[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(items), size):
        yield list(items[first : first + size])


def widen(x: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1]))
