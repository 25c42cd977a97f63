"""A task: a repository, an issue, and the hidden tests that decide whether it is resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aem_gym.envs.swe.sandbox.base import ImagePlan, ImageSource
from aem_gym.errors import ConfigError

SPLITS = ("train", "eval", "test")


class RowError(ConfigError):
    """A row of a data set is not in its schema, or cannot be graded."""


@dataclass(frozen=True, slots=True)
class SweTask:
    """One task. What the agent sees is `problem` and the image; the rest is hidden from it."""

    task_id: str
    repo: str
    """A package or `owner/name`: what results are grouped by."""
    problem: str
    """The issue."""
    image: ImagePlan | ImageSource | str
    """Its `/testbed` holds the repository. A name is pulled, a plan is built."""
    fail_to_pass: tuple[str, ...]
    """Tests (pytest node ids, or names of the row's own test runner) that fail and have to pass."""
    pass_to_pass: tuple[str, ...]
    """Tests that pass and have to go on passing."""
    test_command: str
    """One command that runs the test files; grading appends files and options of its own to it.

    `{report}` is the path of pytest's junit XML; without it the output is read.
    """
    log: str = ""
    """What reads the result, by name (`logs.READERS`); empty: by the test command."""
    hidden: Mapping[str, bytes] = field(default_factory=dict)
    """Path in the repository -> content of a test file, written for grading only."""
    test_patch: str = ""
    """The hidden tests as a diff, for repositories whose files only the image holds."""
    overlay: Mapping[str, bytes] = field(default_factory=dict)
    """Path in the repository -> content that replaces the image's before the agent sees it.

    An image with an overlay has no `.git`: the first commit is made after the overlay, so that
    the agent cannot look up what was there before.
    """
    removed: tuple[str, ...] = ()
    """Paths that are deleted with the overlay (hidden tests)."""
    bug_patch: str = ""
    """A diff of the image's repository that puts the fault in, before the agent sees it; its
    history goes then."""
    gold: str = ""
    """The patch that resolves the issue (unified diff)."""
    split: str = "train"
    timeout: float = 300.0
    """Seconds that grading may take."""

    @property
    def shipped_tests(self) -> tuple[str, ...]:
        """Test files that are graded as the image has them, by node id; none if any are hidden."""
        if self.hidden or self.test_patch:
            return ()
        named = dict.fromkeys((*self.fail_to_pass, *self.pass_to_pass))
        return tuple(dict.fromkeys(n.partition("::")[0] for n in named if "::" in n))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of grading."""

    resolved: bool
    failed: tuple[str, ...] = ()
    """Tests of either list that did not pass."""
    reason: str = ""
    """Why a patch was not tested: it does not apply, it is empty, it is too large."""
    patch: str = ""
    """The patch as graded: without changes that do not count."""
    ignored: tuple[str, ...] = ()
    """Paths whose changes did not count."""
