"""Suites: frozen rows, read without their generator, and refused where they are wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from aem_gym.envs.swe.tasks.base import SPLITS, SweTask
from aem_gym.envs.swe.tasks.git import apply_diff, touched
from aem_gym.envs.swe.tasks.packages import PackageError, folder_hash, source
from aem_gym.envs.swe.tasks.suites import SuiteError, load_suite, read_suite
from aem_gym.errors import UnknownNameError

DIGESTS = Path(__file__).with_name("default_digests.json")
"""Task of the suite `default` -> digest of all that an agent sees and that is graded."""

WITHOUT_GENERATOR = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("aem_gym.envs.swe.authoring"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
from aem_gym.envs.swe.env import SWEEnv
from test_suites import digest
for split in ("train", "eval", "test"):
    source = SWEEnv(split=split)._source
print(json.dumps({name: digest(source.task(name)) for name in source.entries}))
"""


def digest(task: SweTask) -> str:
    """Of a task's bytes; where the source lies in the cache does not count."""
    assert not isinstance(task.image, str)
    parts = (
        (task.task_id, task.repo, task.problem, task.split, task.timeout),
        (task.image.name, task.image.install, task.image.python, task.image.packages),
        (task.fail_to_pass, task.pass_to_pass, task.test_command),
        (sorted(task.hidden.items()), task.test_patch),
        (sorted(task.overlay.items()), task.removed),
        task.gold,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def test_the_default_suite_holds_what_it_promises() -> None:
    packages, rows = read_suite("default")
    assert len(rows) >= 200 and len(packages) >= 3
    assert len(rows) == len({row.instance_id for row in rows})
    of_split = {split: {row.repo for row in rows if row.split == split} for split in SPLITS}
    assert all(of_split.values())
    assert not of_split["test"] & (of_split["train"] | of_split["eval"])
    for row in rows:
        (path,) = touched(row.bug_patch)
        assert touched(row.patch) == {path} and path not in touched(row.test_patch)
        tests = packages[row.repo].tests
        assert 0 < len(row.fail_to_pass) < len(tests) and {*row.fail_to_pass} <= {*tests}
        names = {test.partition("[")[0].rpartition("::")[2] for test in row.fail_to_pass}
        assert not any(name in row.problem_statement for name in names), row.instance_id
        assert all(f"def {name}(" in row.test_patch for name in names), row.instance_id
    specs = [package.package for package in packages.values()]
    assert all(len(package.sha256) == 64 and not package.folder for package in specs)
    assert all("==" in need for package in specs for need in package.requires)


@pytest.mark.slow
def test_no_code_of_the_generator_decides_what_a_task_is() -> None:
    """The tasks are those of the digests, in a process that cannot import `authoring`."""
    code = [sys.executable, "-c", WITHOUT_GENERATOR, str(Path(__file__).parent)]
    done = subprocess.run(code, capture_output=True, text=True)
    if "PackageError" in done.stderr:
        pytest.skip(f"needs the package index once: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(DIGESTS.read_text())


@pytest.mark.slow
def test_every_task_of_the_default_suite_is_undone_by_its_patch() -> None:
    packages, rows = read_suite("default")
    try:
        tasks = load_suite("default")
    except PackageError as error:
        pytest.skip(f"needs the package index once: {error}")
    assert len(tasks) == len(rows)
    for task, row in zip(tasks, rows, strict=True):
        pristine = source(packages[row.repo].package)
        (path,) = touched(row.bug_patch)
        assert set(task.overlay) == {path, *task.hidden} and path not in task.hidden
        assert not set(task.fail_to_pass) & set(task.pass_to_pass)
        compile(task.overlay[path], path, "exec", dont_inherit=True)
        mended = apply_diff({path: task.overlay[path]}, task.gold)
        assert mended[path] == (pristine / path).read_bytes() != task.overlay[path]
        visible = {name: task.overlay[name] for name in task.hidden}
        assert apply_diff(visible, row.test_patch) == task.hidden
        assert task.hidden == {name: (pristine / name).read_bytes() for name in task.hidden}


def test_an_unknown_suite_says_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match=r"'defualt'.*Did you mean 'default'.*generate"):
        load_suite("defualt")


ROW = '{"instance_id": "a", "repo": "p", "split": "train"}'


@pytest.mark.parametrize("text", ["", "{", "[1]", ROW, '{"tests": []}'])
def test_what_is_no_suite_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text(text)
    with pytest.raises(SuiteError, match=r"suite\.jsonl.*expected .*swe generate"):
        load_suite(path)


def test_rows_that_do_not_fit_the_source_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1\n")
    package = {"name": "library", "version": "1", "sha256": folder_hash(folder)}
    head = {"package": {**package, "folder": str(folder)}, "image": "i", "install": []}
    diff = "--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 2\n+x = 3\n"
    row = {"instance_id": "library-1", "repo": "library", "split": "train"}
    row |= {"problem_statement": "x", "FAIL_TO_PASS": ["t"]}  # type: ignore[dict-item]
    row |= {"patch": diff, "bug_patch": diff, "test_patch": diff}
    path = tmp_path / "suite.jsonl"
    lines = [{**head, "test_command": "c", "tests": ["t"]}, row]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(SuiteError, match="library-1: expected patches of library 1(?s:.*)generate"):
        load_suite(path)


@pytest.mark.parametrize(
    "line",
    [
        {"package": {"name": "p"}, "tests": {"test_a.py": ["test_b"]}},
        {"task_id": "p-1", "package": "p", "mutation": {"path": "a.py"}},
    ],
)
def test_a_suite_of_the_older_format_says_how_to_make_it_again(
    line: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(SuiteError, match=r"line 1: .*older version.*again: aem-gym swe generate"):
        load_suite(path)
