"""Does this tree give the same values as before? `python -m benchmarks.same [PART...]`.

Makes a git worktree of each part's base commit, records that part there and in the present tree,
both on this machine, and compares all values (`record.py` says what each part records):

    alfworld_job, webshop_job, window_job   short training runs with the shipped settings: texts,
                        ids, log-probs, entropies, alpha, advantages, figures, adapter, summary
    credit              every estimator x modulator x loss on one fixed batch, with gradients
    alfworld_episodes, webshop_episodes     200 seeded episodes each: all answers, all infos
    swe_episodes        12 tasks of the suite, played by the expert (needs a container engine)
    grading             6 tasks of the suite, gold and empty patch (needs a container engine)

A part prints how many values were compared, and the first difference. The last line is one JSON
object, {PART: {"compared": n, "different": n}}. Exit 1 on a difference, 2 where a part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.same.compare import Allowed, Comparison, compare
from benchmarks.same.record import LEFT_OUT

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("record.py")

_FIRST = "d954532"
_PLAIN_ENGLISH = "e30f17e"
"""What SWE's prompts and tools say to an agent was rewritten here, once."""
_AS_PUBLISHED = "fb13c1d"
"""Small models are read in fewer operations, a group's prompt once, and logits 256 rows at a time:
sums are rounded otherwise, from the warm start on. The mode of GiGPO, whitening, and the tokens of
clip_cov and kl_cov became the published ones."""
_EVERY_ROW = "924d44f"
"""Where the rows to clone are no multiple of the batch, the spare ones of an epoch are drawn;
before, the longest were left out of each."""
BASES: Mapping[str, str] = {
    **dict.fromkeys(("alfworld_job", "webshop_job"), _AS_PUBLISHED),
    "window_job": _EVERY_ROW,
    "credit": _AS_PUBLISHED,
    "alfworld_episodes": _FIRST,
    "webshop_episodes": _FIRST,
    "swe_episodes": _PLAIN_ENGLISH,
    "grading": _FIRST,
}
"""The commit whose values each part has to keep. Who moves one says why in the CHANGELOG."""
_WATCHED = {"mismatch/", "learned", "groups_with_spread", "alpha_spread"}
"""Figures of a step by which a run is watched."""
_JOB = Allowed(added=frozenset({"stop_reason", "stop/", "stops", *_WATCHED}))
_EPISODES = Allowed(added=frozenset({"submitted"}))
ALLOWED: Mapping[str, Allowed] = {
    **dict.fromkeys(("alfworld_job", "webshop_job", "window_job"), _JOB),
    **dict.fromkeys(("alfworld_episodes", "webshop_episodes"), _EPISODES),
    **dict.fromkeys(("swe_episodes", "grading"), _EPISODES),
}
"""Keys that are new or renamed since the base, by part."""
ONE_AT_A_TIME = ("swe_episodes", "grading")
"""Parts whose sides share an engine."""


class Failed(Exception):
    """A side could not be recorded; the text is the end of what it printed."""


class LeftOut(Exception):
    """A part cannot be recorded on this machine; the text is why."""


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """A checkout of `commit` below `folder`, removed at the end."""
    path = folder.resolve() / "base"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(path), commit], check=True)
    try:
        yield path
    finally:
        subprocess.run([*git, "remove", "--force", str(path)], check=True)


def start(part: str, tree: Path, output: Path, quick: bool) -> subprocess.Popen[bytes]:
    """Begin to record a part of a tree, with a cache of its own."""
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    settings["AEM_GYM_CACHE"] = str(output.with_suffix(".cache"))
    command = [sys.executable, "-P", str(RECORD), part, str(tree), str(output)]
    with output.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--quick"] if quick else command,
            env={**os.environ, **settings},
            cwd=output.parent,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait for a recording.

    Raises:
        LeftOut: this machine lacks what the part needs.
        Failed: it ended with an error.
    """
    status = process.wait()
    printed = output.with_suffix(".log").read_text(encoding="utf-8", errors="replace").strip()
    if status == LEFT_OUT:
        raise LeftOut(printed.splitlines()[-1])
    if status:
        raise Failed(f"{output.stem} ended with status {status}:\n{printed[-3000:]}")


def measure(part: str, base: Path, present: Path, folder: Path, quick: bool) -> Comparison:
    """Record a part of both trees and compare."""
    outputs = (folder / f"{part}-base.jsonl", folder / f"{part}-present.jsonl")
    running: list[subprocess.Popen[bytes]] = []
    try:
        for tree, output in zip((base, present), outputs, strict=True):
            process = start(part, tree, output, quick)
            running.append(process)
            if part in ONE_AT_A_TIME:
                finish(process, output)
        for process, output in zip(running, outputs, strict=True):
            finish(process, output)
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # its training run, too
                process.wait()
    found = compare(outputs[0], outputs[1], ALLOWED.get(part))
    if not found.compared:
        raise Failed(f"{part}: nothing was recorded")
    return found


def run_part(part: str, given: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Measure a part and print what came of it; its entry in the last line."""
    clock = time.perf_counter()
    commit = given.base or BASES[part]
    try:
        with tempfile.TemporaryDirectory() as trees, worktree(commit, Path(trees)) as base:
            found = measure(part, base, given.tree.resolve(), folder, given.quick)
    except LeftOut as reason:
        print(f"{part}: left out: {reason}", flush=True)
        return {"compared": 0, "different": 0, "left_out": str(reason)}
    except (Failed, subprocess.CalledProcessError) as error:
        print(f"{part}: failed: {error}", flush=True)
        return {"compared": 0, "different": 0, "failed": True}
    seconds = time.perf_counter() - clock
    verdict = f"{found.different:,} different, first {found.first}" if found.different else "equal"
    print(
        f"{part}: {found.compared:,} values, {verdict} ({seconds:.0f} s, base {commit})", flush=True
    )
    return {"compared": found.compared, "different": found.different}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--quick", action="store_true", help="short jobs and fewer episodes")
    parser.add_argument("--base", help="a commit to compare with, instead of each part's own")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the tree that is compared")
    parser.add_argument("--keep", type=Path, help="a folder for the recordings; default: none kept")
    given = parser.parse_args(argv)
    for part in given.parts:
        if part not in BASES:
            parser.error(f"PART: expected some of {', '.join(BASES)}, got {part!r}")
    with tempfile.TemporaryDirectory(prefix="aem-gym-same-") as made:
        folder = (given.keep or Path(made)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        results = {part: run_part(part, given, folder) for part in given.parts or BASES}
    print(json.dumps(results))
    if any("failed" in result for result in results.values()):
        return 2
    return 1 if any(result["different"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
