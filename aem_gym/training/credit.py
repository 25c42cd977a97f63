"""From groups of episodes to credited responses: rows, rewards, penalties, advantages."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from aem_gym.config import Config
from aem_gym.credit.batch import ResponseBatch
from aem_gym.credit.checks import credit_fault, describe_value
from aem_gym.credit.estimators import EstimatorNeeds, SplitAdvantages, gae, needs_of
from aem_gym.credit.losses import overlong_penalty
from aem_gym.credit.modulators import Modulated
from aem_gym.errors import ComponentError, ConfigError
from aem_gym.options import check_options
from aem_gym.registry import ESTIMATORS, MODULATORS
from aem_gym.seeding import derive
from aem_gym.types import Episode, Group, PromptTemplate, Span, TrainingRow, Turn

_GIVEN = ("generator",)
"""Keyword arguments that `assign` gives to a modulator that takes them: not options."""
_ROUNDING = 1e-6
"""Returns that differ by less, as a share of their rewards, are equal: float32 ends there."""


@dataclass(frozen=True)
class TrainBatch:
    """One training step's data: episodes, their training rows, and one tensor row per response.

    Row i of `batch` is the i-th span of `rows`, counted through.
    """

    episodes: tuple[Episode, ...]
    place: tuple[tuple[int, int], ...]
    """Per episode, the number of its group and its own number in it."""
    rows: tuple[TrainingRow, ...]
    batch: ResponseBatch
    first_span: tuple[int, ...]
    """Per training row, the number of its first response; one more at the end."""
    masked: frozenset[int]
    """Numbers of the episodes that hit a limit and are left out of the loss (`mask_truncated`).
    They are in the batch, so that the others are compared with them."""
    learned: tuple[int, ...]
    """Numbers of the training rows that enter the loss."""

    def responses(self, rows: Sequence[int]) -> Tensor:
        """Numbers (n,) of the responses of the given training rows, in their order."""
        return torch.cat([torch.arange(*self.first_span[row : row + 2]) for row in rows])


@dataclass(frozen=True, slots=True)
class Rewards:
    """Scaling of rewards, and the penalty for invalid responses."""

    scale: float = 1.0
    reward_source: str = "return"
    invalid_penalty: float = 0.1
    penalize: str = "format"
    overlong_buffer: int = 0
    overlong_penalty: float = 1.0
    max_new_tokens: int = 0

    @staticmethod
    def of(config: Config, template: PromptTemplate) -> Rewards:
        """As the run's settings and the environment's prompt template say."""
        scale = config.reward_scale
        return Rewards(
            template.reward_scale if scale is None else scale,
            template.reward_source,
            config.invalid_penalty,
            config.penalize,
            config.overlong_buffer,
            config.overlong_penalty,
            config.max_new_tokens,
        )

    def of_turns(self, episode: Episode) -> list[float]:
        """The scaled reward of each turn of an episode, overlong responses punished."""
        if self.overlong_buffer or self.reward_source == "won":
            return self._made_rewards(episode)
        return [turn.reward * self.scale for turn in episode.turns]

    def _made_rewards(self, episode: Episode) -> list[float]:
        """Of success alone, or with DAPO's soft punishment, which is in the environment's units."""
        rewards = [turn.reward for turn in episode.turns]
        if self.reward_source == "won":
            last = len(rewards) - 1
            rewards = [float(episode.won and turn == last) for turn in range(last + 1)]
        if self.overlong_buffer:
            lengths = torch.tensor([len(turn.response_ids) for turn in episode.turns])
            limits = {"max_length": self.max_new_tokens, "buffer": self.overlong_buffer}
            punished = overlong_penalty(lengths, factor=self.overlong_penalty, **limits).tolist()
            rewards = [r + less for r, less in zip(rewards, punished, strict=True)]
        return [self.scale * reward for reward in rewards]

    def invalid(self, turn: Turn) -> bool:
        """Whether a response is penalized."""
        return not turn.format_valid or (self.penalize == "inadmissible" and not turn.action_valid)

    def penalty(self, turn: Turn) -> float:
        """The invalid-action penalty of a response, <= 0; estimators add it to its advantage."""
        return -self.invalid_penalty if self.invalid(turn) else 0.0


def usable(episode: Episode, *, mask_truncated: bool = False) -> bool:
    """Whether an episode is learned from: failed ones never, truncated ones by choice."""
    if episode.error is not None or not any(turn.response_ids for turn in episode.turns):
        return False
    return not (mask_truncated and episode.truncated)


def equal_returns(group: Group, rewards: Rewards, *, mask_truncated: bool) -> bool:
    """Whether a group teaches nothing: no episode to learn from, or all with the same return.

    The soft punishment of long responses does not count: it makes no outcome another one.
    """
    if not any(usable(e, mask_truncated=mask_truncated) for e in group.episodes):
        return True
    plain = replace(rewards, overlong_buffer=0)  # as DAPO and verl, which compare the outcome alone
    earned = [plain.of_turns(e) for e in group.episodes if usable(e)]
    returns, size = [sum(each) for each in earned], max(sum(map(abs, each)) for each in earned)
    return max(returns) - min(returns) <= _ROUNDING * size


def make_batch(
    groups: Sequence[Group], rewards: Rewards, *, mask_truncated: bool = False
) -> TrainBatch | None:
    """Tensors of the groups' usable episodes; None if there is nothing to learn from."""
    every = [(g, i, e) for g, group in enumerate(groups) for i, e in enumerate(group.episodes)]
    kept = [each for each in every if usable(each[-1])]
    episodes = tuple(episode for *_, episode in kept)
    masked = frozenset(i for i, e in enumerate(episodes) if mask_truncated and e.truncated)
    if len(masked) == len(episodes):
        return None
    rows = tuple(training_rows(enumerate(episodes)))
    spans = [span for row in rows for span in row.spans]
    first = tuple(accumulate((len(row.spans) for row in rows), initial=0))
    batch = _responses(episodes, [g for g, *_ in kept], spans, rewards)
    place = tuple((g, i) for g, i, _ in kept)
    learned = tuple(i for i, row in enumerate(rows) if row.spans[0].episode not in masked)
    return TrainBatch(episodes, place, rows, batch, first, masked, learned)


