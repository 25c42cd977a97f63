"""What the pages say is true: their code runs, their commands parse, their tables fit the code."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import gymnasium as gym
import pytest

from aem_gym import cli
from aem_gym.commands.train import train
from aem_gym.credit.estimators import needs_of
from aem_gym.registry import ESTIMATORS, LOSSES, MODULATORS
from aem_gym.types import StopReason
from tests.credit.cases import shipped

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "envs").glob("*/README.md")]
    + list(DOCS.glob("*.md"))
    + list((ROOT / "examples").glob("*/README.md"))
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN = "runs/alfworld-tiny-grpo-aem-seed0"
"""The folder that the pages call a trained run."""
SMALL = (
    *("steps=1", "groups=2", "group_size=2", "max_turns=3", "eval_episodes=2", "threads=1"),
    *("warmstart_episodes=20", "warmstart_steps=2", "kl_coef=0.01", "token_samples=1"),
)
ELSEWHERE = (DOCS / "trl.md", DOCS / "openenv.md")
"""Pages whose Python runs in another environment: tests/engines runs it there."""
EXAMPLES = {path.parent.name for path in (ROOT / "examples").glob("*/pyproject.toml")}
FENCE = re.compile(r"^```(\w*)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = ("make", "python", "aem-gym", "pip", "tensorboard", ".ci/run")
NEED_DATA = (
    "openenv:",
    "source=official",
    "data_dir=",
    "SWE-bench",
    "aem_gym/SWE-v0",
    "configs/swe",
)
MISSING = "no OpenEnv server|data_dir: expected|got no such file|pip install|sandbox engine"
"""What commands on data, a server or an engine that may not be here may be refused with."""
RUNNERS = {"--reporter", "--verbose", "--verbosity", "--junitxml", "--test"}
FOREIGN_FLAGS = {
    *("--logdir", "--trl", "--only", "--rounds", "--shutdown-timeout", "--vllm"),
    "--no-enable-chunked-prefill",
    *RUNNERS,
}
"""Of programs that are not ours, and of benchmarks."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    file: str | None
    text: str
    output: str | None
    """The `text` block that follows at once, if there is one."""


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    result = []
    for match, after in zip(found, [*found[1:], None], strict=False):
        follows = after is not None and not text[match.end() : after.start()].strip()
        output = after[3] if after is not None and follows and after[1] == "text" else None
        result.append(Block(match[1], match[2], match[3], output))
    return result


def commands(page: Path) -> list[str]:
    """Command lines in `bash` fences and in indented blocks, without comments."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(page) if block.language == "bash" for line in _lines(block)]
    rest = FENCE.sub("", text).replace("\\\n", "")  # a command may go on in the next line
    lines += [line for line in rest.splitlines() if line.startswith("    ")]
    split = [shlex.split(line, comments=True) for line in lines if _is_command(line)]
    return [shlex.join(words) for words in split]


def _lines(block: Block) -> list[str]:
    text = block.text.replace("\\\n", "")  # a command may go on in the next line
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _is_command(line: str) -> bool:
    words = [word for word in line.split() if not re.match(r"^[A-Z_]+=", word)]
    return bool(words) and words[0] in COMMANDS


ALL_COMMANDS = sorted({(page, line) for page in PAGES for line in commands(page)})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as a reader's: the pages' files, the presets, the examples, and a trained run."""
    folder = tmp_path_factory.mktemp("docs")
    files = [block for page in PAGES for block in blocks(page) if block.file]
    for block in files:
        (folder / str(block.file)).write_text(block.text, encoding="utf-8")
    (folder / "configs").symlink_to(ROOT / "configs")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *SMALL, "--out", RUN],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (folder / RUN / "stdout").write_text(done.stdout)
    before, modules = dict(gym.registry), set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for path in (folder, *(item.parent for item in (ROOT / "examples").glob("*/*.toml"))):
            patch.syspath_prepend(path)
        install_examples(folder)
        for env_id, target in entry_points_shown().items():
            gym.register(env_id, entry_point=target, disable_env_checker=True)
        yield folder
    gym.registry.clear()
    gym.registry.update(before)
    for module in set(sys.modules) - modules:
        if f"{module}.py" in {block.file for block in files} or module in EXAMPLES:
            del sys.modules[module]


