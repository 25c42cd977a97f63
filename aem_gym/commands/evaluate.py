"""`aem-gym eval RUN`: success with its interval, per task type, beside random and expert."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from aem_gym.commands.flags import env_arg_option, parse_env_args

if TYPE_CHECKING:
    from aem_gym.evaluation import EvalResult, Evaluation


@click.command("eval")
@click.argument("run")
@click.option("--episodes", type=click.IntRange(1), help="Number of tasks.")
@click.option("--split", help="Split of the tasks.")
@click.option("--temperature", type=click.FloatRange(0), help="Sampling temperature; 0: greedy.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the tasks.")
@click.option("--no-baselines", is_flag=True, help="Leave out the random agent and the expert.")
@click.option("--env", help="Another environment.")
@env_arg_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, mps.")
@click.option("--out", help="JSON file for the scores [eval-SPLIT-tTEMPERATURE.json in the run].")
def evaluate(
    run: str,
    no_baselines: bool,
    env_arg: tuple[str, ...],
    device: str,
    out: str | None,
    **changes: Any,
) -> None:
    """Evaluate the trained agent in the folder RUN on fixed held-out tasks.

    What is not given is as in the run's own evaluation.
    """
    from aem_gym.evaluation import evaluate_run

    changes["env_args"] = parse_env_args(env_arg) if env_arg else None
    baselines = not no_baselines
    evaluation = evaluate_run(run, baselines=baselines, out=out, device=device, **changes)
    click.echo(report(evaluation))


def report(evaluation: Evaluation) -> str:
    protocol = ", ".join(f"{k}={v}" for k, v in asdict(evaluation.protocol).items())
    lines = [protocol, "", "success, interval, score and invalid actions in percent"]
    width = max(map(len, evaluation.results))
    heads = f"{'':<{width}} {'success':>8} {'95%':>15} {'score':>6} {'turns':>6} {'invalid':>8}"
    lines.append(heads)
    for name, result in evaluation.results.items():
        lines.append(f"{name:<{width}} {_figures(result)}")
    return "\n".join([*lines, "", *_by_type(evaluation.results)])


def _by_type(results: Mapping[str, EvalResult]) -> Iterator[str]:
    """Success per task type, one column per agent."""
    counts = {kind: score.episodes for r in results.values() for kind, score in r.by_type.items()}
    labels = {kind: f"{kind or '(no type)'} ({count})" for kind, count in counts.items()}
    if not labels:
        return
    width = max(map(len, labels.values()))
    yield f"{'':<{width}} " + " ".join(f"{name:>8}" for name in results)
    for kind, label in labels.items():
        cells = []
        for name, result in results.items():
            score = result.by_type.get(kind)
            text = "-" if score is None else f"{100 * score.success:.1f}"
            cells.append(f"{text:>{max(8, len(name))}}")
        yield f"{label:<{width}} " + " ".join(cells)


def _figures(result: EvalResult) -> str:
    interval = f"[{100 * result.low:.1f}, {100 * result.high:.1f}]"
    failed = f"  ({result.errors} failed, not counted)" if result.errors else ""
    return (
        f"{100 * result.success:8.1f} {interval:>15} {100 * result.score:6.1f} "
        f"{result.turns:6.1f} {100 * result.invalid_action:8.1f}{failed}"
    )
