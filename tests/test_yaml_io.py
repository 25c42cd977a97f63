"""What is written as YAML is read back, by this reader and by others."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.errors import ConfigError
from aem_gym.yaml_io import dump_yaml, load_yaml

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False),
    st.text(max_size=12),
    st.sampled_from(["off", "no", "1e-6", "0x1f", "1_000", "12:30", "2020-01-01", "=", "~", "-"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), values))
def test_yaml_reads_back_what_it_writes(value: dict[str, object]) -> None:
    assert load_yaml(dump_yaml(value), "test") == value


@given(st.dictionaries(st.text(), st.text()))
def test_other_yaml_readers_see_the_same_texts(value: dict[str, str]) -> None:
    assert yaml.safe_load(dump_yaml(value)) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [1, 2\n", "here, line 2"), ("a: 1\nb: 2\na: 3\n", "here, line 3.*'a'")],
)
def test_mistakes_are_named_with_their_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_yaml(text, "here")
