"""Rows: read whole, or told where they are wrong, what was expected, and what mends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aem_gym.envs.swe.tasks.rows import Row, RowError, read_row, read_rows
from aem_gym.errors import ConfigError
from tests.envs.swe.rows.swe_rows import record, write_rows

WRONG: dict[str, dict[str, Any]] = {
    "instance_id": {
        "missing": None,
        "path": "../x",
        "option": "-x",
        "blank": " ",
        "number": 3,
        "unicode": "ö__ö-1",
    },
    "repo": {"no owner": "flask", "upwards": "../flask", "number": 1, "list": ["a/b"]},
    "base_commit": {"short": "abc", "upper": "A" * 40, "branch": "main", "option": "--help" * 7},
    "version": {"shell": "2;rm", "number": 2.3, "option": "-2", "empty": ""},
    "problem_statement": {"empty": "", "list": [], "NUL": "a\0b", "half": "\ud800"},
    "patch": {"empty": "", "prose": "please mend it", "upwards": "--- a/../../x\n+++ b/../../x\n"},
    "test_patch": {"number": 3, "list": ["x"], "into git": "--- a/.git/config\n+++ b/.git/config"},
    "FAIL_TO_PASS": {"text": "test_x", "cut": '["a', "numbers": [1], "object": {}, "blank": [" "]},
    "PASS_TO_PASS": {"missing": None, "text": "x", "nested": [["a"]], "JSON of object": "{}"},
}
LINES = {
    "no JSON": "instance_id: x",
    "cut off": json.dumps(record())[:200],
    "a list": "[]",
    "a number": "7",
    "null": "null",
    "too deep": "[" * 100_000,
    "a long number": "1" * 5_000,
}


@pytest.mark.parametrize(("column", "kind"), [(c, k) for c in WRONG for k in WRONG[c]])
def test_a_wrong_column_is_told(tmp_path: Path, column: str, kind: str) -> None:
    row = record()
    value = WRONG[column][kind]
    row.pop(column) if value is None else row.update({column: value})
    file = write_rows(tmp_path / "rows.jsonl", record(), {**row})
    told = read_rows(file).malformed
    assert len(told) == 1
    assert f"{file}, line 2, column {column}: expected" in told[0]
    assert "Take the row from SWE-bench again" in told[0]


@pytest.mark.parametrize("kind", LINES)
def test_a_wrong_line_costs_no_other(tmp_path: Path, kind: str) -> None:
    good = record(instance_id="a__a-2")
    file = write_rows(tmp_path / "rows.jsonl", record(), LINES[kind], "", good)
    found = read_rows(file)
    assert [row.instance_id for row in found.rows] == ["pallets__flask-1", "a__a-2"]
    assert len(found.malformed) == 1
    assert f"{file}, line 2: expected a JSON object" in found.malformed[0]
    with pytest.raises(RowError, match="line 2"):
        read_rows(file, strict=True)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xff\xfe\n\x80\n\0\n" + json.dumps(record()).encode() + b"\r\n")
    found = read_rows(file)
    assert len(found.rows) == 1
    assert len(found.malformed) == 3


def test_a_line_of_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aem_gym.envs.swe.tasks.rows.MAX_RECORD", 5_000)
    long = json.dumps(record(problem_statement="x" * 100_000))
    file = write_rows(tmp_path / "rows.jsonl", long, record())
    found = read_rows(file)
    assert [row.instance_id for row in found.rows] == ["pallets__flask-1"]
    assert "line 1: expected at most 5,000 bytes" in found.malformed[0]


def test_rows_without_hidden_tests_are_told_apart(tmp_path: Path) -> None:
    bare = {key: record()[key] for key in ("instance_id", "repo", "base_commit", "patch")}
    empty = record(instance_id="a__a-2", FAIL_TO_PASS="[]")
    file = write_rows(tmp_path / "rows.jsonl", bare, empty)
    assert read_rows(file).incomplete == ("pallets__flask-1", "a__a-2")
    assert read_rows(write_rows(tmp_path / "x.jsonl", bare, record())).incomplete == ()


def test_of_two_with_one_id_the_first_counts(tmp_path: Path) -> None:
    other = record(problem_statement="another issue")
    found = read_rows(write_rows(tmp_path / "rows.jsonl", record(), record(), other))
    assert [row.problem for row in found.rows] == ["add is wrong"]
    assert len(found.malformed) == 1
    assert "line 3: expected one row of pallets__flask-1" in found.malformed[0]


def test_files_lists_and_folders_hold_the_same(tmp_path: Path) -> None:
    rows = [record(), record(instance_id="a__a-2")]
    (tmp_path / "lines").mkdir()
    for number, row in enumerate(rows):
        write_rows(tmp_path / "lines" / f"{number}.jsonl", row)
    (tmp_path / "lines" / "README.md").write_text("not read")
    listed = tmp_path / "rows.json"
    listed.write_text(json.dumps(rows, indent=1))
    marked = tmp_path / "marked.jsonl"
    marked.write_text("\ufeff" + "\n".join(map(json.dumps, rows)), "utf-8")
    found = [read_rows(source).rows for source in (tmp_path / "lines", str(listed), marked)]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 2


def test_parquet_of_the_hub(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason='pip install "aem-gym[swebench]"')
    parquet = pytest.importorskip("pyarrow.parquet")
    hidden = json.dumps(record()["PASS_TO_PASS"])
    for split in ("dev", "test"):
        table = pyarrow.Table.from_pylist([record(PASS_TO_PASS=hidden, instance_id=split)])
        (tmp_path / "data").mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert [row.instance_id for row in read_rows(tmp_path).rows] == ["test"]
    assert [row.instance_id for row in read_rows(tmp_path, split="dev").rows] == ["dev"]
    (tmp_path / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(ConfigError, match="expected a parquet file of rows"):
        read_rows(tmp_path)


def _empty(folder: Path) -> str:
    file = folder / "rows.jsonl"
    file.write_text("\n\n")
    return str(file)


def _no_rows(folder: Path) -> str:
    (folder / "notes.txt").write_text("no rows")
    return str(folder)


def _cut_list(folder: Path) -> str:
    file = folder / "rows.json"
    file.write_text("[\n" + json.dumps(record()))
    return str(file)


SOURCES: dict[str, tuple[Callable[[Path], str], str]] = {
    "an empty file": (_empty, "expected rows of SWE-bench in .*rows.jsonl, got none"),
    "a folder without rows": (_no_rows, "got none in .* --tasks FILE.jsonl"),
    "a list cut off": (_cut_list, "expected a JSON list of rows"),
    "no such file": (lambda f: f"{f}/none.jsonl", "there is no such file. .*--tasks FILE.jsonl"),
    "a relative one": (lambda f: "rows/none.jsonl", "there is no such file"),
    "a word": (lambda f: "verified", "there is no such file"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_without_rows(tmp_path: Path, kind: str) -> None:
    make, told = SOURCES[kind]
    with pytest.raises(ConfigError, match=told):
        read_rows(make(tmp_path))


def test_a_dataset_of_the_hub_without_network(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ImportError), match="--tasks FILE.jsonl"):
        read_rows("princeton-nlp/SWE-bench_Verified")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(record())), JSON), st.booleans())
def test_whatever_a_column_holds_is_a_row_or_told(changes: dict[str, Any], as_text: bool) -> None:
    content = record(**changes)
    try:
        row = read_row(json.dumps(content) if as_text else content, "here")
    except RowError as error:
        assert str(error).startswith("here")
        assert "expected" in str(error) and "SWE-bench again" in str(error)
        assert len(str(error)) < 600
    else:
        assert row if isinstance(row, str) else isinstance(row, Row) and row.fail_to_pass


@given(st.binary(max_size=200) | st.text(max_size=200))
@example(line=b"{}")
def test_whatever_a_line_holds_is_told(line: str | bytes) -> None:
    with pytest.raises(RowError, match=r"^here(, column \w+)?: expected"):
        read_row(line, "here")