def _responses(
    episodes: Sequence[Episode], groups: Sequence[int], spans: Sequence[Span], rewards: Rewards
) -> ResponseBatch:
    """One tensor row per span; `groups` holds the group of each episode."""
    turns = [episodes[span.episode].turns[span.turn] for span in spans]
    earned = [rewards.of_turns(episode) for episode in episodes]
    returns = [sum(each) for each in earned]
    anchors: dict[str, int] = {}
    return ResponseBatch(
        returns=torch.tensor([returns[s.episode] for s in spans]),
        step_rewards=torch.tensor([earned[s.episode][s.turn] for s in spans]),
        penalties=torch.tensor([rewards.penalty(turn) for turn in turns]),
        group_ids=torch.tensor([groups[s.episode] for s in spans]),
        trajectory_ids=torch.tensor([s.episode for s in spans]),
        turns=torch.tensor([s.turn for s in spans]),
        anchor_ids=torch.tensor([anchors.setdefault(t.anchor, len(anchors)) for t in turns]),
        **_token_tensors(turns),
    )


def _token_tensors(turns: Sequence[Turn]) -> dict[str, Tensor]:
    """The fields of shape (N, T); 0 where the policy does not know them."""
    lengths = torch.tensor([len(turn.response_ids) for turn in turns])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    tensors = {"mask": mask}
    for name in ("logprobs", "entropies"):
        known = [getattr(turn, name) or (0.0,) * len(turn.response_ids) for turn in turns]
        flat = torch.tensor([value for each in known for value in each])
        tensors[name] = torch.zeros(mask.shape).masked_scatter(mask, flat)
    return tensors


def training_rows(episodes: Iterable[tuple[int, Episode]]) -> list[TrainingRow]:
    """A row per whole prompt of each (number, episode) and what follows; a span per response."""
    rows: list[TrainingRow] = []
    for number, episode in episodes:
        ids, spans = list[int](), list[Span]()
        for place, turn in enumerate(episode.turns):
            if turn.compacted or episode.context != "transcript":
                rows.append(TrainingRow(tuple(ids), tuple(spans)))
                ids, spans = [], []
            ids += turn.prompt_ids
            if turn.response_ids:
                spans.append(Span(len(ids), len(ids) + len(turn.response_ids), number, place))
            ids += turn.response_ids
        rows.append(TrainingRow(tuple(ids), tuple(spans)))
    return [row for row in rows if row.spans]


# Credit ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Credit:
    """The advantages of one step."""

    base: Tensor
    """(N,) of the estimator; the part that is modulated."""
    modulated: Modulated
    value_targets: Tensor | None
    """(N,) what the value head learns; None without one."""
    seconds: float
    """Wall time of the modulator alone."""


