"""Search: terms by the rules, ranks by the formula, the same from memory and from disk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.webshop.authoring import builders
from aem_gym.envs.webshop.authoring.builders import IndexBuilder, write_numbers, write_strings
from aem_gym.envs.webshop.search import index
from aem_gym.envs.webshop.search.index import SearchIndex, ranks, rounded_lengths
from aem_gym.envs.webshop.search.mapped import MappedNumbers, MappedStrings
from aem_gym.envs.webshop.search.text import tokens


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Running shoes, men's", ["run", "shoe", "men"]),
        ("it's 5.5 x 1,000 a.b 10:30", ["5.5", "x", "1,000", "a.b", "10", "30"]),
        ("u.s.a. l\u2019or\u00e9al", ["u.s.a", "l'or\u00e9al".replace("'", "\u2019")]),
        ("65ft\u00b2 \u00ae\u2122 ok_no", ["65ft", "\u00ae", "\u2122", "ok_no"]),
        ("the of and", []),
        ("xs s x-small", ["xs", "s", "x", "small"]),
        ('8"x10" wi-fi', ["8", "x10", "wi", "fi"]),
        ("\u2139info o\u0301k 5,x x,5", ["\u2139", "info", "o\u0301k", "5", "x", "x", "5"]),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert tokens(text) == terms


def test_lengths_pass_through_luceness_byte() -> None:
    lengths = np.array([0, 1, 24, 39, 40, 41, 42, 43, 55, 56, 57, 60, 88, 89, 1522], np.int32)
    assert rounded_lengths(lengths).tolist() == [
        *(0, 1, 24, 39, 40, 40, 42, 42, 54, 56, 56, 60, 88, 88, 1432)
    ]
    every = np.arange(5000, dtype=np.int32)
    rounded = rounded_lengths(every)
    assert (rounded <= every).all() and (np.diff(rounded) >= 0).all()
    assert (rounded_lengths(rounded) == rounded).all()


def naive(documents: list[str], query: str) -> dict[int, float]:
    """The formula, written down plainly: place -> score."""
    bags = [Counter(tokens(text)) for text in documents]
    lengths = [sum(bag.values()) for bag in bags]
    mean = np.float32(sum(lengths) / len(lengths))
    rounded = rounded_lengths(np.array(lengths, np.int32)).tolist()
    scores: dict[int, float] = {}
    for term, times in Counter(tokens(query)).items():
        frequency = sum(term in bag for bag in bags)
        if not frequency:
            continue
        idf = math.log(1 + (len(bags) - frequency + 0.5) / (frequency + 0.5))
        for place, bag in enumerate(bags):
            if bag[term]:
                norm = 0.9 * (1 - 0.4 + 0.4 * rounded[place] / float(mean))
                scores[place] = scores.get(place, 0.0) + times * idf * bag[term] / (
                    bag[term] + norm
                )
    return scores


_WORD = st.sampled_from(
    ["red", "blue", "shirt", "shoes", "lamp", "desk", "running", "runs", "the", "5.5", "xs", "x"]
)
_TEXT = st.lists(_WORD, min_size=1, max_size=60).map(" ".join)
_DOCUMENTS = st.lists(_TEXT, min_size=1, max_size=20)


def ids(count: int) -> list[str]:
    return [f"B{(7 * i) % 31:02d}" for i in range(count)]


@given(_DOCUMENTS, _TEXT)
def test_ranks_are_those_of_the_formula(documents: list[str], query: str) -> None:
    asins = ids(len(documents))
    found = SearchIndex.build(documents, asins).search(query.split(" "))
    scores = naive(documents, query)
    assert sorted(found) == sorted(scores)
    for one, other in zip(found, found[1:], strict=False):
        close = math.isclose(scores[one], scores[other], rel_tol=1e-4)
        assert close or scores[one] > scores[other]
        if documents[one] == documents[other]:
            assert asins[one] < asins[other]


@pytest.fixture
def all_postings_are_many() -> Iterator[None]:
    """As if every list of postings were long, which is when scores are first added up roughly."""
    few, index._FEW = index._FEW, 1
    yield
    index._FEW = few


def large_index() -> tuple[SearchIndex, list[str]]:
    """An index with many postings, terms of all frequencies, and many equal scores."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(1, 40, 6000)
    words = draw.zipf(1.3, int(sizes.sum())) % 3000
    texts = [" ".join(f"w{w}" for w in some) for some in np.split(words, np.cumsum(sizes)[:-1])]
    texts[1000:1500] = texts[:500]
    return SearchIndex.build(texts, [f"B{i * 7919 % 6007:09d}" for i in range(len(texts))]), texts


