"""Grades predictions in SWE-bench's format: `aem-gym swe predictions`.

They are graded by our grader, by SWE-bench's own (the extra `swebench`), or by both, with a report
of the differences. The last line printed is JSON; the exit status is 1 if the graders differ, or if
nothing could be graded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from aem_gym.envs.swe.authoring.swebench_grader import grade_officially, official_spec
from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.sandbox.base import SandboxEngine
from aem_gym.envs.swe.sandbox.engines import open_engine
from aem_gym.envs.swe.tasks.base import SweTask, Verdict
from aem_gym.envs.swe.tasks.rows import Row
from aem_gym.envs.swe.tasks.swebench import make_task, rows_to_use
from aem_gym.errors import AemGymError, ConfigError
from aem_gym.io import atomic_write

Grade = Callable[[SandboxEngine, Row, SweTask, str], Verdict]


def _by_own(engine: SandboxEngine, row: Row, task: SweTask, patch: str) -> Verdict:
    return grade(engine, task, patch, run_empty=True)


GRADERS: Mapping[str, Mapping[str, Grade]] = {
    "own": {"own": _by_own},
    "official": {"official": grade_officially},
    "both": {"own": _by_own, "official": grade_officially},
}
"""The values of `--grader`, and the graders of each."""


@dataclass(frozen=True, slots=True)
class GradedPrediction:
    instance_id: str
    verdicts: Mapping[str, Verdict]
    """By grader; empty if grading failed."""
    error: str = ""
    """Why grading failed, which says nothing about the prediction."""

    @property
    def agree(self) -> bool:
        """Whether all graders say the same."""
        return len({verdict.resolved for verdict in self.verdicts.values()}) < 2


def read_predictions(path: Path) -> dict[str, str]:
    """Patches by instance, from SWE-bench's format: JSON lines, a JSON list, or an object by id.

    Raises:
        ConfigError: there is no such file, or it is malformed; says where.
    """
    try:
        content = path.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(f"--predictions: {path} cannot be read: {error.strerror}") from error
    found = {}
    for place, record in _records(path, content):
        name = record.get("instance_id") if isinstance(record, dict) else None
        patch = record.get("model_patch", 0) if isinstance(record, dict) else 0
        if not isinstance(name, str) or not isinstance(patch, str | None):
            raise ConfigError(
                f"--predictions: {place}: expected an object with the texts instance_id and "
                f"model_patch, got {json.dumps(record)[:80]}"
            )
        found[name] = patch or ""
    if not found:
        raise ConfigError(f"--predictions: expected predictions in {path}, got none")
    return found


def _records(path: Path, content: str) -> Iterator[tuple[str, object]]:
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict) and "instance_id" not in whole:
        for name, record in cast("dict[str, object]", whole).items():
            named = {"instance_id": name, **record} if isinstance(record, dict) else record
            yield f"{path}, {name}", named
        return
    if isinstance(whole, list):
        yield from ((f"{path}, entry {number}", item) for number, item in enumerate(whole, 1))
        return
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(
                    f"--predictions: {path}, line {number}: expected JSON, got {error}"
                ) from error


def grade_predictions(
    engine: SandboxEngine,
    rows: Sequence[Row],
    patches: Mapping[str, str],
    graders: Mapping[str, Grade],
    mirrors: Path | None = None,
) -> Iterator[GradedPrediction]:
    """Grade the patch of each row by each grader, one after the other."""
    for row in rows:
        try:
            task = make_task(row, mirrors)
            verdicts = {
                name: by(engine, row, task, patches[row.instance_id])
                for name, by in graders.items()
            }
        except AemGymError as error:
            yield GradedPrediction(row.instance_id, {}, str(error))
        else:
            yield GradedPrediction(row.instance_id, verdicts)


def _chosen(
    arguments: argparse.Namespace,
) -> tuple[tuple[Row, ...], dict[str, str], dict[str, str]]:
    """(rows to grade, patch by id, why others are left out by id)."""
    rows, left = rows_to_use(arguments.tasks, arguments.mirrors)
    kind = arguments.predictions
    if kind in ("gold", "empty"):
        patches = {row.instance_id: row.patch if kind == "gold" else "" for row in rows}
    else:
        patches = read_predictions(Path(kind))
        known = {row.instance_id for row in rows}
        left = {name: left.get(name, "no such row") for name in patches if name not in known}
    if arguments.only:
        patches = {name: patch for name, patch in patches.items() if name in arguments.only}
        left = {name: why for name, why in left.items() if name in arguments.only}
    rows = tuple(row for row in rows if row.instance_id in patches)
    if not rows:
        raise ConfigError(
            f"expected predictions that can be graded, got none ({len(left)} left out: "
            f"{', '.join(sorted(set(left.values()))) or 'none is of a row of --tasks'})"
        )
    return rows, patches, left


def _run(arguments: argparse.Namespace) -> int:
    chosen, patches, left = _chosen(arguments)
    for why, number in Counter(left.values()).items():
        print(f"{number} predictions left out: {why}", flush=True)
    graders = GRADERS[arguments.grader]
    if "official" in graders:
        official_spec(chosen[0])  # raises if the extra is missing, before anything is built
    results = []
    engine = open_engine(arguments.engine)
    try:
        for graded in grade_predictions(engine, chosen, patches, graders, arguments.mirrors):
            results.append(graded)
            said = ", ".join(f"{n} {v.resolved}" for n, v in graded.verdicts.items())
            print(f"{graded.instance_id}: {said or graded.error}", flush=True)
            if arguments.out:
                kept = json.dumps([asdict(result) for result in results], indent=1)
                atomic_write(arguments.out, kept + "\n")
    finally:
        engine.close()
    done = [result for result in results if result.verdicts]
    print(json.dumps(_summary(results, graders, len(left))))
    return 0 if done and all(result.agree for result in done) else 1


def _summary(
    results: Sequence[GradedPrediction], graders: Mapping[str, Grade], left: int
) -> dict[str, int]:
    done = [result for result in results if result.verdicts]
    return {
        "graded": len(done),
        **{f"resolved_{n}": sum(r.verdicts[n].resolved for r in done) for n in graders},
        "differ": sum(not result.agree for result in done),
        "errors": len(results) - len(done),
        "left_out": left,
    }


def main(argv: Sequence[str] | None = None, prog: str = "aem-gym swe predictions") -> int:
    parser = argparse.ArgumentParser(prog, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", required=True, help="rows: a .jsonl file, a folder, an id")
    parser.add_argument("--mirrors", type=Path, help="folder of bare clones to build images from")
    parser.add_argument(
        "--predictions", required=True, help="a file in SWE-bench's format, or gold, or empty"
    )
    parser.add_argument("--grader", choices=tuple(GRADERS), default="own", help="whose verdicts")
    parser.add_argument("--only", nargs="+", metavar="ID", help="grade only these instances")
    parser.add_argument("--out", type=Path, help="file for all verdicts (JSON)")
    parser.add_argument("--engine", default="auto", help="docker, podman, bubblewrap or process")
    try:
        return _run(parser.parse_args(argv))
    except AemGymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def official_main(argv: Sequence[str] | None = None) -> int:
    """The same command with SWE-bench's own grader; `--grader` may still choose another."""
    words = ["--grader", "official", *(sys.argv[1:] if argv is None else argv)]
    return main(words, "aem-gym swe official")
