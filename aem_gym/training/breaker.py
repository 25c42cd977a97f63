"""One breaker: what tells that a run is not learning, and what is done about it.

Everything it knows are the figures of a step (docs/runs.md), so a new cause is a figure and one row
of `SOURCES`. The setting `breaker` gives each source a reaction:

    ignore      nothing
    warn@N      say so after N steps in a row, and again after each N more
    wait@N      take the step again on the next tasks, after a pause, N times in a row; then stop.
                A step that changed a weight cannot be taken again: it counts, and is reported
    stop@N      say so at each, end the run after N steps in a row

A limit of one's own follows a colon: `kl: stop@3:0.2`. Without @N, N is `max_bad_steps`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aem_gym.config import Config
from aem_gym.credit.estimators import needs_of
from aem_gym.errors import ConfigError, check_name
from aem_gym.registry import ESTIMATORS
from aem_gym.types import StopReason

logger = logging.getLogger(__name__)

REACTIONS = ("ignore", "warn", "wait", "stop")
LONGEST_WAIT = 600.0
"""Seconds: the longest pause before a step is taken again."""
_FORM = re.compile(r"(\w+)(?:@([1-9]\d*))?(?::([-+.\deE]+))?")


@dataclass(frozen=True, slots=True)
class Source:
    """A cause for a step to teach nothing, or something wrong."""

    figure: str
    """Of the step, by name; a step that does not have it is in order."""
    limit: float
    """The step is in trouble where the figure is at least this."""
    reaction: str
    """By default, in the form of the setting."""
    message: str
    """What is wrong and what to do about it. Fields: figures and settings by name, `value` (the
    figure), `ends` (why episodes ended), `detail` (what was said about the step already)."""
    share_of: str = ""
    """The figure is counted as a share of this one."""
    below: bool = False
    """The trouble is a figure of at most the limit."""
    lacks: Callable[[Config], str] = lambda config: ""
    """Why a run with these settings cannot have this trouble; empty: it can."""


def _no_kl(config: Config) -> str:
    return "it needs kl_coef above 0" if config.kl_coef == 0 else ""


def _no_modulator(config: Config) -> str:
    return "there is no modulator" if config.modulator == "none" else ""


def _no_comparison(config: Config) -> str:
    compares = needs_of(ESTIMATORS.load(config.estimator)).compares
    return "" if compares else f"the estimator {config.estimator} compares no groups"


def _ending(reason: StopReason, reaction: str, advice: str, limit: float = 0.5) -> Source:
    """A source for episodes that end for one reason."""
    message = f"{{stop/{reason.value}:.0f}} of {{episodes:.0f}} episodes {advice}"
    return Source(f"stop/{reason.value}", limit, reaction, message, share_of="episodes")


SOURCES: Mapping[str, Source] = {
    "nan": Source("bad", 1, "stop", "NaN or inf: {detail}. Nothing of it was applied"),
    "skipped": Source(
        "updates_skipped", 1, "ignore", "{updates_skipped:.0f} updates were skipped: {detail}"
    ),
    "nothing": Source(
        "episodes_masked",
        1,
        "stop",
        "nothing to learn from: none of {episodes:.0f} episodes could be used ({ends}{dropped})",
        share_of="episodes",
    ),
    "invalid": Source(
        "invalid_format_rate",
        0.99,
        "stop",
        "{value:.0%} of the responses could not be parsed, and {cut_rate:.0%} were cut off at "
        "max_new_tokens ({max_new_tokens}): raise --max-new-tokens, use another "
        "--response-format, or clone demonstrations first (--warmstart expert)",
    ),
    "infrastructure": _ending(
        StopReason.INFRASTRUCTURE,
        "wait@5",
        "ended because what the environment runs on failed: see `error` in episodes.jsonl",
    ),
    "env_error": _ending(
        StopReason.ENV_ERROR,
        "warn@1",
        "ended because the environment failed: see `error` in episodes.jsonl",
    ),
    "agent_error": _ending(
        StopReason.AGENT_ERROR,
        "warn@1",
        "ended because the agent failed: see `error` in episodes.jsonl",
    ),
    "context_full": _ending(
        StopReason.CONTEXT_FULL,
        "warn@1",
        "ended because the context was full (max_length {max_length}): raise --max-length, "
        "lower --max-new-tokens ({max_new_tokens}), or give --context-limit compact",
    ),
    "turn_limit": _ending(
        StopReason.TURN_LIMIT, "ignore", "ended at the turn limit: raise --max-turns", 1.0
    ),
    "equal_rewards": Source(
        "groups_with_spread",
        0,
        "warn@5",
        "no group has returns that differ, so there is nothing to compare: take easier or harder "
        "tasks, a larger --group-size, or a policy that wins sometimes",
        below=True,
        lacks=_no_comparison,
    ),
    "alpha": Source(
        "alpha_spread",
        1e-6,
        "warn@5",
        "alpha is the same for all responses: the modulator changes nothing",
        below=True,
        lacks=_no_modulator,
    ),
    "entropy": Source(
        "response_entropy_mean",
        1e-3,
        "warn@3",
        "the entropy of responses has collapsed ({value:.2g} nats a token): all rollouts of a "
        "task will be the same. Lower --lr, raise --clip-high or --kl-coef",
        below=True,
    ),
    "old_kl": Source(
        "old_kl",
        1.0,
        "warn@3",
        "the updates of one step moved the policy by {value:.2g} nats a token: lower --lr, or "
        "take fewer --epochs",
    ),
    "kl": Source(
        "kl_reference",
        1.0,
        "warn@3",
        "the policy is {value:.2g} nats a token away from where RL began: lower --lr, or raise "
        "--kl-coef",
        lacks=_no_kl,
    ),
}
"""Name in the setting `breaker` -> source, in the order in which they are judged."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A source with its reaction in this run."""

    name: str
    source: Source
    figure: str
    share_of: str
    action: str
    after: int
    sign: float
    """1, or -1 where small figures are the trouble: `sign * figure >= bound` is trouble."""
    bound: float
    every: int
    """The steps in a row after which something is done, each time."""


