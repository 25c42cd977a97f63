"""Rows in the columns of public data sets, about a tiny package in local images."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aem_gym.envs.swe.images.ensure import ensure_base
from aem_gym.envs.swe.sandbox.base import ImagePlan, SandboxEngine
from aem_gym.envs.swe.sandbox.connect import find
from tests.envs.swe.swe_bench import BROKEN, HIDDEN, MENDED, VISIBLE
from tests.envs.swe.swe_own import git

Files = Mapping[str, bytes]

PYTHON = {"calc.py": BROKEN, "tests/test_calc.py": VISIBLE}
FIXED = {"calc.py": MENDED}
TESTS = {"tests/test_calc.py": HIDDEN}
FAILS, PASSES = ["tests/test_calc.py::test_add_secret"], ["tests/test_calc.py::test_double"]

GO = {
    "go.mod": b"module calc\n\ngo 1.19\n",
    "calc.go": b"package calc\n\nfunc Add(a, b int) int { return a - b }\n\n"
    b"func Double(a int) int { return 2 * a }\n",
}
GO_FIXED = {"calc.go": GO["calc.go"].replace(b"a - b", b"a + b")}
GO_TESTS = {
    "calc_test.go": b"""package calc

import "testing"

func TestAdd(t *testing.T) {
\tfor name, b := range map[string]int{"one": 1, "two": 2} {
\t\tt.Run(name, func(t *testing.T) {
\t\t\tif Add(2, b) != 2+b {
\t\t\t\tt.Errorf("got %d", Add(2, b))
\t\t\t}
\t\t})
\t}
}

func TestDouble(t *testing.T) {
\tif Double(2) != 4 {
\t\tt.Fatal("wrong")
\t}
}
"""
}
SCRIPT = {
    "package.json": b'{"name": "calc", "version": "1.0.0"}\n',
    "calc.js": b"exports.add = (a, b) => a - b;\nexports.double = (a) => 2 * a;\n",
}
SCRIPT_FIXED = {"calc.js": SCRIPT["calc.js"].replace(b"a - b", b"a + b")}
SCRIPT_TESTS = {
    "test/calc.spec.js": b"""const assert = require("assert");
const { add, double } = require("../calc.js");

describe("calc", () => {
  describe("#add()", () => {
    it("adds", () => assert.strictEqual(add(2, 2), 4));
  });
  it("doubles", () => assert.strictEqual(double(2), 4));
});
"""
}


def diff(folder: Path, before: Files, after: Files) -> str:
    """The diff from some files to what other files make of them."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    _write(folder, {"keep": b"", **before})
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "before")
    _write(folder, after)
    git(folder, "add", "-A")
    return git(folder, "diff", "--cached") + "\n"


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def package_image(
    engine: SandboxEngine, folder: Path, files: Files, packages: tuple[str, ...] = ()
) -> str:
    """A ready image with a repository, and with packages of Debian."""
    _write(folder, files)
    digest = hashlib.sha256(repr((sorted(files.items()), packages)).encode()).hexdigest()[:12]
    return engine.image(ImagePlan(f"aem-swe-tests/data:{digest}", folder, packages=packages))


def foreign_image(files: Files, packages: tuple[str, ...] = ()) -> str:
    """An image of others: files by absolute path, nothing laid out as we do."""
    client = find().client
    base = ensure_base(client)
    digest = hashlib.sha256(repr((sorted(files.items()), packages)).encode()).hexdigest()[:12]
    name = f"aem-swe-foreign:{digest}"
    if any(name in image.tags for image in client.images.list()):
        return name
    made = client.containers.create(base, command=["sleep", "600"], entrypoint=[])
    try:
        made.start()
        made.put_archive("/", _archive(files))
        if packages:
            install = f"apt-get update -qq && apt-get install -y -qq {' '.join(packages)}"
            code, output = made.exec_run(["/bin/sh", "-c", install])
            assert code == 0, output[-2000:]
        repository, _, tag = name.partition(":")
        made.commit(repository, tag)
    finally:
        made.remove(force=True)
    return name


def _archive(files: Files) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.lstrip("/"))
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def base_row(folder: Path, **more: Any) -> dict[str, Any]:
    """The columns that most data sets share with SWE-bench, about the Python package."""
    row: dict[str, Any] = {
        "instance_id": "own__calc-1",
        "repo": "own/calc",
        "base_commit": "0" * 40,
        "version": "1.0",
        "problem_statement": "add(2, 2) gives 0",
        "patch": diff(folder / "gold", PYTHON, FIXED),
        "test_patch": diff(folder / "tests", PYTHON, TESTS),
        "FAIL_TO_PASS": FAILS,
        "PASS_TO_PASS": PASSES,
        "hints_text": "",
        "created_at": "2026-01-01",
    }
    return row | more


R2E_FILE = HIDDEN.decode()
_LOG = """==== short test summary info ====
PASSED r2e_tests/test_1.py::test_double
{add}
==== 1 passed in 0.01s ====
"""


def _commit() -> list[dict[str, Any]]:
    """The files of the commit, taken apart."""
    lines = [("context", ""), ("context", "def add(a, b):")]
    lines += [("deleted", "    return a - b"), ("added", "    return a + b"), ("context", "")]
    hunk = {
        "descriptor": {
            "old_range": {"start": 3, "length": 4},
            "new_range": {"start": 3, "length": 4},
            "section": "",
        },
        "line_group": {"all_lines": [{"type": t, "content": c} for t, c in lines]},
    }
    return [
        {
            "header": {"file": {"path": "calc.py"}, "misc_line": None},
            "minus_file": {"path": "a/calc.py"},
            "plus_file": {"path": "b/calc.py"},
            "is_binary_file": False,
            "hunks": [hunk],
        },
        {"header": {"file": {"path": "tests/test_calc.py"}, "misc_line": None}, "hunks": []},
    ]


def r2e_row(folder: Path, image: str) -> dict[str, Any]:
    """As R2E-Gym publishes them: test files and logs in a JSON text, the commit taken apart."""
    result = {
        "repo_name": "calc",
        "new_commit_hash": "1" * 40,
        "test_file_codes": [R2E_FILE],
        "test_file_names": ["test_1.py"],
        "setup_res_code": 0,
        "old_commit_res_stdout": _LOG.format(
            add="FAILED r2e_tests/test_1.py::test_add_secret - assert 0 == 4"
        ),
        "new_commit_res_stdout": _LOG.format(add="PASSED r2e_tests/test_1.py::test_add_secret"),
    }
    return {
        "repo_name": "calc",
        "docker_image": image,
        "commit_hash": "1" * 40,
        "parsed_commit_content": json.dumps({"file_diffs": _commit()}),
        "execution_result_content": json.dumps(result),
        "expected_output_json": json.dumps({"test_add_secret": "PASSED", "test_double": "PASSED"}),
        "problem_statement": "[ISSUE]\nadd(2, 2) gives 0\n[/ISSUE]",
        "modified_files": ["calc.py"],
    }