@dataclass(frozen=True)
class CreditRule:
    """Estimator and modulator of a run, with their options."""

    config: Config
    estimator: Callable[..., Tensor | SplitAdvantages]
    needs: EstimatorNeeds
    modulator: Callable[..., Modulated]
    estimator_options: dict[str, Any]
    modulator_options: dict[str, Any]
    value_options: dict[str, Any]
    """Of `gae`, for the value targets."""

    @staticmethod
    def of(config: Config) -> CreditRule:
        """Load the components by name.

        Raises:
            UnknownNameError, ConfigError: a name or an option that does not exist.
        """
        estimator, modulator = ESTIMATORS.load(config.estimator), MODULATORS.load(config.modulator)
        of_estimator, of_modulator = dict(config.estimator_options), dict(config.modulator_options)
        if config.modulator == "aem" and "part" in of_modulator:  # GiGPO's `modulate`, as it was
            part = of_modulator.pop("part")
            if config.estimator == "gigpo":
                of_estimator.setdefault("modulate", part)
        check_options("estimator_options", estimator, of_estimator)
        check_options("modulator_options", modulator, of_modulator, _GIVEN)
        of_values = _value_options(estimator, of_estimator)
        needs = needs_of(estimator)
        return CreditRule(
            config, estimator, needs, modulator, of_estimator, of_modulator, of_values
        )

    def assign(self, batch: ResponseBatch, step: int) -> Credit:
        """Advantages of a batch; `step` seeds draws. Raises ComponentError on a wrong result."""
        base, unmodulated = self._estimate(batch)
        options = dict(self.modulator_options)
        if "generator" in inspect.signature(self.modulator).parameters:
            options["generator"] = derive(self.config.seed, "shuffle", step)
        clock = time.perf_counter()
        modulated = self.modulator(batch, base, **options)
        seconds = time.perf_counter() - clock
        self._check_modulated(modulated, batch)
        if unmodulated is not None:
            modulated = _with_unmodulated(modulated, unmodulated, batch.mask)
        targets = None if batch.values is None else gae(batch, **self.value_options)[1]
        return Credit(base, modulated, targets, seconds)

    def _estimate(self, batch: ResponseBatch) -> tuple[Tensor, Tensor | None]:
        name = f"estimator {self.config.estimator!r}"
        base: Any = self.estimator(batch, **self.estimator_options)
        if isinstance(base, SplitAdvantages):
            return _parts_of(base, name, batch)
        _check_tensor(name, base, batch, "(N,)")
        return base, None

    def _check_modulated(self, found: object, batch: ResponseBatch) -> None:
        name = f"modulator {self.config.modulator!r}"
        if not isinstance(found, Modulated):
            raise _not_modulated(name, found)
        _check_tensor(f"{name}, advantages", found.advantages, batch, "(N, T)")
        _check_tensor(f"{name}, alpha", found.alpha, batch, "(N,)")
        info: object = found.info
        if not isinstance(info, dict) or any(type(v) not in (int, float) for v in info.values()):
            raise ComponentError(f"{name}: expected numbers by name in info, got {info!r:.80}")


def _parts_of(base: SplitAdvantages, name: str, batch: ResponseBatch) -> tuple[Tensor, Tensor]:
    """(what is modulated, what is added after that)."""
    _check_tensor(f"{name}, unmodulated", base.unmodulated, batch, "(N,)")
    _check_tensor(f"{name}, modulated", base.modulated, batch, "(N,)")
    return base.modulated, base.unmodulated


def _with_unmodulated(modulated: Modulated, unmodulated: Tensor, mask: Tensor) -> Modulated:
    more = unmodulated[:, None].expand(mask.shape).masked_fill(~mask, 0)
    return replace(modulated, advantages=modulated.advantages + more)


def _not_modulated(name: str, found: object) -> ComponentError:
    got = describe_value(found)
    return ComponentError(f"{name}: expected a Modulated (aem_gym.credit), got {got}")


