"""Rows of data sets other than SWE-bench's: each is told by its columns and read as a task.

Where a data set has its own image, test command and lists of tests, they are what the row says.
The columns, with the public source they were read from (2026-11):

- SWE-Gym: SWE-bench's columns; images and test commands of SWE-Gym/SWE-Bench-Fork (constants.py).
- SWE-rebench: SWE-bench's, `docker_image` or `image_name`, `install_config` with `test_cmd` and
  `log_parser`: SWE-rebench/SWE-bench-fork (harness/test_spec, grading.py).
- SWE-smith: `image_name`, `patch` puts the bug in; gold is its reverse: SWE-bench/SWE-smith
  (harness/utils.py, grading.py).
- R2E-Gym: `docker_image`, `execution_result_content` (test files, logs before and after),
  `expected_output_json`, `parsed_commit_content`: R2E-Gym/R2E-Gym (repo_analysis,
  agenthub/runtime).
- SWE-bench Pro: `dockerhub_tag`, `fail_to_pass`, `selected_test_files_to_run`: scaleapi/
  SWE-bench_Pro-os (swe_bench_pro_eval.py). The repository lies in /app.
- Nemotron (NeMo Gym): `responses_create_params.metadata.instance_dict` holds a row of one of the
  others: NVIDIA-NeMo/Gym (responses_api_agents/swe_agents).
- Multi-SWE-bench: `org`, `number`, `fix_patch`: multi-swe-bench/multi-swe-bench.

Any row may have the columns `image` (or `docker_image`, `image_name`), `test_command` (or
`test_cmd`), `log_reader` and `workdir`, which go before what is known of its data set.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from aem_gym.envs.swe.sandbox.base import WORKDIR, ImageSource
from aem_gym.envs.swe.tasks.base import RowError, SweTask
from aem_gym.envs.swe.tasks.git import DiffError, reversed_diff, test_files, touched
from aem_gym.envs.swe.tasks.logs import HARNESS_PARSERS, READERS, Status, read_pytest_output
from aem_gym.envs.swe.workspace import is_inside

Record: TypeAlias = Mapping[str, Any]

_IMAGES = ("image", "docker_image", "image_name")
_COMMANDS = ("test_command", "test_cmd")
_CONDA = "/opt/miniconda3/bin/activate"
ACTIVATE = f"[ ! -f {_CONDA} ] || . {_CONDA} testbed; "
"""Images built by SWE-bench's harness keep the Python of the repository there."""
_TIMEOUT = 1800.0
SWE_GYM = {
    **{"getmoto/moto": "pytest -n0 -rA", "conan-io/conan": "pytest -n0 -rA"},
    **{"dask/dask": "pytest -n0 -rA --color=no", "Project-MONAI/MONAI": "pytest -rA"},
    **{"iterative/dvc": "pytest -rA", "bokeh/bokeh": "pytest -rA -n0"},
    **{"modin-project/modin": "pytest -n0 -rA", "pandas-dev/pandas": "pytest -rA --tb=long"},
    **{"facebookresearch/hydra": "pytest -rA --tb=long"},
    "pydantic/pydantic": "pytest -rA --tb=short -vv -o console_output_style=classic --no-header",
}
"""Repository -> test command; that of python/mypy names tests by keyword and is not read."""


@dataclass(frozen=True, slots=True)
class RowDialect:
    """A data set's form of rows."""

    name: str
    fits: Callable[[Record], bool]
    """Whether a row is of it, by its columns."""
    read: Callable[[Record, str], SweTask]
    """The task of a row and its place. Raises RowError with the reason if it cannot be graded."""


def read_task(record: Record, place: str) -> SweTask | None:
    """The task of a row, with an id and lists that were checked; None: its columns say nothing.

    Raises:
        RowError: it cannot be graded, for the reason that the message says.
    """
    dialect = dialect_of(record)
    if dialect is None:
        return None
    try:
        return _checked(dialect.read(record, place), place)
    except RowError as error:
        raise RowError(f"{place} ({dialect.name}): {error}") from error


