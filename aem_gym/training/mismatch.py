"""Sampler and learner as two policies: what their log-probabilities say about why they differ.

A gradient is only that of the sampled policy where both agree. Rounding (bfloat16, a server's
kernels) makes small differences, which truncated importance weights correct; gross ones are
mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from aem_gym.config import Config
from aem_gym.errors import NotFiniteError, SamplerMismatchError
from aem_gym.protocols import Learner
from aem_gym.types import TrainingRow

EXACT_LIMIT = 1e-3
"""Largest mean difference in nats where the sampler is the learner in float32 (seen: 1e-5)."""
GROSS_LIMIT = 0.2
"""The same for other samplers. bfloat16 was seen at 0.06; other weights begin at about 1."""
IMPORTANCE_CAP = 2.0
"""Largest importance weight of a token, where the sampler is not exact and no other is given."""
_TEMPERATURES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0)
_BETTER = 0.1
"""A cause is found where it leaves no more than this share of the difference."""


def importance(learner: Tensor, sampler: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Truncated importance weights min(cap, pi_learner / pi_sampler) of tokens, (N, T).

    Truncation as in IMPALA's V-trace, https://arxiv.org/abs/1802.01561.
    """
    return (learner - sampler).masked_fill(~mask, 0.0).exp().clamp(max=cap)


def refuse_mismatch(
    learner: Learner,
    rows: Sequence[TrainingRow],
    sampled: Tensor,
    config: Config,
    limit: float,
) -> None:
    """Say why sampler and learner differ on `rows`, as far as that can be told.

    Args:
        learner: reads the rows again in other ways.
        rows: one response each.
        sampled: (n, T) the sampler's log-probabilities of the responses; T may be larger.
        config: of the run.
        limit: largest mean difference in nats that was allowed.

    Raises:
        NotFiniteError: one of the two gave NaN.
        SamplerMismatchError: in any other case.
    """

    def read(temperature: float = config.temperature, *, reference: bool = False) -> Tensor:
        with torch.no_grad():
            scores = learner.score(rows, temperature=temperature, reference=reference)
        return (scores.logprobs.cpu() - sampled).masked_fill(~scores.mask.cpu(), 0.0)

    with torch.set_grad_enabled(not config.lora_dropout):
        scores = learner.score(rows, temperature=config.temperature)
    mask = scores.mask.cpu()
    sampled = sampled[:, : mask.shape[1]]
    trained = (scores.logprobs.detach().cpu() - sampled).masked_fill(~mask, 0.0)
    if not bool(torch.isfinite(trained).all()):
        who = "sampler" if not bool(torch.isfinite(sampled[mask]).all()) else "learner"
        name = getattr(config, who)
        raise NotFiniteError("scores", f"{who} {name!r}: log-probabilities are NaN or inf")
    mean, largest = float(trained[mask].abs().mean()), float(trained.abs().max())
    cause = _cause(read, trained, mask, rows, config)
    raise SamplerMismatchError(
        f"sampler and learner disagree on the log-probabilities of the same tokens: mean "
        f"difference {mean:.2g} nats (largest {largest:.2g}), expected at most {limit:g}. {cause}"
    )


def _cause(
    read: Callable[..., Tensor],
    trained: Tensor,
    mask: Tensor,
    rows: Sequence[TrainingRow],
    config: Config,
) -> str:
    """The likely cause, in a sentence or two with the remedy."""

    def size(difference: Tensor) -> float:
        return float(difference[mask].abs().mean())

    enough = _BETTER * size(trained)
    plain = read()
    if size(plain) <= enough:
        return (
            "They agree where the learner does not train: it has dropout. Set the dropout of the "
            "base model's config to 0 (--lora-dropout is apart from it)"
        )
    best = min(_TEMPERATURES, key=lambda t: size(read(t)))
    if best != config.temperature and size(read(best)) <= enough:
        return (
            f"They agree at temperature {best:g}: the sampler samples, or reports, at another "
            f"temperature than {config.temperature:g} (vLLM: logprobs_mode=processed_logprobs)"
        )
    if _reads_reference(read, size, enough):
        return (
            "The sampler still has the weights RL began with: `publish` does not reach it (a "
            "merged copy, an adapter's old name, a cache that was not reset)"
        )
    beginning = _first_position(plain, mask, rows)
    if beginning is not None:
        return (
            f"They agree up to position {beginning} and not beyond: a sliding window, a limit of "
            "the context, or a key-value cache is not the same for both"
        )
    return (
        "Most likely their weights or tokens differ. Try --dtype float32, --lora-dropout 0, "
        "sampler_options.merge=false"
    )


def _reads_reference(
    read: Callable[..., Tensor], size: Callable[[Tensor], float], enough: float
) -> bool:
    try:
        return size(read(reference=True)) <= enough
    except Exception:  # a learner without a reference policy
        return False


def _first_position(difference: Tensor, mask: Tensor, rows: Sequence[TrainingRow]) -> int | None:
    """From where on tokens differ, if all before do not; None if that is not the pattern."""
    starts = torch.tensor([row.spans[0].start for row in rows])
    places = (starts[:, None] + torch.arange(mask.shape[1]))[mask]
    order = torch.argsort(places)
    places, apart = places[order], difference[mask].abs()[order]
    wrong = apart > 0.1 * apart.max()
    first = int(wrong.nonzero()[0])
    before = apart[:first]
    few = first < max(4, len(apart) // 10)
    return (
        None
        if few or float(before.mean()) > 0.02 * float(apart[first:].mean())
        else int(places[first])
    )