def _value_options(estimator: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Discount and penalty of the value targets: those that the estimator itself works with.

    Its own defaults where none is given, and those of `gae` where it has none that `gae` can use.
    """
    chosen = dict(options)
    with contextlib.suppress(TypeError, ValueError):  # a callable without a signature
        for name, parameter in inspect.signature(estimator).parameters.items():
            chosen.setdefault(name, parameter.default)
    kinds = {"gamma": int | float, "lam": int | float, "penalty": str}
    found = {key: chosen[key] for key in kinds if isinstance(chosen.get(key), kinds[key])}
    if found.get("penalty") not in ("advantage", "reward"):  # its own kind of penalty
        found.pop("penalty", None)
    return found


def _check_tensor(name: str, found: Any, batch: ResponseBatch, symbol: str) -> None:
    """Raise where `found` is no finite tensor such as `batch.returns`, (N,) or (N, T)."""
    like, shape = batch.returns, (batch.mask if symbol == "(N, T)" else batch.returns).shape
    sound = isinstance(found, Tensor) and found.is_floating_point()
    sound = sound and (found.shape, found.device) == (shape, like.device)
    if not sound or found.requires_grad or not bool(torch.isfinite(found).all()):
        raise credit_fault(name, found, like, shape, symbol)


def check_credit(config: Config) -> None:
    """Try estimator and modulator on four made-up responses, before any model loads.

    Raises:
        ConfigError: an option that a component does not take or cannot use, or a component that
            changes what it is given.
    """
    rule = _watched(CreditRule.of(config))
    if config.group_size == 1 and rule.needs.compares:
        raise ConfigError(
            f"group_size 1 leaves nothing to compare with: the estimator {config.estimator!r} "
            "needs group_size >= 2 (ppo and reinforce_pp do not)"
        )
    if config.overlong_buffer > config.max_new_tokens:
        raise ConfigError(
            f"overlong_buffer: expected at most max_new_tokens = {config.max_new_tokens}, "
            f"got {config.overlong_buffer}"
        )
    try:
        rule.assign(_made_up(), 0)
    except ConfigError:
        raise
    except ComponentError as error:
        raise ConfigError(f"{error} (tried on four made-up responses)") from error
    except Exception as error:  # a user's own component raises whatever it likes
        raise ConfigError(
            f"estimator {config.estimator!r} or modulator {config.modulator!r}, with the options "
            f"given, failed on four made-up responses: {type(error).__name__}: {error}"
        ) from error


def _made_up() -> ResponseBatch:
    """Four responses of two episodes, with the figures that components read off a batch."""
    ids = torch.tensor([0, 0, 1, 1])
    some = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.3, 0.3], [0.8, 0.1]])
    batch = ResponseBatch(
        returns=torch.tensor([1.0, 1.0, 0.0, 0.0]),
        step_rewards=torch.tensor([0.0, 1.0, 0.0, 0.0]),
        penalties=torch.zeros(4),
        group_ids=torch.zeros(4, dtype=torch.long),
        trajectory_ids=ids,
        turns=torch.tensor([0, 1, 0, 1]),
        anchor_ids=torch.tensor([0, 1, 0, 2]),
        mask=torch.ones(4, 2, dtype=torch.bool),
        logprobs=-some,
        entropies=some,
        values=torch.zeros(4),
    )
    for name, kind in vars(ResponseBatch).items():
        if isinstance(kind, functools.cached_property):
            getattr(batch, name)  # so that it is seen when one is changed
    return batch


def _watched(rule: CreditRule) -> CreditRule:
    """The rule with components that may only read what they are given.

    A step does not look: a component that writes does so on made-up responses, too.
    """
    estimator = _reads_only(f"estimator {rule.config.estimator!r}", rule.estimator)
    modulator = _reads_only(f"modulator {rule.config.modulator!r}", rule.modulator)
    return replace(rule, estimator=estimator, modulator=modulator)


def _reads_only(name: str, component: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(component)
    def watched(batch: ResponseBatch, *advantages: Tensor, **options: Any) -> Any:
        given = {f"batch.{key}": value for key, value in vars(batch).items()}
        given |= dict(zip(("advantages",), advantages, strict=False))
        before = _contents(given)
        found = component(batch, *advantages, **options)
        after = _contents(given)
        for key in (key for key in before if before[key] != after[key]):
            raise ComponentError(
                f"{name} changed {key} in place, which the rest of the step reads: expected it to "
                f"be left as it is (work on a copy: {key}.clone())"
            )
        return found

    return watched


def _contents(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values, and how often they were written: neither alone sees NumPy's writes and `x *= 1`."""
    tensors = {key: value for key, value in given.items() if isinstance(value, Tensor)}
    return {k: (0 if x.is_inference() else x._version, x.tolist()) for k, x in tensors.items()}
