"""`aem-gym replay RUN`: the episodes of a training step, to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from aem_gym.console import printable
from aem_gym.episodes import read_episodes, step_files
from aem_gym.errors import ConfigError


@click.command()
@click.argument("run")
@click.option("--step", type=click.IntRange(1), help="RL step, from 1 [the last one].")
@click.option("--episode", type=click.IntRange(0), help="Which episode of the step, from 0 [all].")
def replay(run: str, step: int | None, episode: int | None) -> None:
    """Print training episodes of RUN: texts, rewards, and per response what credit it got.

    H: mean token entropy in nats (Hbar); alpha: AEM's coefficient; A: advantage, before -> after.
    """
    records = read_step(Path(run), step)
    if episode is not None and episode >= len(records):
        raise ConfigError(
            f"--episode {episode}: step {records[0]['step']} has episodes 0 to {len(records) - 1}"
        )
    shown = ((n, record) for n, record in enumerate(records) if episode in (None, n))
    # On a terminal page by page: a step can be thousands of lines.
    click.echo_via_pager(printable("\n".join(lines(*each)) + "\n\n") for each in shown)


def read_step(run: Path, step: int | None) -> list[dict[str, Any]]:
    """The episodes of one step (default: the last one), in their order.

    Raises:
        ConfigError: no episodes there, or none of that step.
    """
    found: list[dict[str, Any]] = []
    apart = [file.step for file in step_files(run)]
    if step is None and apart:
        step = apart[-1]
    first = last = 0
    for record in read_episodes(run, step if step in apart else None):
        first, last = first or record["step"], record["step"]
        if step is None and found and found[0]["step"] != last:
            found = []
        if step in (None, last):
            found.append(record)
    if not last:
        raise ConfigError(f"{run} holds no episode yet")
    if not found:
        raise ConfigError(f"--step {step}: {run} has steps {first} to {last}")
    return found


def lines(number: int, record: Mapping[str, Any]) -> Iterator[str]:
    reason = record.get("stop_reason", "won" if record["won"] else "lost")  # runs before 0.2
    outcome = f"{reason} ({record['error']})" if record["error"] else str(reason)
    yield (
        f"=== step {record['step']}, episode {number} (group {record['group']}, rollout "
        f"{record['rollout']}): {outcome}, return {record['reward']:g}, "
        f"{len(record['turns'])} turns{', dropped' if record['dropped'] else ''}"
    )
    yield f"    task {record['task_id']} ({record['task_type']}): {record['goal']}"
    for turn in record["turns"]:
        if record.get("pruned"):
            yield "[the text of old steps is removed: keep_episodes]"
        else:
            yield turn["observation"]
            yield f"> {turn['response']}"
        yield f"    {credit(turn)}"


def credit(turn: Mapping[str, Any]) -> str:
    """A response and its credit, in one line."""
    entropy = turn["response_entropy"]
    parts = ["H unknown" if entropy is None else f"H {entropy:.3f}"]
    if "alpha" in turn:
        before, after = turn["base_advantage"], turn["advantage"]
        parts.append(f"alpha {turn['alpha']:.3f}  A {before:+.3f} -> {after:+.3f}")
    if turn["reward"]:
        parts.append(f"reward {turn['reward']:+g}")
    parts += ["unparsable"] * (not turn["format_valid"])
    parts += ["not admitted"] * (not turn["action_valid"])
    parts += ["cut"] * bool(turn["cut"])
    return "  ".join(parts)
