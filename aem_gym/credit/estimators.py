"""Base advantage estimators: `f(batch, **options) -> (N,)`, one advantage per response.

Common options:
    over: "episodes" (default) takes means and deviations over the episodes of a group, each once;
        "rows" over its responses, so that long episodes weigh more.
    penalty: "advantage" (default) adds a row's invalid-action penalty to its advantage after
        normalization; "reward" adds it to the row's score before, as verl-agent does, with
        statistics over the rows' scores. Where all rows of a group are invalid the first gives each
        the penalty and no baseline, the second gives 0.
    whiten: of what whitens over the whole batch: "tokens" (default, as published) weighs each
        response by its length; "rows" and "episodes" each response or episode alike.

In the group-relative ones, a group whose scores are all equal has advantage exactly 0 (plus its
rows' penalties). Rows in `batch.excluded` enter no statistic, but get the advantage that those
imply. Nothing here carries a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from aem_gym.credit.batch import ResponseBatch, Segments, TurnGrid, pair_ids
from aem_gym.errors import ConfigError, check_name
from aem_gym.options import AboveOne, NotNegative, Share, check_values

EPSILON = 1e-6
"""Added to a standard deviation before dividing by it."""
_PENALTIES = ("advantage", "reward")
_WHITEN = ("tokens", "rows", "episodes")
GIGPO_MODES = {"mean_norm": False, "mean_std_norm": True}
"""GiGPO's modes by verl-agent's names: does it divide by standard deviations?"""


@dataclass(frozen=True)
class EstimatorNeeds:
    """An estimator's requirements of a run, and the loss settings it is published with.

    The settings hold where the run gives none; the loss takes those that it has an option for.
    """

    loss: str = "ppo_clip"
    """A registered loss, or `module:attribute`."""
    clip_low: Share = 0.2
    clip_high: NotNegative = 0.2
    dual_clip: AboveOne | None = 3.0
    """Bound on the loss of negative advantages; None: off."""
    aggregation: str = "token-mean"
    """Mode of `aem_gym.credit.losses.aggregate`."""
    kl_coef: NotNegative = 0.01
    """Weight of the k3 divergence to the reference policy, where the run's `kl_coef` is null."""
    needs_values: bool = False
    """Train a value head, and give `ResponseBatch.values`."""
    drops_equal_groups: bool = False
    """Drop groups whose returns are all equal and sample others (dynamic sampling)."""
    compares: bool = True
    """It compares the rollouts of a group, so that a group needs at least two."""


F = TypeVar("F", bound=Callable[..., Any])


@overload
def estimator(function: F, /) -> F: ...
@overload
def estimator(**needs: Any) -> Callable[[F], F]: ...
def estimator(function: F | None = None, /, **needs: Any) -> Any:
    """Decorate an estimator with the fields of `EstimatorNeeds` that differ from the defaults.

    Raises:
        ConfigError: a field has a value that no run could use.
    """
    check_values("@estimator", EstimatorNeeds, needs)

    def attach(function: F) -> F:
        function.__dict__["needs"] = EstimatorNeeds(**needs)
        return function

    return attach if function is None else attach(function)


def needs_of(function: Callable[..., Any]) -> EstimatorNeeds:
    """The needs of an estimator; the defaults (compares nothing) for one without the decorator."""
    found = getattr(function, "needs", None)
    return found if isinstance(found, EstimatorNeeds) else EstimatorNeeds(compares=False)


@dataclass(frozen=True)
class SplitAdvantages:
    """Advantages of which only a part is modulated; an estimator may return it in place of (N,)."""

    modulated: Tensor
    """(N,) given to the modulator."""
    unmodulated: Tensor
    """(N,) added after it."""


