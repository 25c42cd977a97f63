"""What the terminal shows: messages beside bars, no floods, no lines of libraries."""

from __future__ import annotations

import io
import logging
import sys
import warnings

import pytest
from tqdm import tqdm

from aem_gym.console import REPEATS, ConsoleHandler, quiet_loading


def logged(handler: ConsoleHandler, monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """What a logger with this handler writes for two kinds of warnings and one of news."""
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    logger = logging.Logger("flood")
    logger.addHandler(handler)
    for number in range(times):
        logger.warning("slot %d failed", number)
        logger.info("news %d", number)
    logger.warning("another kind")
    return screen.getvalue().splitlines()


def test_a_flood_of_one_warning_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = logged(ConsoleHandler(), monkeypatch, 50)
    assert [line for line in lines if "failed" in line] == [
        f"slot {number} failed" for number in range(REPEATS)
    ]
    assert sum("not shown" in line for line in lines) == 1
    assert sum(line.startswith("news") for line in lines) == 50
    assert lines[-1] == "another kind"


def test_debug_shows_every_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = logged(ConsoleHandler(repeats=None), monkeypatch, 50)
    assert sum("failed" in line for line in lines) == 50


def test_a_message_stands_on_a_line_of_its_own_beside_a_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    logger = logging.Logger("beside")
    logger.addHandler(ConsoleHandler())
    with tqdm(total=3, file=screen, mininterval=0) as bar:
        bar.update()
        logger.warning("hello")
        bar.update()
    assert "\rhello\n" in screen.getvalue()


def test_loading_is_quiet_and_everything_is_put_back(capfd: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled
    from transformers.utils import logging as theirs

    before = theirs.is_progress_bar_enabled(), are_progress_bars_disabled()
    with quiet_loading():
        assert not theirs.is_progress_bar_enabled()
        assert are_progress_bars_disabled() == before[1]
        list(theirs.tqdm(range(3), desc="Loading weights"))  # type: ignore[no-untyped-call]
        warnings.warn_explicit("old", FutureWarning, "x.py", 1, module="transformers.modeling")
    assert (theirs.is_progress_bar_enabled(), are_progress_bars_disabled()) == before
    assert capfd.readouterr().err == ""
