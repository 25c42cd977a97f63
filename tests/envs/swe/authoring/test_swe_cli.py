"""The commands of `aem-gym swe`, and the modules that ran them before."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from click.testing import CliRunner

from aem_gym.envs.swe.authoring.cli import swe
from aem_gym.envs.swe.authoring.images import base

MODULES = {
    "generate": "aem_gym.envs.swe.tasks.generate",
    "official": "aem_gym.envs.swe.official",
    "predictions": "aem_gym.envs.swe.predictions",
    "validate": "aem_gym.envs.swe.validate",
}
WRONG = {
    "generate": ["--package", "p==1", "--out", "suite.txt"],
    "official": ["--tasks", "none.jsonl", "--predictions", "gold"],
    "predictions": ["--tasks", "none.jsonl", "--predictions", "gold"],
    "validate": ["--suite", "none"],
}


def test_the_help_lists_all_commands_and_loads_none() -> None:
    code = (
        "import sys; from aem_gym.envs.swe.authoring.cli import swe\n"
        "try: swe(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith('aem_gym.envs.swe.tasks')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in done.stdout for name in (*MODULES, "images"))
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("name", MODULES)
def test_a_command_and_its_earlier_module_take_the_same_flags(name: str) -> None:
    runner = CliRunner()
    told = runner.invoke(swe, [name, "--help"])
    done = subprocess.run(
        [sys.executable, "-m", MODULES[name], "--help"], capture_output=True, text=True
    )
    assert told.exit_code == done.returncode == 0
    flags = {word.strip("[],") for word in told.output.split() if word.startswith(("--", "[--"))}
    assert len(flags) >= 5 and all(flag in done.stdout for flag in flags)


@pytest.mark.parametrize("name", MODULES)
def test_the_help_names_the_command(name: str) -> None:
    told = CliRunner().invoke(swe, [name, "--help"]).output
    assert told.startswith(f"usage: aem-gym swe {name} [-h]")


@pytest.mark.parametrize("name", MODULES)
def test_errors_end_both_with_status_2(name: str) -> None:
    told = CliRunner().invoke(swe, [name, *WRONG[name]])
    done = subprocess.run(
        [sys.executable, "-m", MODULES[name], *WRONG[name]], capture_output=True, text=True
    )
    assert told.exit_code == done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_images_are_rebuilt_by_a_flag_or_its_earlier_name() -> None:
    flags = {option for param in base.params for option in param.opts}
    assert {"--rebuild", "--anew"} <= flags
    told = CliRunner().invoke(swe, ["images", "base", "--help"]).output
    assert "--rebuild" in told and "--anew" not in told


def test_importing_an_earlier_module_runs_nothing() -> None:
    for module in MODULES.values():
        importlib.import_module(module)