def install_examples(folder: Path) -> None:
    """The metadata that pip would leave of the examples; their modules are on the path."""
    for path in (ROOT / "examples").glob("*/pyproject.toml"):
        project = tomllib.loads(path.read_text())["project"]
        info = folder / f"{project['name']}-{project['version']}.dist-info"
        info.mkdir()
        head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (info / "METADATA").write_text(head)
        groups = project["entry-points"].items()
        lines = (
            f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in some.items()) for g, some in groups
        )
        (info / "entry_points.txt").write_text("\n".join(lines))


def entry_points_shown() -> dict[str, str]:
    """Environments that the pages and the examples register: id -> `module:Class`."""
    texts = [block.text for page in PAGES for block in blocks(page) if block.language == "toml"]
    texts += [path.read_text() for path in (ROOT / "examples").glob("*/pyproject.toml")]
    groups = [tomllib.loads(text)["project"]["entry-points"] for text in texts]
    return {k: v for group in groups for k, v in group.get("aem_gym.envs", {}).items()}


# Code -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if p not in ELSEWHERE and any(b.language == "python" for b in blocks(p))],
    ids=name_of,
)
def test_python_blocks_run_and_print_what_is_shown(page: Path, workspace: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.language != "python":
            continue
        if block.file:
            importlib.import_module(block.file.removesuffix(".py"))
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.text, name_of(page), "exec"), namespace)
        if block.output is not None:
            assert printed.getvalue() == block.output


def test_the_credit_of_the_page_gives_tensors_of_the_right_shape(workspace: Path) -> None:
    from aem_gym.settings import settle
    from aem_gym.training.credit import check_credit

    own = {"estimator": "my_credit:sign", "modulator": "my_credit:short_first"}
    check_credit(settle(own).config)
    with pytest.raises(ValueError, match="no_such"):
        check_credit(settle({**own, "estimator_options": {"no_such": 1}}).config)


def test_first_screen() -> None:
    first, second = [b for b in blocks(ROOT / "README.md") if b.language == "python"][:2]
    assert len(first.text.splitlines()) <= 8 and "aem_coefficients(" in first.text and first.output
    assert len(second.text.splitlines()) <= 12 and "gym.make(" in second.text and second.output


# Commands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "line"), ALL_COMMANDS, ids=[f"{name_of(page)}: {line}" for page, line in ALL_COMMANDS]
)
def test_commands_are_valid(
    page: Path, line: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)
    while re.match(r"^[A-Z_]+=", words[0]):
        words.pop(0)
    program, *args = words
    if Path(" ".join(words[1:2])).name == "train.py" or words[:2] == ["aem-gym", "train"]:
        check_training(words[2:], capsys)
    elif program == "aem-gym":
        command: click.Command | None = cli.app
        while isinstance(command, click.Group):
            name, *args = args
            command = command.get_command(click.Context(command), name)
        assert command is not None, name
        with contextlib.suppress(click.exceptions.Exit):  # --help
            command.make_context(name, args)
    elif program == "make":
        check_make(args)
    elif program == "pip":
        check_pip(args)
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(args[1]) or (ROOT / args[1].replace(".", "/")).exists()
    elif words[:2] == ["python", "-c"]:
        compile(args[1], line, "exec")
    elif program == "python":
        assert (ROOT / args[0]).is_file()


def check_training(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.run(train, [*args, "--dry-run"], "train.py")
    out = capsys.readouterr()
    if any(word in " ".join(args) for word in NEED_DATA):
        # A dry run makes the environments, and they say which of the data are missing.
        assert status == 0 or (status == 2 and re.search(MISSING, out.err)), out.err
        return
    assert status == 0, out.err
    assert "estimator" in out.out


def check_make(args: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    for word in args:
        variable, given, _ = word.partition("=")
        assert f"\n{variable} ?=" in makefile if given else word in targets, word


def check_pip(args: list[str]) -> None:
    assert args[0] == "install"
    for word in args[1:]:
        path, _, extras = word.removesuffix("]").partition("[")
        if not word.startswith("-"):
            assert (ROOT / path / "pyproject.toml").is_file(), word
            known = PROJECT["project"]["optional-dependencies"]
            assert all(extra in known for extra in extras.split(",") if extra), word


@each_page
def test_flags_in_the_text_exist(page: Path) -> None:
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text(encoding="utf-8")))
    found = {flag for code in inline for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code)}
    known = {
        flag
        for command in cli.app.commands.values()
        for option in command.params
        for flag in (*option.opts, *option.secondary_opts)
    }
    assert found <= known | {"--help", "--debug"} | FOREIGN_FLAGS