@estimator()
@torch.no_grad()
def grpo(
    batch: ResponseBatch,
    *,
    over: str = "episodes",
    penalty: str = "advantage",
    normalise: bool = True,
    epsilon: NotNegative = EPSILON,
) -> Tensor:
    """Group-relative advantage `(R - mean_g) / (std_g + epsilon)`, unbiased std.

    `normalise=False` leaves out the division. Source: DeepSeekMath, arXiv 2402.03300.
    """
    scores = _scores(batch, over, penalty)
    mean, std = scores.by_group.mean_std(scores.value, scores.keep)
    centred = scores.centred(mean, std)
    if normalise:
        divisor = (std + epsilon).where(std > 0, 1.0)  # with epsilon 0, equal scores stay at 0
        centred = centred / divisor[scores.by_group.index]
    return scores.to_rows(centred)


@estimator(aggregation="token-sum-norm", kl_coef=0.0)
def dr_grpo(batch: ResponseBatch, *, over: str = "episodes", penalty: str = "advantage") -> Tensor:
    """`R - mean_g`: GRPO without the division. Source: Dr. GRPO, arXiv 2503.20783."""
    return grpo(batch, over=over, penalty=penalty, normalise=False)


@estimator(clip_high=0.28, kl_coef=0.0, drops_equal_groups=True)
def dapo(
    batch: ResponseBatch,
    *,
    over: str = "episodes",
    penalty: str = "advantage",
    normalise: bool = True,
    epsilon: NotNegative = EPSILON,
) -> Tensor:
    """GRPO's advantage with clip-higher and dynamic sampling. Source: DAPO, arXiv 2503.14476."""
    return grpo(batch, over=over, penalty=penalty, normalise=normalise, epsilon=epsilon)


@estimator(
    loss="gspo",
    clip_low=3e-4,
    clip_high=4e-4,
    aggregation="seq-mean-token-mean",
    kl_coef=0.0,
    dual_clip=None,
)
def gspo(
    batch: ResponseBatch,
    *,
    over: str = "episodes",
    penalty: str = "advantage",
    normalise: bool = True,
    epsilon: NotNegative = EPSILON,
) -> Tensor:
    """GRPO's advantage for the loss with one ratio per response. Source: GSPO, arXiv 2507.18071."""
    return grpo(batch, over=over, penalty=penalty, normalise=normalise, epsilon=epsilon)


@estimator()
@torch.no_grad()
def rloo(batch: ResponseBatch, *, over: str = "episodes", penalty: str = "advantage") -> Tensor:
    """Leave-one-out: `R - mean of the others = n / (n - 1) * (R - mean_g)`; 0 in a group of one.

    Source: RLOO, arXiv 2402.14740.
    """
    scores = _scores(batch, over, penalty)
    mean, std = scores.by_group.mean_std(scores.value, scores.keep)
    size = scores.by_group.size(scores.keep).to(scores.value.dtype)
    factor = size / (size - 1).clamp(min=1)
    return scores.to_rows(factor[scores.by_group.index] * scores.centred(mean, std))


@estimator(compares=False)
@torch.no_grad()
def reinforce_pp(
    batch: ResponseBatch, *, penalty: str = "advantage", whiten: str = "tokens"
) -> Tensor:
    """REINFORCE++: the return, whitened over the whole batch. Source: arXiv 2501.03262."""
    check_name("value of the option 'penalty'", penalty, _PENALTIES)
    score = batch.returns + (batch.penalties if penalty == "reward" else 0.0)
    return _whitened(batch, score, penalty, whiten)


@estimator()
@torch.no_grad()
def reinforce_pp_baseline(
    batch: ResponseBatch,
    *,
    over: str = "episodes",
    penalty: str = "advantage",
    whiten: str = "tokens",
) -> Tensor:
    """REINFORCE++-baseline: `R - mean_g`, whitened over the whole batch. Source: as above."""
    scores = _scores(batch, over, penalty)
    mean, std = scores.by_group.mean_std(scores.value, scores.keep)
    centred = replace(scores, penalties=None).to_rows(scores.centred(mean, std))
    return _whitened(batch, centred, penalty, whiten)


