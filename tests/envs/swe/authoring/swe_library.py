"""A small package of our own that ships tests, as users have them."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "pyproject.toml": "[project]\nname = 'library'\nversion = '1.0'\n",
    "library/__init__.py": "",
    "library/shelf.py": '''"""Shelves."""


class Shelf:
    """Holds books."""

    def __init__(self, width):
        self.width = width
        self.books = []

    def add(self, title, pages=100):
        """Put a book on the shelf; False if there is no room."""
        if self.used() + pages > self.width:
            return False
        self.books.append((title, pages))
        return True

    def used(self):
        return sum(pages for _, pages in self.books)


def longest(titles):
    """The longest title, the first of them if there are several.

    More about it.
    """
    best = ""
    for title in titles:
        if len(title) > len(best):
            best = title
    return best


def _initials(name):
    return "".join(part[0] for part in name.split() if part)


def sign(name, year):
    """Initials and year."""
    if year < 0:
        raise ValueError("no such year")
    return _initials(name) + "-" + str(year % 100)


def untested(x):
    return x + 1
''',
    "tests/test_shelf.py": """import pytest

from library.shelf import Shelf, longest, sign


class TestShelf:
    @pytest.fixture
    def shelf(self):
        return Shelf(250)

    def test_room(self, shelf):
        assert shelf.add("Emma")
        assert shelf.add("Ulysses", 150)
        assert not shelf.add("Dune", 1)

    def test_used(self):
        shelf = Shelf(10)
        shelf.add("Emma", 7)
        assert shelf.used() == 7


@pytest.mark.parametrize(("titles", "best"), [(["a", "bb", "cc"], "bb"), ([], ""), (["x"], "x")])
def test_longest(titles, best):
    assert longest(titles) == best


def test_sign():
    assert sign("Jane Austen", 1815) == "JA-15"


def test_no_such_year():
    with pytest.raises(ValueError):
        sign("Nobody", -1)


def test_always_fails():
    assert False


@pytest.mark.parametrize("number", range(20))
def test_numbers(number):
    assert number + 1 > number
""",
}


def write_library(folder: Path) -> Path:
    """The package in a folder."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
