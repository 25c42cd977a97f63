"""Issue texts: what failed as code that can be run, in words that a seed decides."""

from __future__ import annotations

import numpy as np
import pytest

from aem_gym.envs.swe.authoring.problem import issue, read_failure, subject
from aem_gym.envs.swe.authoring.snippets import snippet

SOURCE = b'''
class Shelf:
    def add(self, title):
        """Put a book on the shelf.

        Not said in an issue.
        """


def _hidden():
    """Nobody is to know."""
'''
TESTS = b"""
import pytest
from library import Shelf, other


@pytest.mark.parametrize("title", ["Emma"])
def test_add(title):
    unrelated = other()
    shelf = Shelf()
    shelf.add("Dune")
    assert (shelf.add(title) ==
            "yes")
    with pytest.raises(ValueError):
        shelf.add("")
"""
TEST = "tests/test_shelf.py::test_add[Emma]"
MESSAGE = """tests/test_shelf.py:11: in test_add
    assert (shelf.add(title) ==
E   AssertionError: assert 'no' == 'yes'
E    +  where 'no' = <bound method Shelf.add of <library.Shelf object at 0x7f12>>('Emma')
E    +  in test_add
        shelf      = <library.Shelf object at 0x7f1234>
        title      = 'Emma'
        unrelated  = 3
"""


def test_a_failure_is_read_without_names_of_tests_and_addresses() -> None:
    failure = read_failure(TEST, MESSAGE)
    assert failure.line == 11
    assert failure.said == ("AssertionError: assert 'no' == 'yes'", " +  where 'no' = add('Emma')")
    assert failure.values == {"title": "'Emma'", "unrelated": "3"}


def test_a_snippet_has_what_its_statement_needs() -> None:
    code = snippet(TESTS, TEST, 11, {"title": "'Emma'"})
    assert code is not None
    assert code.setup == ("title = 'Emma'", "shelf = Shelf()", 'shelf.add("Dune")')
    assert code.statement == 'assert (shelf.add(title) ==\n        "yes")'
    raises = snippet(TESTS, TEST, 13, {})
    assert raises is not None and raises.statement.endswith('shelf.add("")')
    assert snippet(TESTS, TEST, 99, {}) is None
    assert snippet(TESTS, "tests/test_shelf.py::test_other", 11, {}) is None


@pytest.mark.parametrize("seed", range(20))
def test_an_issue_says_what_came_and_what_was_expected(seed: int) -> None:
    about, failure = (
        subject(SOURCE, "src/library/shelf.py", "Shelf.add"),
        read_failure(TEST, MESSAGE),
    )
    text = issue(about, failure, TESTS, np.random.default_rng(seed))
    assert text == issue(about, failure, TESTS, np.random.default_rng(seed))
    assert "    shelf.add(title)\n" in text and "`'no'`" in text and "`'yes'`" in text
    assert "library.shelf" in text and "src" not in text
    assert ("Put a book" in text) == ("Shelf.add`" in text)
    assert "test_" not in text and "Not said" not in text and "0x" not in text


def test_words_differ_between_seeds() -> None:
    about, failure = subject(SOURCE, "library/shelf.py", "Shelf.add"), read_failure(TEST, MESSAGE)
    assert len({issue(about, failure, TESTS, np.random.default_rng(s)) for s in range(30)}) > 10


@pytest.mark.parametrize("path", ["library/shelf.py", "library/_shelf.py"])
@pytest.mark.parametrize("function", ["_hidden", "Shelf.__init__", "Shelf._add"])
def test_what_is_private_is_not_named(path: str, function: str) -> None:
    about = subject(SOURCE, path, function)
    for seed in range(10):
        text = issue(about, read_failure(TEST, MESSAGE), TESTS, np.random.default_rng(seed))
        assert function not in text and "_shelf" not in text and "Nobody" not in text


def test_an_exception_is_in_the_title() -> None:
    message = MESSAGE.replace("AssertionError: assert 'no' == 'yes'", "library.Full: no room")
    about = subject(SOURCE, "library/shelf.py", "Shelf.add")
    text = issue(about, read_failure(TEST, message), TESTS, np.random.default_rng(0))
    assert "Full" in text.splitlines()[0] and "no room" in text


CHAIN = """tests/test_shelf.py:8: in test_add
    unrelated = other()
library/shelf.py:3: in other
    return table[1]
E   KeyError: 1

During handling of the above exception, another exception occurred:
tests/test_shelf.py:11: in test_add
    assert (shelf.add(title) ==
        title      = 'Emma'
library/shelf.py:5: in add
    raise Full("no room")
E   library.Full: no room
"""
HELPER = """tests/test_shelf.py:11: in test_add
    same(shelf.add(title), "yes")
        title      = 'Emma'
tests/helpers.py:5: in same
    assert got == wanted
E   AssertionError
        got        = 'no'
        wanted     = 'yes'
"""


def test_of_a_chain_of_errors_it_is_the_last_that_is_told() -> None:
    failure = read_failure(TEST, CHAIN)
    assert (failure.line, failure.said) == (11, ("library.Full: no room",))
    assert failure.values == {"title": "'Emma'"}


def test_where_a_helper_compares_its_values_are_told() -> None:
    failure = read_failure(TEST, HELPER)
    assert failure.said == ("AssertionError", "got = 'no'", "wanted = 'yes'")


HELPED = b'''
import pytest
from library import Shelf

BOOKS = ["Emma", "Dune"]


def filled(shelf):
    for title in BOOKS:
        shelf.add(title)
    return shelf


def test_filled(width, given):
    if width:
        shelf = Shelf(width)
    else:
        shelf = Shelf(1)
    text = """
  two
"""
    full = filled(shelf)
    try:
        full.add(given)
    except ValueError as error:
        assert str(error) == text
'''


def test_a_snippet_has_helpers_and_what_was_caught() -> None:
    code = snippet(HELPED, "tests/test_filled.py::test_filled", 26, {"width": "3"})
    assert code is not None
    text = "\n".join((*code.setup, code.statement))
    before, statement = text.split("try:\n")
    assert statement.splitlines()[0] == "    full.add(given)" and "assert str(error)" in statement
    assert before.startswith('width = 3\nBOOKS = ["Emma", "Dune"]\ndef filled(shelf):\n    for')
    assert 'text = """\n  two\n"""' in before and "if width:\n    shelf = Shelf(width)" in before
    assert code.unknown == {"given"}