@estimator(needs_values=True, compares=False)
@torch.no_grad()
def ppo(
    batch: ResponseBatch,
    *,
    gamma: Share = 1.0,
    lam: Share = 1.0,
    penalty: str = "advantage",
    whiten: str = "tokens",
) -> Tensor:
    """Generalized advantage estimation over turns, whitened over the batch.

    Raises:
        ConfigError: the batch has no values.
    """
    advantages, _ = gae(batch, gamma, lam, penalty=penalty)
    return _whitened(batch, advantages, penalty, whiten)


@torch.no_grad()
def gae(
    batch: ResponseBatch, gamma: float = 1.0, lam: float = 1.0, *, penalty: str = "advantage"
) -> tuple[Tensor, Tensor]:
    """(advantages, value targets), (N,) each: GAE over the turns of each trajectory.

    The value after the last turn is 0, whether it terminated or was truncated. Not whitened, no
    penalty on the advantages; with penalty "reward" it is part of the turn's reward (and of the
    targets). Source: arXiv 1506.02438.
    """
    if batch.values is None:
        raise ConfigError(
            "the estimator 'ppo' expects ResponseBatch.values, got None. Train with a value head, "
            "or choose an estimator without one: --estimator grpo"
        )
    check_name("value of the option 'penalty'", penalty, _PENALTIES)
    rewards = batch.step_rewards + (batch.penalties if penalty == "reward" else 0.0)
    grid = TurnGrid.of(batch.trajectory_ids, batch.turns)
    values = grid.spread(batch.values.detach())
    following = torch.zeros_like(values)
    following[:, :-1] = values[:, 1:]  # 0 after the last turn: unused cells hold 0
    delta = rewards + gamma * grid.gather(following) - batch.values.detach()
    advantages = grid.discounted(delta, gamma * lam)
    return advantages, advantages + batch.values.detach()


@estimator()
def gigpo(
    batch: ResponseBatch,
    *,
    gamma: Share = 0.95,
    omega: float = 1.0,
    mode: str = "mean_norm",
    normalise: bool | None = None,
    normalise_step: bool | None = None,
    over: str = "episodes",
    penalty: str = "advantage",
    modulate: str = "both",
) -> Tensor | SplitAdvantages:
    """GiGPO: `A_E + omega * A_S`, the episode and the step advantage. See `gigpo_parts`.

    With `modulate="episode"` a modulator sees A_E only.
    """
    check_name("value of the option 'modulate'", modulate, ("both", "episode"))
    episode, step = gigpo_parts(
        batch,
        gamma=gamma,
        omega=omega,
        mode=mode,
        normalise=normalise,
        normalise_step=normalise_step,
        over=over,
        penalty=penalty,
    )
    return episode + step if modulate == "both" else SplitAdvantages(episode, step)


@torch.no_grad()
def gigpo_parts(
    batch: ResponseBatch,
    *,
    gamma: Share = 0.95,
    omega: float = 1.0,
    mode: str = "mean_norm",
    normalise: bool | None = None,
    normalise_step: bool | None = None,
    over: str = "episodes",
    penalty: str = "advantage",
) -> tuple[Tensor, Tensor]:
    """GiGPO's two parts: (A_E, omega * A_S), (N,) each; their sum is `gigpo`.

    A_E is GRPO's advantage, penalties included. A_S is the step's discounted return minus the mean
    over the rows of the group that saw the identical observation; a lone observation gives 0.
    To modulate A_E only: the option `modulate: episode` of `gigpo`. Source: arXiv 2505.10978.

    Args:
        batch: the step's responses.
        gamma: discount of the step return.
        omega: weight of A_S.
        mode: "mean_norm" subtracts means only; "mean_std_norm" divides both parts by their std.
        normalise: divide A_E by the group's std; None: as the mode says.
        normalise_step: divide A_S by the std over its rows; None: as the mode says.
        over: statistics of A_E, see the module.
        penalty: see the module; "reward" adds it to the discounted step return, too.
    """
    check_name("value of the option 'mode'", mode, GIGPO_MODES)
    of_mode = GIGPO_MODES[mode]
    divide = of_mode if normalise is None else normalise
    episode = grpo(batch, over=over, penalty=penalty, normalise=divide)
    grid = TurnGrid.of(batch.trajectory_ids, batch.turns)
    returns = grid.discounted(batch.step_rewards, gamma)
    if penalty == "reward":
        returns = returns + batch.penalties
    anchors = Segments.of(pair_ids(batch.group_ids, batch.anchor_ids))
    scores = _Scores(returns, anchors, batch.included)
    mean, std = anchors.mean_std(returns, batch.included)
    step = scores.centred(mean, std)
    if of_mode if normalise_step is None else normalise_step:
        step = step / (std + EPSILON)[anchors.index]
    return episode, omega * step


