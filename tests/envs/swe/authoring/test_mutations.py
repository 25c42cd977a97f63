"""Mutations compile, change the tree, touch nothing else, and can be undone and made again."""

from __future__ import annotations

import ast
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.swe.authoring.mutations import Mutation, MutationError, functions, mutants, parse

HEAD = '"""Text with ümlauts, 日本 and a form feed."""\n\x0c\nLIMIT = 7\n'
EVERY_KIND = '''

class Shelf:
    def take(self, items, name="né", count=1):
        """Not to be touched: 1 < 2."""
        total: int = 0  # a comment with < and + in it
        if name in items and count > 0:
            total += len(items) - count
            raise ValueError(name)
        else:
            print(name, count)
        for item in items:
            total = total + item
        while not items:
            items.append(f"{total + 1}")
        return [x for x in items if x] if total else (name, "日本" + name)
'''
EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "b", "0", "True", "'é'", "b'x'", "f'{a + 1}'", "g(a, b)", "[a, b]"]),
    lambda inner: (
        st.builds(
            "{}{}{}".format,
            inner,
            st.sampled_from([" + ", " - ", "*", " < ", " not in ", " is  not ", " and ", " or "]),
            inner,
        )
        | inner.map("({})".format)
        | st.builds("({} if {} else {})".format, inner, inner, inner)
        | st.builds("[y for y in {} if {}]".format, inner, inner)
    ),
    max_leaves=6,
)
SIMPLE = st.builds("x = {}".format, EXPRESSIONS) | st.sampled_from(
    ["a += 1", "return a", "raise b", "del a", "g(b)  # é", "c: int = 3"]
)
COMPOUND = st.builds(
    "if {}:\n        {}\n    else:\n        {}".format, EXPRESSIONS, SIMPLE, SIMPLE
)
LOOPS = st.builds("for i in {}:\n        {}".format, EXPRESSIONS, SIMPLE)
SOURCES = st.builds(
    lambda head, body, end: (head + "def f(a, b):\n    " + "\n    ".join(body) + "\n").replace(
        "\n", end
    ),
    st.sampled_from(["", HEAD]),
    st.lists(SIMPLE | COMPOUND | LOOPS, min_size=1, max_size=4),
    st.sampled_from(["\n", "\r\n"]),
).map(str.encode)


def found(source: bytes, seed: int = 0) -> list[Mutation]:
    return list(mutants(source, "a.py", np.random.default_rng(seed)))


@given(SOURCES)
def test_every_mutant_compiles_differs_and_can_be_undone(source: bytes) -> None:
    for mutation in found(source):
        mutated = mutation.apply(source)
        compile(mutated, "a.py", "exec")
        assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))
        tail = len(source) - mutation.end
        changed = mutated[mutation.start : len(mutated) - tail]
        assert changed == mutation.replacement.encode()
        assert mutated.startswith(source[: mutation.start])
        assert mutated.endswith(source[mutation.end :])


@given(SOURCES, st.integers(0, 3))
def test_a_seed_decides_the_order_and_nothing_else(source: bytes, seed: int) -> None:
    assert found(source, seed) == found(source, seed)
    assert Counter(found(source, seed)) == Counter(found(source, seed + 1))


def test_all_kinds_of_slips_occur_and_only_in_the_function() -> None:
    source = (HEAD + EVERY_KIND).encode()
    mutations = found(source)
    kinds = {mutation.operator for mutation in mutations}
    simple = {"compare", "boolean", "arithmetic", "constant", "statement", "assignment", "swap"}
    assert kinds == simple | {"negate", "condition", "loop", "branch"}
    assert {mutation.function for mutation in mutations} == {"Shelf.take"}
    for mutation in mutations:
        mutated = mutation.apply(source).decode()
        assert mutated.startswith(HEAD) and '"""Not to be touched: 1 < 2."""' in mutated
        assert mutated.count("# a comment with < and + in it") == 1


def test_a_function_named_twice_is_left_out() -> None:
    source = (
        b"if 1:\n    pass\ndef f():\n    return 1\ndef f():\n    return 2\ndef g():\n    pass\n"
    )
    tree = parse(source)
    assert tree is not None and [name for name, _ in functions(tree)] == ["g"]


@pytest.mark.parametrize("source", [b"def f(:", b"\xff", b"# coding: latin-1\n", b"\0"])
def test_what_is_not_python_in_utf8_has_no_mutants(source: bytes) -> None:
    assert found(source + b"\ndef f():\n    return 1\n") == []


def test_another_file_is_refused() -> None:
    mutation = found(b"def f():\n    return 1\n")[0]
    with pytest.raises(MutationError, match=r"a\.py: expected .* SHA-256 .*generate"):
        mutation.apply(b"def f():\n    return 2\n")