def rules_of(config: Config) -> tuple[Rule, ...]:
    """The rules of a run; sources that are ignored, or cannot be in trouble, have none.

    Raises:
        UnknownNameError: the setting `breaker` names no source.
        ConfigError: a reaction that cannot be read, or that can never take place.
    """
    for name in config.breaker:
        check_name("source of breaker", name, SOURCES)
    found = []
    for name, source in SOURCES.items():
        given = config.breaker.get(name)
        why_not = source.lacks(config)
        action, after, limit = _reaction(name, source.reaction if given is None else given)
        if source.share_of and limit is not None and not 0 < limit <= 1:
            raise ConfigError(f"breaker.{name}: expected a share above 0, at most 1, got {given!r}")
        if given is not None and why_not and action != "ignore":
            raise ConfigError(f"breaker.{name}: {given} can never take place: {why_not}")
        if action != "ignore" and not why_not:
            sign = -1.0 if source.below else 1.0
            bound = sign * (source.limit if limit is None else limit)
            after = after or config.max_bad_steps
            every = after if action == "warn" else 1
            watched = (source.figure, source.share_of)
            found.append(Rule(name, source, *watched, action, after, sign, bound, every))
    return tuple(found)


def _reaction(name: str, text: object) -> tuple[str, int | None, float | None]:
    """`stop@3:0.2` as ("stop", 3, 0.2)."""
    match = _FORM.fullmatch(text.replace(" ", "")) if isinstance(text, str) else None
    if match is None or match[1] not in REACTIONS:
        raise ConfigError(
            f"breaker.{name}: expected {', '.join(REACTIONS)}, with the number of steps after @ "
            f"and a limit after a colon where you like (stop@3, warn@5:0.2), got {text!r}"
        )
    try:
        limit = None if match[3] is None else float(match[3])
    except ValueError:
        raise ConfigError(
            f"breaker.{name}: expected a number after the colon, got {text!r}"
        ) from None
    return match[1], int(match[2]) if match[2] else None, limit