@dataclass(frozen=True)
class _Scores:
    """The items that are compared within a group: episodes or rows."""

    value: Tensor  # (I,)
    by_group: Segments  # of the items
    keep: Tensor  # (I,) bool: enters the statistics
    item_of_row: Tensor | None = None  # (N,) long; None: the items are the rows
    penalties: Tensor | None = None  # (N,) still to be added

    def centred(self, mean: Tensor, std: Tensor) -> Tensor:
        """Value minus group mean, exactly 0 where a group's values are all equal."""
        index = self.by_group.index
        return torch.where(std[index] > 0, self.value - mean[index], torch.zeros_like(self.value))

    def to_rows(self, item: Tensor) -> Tensor:
        """Items (I,) to rows (N,), with the penalties that came after normalization."""
        row = item if self.item_of_row is None else item[self.item_of_row]
        return row if self.penalties is None else row + self.penalties


def _scores(batch: ResponseBatch, over: str, penalty: str) -> _Scores:
    if (over, penalty) != ("episodes", "advantage"):
        return _scores_of_rows(batch, over, penalty)
    episodes = Segments.of(batch.trajectory_ids)
    index, count = episodes.index, episodes.count
    # All rows of an episode hold the same return and group: whichever is written last is right.
    value = batch.returns.new_zeros(count).scatter_(0, index, batch.returns)
    group = batch.group_ids.new_zeros(count).scatter_(0, index, batch.group_ids)
    keep = episodes.size(batch.included) > 0
    return _Scores(value, Segments.of(group), keep, index, batch.penalties)


def _scores_of_rows(batch: ResponseBatch, over: str, penalty: str) -> _Scores:
    check_name("value of the option 'over'", over, ("episodes", "rows"))
    check_name("value of the option 'penalty'", penalty, _PENALTIES)
    by_group = Segments.of(batch.group_ids)
    if penalty == "reward":
        return _Scores(batch.returns + batch.penalties, by_group, batch.included)
    return _Scores(batch.returns, by_group, batch.included, None, batch.penalties)


def _whitened(batch: ResponseBatch, x: Tensor, penalty: str, whiten: str) -> Tensor:
    """`(x - mean) / (std + 1e-6)` over the batch, x (N,); 0 if all are equal. Then the penalty."""
    check_name("value of the option 'whiten'", whiten, _WHITEN)
    weight = batch.lengths if whiten == "tokens" else torch.ones_like(batch.lengths)
    weight = (weight * batch.included).to(x.dtype)
    if whiten == "episodes":
        episodes = Segments.of(batch.trajectory_ids)
        weight = weight / episodes.size(batch.included).clamp(min=1)[episodes.index]
    kept, total = x[weight > 0], weight.sum()
    result = torch.zeros_like(x)
    if bool((kept != kept[:1]).any()):
        mean = (weight * x).sum() / total
        std = ((weight * (x - mean).square()).sum() / (total - 1).clamp(min=1)).sqrt()
        result = (x - mean) / (std + EPSILON)
    return result + batch.penalties if penalty == "advantage" else result