def dialect_of(record: Record) -> RowDialect | None:
    """The data set that a row is of; None: SWE-bench itself, or something else."""
    return next((each for each in DIALECTS if each.fits(record)), None)


def _checked(task: SweTask, place: str) -> SweTask:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,199}", task.task_id):
        raise RowError(f"expected an id of letters, digits, -_., got {task.task_id[:80]!r}")
    if not task.fail_to_pass:
        raise RowError("expected at least one test that has to pass, got none")
    for name, patch in (("patch", task.gold), ("test_patch", task.test_patch)):
        outside = [path for path in touched(patch) if not is_inside(path)]
        if outside:
            raise RowError(f"column {name}: expected files in the repository, got {outside[0]!r}")
    if task.log and task.log not in READERS:
        raise RowError(f"expected a log reader among {', '.join(READERS)}, got {task.log!r}")
    return task


# Columns -----------------------------------------------------------------------------------------


def text(record: Record, *columns: str, default: str | None = None) -> str:
    """The first of some columns that has a text. Raises RowError without one and a default."""
    for column in columns:
        value = record.get(column)
        if isinstance(value, str) and value.strip():
            return value
    if default is None:
        raise RowError(f"expected a text in the column {' or '.join(columns)}, got none")
    return default


def tests(record: Record, *columns: str) -> tuple[str, ...]:
    """A list of tests: itself, JSON of one, or a Python literal of one. Raises RowError."""
    column = next((name for name in columns if name in record), columns[0])
    value = record.get(column)
    for parse in (json.loads, ast.literal_eval):
        if isinstance(value, str):
            try:
                value = parse(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    if not isinstance(value, list) or not all(isinstance(x, str) and x.strip() for x in value):
        raise RowError(f"column {column}: expected a list of tests, got {str(value)[:80]!r}")
    return tuple(dict.fromkeys(value))


def nested(record: Record, column: str) -> Mapping[str, Any]:
    """A column that holds an object, or JSON of one. Raises RowError."""
    value = record.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError(f"column {column}: expected JSON, got {value[:80]!r}") from error
    if not isinstance(value, Mapping):
        raise RowError(f"column {column}: expected an object, got {str(value)[:80]!r}")
    return value


def _command(command: str, files: Iterable[str]) -> str:
    """A test command with its files; pytest reports to `{report}` as well."""
    words = command.strip()
    if re.match(r"pytest\b", words):
        words = f"python -m {words}"
    if re.match(r"\S*python\S* -m pytest\b", words) and "{report}" not in words:
        words += " --junitxml={report}"
    return " ".join([words, *map(shlex.quote, files)])


def _task(record: Record, image: str, command: str, **more: Any) -> SweTask:
    """A task of SWE-bench's columns. Columns of its own for image and command go first."""
    own = text(record, *_COMMANDS, default="")
    folder = text(record, "workdir", default=more.pop("folder", WORKDIR)).rstrip("/")
    values: dict[str, Any] = {
        "task_id": text(record, "instance_id"),
        "repo": text(record, "repo"),
        "problem": text(record, "problem_statement"),
        "image": ImageSource(text(record, *_IMAGES, default=image), folder),
        "test_command": f"{ACTIVATE}{_own(record, own) if own else command}",
        "log": text(record, "log_reader", default=""),
        "test_patch": text(record, "test_patch", default=""),
        "gold": text(record, "patch", default=""),
        "split": "test",
        "timeout": _TIMEOUT,
    }
    values |= {k: v for k, v in more.items() if k != "log" or not values["log"]}
    if "fail_to_pass" not in values:
        values["fail_to_pass"] = tests(record, "FAIL_TO_PASS", "fail_to_pass")
        values["pass_to_pass"] = tests(record, "PASS_TO_PASS", "pass_to_pass")
    if values["image"].name == "":
        raise RowError(f"expected the image in the column {' or '.join(_IMAGES)}, got none")
    return SweTask(**values)


def _own(record: Record, command: str) -> str:
    """The test command of a row itself; pytest gets the files of the hidden tests."""
    if "{files}" in command:
        quoted = map(shlex.quote, test_files(text(record, "test_patch", default="")))
        return command.replace("{files}", " ".join(quoted))
    named = re.search(r"\S+\.(py|js|ts|go|rs|rb)\b", command)
    pytest = re.match(r"(\S*python\S* -m )?pytest\b", command.strip())
    files = test_files(text(record, "test_patch", default="")) if pytest and not named else []
    return _command(command, files)


# Data sets ---------------------------------------------------------------------------------------


def _read_swe_gym(record: Record, place: str) -> SweTask:
    name = text(record, "instance_id")
    command = SWE_GYM.get(text(record, "repo"), "")
    if not command and not text(record, *_COMMANDS, default=""):
        raise RowError(
            f"the test command of {record['repo']} in SWE-Gym's harness chooses tests by keyword, "
            "and cannot be made of a row. Give one in a column test_command"
        )
    image = f"xingyaoww/sweb.eval.x86_64.{name.replace('__', '_s_').lower()}:latest"
    return _task(record, image, _command(command, test_files(text(record, "test_patch"))))


def _read_rebench(record: Record, place: str) -> SweTask:
    config = nested(record, "install_config")
    value = config.get("test_cmd") or record.get("test_cmd")
    command = " && ".join(value) if isinstance(value, list) else value
    if not isinstance(command, str) or not command.strip():
        raise RowError("expected install_config.test_cmd, got none")
    parser = str(config.get("log_parser") or "parse_log_pytest")
    if parser not in HARNESS_PARSERS and not text(record, "log_reader", default=""):
        known = ", ".join(sorted(HARNESS_PARSERS))
        raise RowError(f"install_config.log_parser: expected one of {known}, got {parser!r}")
    log = HARNESS_PARSERS.get(parser, "")
    files = test_files(text(record, "test_patch", default=""))
    image = f"swerebench/sweb.eval.x86_64.{text(record, 'instance_id').replace('__', '_1776_')}"
    command = _command(command, files) if log == "pytest" else command
    return _task({**record, "test_cmd": ""}, image.lower(), command, log=log)


def _read_swe_smith(record: Record, place: str) -> SweTask:
    bug, every = text(record, "patch"), tests(record, "FAIL_TO_PASS")
    try:
        gold = reversed_diff(bug)
    except DiffError as error:
        raise RowError(f"column patch: {error}") from error
    files = sorted({name.partition("::")[0] for name in (*every, *tests(record, "PASS_TO_PASS"))})
    if not text(record, *_COMMANDS, default="") and any("::" not in name for name in every):
        raise RowError(
            "the tests are no node ids of pytest, and SWE-smith's test commands of other runners "
            "are in its package (swesmith/profiles). Give one in a column test_command"
        )
    command = _command("python -m pytest --disable-warnings --color=no --tb=no", files)
    return _task(record, "", command, bug_patch=bug, gold=gold, test_patch="")


_R2E_TESTS = "r2e_tests"
_R2E_QUIET = "PYTHONWARNINGS='ignore::UserWarning,ignore::SyntaxWarning' "
_R2E_PYTHON = "$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python) -W ignore"


def _read_r2e(record: Record, place: str) -> SweTask:
    result = nested(record, "execution_result_content")
    codes, names = result.get("test_file_codes") or [], result.get("test_file_names") or []
    if not codes or len(codes) != len(names):
        raise RowError(
            "execution_result_content: expected test_file_codes and test_file_names of one length, "
            f"got {len(codes)} and {len(names)}: the hidden tests are nowhere else but in the image"
        )
    runners = [name for name in names if name.endswith("_runner.py")]
    if runners:
        raise RowError(
            f"its tests run under {runners[0]}, a runner of R2E-Gym's own that none of our log "
            "readers reads"
        )
    fails, passes = _r2e_lists(record, result)
    repo, commit = text(record, "repo_name", "repo"), text(record, "commit_hash", default="")
    image = text(record, *_IMAGES)
    run = f"{_R2E_PYTHON} -m pytest -rA --junitxml={{report}} {_R2E_TESTS}"
    if repo == "orange3":
        run = f"QT_QPA_PLATFORM=minimal xvfb-run --auto-servernum {run}"
    return SweTask(
        task_id=text(record, "instance_id", default=f"{repo}-{commit or image.rpartition(':')[2]}"),
        repo=repo,
        problem=_r2e_issue(text(record, "problem_statement")),
        image=ImageSource(image, removed=("/r2e_tests", f"{WORKDIR}/r2e_tests", "/run_tests.sh")),
        fail_to_pass=fails,
        pass_to_pass=passes,
        test_command=_R2E_QUIET + run if repo != "orange3" else run,
        hidden={f"{_R2E_TESTS}/{n}": c.encode() for n, c in zip(names, codes, strict=True)},
        removed=("run_tests.sh",),
        gold=text(record, "patch", default="") or _r2e_gold(record),
        timeout=_TIMEOUT,
    )


def _r2e_lists(record: Record, result: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """FAIL_TO_PASS and PASS_TO_PASS by node id, from the logs of the commit and the one before.

    The reward of R2E-Gym asks for `expected_output_json`: by class and function, without the file.
    """
    old, new = (
        read_pytest_output(str(result.get(f"{which}_commit_res_stdout") or ""))
        for which in ("old", "new")
    )
    expected = nested(record, "expected_output_json")
    wanted = {name.split(" - ")[0] for name, status in expected.items() if status == "PASSED"}
    good = [name for name, status in new.items() if status == Status.PASSED]
    known = [name for name in good if ".".join(name.split("::")[1:]) in wanted]
    if not known:
        raise RowError(
            "execution_result_content: expected new_commit_res_stdout with the tests that "
            "expected_output_json says pass, got none of them"
        )
    fails = tuple(name for name in known if old.get(name) != Status.PASSED)
    return fails, tuple(name for name in known if name not in set(fails))


def _r2e_issue(problem: str) -> str:
    found = re.search(r"\[ISSUE\](.*)\[/ISSUE\]", problem, re.DOTALL)
    return (found[1] if found else problem).strip()


_LINE_MARKS = {"context": " ", "added": "+", "deleted": "-", "note": "\\ "}


def _r2e_gold(record: Record) -> str:
    """The commit's changes of files that hold no tests, as a diff; empty if the row has none."""
    if not record.get("parsed_commit_content"):
        return ""
    commit = nested(record, "parsed_commit_content")
    return "".join(
        _r2e_file(diff) for diff in commit.get("file_diffs", ()) if not _is_test_path(_path(diff))
    )


def _path(diff: Mapping[str, Any]) -> str:
    return str(diff["header"]["file"]["path"])


def _is_test_path(path: str) -> bool:
    *folders, name = path.split("/")
    in_tests = {"test", "tests"} & {folder.lower() for folder in folders}
    return bool(in_tests) or name.startswith("test_") or name.endswith("_test.py")


def _r2e_file(diff: Mapping[str, Any]) -> str:
    path = _path(diff)
    if not path.endswith(".py") or diff.get("is_binary_file"):
        return ""
    lines = [f"diff --git a/{path} b/{path}"]
    if diff["header"].get("misc_line"):
        lines.append(diff["header"]["misc_line"])
    if diff.get("minus_file") and diff.get("plus_file"):
        lines += [f"--- {diff['minus_file']['path']}", f"+++ {diff['plus_file']['path']}"]
    for hunk in diff.get("hunks", ()):
        about = hunk["descriptor"]
        old, new = (_r2e_range(about[f"{side}_range"]) for side in ("old", "new"))
        lines.append(f"@@ -{old} +{new} @@ {about.get('section', '')}".rstrip())
        for line in hunk["line_group"]["all_lines"]:
            lines.append(_LINE_MARKS[line["type"]] + line["content"])
    return "\n".join(lines) + "\n"


def _r2e_range(about: Mapping[str, Any]) -> str:
    length = about.get("length")
    return f"{about['start']}" if length is None else f"{about['start']},{length}"


def _read_pro(record: Record, place: str) -> SweTask:
    if not text(record, *_COMMANDS, default=""):
        raise RowError(
            "its test command and the parser of its output are not in the row, but in run_scripts/ "
            "of scaleapi/SWE-bench_Pro-os, a pair for each row. Give a test command in a column "
            "test_command ({files} stands for selected_test_files_to_run) and a log_reader"
        )
    chosen = tests(record, "selected_test_files_to_run")
    command = text(record, *_COMMANDS).replace("{files}", " ".join(map(shlex.quote, chosen)))
    image = f"jefzda/sweap-images:{text(record, 'dockerhub_tag', default='')}"
    problem = "\n\n".join(
        text(record, column)
        for column in ("problem_statement", "requirements", "interface")
        if text(record, column, default="")
    )
    row = {**record, "test_cmd": "", "test_command": "", "problem_statement": problem}
    return _task(row, image, command, folder="/app")


def _read_nemotron(record: Record, place: str) -> SweTask:
    about = nested(record, "responses_create_params").get("metadata")
    if not isinstance(about, Mapping) or not about.get("instance_dict"):
        raise RowError("responses_create_params.metadata: expected instance_dict, got none")
    inner: dict[str, Any] = {**nested(about, "instance_dict")}
    for column in ("instance_id", "problem_statement", "base_commit"):
        inner.setdefault(column, about.get(column))
    if "run_script.sh" in inner or "parsing_script.py" in inner:
        raise RowError(
            "it brings a run_script.sh and a parsing_script.py of its own: what a script of the "
            "row prints about itself is not graded. Give test_command and log_reader instead"
        )
    dialect = dialect_of(inner)
    if dialect is None or dialect.name == "Nemotron":
        data = about.get("dataset_name", "SWE-bench")
        raise RowError(
            f"its inner row is one of {data}, without an image and a test command of its own: "
            "take that data set itself (--tasks hub:NAME@SPLIT)"
        )
    return dialect.read(inner, place)


def _read_multi(record: Record, place: str) -> SweTask:
    raise RowError(
        "the tests run by scripts in its image (/home/run.sh, /home/fix-run.sh), which apply the "
        "patches themselves, and its lists of tests come from a parser per repository in the "
        "package multi_swe_bench. Give rows with SWE-bench's columns, image, test_command, "
        "log_reader and workdir"
    )


def _read_columns(record: Record, place: str) -> SweTask:
    task = _task(record, "", "")
    if not text(record, *_COMMANDS, default=""):
        raise RowError(f"expected the test command in {' or '.join(_COMMANDS)}, got none")
    return replace(task, bug_patch=text(record, "bug_patch", default=""))


DIALECTS = (
    RowDialect("Nemotron", lambda r: "responses_create_params" in r, _read_nemotron),
    RowDialect("R2E-Gym", lambda r: "execution_result_content" in r, _read_r2e),
    RowDialect("SWE-bench Pro", lambda r: "selected_test_files_to_run" in r, _read_pro),
    RowDialect("SWE-rebench", lambda r: bool(r.get("install_config")), _read_rebench),
    RowDialect("Multi-SWE-bench", lambda r: "fix_patch" in r and "org" in r, _read_multi),
    RowDialect(
        "SWE-smith",
        lambda r: "image_name" in r and not r.get("test_patch") and "bug_patch" not in r,
        _read_swe_smith,
    ),
    RowDialect("columns", lambda r: any(r.get(name) for name in _COMMANDS), _read_columns),
    RowDialect("SWE-Gym", lambda r: str(r.get("repo")) in {*SWE_GYM, "python/mypy"}, _read_swe_gym),
)
"""In the order in which a row is compared with them."""