def test_the_fast_path_finds_the_same(all_postings_are_many: None) -> None:
    found, texts = large_index()
    draw = np.random.default_rng(1)
    for limit in (1, 10, 50, 7000):
        for _ in range(150):
            text = texts[draw.integers(len(texts))].split(" ")
            query = [str(word) for word in draw.choice(text, draw.integers(1, 30))]
            spans, weights = found._wanted(" ".join(query))
            positions, scores = found._all(spans, weights)
            exact = np.lexsort((found._order[positions], -scores))[:limit]
            assert found.search(query, limit) == positions[exact].tolist()


@given(_DOCUMENTS, _TEXT, st.integers(1, 25))
def test_the_fast_path_finds_the_same_in_few(documents: list[str], text: str, limit: int) -> None:
    built = SearchIndex.build(documents, ids(len(documents)))
    spans, weights = built._wanted(text)
    every = dict(zip(*(part.tolist() for part in built._all(spans, weights)), strict=True))
    best = dict(zip(*(p.tolist() for p in built._best(spans, weights, limit)), strict=True))
    assert best.items() <= every.items()
    assert sorted(every.values())[-limit:] == sorted(best.values())[-limit:]


@given(st.lists(_DOCUMENTS, max_size=4), _TEXT, st.integers(1, 50))
def test_an_index_built_in_blocks_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[list[str]], query: str, chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("index")
    documents = [text for block in blocks for text in block]
    asins = [f"B{i * 37 % 101:02d}" for i in range(len(documents))]
    before, builders._CHUNK = builders._CHUNK, chunk
    try:
        for block in blocks:
            IndexBuilder(folder / "work").add(block)
        merged: list[int] = []
        IndexBuilder(folder / "work").finish(folder, ranks(asins), merged.append)
    finally:
        builders._CHUNK = before
    built, opened = SearchIndex.build(documents, asins), SearchIndex.open(folder)
    assert len(opened) == len(documents) and opened.nbytes == built.nbytes
    for name in index.ARRAYS:
        one, other = built._arrays[name], opened._arrays[name]
        assert one.dtype == other.dtype and np.array_equal(one, other)
    assert sum(merged) == len(built._arrays["documents"])
    assert opened.search(query.split(" ")) == built.search(query.split(" "))


def test_a_block_that_was_not_finished_is_built_again(tmp_path: Path) -> None:
    work = IndexBuilder(tmp_path / "work")
    work.add(["red shirt"])
    (tmp_path / "work" / ".1.tmp").mkdir()
    (tmp_path / "work" / ".1.tmp" / "numbers.npy").write_bytes(b"half")
    again = IndexBuilder(tmp_path / "work")
    assert again.done == 1
    again.add(["blue shirt"])
    again.finish(tmp_path, ranks(["B1", "B0"]), lambda _: None)
    assert SearchIndex.open(tmp_path).search(["shirt"]) == [1, 0]


def test_few_results_and_none() -> None:
    built = SearchIndex.build([f"shirt {'red ' * (i % 4)}" for i in range(120)], ids(120))
    assert len(built.search(["shirt"])) == 50 and len(built) == 120
    assert built.search(["nothing"]) == [] and built.search(["the"]) == []
    assert SearchIndex.build([], []).search(["x"]) == []


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"])), max_size=30), st.text())
def test_strings_and_numbers_on_disk(
    tmp_path_factory: pytest.TempPathFactory, strings: set[str], other: str
) -> None:
    folder = tmp_path_factory.mktemp("strings")
    listed = list(strings)
    write_strings(folder, "some", listed)
    found = MappedStrings.open(folder, "some")
    assert list(found) == listed and found[1:3] == listed[1:3]
    assert not listed or found[-1] == listed[-1]
    with pytest.raises(IndexError):
        found[len(listed)]
    numbers = {string: 3 * place for place, string in enumerate(listed)}
    write_numbers(folder, "numbers", numbers)
    opened = MappedNumbers.open(folder, "numbers")
    assert all(opened.get(string) == number for string, number in numbers.items())
    assert opened.get(other) == numbers.get(other)
