"""Specs of suites: small, complete, refused where they are wrong; diffs that git takes."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aem_gym.envs.swe.tasks.mutations import parse
from aem_gym.envs.swe.tasks.packages import PackageError, source
from aem_gym.envs.swe.tasks.split import SPLITS, split_of, test_packages
from aem_gym.envs.swe.tasks.suites import SuiteError, git_diff, load_suite, read_suite
from aem_gym.errors import UnknownNameError

held_out = test_packages
del test_packages  # or pytest takes it for a test

LINES = st.text(st.sampled_from("ab \t\x0c\x0b\x85\u2028é"), max_size=4)
TEXTS = st.lists(LINES, max_size=12).flatmap(
    lambda lines: st.sampled_from(["\n", "\r\n", "\r"]).map(lambda end: end.join(lines))
)


@settings(max_examples=60)
@given(TEXTS, TEXTS)
def test_git_takes_every_diff(before: str, after: str) -> None:
    assume(before != after and before and after)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.py")
        path.write_bytes(before.encode())
        patch = git_diff("a.py", before.encode(), after.encode()).encode()
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", "-"],
            cwd=folder,
            input=patch,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        assert path.read_bytes() == after.encode()


@given(st.sets(st.text(min_size=1, max_size=5), min_size=3, max_size=12), st.integers(0, 9))
def test_packages_for_tests_are_for_nothing_else(packages: set[str], seed: int) -> None:
    out = held_out(packages, seed)
    assert out and out < packages
    for package in packages:
        splits = {split_of(package, "a.py", f"f{number}", seed, out) for number in range(50)}
        assert splits == ({"test"} if package in out else {"train", "eval"})


def test_few_packages_are_split_by_function() -> None:
    assert held_out({"one", "two"}, 0) == frozenset()
    drawn = Counter(split_of("one", "a.py", f"f{number}", 0, ()) for number in range(600))
    assert set(drawn) == set(SPLITS) and drawn["train"] > 300


def test_the_default_suite_holds_what_it_promises() -> None:
    packages, tasks = read_suite("default")
    assert len(tasks) >= 200 and len(packages) >= 3
    functions = [(task.package, task.mutation.path, task.mutation.function) for task in tasks]
    assert len(set(functions)) == len(tasks) == len({task.task_id for task in tasks})
    of_split = {split: {t.package for t in tasks if t.split == split} for split in SPLITS}
    assert all(of_split.values())
    assert not of_split["test"] & (of_split["train"] | of_split["eval"])
    sizes = sorted(len(json.dumps(task.mutation.replacement)) for task in tasks)
    assert sizes[-1] < 700
    assert all(len(spec.package.sha256) == 64 for spec in packages.values())
    assert all("==" in need for spec in packages.values() for need in spec.package.requires)
    assert not any(spec.package.folder for spec in packages.values())


@pytest.mark.slow
def test_every_task_of_the_default_suite_can_be_made() -> None:
    packages, specs = read_suite("default")
    try:
        tasks = load_suite("default")
    except PackageError as error:
        pytest.skip(f"needs the package index once: {error}")
    assert len(tasks) == len(specs)
    for task, spec in zip(tasks, specs, strict=True):
        pristine = source(packages[spec.package].package)
        path = spec.mutation.path
        assert set(task.overlay) == {path, *task.hidden} and path not in task.hidden
        assert task.fail_to_pass and task.pass_to_pass
        assert not set(task.fail_to_pass) & set(task.pass_to_pass)
        assert parse(task.overlay[path]) is not None
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, path)
            target.parent.mkdir(parents=True)
            target.write_bytes(task.overlay[path])
            command = ["git", "apply", "--whitespace=nowarn", "-"]
            subprocess.run(command, cwd=folder, input=task.gold.encode(), check=True)
            assert target.read_bytes() == (pristine / path).read_bytes(), task.task_id
        names = {test.partition("[")[0].rpartition("::")[2] for test in task.fail_to_pass}
        assert not any(name in task.problem for name in names), task.task_id


def test_an_unknown_suite_says_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match=r"'defualt'.*Did you mean 'default'.*generate"):
        load_suite("defualt")


ROW = '{"task_id": "a", "package": "p", "split": "train", "seed": 1}'


@pytest.mark.parametrize("text", ["", "{", "[1]", ROW, '{"tests": {}}'])
def test_what_is_no_suite_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text(text)
    with pytest.raises(SuiteError, match=r"suite\.jsonl.*expected .*tasks\.generate"):
        load_suite(path)
