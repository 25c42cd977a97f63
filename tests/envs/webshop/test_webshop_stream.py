"""JSON files element by element: the same as all at once, whatever the file looks like."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.webshop import stream
from aem_gym.envs.webshop.stream import BrokenJson, MappingFile, elements

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_LISTS = st.lists(_VALUES, max_size=8)
_MAPPINGS = st.dictionaries(st.text(), _VALUES, max_size=8)
_STYLES = st.fixed_dictionaries(
    {"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 0, 3])}
)


@pytest.fixture(params=[1, 7, 1 << 20], scope="module", autouse=True)
def bytes_at_a_time(request: pytest.FixtureRequest) -> Iterator[None]:
    before, stream._READ = stream._READ, request.param
    yield
    stream._READ = before


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json") / "file.json"


def write(path: Path, value: Any, style: dict[str, Any]) -> bytes:
    # a lone surrogate cannot be written as UTF-8, but can as an escape
    text = json.dumps(value, **style).encode("utf-8", "backslashreplace")
    path.write_bytes(text)
    return text


@given(_LISTS | _MAPPINGS, _STYLES)
def test_elements_are_those_of_the_file(path: Path, value: Any, style: dict[str, Any]) -> None:
    data = write(path, value, style)
    found = list(elements(path, type(value)))
    values = [element.value for element in found]
    if isinstance(value, dict):
        assert dict(zip([element.key for element in found], values, strict=True)) == value
    else:
        assert values == value
    for number, element in enumerate(found):
        assert json.loads(data[element.start : element.end]) == element.value
        assert list(elements(path, type(value), element.end)) == found[number + 1 :]


@given(_MAPPINGS, _STYLES, st.text())
def test_values_are_found_by_key(
    path: Path, value: dict[str, Any], style: dict[str, Any], other: str
) -> None:
    write(path, value, style)
    found = MappingFile(path, elements(path, dict))
    assert {key: found.get(key) for key in value} == value
    assert found.get(other) == value.get(other)
    found.close()


@given(_LISTS | _MAPPINGS, _STYLES, st.data())
def test_a_file_that_is_cut_off_is_an_error(
    path: Path, value: Any, style: dict[str, Any], data: st.DataObject
) -> None:
    whole = write(path, value, style)
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole.rstrip()) - 1))])
    with pytest.raises(BrokenJson, match="byte"):
        list(elements(path, type(value)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "cut off"),
        (b"{}", "expected '\\['"),
        (b"[1 2]", "expected '\\]', got '2'"),
        (b"[1,]", "Expecting value"),
        (b"[1] x", "end of the file"),
        (b'["\xff"]', "no UTF-8"),
        (b"[" * 3000, "recursion"),
        (b"[nonsense]", "byte 1: Expecting value"),
    ],
)
def test_what_is_wrong_is_said(path: Path, text: bytes, says: str) -> None:
    path.write_bytes(text)
    with pytest.raises(BrokenJson, match=says):
        list(elements(path, list))


def test_keys_are_text(path: Path) -> None:
    path.write_text("{1: 2}")
    with pytest.raises(BrokenJson, match="key in quotes"):
        list(elements(path, dict))
