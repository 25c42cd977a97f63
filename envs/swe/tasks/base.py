"""A task: a repository, an issue, and the hidden tests that tell whether it is mended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aem_gym.envs.swe.sandbox.base import ImagePlan


@dataclass(frozen=True, slots=True)
class SweTask:
    """One task. What the agent sees is `problem` and the image; the rest is hidden from it."""

    task_id: str
    repo: str
    """A package or `owner/name`: what results are grouped by."""
    problem: str
    """The issue."""
    image: ImagePlan | str
    """Whose `/testbed` is the repository without its future; a name is pulled, a plan is built."""
    fail_to_pass: tuple[str, ...]
    """Tests (pytest node ids, or names of the row's own test runner) that fail and have to pass."""
    pass_to_pass: tuple[str, ...]
    """Tests that pass and have to go on passing."""
    test_command: str
    """One command that runs the test files; grading appends files and options of its own to it.

    `{report}` stands for where pytest's junit XML goes; without it the output is read.
    """
    hidden: Mapping[str, bytes] = field(default_factory=dict)
    """Path in the repository -> content of test files, put in place for grading only."""
    test_patch: str = ""
    """The hidden tests as a diff instead, for repositories whose files only the image holds."""
    overlay: Mapping[str, bytes] = field(default_factory=dict)
    """Path in the repository -> content laid over the image before the agent sees it.

    An image with an overlay has no `.git`: the first commit is made after it, so that what was
    there before cannot be looked up.
    """
    removed: tuple[str, ...] = ()
    """Paths taken away with the overlay (hidden tests)."""
    gold: str = ""
    """The patch that mends it (unified diff)."""
    split: str = "train"
    timeout: float = 300.0
    """Seconds of grading."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What grading came to."""

    resolved: bool
    failed: tuple[str, ...] = ()
    """Tests of either list that did not pass."""
    reason: str = ""
    """Why a patch was not even tested: it does not apply, it is empty, it is too large."""
    patch: str = ""
    """The patch as graded: without what a patch may not touch."""
    ignored: tuple[str, ...] = ()
    """Paths that were left out of it."""
