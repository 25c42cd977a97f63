"""Terminal output of a run: messages beside progress bars, and no lines of libraries."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

REPEATS = 5
"""Warnings of one kind (one place in the code) that are shown."""


class ConsoleHandler(logging.Handler):
    """Writes to stderr without tearing progress bars, and ends floods of one kind of warning.

    An environment that fails in every episode would otherwise fill the terminal; each failure is
    on its own episode anyway.
    """

    def __init__(self, *, repeats: int | None = REPEATS) -> None:
        super().__init__()
        self.repeats = repeats
        self._seen: Counter[tuple[str, str]] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, unless there were enough of its kind."""
        try:
            text = self.format(record)
            if self.repeats is not None and logging.WARNING <= record.levelno < logging.ERROR:
                kind = (record.name, str(record.msg))
                self._seen[kind] += 1
                if self._seen[kind] > self.repeats:
                    return
                if self._seen[kind] == self.repeats:
                    text += "\n(more of this kind are not shown; --debug shows all)"
            _write(text)
        except Exception:  # as logging's own handlers do: never break what is being logged
            self.handleError(record)


def _write(text: str) -> None:
    if "tqdm" in sys.modules:  # else there is no bar, and no need to load it
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def printable(text: str) -> str:
    """The text with control characters as escapes: a model may write any, and terminals obey."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """No bars for reading and writing weights, no deprecation warnings among libraries.

    Bars of downloads stay: those can take long. Everything is as before afterwards.
    """
    from transformers.utils import logging as theirs

    hub: Any = importlib.import_module("huggingface_hub.utils")
    shown, downloads = theirs.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    theirs.disable_progress_bar()  # type: ignore[no-untyped-call]
    if downloads:  # switched off by the same call
        hub.enable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|peft)")
            yield
    finally:
        if shown:
            theirs.enable_progress_bar()  # type: ignore[no-untyped-call]
        if not downloads:
            hub.disable_progress_bars()
