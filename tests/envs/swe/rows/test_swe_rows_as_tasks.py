"""Rows as tasks: which images, which command, and what is left out before anything is built."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from aem_gym.envs.swe.authoring.predictions import _chosen
from aem_gym.envs.swe.authoring.validate import from_rows, main
from aem_gym.envs.swe.sandbox.base import ImagePlan
from aem_gym.envs.swe.sources import open_source
from aem_gym.envs.swe.tasks.git import test_files
from aem_gym.envs.swe.tasks.rows import Row, read_row, read_rows
from aem_gym.envs.swe.tasks.swebench import (
    buildable,
    find_recipe,
    make_task,
    official_command,
    official_reader,
    pulled,
    recipes,
)
from aem_gym.errors import ConfigError, MissingDependencyError
from tests.envs.swe.rows.swe_rows import record, write_mirror, write_rows

EXTRA = 'pip install "aem-gym[swebench]"'
files_of = test_files
files_of.__test__ = False  # type: ignore[attr-defined]


def a_row(commit: str = "0" * 40, **changes: object) -> Row:
    row = read_row(record(commit, **changes), "here")
    assert isinstance(row, Row)
    return row


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("mirrors")
    return folder, write_mirror(folder / "flask.git")


def test_prebuilt_images_have_the_names_of_the_registry() -> None:
    names = {
        "astropy__astropy-12907": "swebench/sweb.eval.x86_64.astropy_1776_astropy-12907:latest",
        "pallets__flask-5014": "swebench/sweb.eval.x86_64.pallets_1776_flask-5014:latest",
        "Owner__Name-1": "swebench/sweb.eval.x86_64.owner_1776_name-1:latest",
    }
    for name, image in names.items():
        assert make_task(a_row(instance_id=name)).image == image


def test_prebuilt_images_bring_their_own_python() -> None:
    command = make_task(a_row()).test_command
    assert command.startswith(". /opt/miniconda3/bin/activate testbed && python -m pytest ")
    assert command.endswith(" tests/test_calc.py")


def test_a_plan_depends_on_all_that_it_is_built_from(mirrors: tuple[Path, str]) -> None:
    folder, commit = mirrors
    plans = [make_task(a_row(commit, version=v), folder).image for v in ("2.3", "2.3", "2.0")]
    assert all(isinstance(plan, ImagePlan) for plan in plans)
    assert plans[0] == plans[1] != plans[2]
    assert isinstance(plans[0], ImagePlan)
    assert re.fullmatch(r"aem-swebench/pallets__flask:[0-9a-f]{16}", plans[0].name)
    assert (plans[0].folder / "calc.py").is_file()


def test_what_cannot_be_built_is_left_out_first(mirrors: tuple[Path, str]) -> None:
    folder, commit = mirrors
    rows = [
        a_row(commit),
        a_row(commit, instance_id="a-2", version="0.12"),
        a_row("1" * 40, instance_id="a-3"),
        a_row(commit, instance_id="a-4", repo="django/django"),
        a_row(commit, instance_id="a-5", repo="sympy/sympy"),
    ]
    kept, lost = buildable(rows, folder)
    assert [row.instance_id for row in kept] == ["pallets__flask-1"]
    assert lost == {
        "a-2": "no recipe for the version",
        "a-3": "the mirror lacks the commit",
        "a-4": "no recipe for the repository",
        "a-5": "no mirror of the repository",
    }
    with pytest.raises(ConfigError, match="^mirrors: expected a folder .* which is not a folder"):
        buildable(rows, folder / "none")


def test_the_command_says_what_is_left_out(
    mirrors: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "r.jsonl", record("1" * 40), "{", {"instance_id": "a-2"})
    assert main(["--tasks", str(file), "--mirrors", str(mirrors[0])]) == 2
    told = capsys.readouterr().err
    assert "1 incomplete, 1 malformed, 1 the mirror lacks the commit" in told
    assert "pallets/flask, pytest-dev/pytest, sympy/sympy" in told


def test_each_command_and_source_warns_of_rows_that_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_rows(tmp_path / "r.jsonl", record(), "{", {"instance_id": "a-2"})
    words = argparse.Namespace(tasks=str(file), mirrors=None, only=None, predictions="gold")
    for use in (open_source, lambda name: from_rows(name, None), lambda name: _chosen(words)):
        caplog.clear()
        use(str(file))
        assert "r.jsonl, line 2: expected a JSON object" in caplog.text
        assert "1 incomplete, 1 malformed" in caplog.text


def test_a_list_of_rows_is_a_source(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([record(), record(instance_id="a-2")], indent=1))
    assert list(open_source(str(file)).entries) == ["pallets__flask-1", "a-2"]
    with pytest.raises(ConfigError, match=r"none\.json cannot be read: No such file"):
        open_source(str(tmp_path / "none.json"))


def test_a_source_of_rows_counts_them(mirrors: tuple[Path, str], tmp_path: Path) -> None:
    file = write_rows(tmp_path / "r.jsonl", record(mirrors[1]), record("1" * 40), {"a": 1})
    source = from_rows(str(file), mirrors[0])
    assert [candidate.task_id for candidate in source.candidates] == ["pallets__flask-1"]
    assert source.left_out == {"malformed": 2}
    opened = open_source(str(file), str(mirrors[0]))
    assert opened.task("pallets__flask-1").gold == record()["patch"]


def test_files_of_a_hidden_patch() -> None:
    patch = "".join(
        f"diff --git a/{path} b/{path}\nindex 1..2 100644\n"
        for path in ("tests/z.py", "tests/data/x.json", "tests/a.py", "docs/x.csv", "t/__init__.py")
    )
    assert files_of(patch) == ["tests/z.py", "tests/a.py", "t/__init__.py"]
    assert files_of("--- a/tests/x.py\n+++ b/tests/x.py\n@@ -1 +1 @@\n") == ["tests/x.py"]


def test_names_that_a_log_cut_out_of_nothing_are_no_tests() -> None:
    row = a_row(PASS_TO_PASS=["tests/test_calc.py::test_double", "[100%]", "["])
    assert make_task(row).pass_to_pass == ("tests/test_calc.py::test_double",)
    row = a_row(FAIL_TO_PASS=["test_a"], PASS_TO_PASS=["test_b"])
    assert make_task(row).pass_to_pass == ("test_b",)


def test_every_recipe_is_reproducible() -> None:
    for versions in recipes().values():
        for recipe in versions.values():
            assert re.fullmatch(r"3\.\d+", recipe.python)
            assert all(re.fullmatch(r"[A-Za-z0-9-]+==[\d.]+", pin) for pin in recipe.pins)
            assert any(pin.startswith("setuptools==") for pin in recipe.pins)
    with pytest.raises(ConfigError, match="expected a version of pallets/flask among 2.0"):
        find_recipe("pallets/flask", "9.9")
    with pytest.raises(ConfigError, match="Leave out --mirrors"):
        find_recipe("django/django", "3.0")


def test_other_repositories_need_the_extra() -> None:
    row = a_row(repo="django/django", version="3.0", instance_id="django__django-1")
    try:
        assert "runtests.py" in make_task(row).test_command
    except MissingDependencyError as error:
        assert EXTRA in str(error)


def test_all_rows_as_the_official_harness_has_them(test_data: Path) -> None:
    pytest.importorskip("swebench", reason=EXTRA)
    from swebench.harness.test_spec.python import get_test_directives

    from aem_gym.envs.swe.authoring.swebench_grader import official_spec

    folder = test_data / "swebench_verified"
    if not folder.is_dir():
        pytest.skip(f"needs rows of SWE-bench in {folder}")
    rows = read_rows(folder).rows
    assert len(rows) > 100
    for row in rows:
        task = make_task(row)
        assert task.image == official_spec(row)[1].instance_image_key
        instance = json.loads(json.dumps({"repo": row.repo, "test_patch": row.test_patch}))
        files = list(dict.fromkeys(get_test_directives(instance)))
        assert task.test_command.endswith(" ".join(files)), row.instance_id


def test_repositories_of_other_languages_have_a_reader_or_say_why() -> None:
    """By the name of the parser that SWE-bench's own harness has for them."""
    pytest.importorskip("swebench", reason=EXTRA)
    assert official_reader("caddyserver/caddy") == ("go", "")
    assert official_reader("tokio-rs/tokio") == ("cargo", "")
    assert official_reader("axios/axios") == ("tap", "")
    assert official_reader("babel/babel") == ("jest", "")
    assert official_reader("google/gson") == (
        "",
        "no log reader of ours for SWE-bench's parse_log_maven",
    )
    assert official_reader("django/django") == ("", "")
    assert official_command("caddyserver/caddy", "6411").startswith("go test -v")
    patch = "diff --git a/a.go b/a.go\n--- a/a.go\n+++ b/a.go\n@@ -1 +1 @@\n-a\n+b\n"
    facts = ("0" * 40, "6411", "wrong", patch, patch, ("TestA",), ())
    task = make_task(Row("caddyserver__caddy-6411", "caddyserver/caddy", *facts))
    assert (
        task.log == "go"
        and task.test_command.startswith("go test -v")
        and "a.go" not in (task.test_command)
    )
    rows = (
        Row("caddyserver__caddy-6411", "caddyserver/caddy", *facts),
        Row("google__gson-1", "google/gson", *facts),
    )
    kept, lost = pulled(rows)
    assert kept == rows[:1] and list(lost) == ["google__gson-1"]