# Links ------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_resolve(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)}: {target}"
        assert not anchor or anchor in anchors(there), f"{name_of(page)}: {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8"))
        waiting += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert set(DOCS.glob("*.md")) <= seen


# Tables that the code decides -------------------------------------------------------------------


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("part", generator().PARTS)
def test_generated_parts_are_up_to_date(part: str) -> None:
    page, text = generator().updated(part)
    assert page.read_text(encoding="utf-8") == text, "run: python docs/generate.py"


def rows(page: Path) -> dict[str, list[str]]:
    """Table rows by each name in code style in their first cell."""
    found: dict[str, list[str]] = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                found.setdefault(name, []).append(line)
    return found


def options(function: Callable[..., Any], skip: set[str]) -> Mapping[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in skip and p.default is not p.empty
    }


def shown_options(line: str) -> dict[str, Any]:
    pairs = re.findall(r"`(\w+)` \(([^)]+)\)", line)
    return {name: _value(text) for name, text in pairs}


def _value(text: str) -> Any:
    """A default as the page writes it: a Python value, or a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@pytest.mark.parametrize("name", [*shipped(ESTIMATORS), *shipped(MODULATORS), *shipped(LOSSES)])
def test_estimators_page_has_every_component_with_its_options(name: str) -> None:
    lines = rows(DOCS / "estimators.md")[name]
    everywhere = {"over", "penalty", "clip_low", "clip_high", "dual_clip", "generator", "selected"}
    for table in (ESTIMATORS, MODULATORS):
        if name in shipped(table) and name not in ("aem", "dapo", "gspo"):
            expected = options(table.load(name), everywhere)
            assert any(shown_options(line) == expected for line in lines), expected
    if name in shipped(LOSSES):
        expected = options(LOSSES.load(name), everywhere)
        assert any(shown_options(line) == expected for line in lines), expected


@pytest.mark.parametrize("name", shipped(ESTIMATORS))
def test_estimators_page_has_the_loss_settings(name: str) -> None:
    line = next(row for row in rows(DOCS / "estimators.md")[name] if row.count("|") == 7)
    _, _, loss, clip, aggregation, kl, dual, _ = (cell.strip() for cell in line.split("|"))
    needs = needs_of(ESTIMATORS.load(name))
    assert loss.strip("`") == needs.loss
    assert [float(x) for x in clip.split("/")] == [needs.clip_low, needs.clip_high]
    assert aggregation == needs.aggregation
    assert float(kl) == needs.kl_coef
    assert (None if dual == "off" else float(dual)) == needs.dual_clip


def test_aem_page_has_every_option_with_its_default() -> None:
    table = rows(DOCS / "aem.md")
    filled_in = {"generator"}
    for name, default in options(MODULATORS.load("aem"), filled_in).items():
        assert f"| `{name}` | `{default}` |" in table[name][0]


def in_code_style(page: Path) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text(encoding="utf-8"))))


def test_runs_page_explains_every_figure_and_every_key(workspace: Path) -> None:
    named = in_code_style(DOCS / "runs.md")
    run = workspace / RUN
    for file in ("metrics.jsonl", "evaluations.jsonl", "episodes.jsonl"):
        for line in (run / file).read_text().splitlines():
            record = json.loads(line)
            assert set(record) <= named, file
            for turn in record["turns"] if file == "episodes.jsonl" and record["turns"] else ():
                assert set(turn) <= named
    assert set(json.loads((run / "stdout").read_text().splitlines()[-1])) <= named


def test_runs_page_names_no_figure_that_does_not_exist() -> None:
    text = (DOCS / "runs.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    cells = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    figures = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    folders = (ROOT / "aem_gym" / "training", ROOT / "aem_gym" / "credit")
    source = "".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    reasons = {f"stop/{reason.value}" for reason in StopReason}
    assert len(figures) > 30 and reasons <= set(figures)
    assert [name for name in figures if f'"{name}"' not in source and name not in reasons] == []


def test_runs_page_lists_the_files_of_a_run(workspace: Path) -> None:
    named = in_code_style(DOCS / "runs.md")
    tops = {item.name + "/" * item.is_dir() for item in (workspace / RUN).iterdir()}
    shown = {re.split(r"(?<=/)", name)[0] for name in named}
    assert tops - {"stdout", ".lock"} <= shown