class Breaker:
    """Counts steps in trouble and says what is to be done.

    Attributes:
        rules: what is watched; the loop compares each step's figures with them.
        streaks: per source, the steps in a row in trouble; the loop counts them.
        wait: seconds after which the last step is to be taken again; None: it counts.
        stop: why the run has to end; empty: it goes on.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.rules = config, rules_of(config)
        self.streaks: dict[str, int] = {}
        self.wait: float | None = None
        self.stop = ""

    def react(
        self, rules: Sequence[Rule], figures: Mapping[str, float], step: int, detail: str = ""
    ) -> None:
        """Do what is due by some rules after a step (its number from 1), with its `figures`."""
        waiting = [rule for rule in rules if rule.action == "wait" and not figures["learned"]]
        self.wait = None
        if waiting:  # the step may not count: what else is wrong with it follows from that
            rules = waiting
            self.streaks = {rule.name: self.streaks[rule.name] for rule in rules}
        for rule in rules:
            text, streak = self._message(rule, figures, detail), self.streaks[rule.name]
            if rule in waiting:
                self._wait(rule, step, text, streak)
            elif rule.action == "stop":
                _say(rule, step, text, f" ({streak} of {rule.after} steps in a row)")
                if streak >= rule.after:
                    self.stop = self.stop or f"step {step}: {text} ({streak} steps in a row)"
            else:
                _say(rule, step, text, f" ({streak} steps in a row)" if streak > 1 else "")

    def _wait(self, rule: Rule, step: int, text: str, streak: int) -> None:
        if streak > rule.after:
            self.stop = self.stop or f"step {step}: {text} ({streak} attempts)"
            return
        self.wait = min(LONGEST_WAIT, self.config.breaker_wait * 2.0 ** (streak - 1))
        again = f"The step is taken again in {self.wait:g} s ({streak} of {rule.after})"
        _say(rule, step, text, f". Nothing was learned. {again}")

    def _message(self, rule: Rule, figures: Mapping[str, float], detail: str) -> str:
        more = {"value": figures[rule.source.figure], "ends": _ends(figures), "detail": detail}
        number = figures.get("groups_dropped", 0.0)
        more["dropped"] = f"; {number:.0f} groups had equal returns: all dropped" if number else ""
        return rule.source.message.format_map({**vars(self.config), **figures, **more})


def _say(rule: Rule, step: int, text: str, more: str) -> None:
    # A format for each source: the console ends floods of warnings of one format.
    logger.warning(f"step %d: {rule.name}: %s%s", step, text, more)


def nothing_learned(steps: int, figures: Mapping[str, float], config: Config) -> str:
    """The report of a run in which no step changed a weight, with the last step's `figures`."""
    ends, bad = _ends(figures), ", ".join(name for name in figures if name.startswith("bad/"))
    if bad:
        return (
            f"nothing was learned in {steps} steps: in the last one NaN or inf stopped the update "
            f"({bad}). The weights are those the run began with"
        )
    if not figures:  # a run that went on, and had no step to make
        cause = "metrics.jsonl has the figures of each step"
    elif nothing_usable(figures):
        cause = f"in the last one no episode could be used ({ends})"
    elif figures.get("invalid_format_rate", 0.0) >= 1:
        cause = f"in the last one no response could be parsed ({figures['cut_rate']:.0%} cut off)"
    elif not figures.get("groups_with_spread"):
        cause = f"in the last one no group had returns that differ ({ends})"
    else:
        cause = f"in the last one no gradient was other than 0 ({ends})"
    advice = "take easier tasks, or a policy that wins sometimes"
    if figures.get("cut_rate", 0.0) >= 1:
        advice = f"raise --max-new-tokens ({config.max_new_tokens})"
    if figures.get("stop/context_full", 0.0):
        advice = f"raise --max-length ({config.max_length})"
    return (
        f"nothing was learned in {steps} steps: {cause}. The weights are those the run began "
        f"with: {advice}"
    )


def nothing_usable(figures: Mapping[str, float]) -> bool:
    """Whether a step had no episode to learn from."""
    return bool(figures) and figures["episodes_masked"] >= figures["episodes"]


def _ends(figures: Mapping[str, float]) -> str:
    """The reasons for which a step's episodes ended, with their numbers."""
    counts = {reason.value: figures.get(f"stop/{reason.value}", 0.0) for reason in StopReason}
    return ", ".join(f"{count:.0f} {name}" for name, count in counts.items() if count)
