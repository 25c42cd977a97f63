"""The command line as a user meets it: what it prints, where, and with which status."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from aem_gym import cli
from aem_gym.commands.flags import EVERYDAY
from aem_gym.config import Config, field_types, is_options
from aem_gym.registry import COMMANDS
from aem_gym.runs import CheckpointStore
from aem_gym.settings import OLD_NAMES, settle
from aem_gym.yaml_io import load_yaml

ROOT = Path(__file__).resolve().parents[1]


def train(*args: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """`python train.py ARGS`, in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *args],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """`aem-gym ARGS`, in this process: status, stdout, stderr."""
    status = cli.run(cli.app, list(args), "aem-gym")
    out = capsys.readouterr()
    return status, out.out, out.err


def resolved(capsys: pytest.CaptureFixture[str], *args: str) -> Config:
    status, out, err = run(capsys, "train", "--dry-run", *args)
    assert status == 0, err
    return settle(load_yaml(out, "stdout")).config


def test_dry_run_prints_the_settings_and_starts_nothing(tmp_path: Path) -> None:
    done = train("--dry-run", "--steps", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert settle(load_yaml(done.stdout, "stdout")).config == settle({"steps": 3}).config
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "changes"),
    [
        ([], {}),
        (["--lr", "1e-4", "--groups", "4", "--group-size", "2"], None),
        (["--modulator", "none", "--context", "window"], None),
        (["--resume", "--loggers", "[]"], {"resume": True, "loggers": []}),
        (["--loggers", "tensorboard"], {"loggers": ["tensorboard"]}),
        (["--mini-batch", "1/4", "--token-samples", "all"], None),
        (["--mini-batch", "32"], {"mini_batch": 32}),
        (["--kl-coef", "null"], {"kl_coef": None}),
        (["--lora-targets", "[q_proj, v_proj]"], {"lora_targets": ["q_proj", "v_proj"]}),
        (["--lora-targets", "all-linear"], {}),
        (["--set", "modulator_options.lam=0.5"], {"modulator_options": {"lam": 0.5}}),
        (["modulator_options.lam=2", "seed=7"], {"modulator_options": {"lam": 2}, "seed": 7}),
        (["--env-arg", "max_turns=9"], {"env_args": {"difficulty": "small", "max_turns": 9}}),
        (["--out", "1e3"], {"out": "1e3"}),
    ],
)
def test_flags_become_settings(
    capsys: pytest.CaptureFixture[str], args: list[str], changes: dict[str, Any] | None
) -> None:
    if changes is None:
        changes = {
            flag[2:].replace("-", "_"): load_yaml(value, "test")
            for flag, value in zip(args[::2], args[1::2], strict=True)
        }
    assert resolved(capsys, *args) == settle(changes).config


OLD_FLAGS: list[tuple[list[str], list[str]]] = [
    (["--recipe", "compact"], ["--prompt-template", "compact"]),
    (["--invalid-means", "inadmissible"], ["--penalize", "inadmissible"]),
    (["--max-live", "5"], ["--max-concurrent-episodes", "5"]),
    (["--updates-per-batch", "4"], ["--mini-batch", "1/4"]),
    (["--save-tokens"], ["--token-samples", "all"]),
    (["--no-save-tokens"], []),
    (["--drop-equal-groups", "true"], ["drop_equal_groups=true"]),
    (["--no-tensorboard"], ["--loggers", "[]"]),
    (["--tensorboard"], []),
    (["--set", "recipe=compact"], ["--prompt-template", "compact"]),
    (["updates_per_batch=4"], ["--mini-batch", "1/4"]),
]


@pytest.mark.parametrize(("old", "new"), OLD_FLAGS, ids=lambda args: " ".join(args) or "-")
def test_old_flags_stay_valid(
    capsys: pytest.CaptureFixture[str], old: list[str], new: list[str]
) -> None:
    assert resolved(capsys, *old) == resolved(capsys, *new)


def test_every_old_flag_is_tested_and_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    tested = {flag for old, _ in OLD_FLAGS for flag in old if flag.startswith("--")}
    _, out, _ = run(capsys, "train", "--help")
    for name in OLD_NAMES:
        flag = f"--{name.replace('_', '-')}"
        assert flag in tested and f"{flag} " not in out


def test_explain_shows_the_layer_of_each_value(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("groups: 4\n")
    args = ["--config", str(file), "--steps", "3", "--env-arg", "dialect='0.3'"]
    status, out, err = run(capsys, "train", "--explain", *args)
    assert status == 0, err
    assert settle(load_yaml(out, "stdout")).config == resolved(capsys, *args)
    where = {line.split(":")[0]: line for line in out.splitlines()}
    assert where["groups"].endswith(f"# {file}")
    assert where["steps"].endswith("# flag") and where["epochs"].endswith("# built-in")
    assert where["lr"].endswith("# model")
    assert where["env_args"].endswith("# environment, dialect: flag")
    assert where["max_new_tokens"].endswith("# environment x model")


def test_a_limit_of_turns_that_is_set_is_the_one_that_holds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert resolved(capsys, "--max-turns", "30").max_turns == 30
    status, out, err = run(
        capsys, "train", "--dry-run", "--max-turns", "30", "--env-arg", "max_turns=9"
    )
    assert status == 2 and "max_turns: 30 and env_args.max_turns: 9 differ" in err and out == ""


def test_an_environment_is_named_by_module_and_class(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hotter_game.py").write_text(
        "from aem_gym import StepResult, Task, TextEnv\n"
        "class Hotter(TextEnv):\n"
        "    def start(self, options): return Task('t'), StepResult('Warm.')\n"
        "    def act(self, action): return StepResult('Hot.', 1.0, True, won=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolved(capsys, "--env", "hotter_game:Hotter").env == "hotter_game:Hotter"
    status, out, _ = run(capsys, "play", "hotter_game:Hotter", "--agent", "random")
    assert status == 0 and out.splitlines()[-1].startswith("[won: 1 turns")
    status, _, err = run(capsys, "train", "--dry-run", "--env", "hotter_game:Hoter")
    assert status == 2 and "hotter_game:Hoter" in err and "module:Class" in err


def test_a_file_is_overruled_by_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("steps: 5\nseed: 5\n")
    config = resolved(capsys, "--config", str(file), "--seed", "6", "--env-arg", "dialect='0.3'")
    assert (config.steps, config.seed, config.env_args["dialect"]) == (5, 6, "0.3")


def test_every_setting_has_a_flag_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "train", "--help")
    assert status == 0 and "...]" not in out and "[null" not in out
    for name in field_types():
        wanted = name if is_options(name) else f"--{name.replace('_', '-')}"
        assert wanted in out
    everyday, _, rest = out.partition("All other settings")
    for name in EVERYDAY:
        assert f"--{name.replace('_', '-')} " in everyday
    assert "--env-arg" in everyday and "--lora-rank" in rest


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["train", "--stpes", "3"], ["--stpes", "--steps"]),
        (["train", "--groups", "x"], ["groups", "int", "'x'"]),
        (["train", "--groups", "0"], ["groups", "at least 1"]),
        (["train", "--estimator", "grop"], ["Did you mean 'grpo'"]),
        (["train", "--model", "tinny"], ["Did you mean 'tiny'"]),
        (["train", "--env", "ALFWrld"], ["aem_gym/ALFWorld-v0"]),
        (["train", "--env-arg", "dificulty=small"], ["Did you mean 'difficulty'"]),
        (["train", "--env-arg", "x"], ["KEY=VALUE"]),
        (["train", "--config", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (["play", "ALFWrld"], ["aem_gym/ALFWorld-v0"]),
        (["play", "alfworld", "--agent", "expret"], ["Did you mean 'expert'"]),
        (["replay", "nowhere"], ["nowhere/episodes.jsonl"]),
        (["eval", "nowhere"], ["nowhere is not a run"]),
        (["evla", "x"], ["'evla'", "'eval'"]),
        # What only the run itself used to refuse:
        (["train", "--dry-run", "--set", "modulator_options.lambda=0.5"], ["lambda", "lam"]),
        (["train", "--dry-run", "--env-arg", "difficulty=medium"], ["difficulty", "medium"]),
        (["train", "--dry-run", "--eval-split", "foo"], ["foo", "valid_unseen"]),
        (["train", "--dry-run", "--env", "CartPole-v1"], ["text observation_space"]),
        (["train", "--dry-run", "--estimator", "nowhere:f"], ["nowhere"]),
    ],
)
def test_bad_input_is_two_and_names_the_fix(
    capsys: pytest.CaptureFixture[str], args: list[str], words: list[str]
) -> None:
    status, out, err = run(capsys, *args)
    assert status == 2 and out == ""
    for word in words:
        assert word in err
    assert "Traceback" not in err


def test_debug_shows_where() -> None:
    done = train("--estimator", "grop", "--debug")
    assert done.returncode != 0 and "Traceback" in done.stderr
    done = train("--estimator", "grop", AEM_GYM_DEBUG="1")
    assert done.returncode != 0 and "Traceback" in done.stderr
    assert "Traceback" not in train("--estimator", "grop").stderr


def test_without_torch_the_install_command_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib.util as util; real = util.find_spec\n"
        "util.find_spec = lambda n, *a: None if n == 'torch' else real(n, *a)\n"
        "from aem_gym import cli; sys.exit(cli.run(cli.train, ['--steps', '1'], 'train.py'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert 'pip install "aem-gym[train]"' in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_loads_no_torch() -> None:
    """A dry run does: it tries estimator and loss. What prints a text must not wait for it."""
    code = (
        "import sys; from aem_gym import cli; cli.run(cli.app, ['--help'], 'x');"
        "cli.run(cli.app, ['train', '--help'], 'x'); cli.run(cli.app, ['envs'], 'x');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_command_of_another_package_that_is_broken_breaks_no_other(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "guest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    entries = "[aem_gym.commands]\nguest = no_such_guest:command\nvisitor = json:dumps\n"
    (info / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(str(tmp_path))
    status, out, err = run(capsys, "--help")
    assert status == 0 and "guest" in out and "cannot be imported" in out, err
    assert "visitor" in out
    status, out, err = run(capsys, "guest", "--flag", "x")
    assert status == 2 and out == "" and "No module named 'no_such_guest'" in err
    status, out, err = run(capsys, "visitor")
    assert status == 2 and out == "" and "'visitor': expected a click.Command" in err


def test_the_package_is_a_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aem_gym", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("train", "eval", "play", "replay", "envs", "data", "export", "doctor"):
        assert f"\n  {name} " in done.stdout
    assert set(COMMANDS.names()) <= set(done.stdout.split())


@pytest.mark.parametrize("goal", [[], ["help"]])
def test_make_alone_lists_its_targets(goal: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), *goal],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    shown = {line.split()[1] for line in done.stdout.splitlines()}
    phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[0].split()
    assert shown == set(phony) > {"train", "test", "lint"}
    assert list(tmp_path.iterdir()) == [], "nothing is made"


def test_envs_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "envs")
    assert status == 0
    row = next(line for line in out.splitlines() if line.startswith("aem_gym/ALFWorld-v0"))
    assert len(row.split(maxsplit=1)[1]) > 10


def test_the_expert_plays_and_wins(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["play", "alfworld", "--seed", "3", "--env-arg", "difficulty=small"]
    status, out, _ = run(capsys, *args, "--agent", "expert")
    assert status == 0
    assert "Your task is to" in out and "\n> " in out
    assert out.splitlines()[-1].startswith("[won: ")
    assert run(capsys, *args, "--agent", "expert")[1] == out
    assert run(capsys, *args, "--agent", "random")[1] != out


def test_a_person_plays(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("look\n?\nq\n"))
    status, out, _ = run(capsys, "play", "alfworld", "--env-arg", "difficulty=small")
    assert status == 0
    assert out.count("Your task is to") == 1 and "go to" in out
    assert out.splitlines()[-1].startswith("[not finished: 1 turns")


def record(step: int, rollout: int) -> dict[str, Any]:
    turn = {
        **{"observation": "A door.", "response": "open door", "thought": "", "action": "open door"},
        **{"reward": 1.0, "format_valid": True, "action_valid": False, "cut": False, "tokens": 3},
        **{"response_entropy": 0.25, "surprisal": 1.0},
    }
    credit = {"alpha": 1.5, "base_advantage": 2.0, "advantage": 3.0}
    return {
        **{"step": step, "group": 0, "rollout": rollout, "task_id": "t", "task_type": "k"},
        **{"goal": f"goal {step}.{rollout}", "seed": 1, "won": True, "score": 1.0, "reward": 1.0},
        **{"terminated": True, "truncated": False, "error": None, "dropped": False},
        **{"context": "transcript", "turns": [turn | credit, turn]},
    }


def test_replay_shows_text_and_credit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [json.dumps(record(step, rollout)) for step in (1, 2) for rollout in (0, 1)]
    (tmp_path / "episodes.jsonl").write_text("\n".join(rows) + '\n{"step": 3, "cut off')
    status, out, _ = run(capsys, "replay", str(tmp_path))
    assert status == 0 and "goal 2.0" in out and "goal 2.1" in out and "goal 1" not in out
    assert "> open door" in out
    assert "H 0.250  alpha 1.500  A +2.000 -> +3.000  reward +1  not admitted" in out
    status, out, _ = run(capsys, "replay", str(tmp_path), "--step", "1", "--episode", "1")
    assert status == 0 and "goal 1.1" in out and "goal 1.0" not in out
    status, _, err = run(capsys, "replay", str(tmp_path), "--step", "9")
    assert status == 2 and "steps 1 to 2" in err
    status, _, err = run(capsys, "replay", str(tmp_path), "--episode", "9")
    assert status == 2 and "episodes 0 to 1" in err


def test_what_a_model_wrote_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    written = record(1, 0)
    written["turns"][0]["response_entropy"] = None
    written["turns"][0]["response"] = "go\x1b[2J\x00 \ud800é\n"
    (tmp_path / "episodes.jsonl").write_text(json.dumps(written) + "\n")
    status, out, _ = run(capsys, "replay", str(tmp_path))
    assert status == 0 and "> go\\x1b[2J\\x00 \\ud800é\n" in out


def extras() -> dict[str, list[str]]:
    """The optional dependencies of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, list[str]] = project["optional-dependencies"]
    return found


def test_doctor_reports_and_never_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    status, out, _ = run(capsys, "doctor")
    assert status == 0
    found = {line[3:].split()[0]: line for line in out.splitlines()}
    assert found["gymnasium"].startswith("ok")
    assert found["cache"].startswith("--") and "AEM_GYM_CACHE" in found["cache"]
    assert found["docker"].startswith("--")
    advised = {
        extra for line in out.splitlines() for extra in re.findall(r"aem-gym\[(\w+)\]", line)
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert advised <= set(extras), "advice is for what works"


def test_doctor_looks_for_what_an_extra_installs() -> None:
    """What it calls missing is what its advice would install."""
    from aem_gym.commands.doctor import _EXTRAS

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for extra, packages in _EXTRAS.items():
        installed = {re.split(r"[^\w-]", requirement)[0] for requirement in extras[extra]}
        assert set(packages) <= installed, extra


SMALL = (
    *("--groups", "2", "--group-size", "2", "--eval-episodes", "2"),
    *("--warmstart-steps", "2", "--warmstart-episodes", "10", "--max-new-tokens", "4"),
    *("--threads", "1", "--loggers", "[]"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A real, very short run in its folder, and what it printed on stdout."""
    run = tmp_path_factory.mktemp("runs") / "run"
    done = train(*SMALL, "--steps", "2", "--out", str(run))
    assert done.returncode == 0, done.stderr
    return run, done.stdout


def test_stdout_is_the_summary_alone(trained: tuple[Path, str]) -> None:
    run, out = trained
    summary = json.loads(out)
    keys = (
        "success_before success_after success_gain score_before score_after score_gain steps "
        "seconds aem_share run"
    )
    assert set(summary) == set(keys.split())
    assert summary["steps"] == 2 and Path(summary["run"]) == run
    assert 0 <= summary["success_after"] <= 1 and 0 <= summary["aem_share"] <= 1


def test_the_run_can_be_read_and_evaluated(
    capsys: pytest.CaptureFixture[str], trained: tuple[Path, str], tmp_path: Path
) -> None:
    run_folder = str(trained[0])
    status, out, err = run(capsys, "replay", run_folder)
    assert status == 0, err
    assert out.count("=== step 2, episode") == 4 and "alpha" in out
    scores = tmp_path / "scores.json"
    args = ["--episodes", "3", "--split", "train", "--temperature", "0", "--out", str(scores)]
    status, out, err = run(capsys, "eval", run_folder, *args)
    assert status == 0, err
    assert {"run", "random", "expert"} <= {line.split(" ")[0] for line in out.splitlines()}
    assert "split=train" in out and "temperature=0.0" in out
    assert set(json.loads(scores.read_text())["results"]) == {"run", "random", "expert"}
    status, out, err = run(
        capsys, "play", "alfworld", "--agent", run_folder, "--env-arg", "difficulty=small"
    )
    assert status == 0, err


def test_a_used_folder_needs_resume_and_a_finished_run_says_so(trained: tuple[Path, str]) -> None:
    run, out = trained
    refused = train(*SMALL, "--steps", "2", "--out", str(run))
    assert refused.returncode == 2 and "--resume" in refused.stderr and refused.stdout == ""
    again = train("--resume", "--out", str(run))
    assert again.returncode == 0 and "finished" in again.stderr
    assert json.loads(again.stdout) == json.loads(out)
    other = train("--resume", "--out", str(run), "--groups", "3")
    assert other.returncode == 2 and "groups (2 then, 3 now)" in other.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, a scheduler, or a lost connection."""
    run = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "train.py", *SMALL, "--steps", "500", "--out", str(run)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # nohup ignores it
    ) as child:
        try:
            deadline = time.monotonic() + 120
            metrics = run / "metrics.jsonl"
            while not (metrics.is_file() and metrics.stat().st_size):
                assert child.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            child.send_signal(number)
            out, err = child.communicate(timeout=60)
        finally:
            child.kill()
    assert (child.returncode, out) == (130, ""), err
    assert f"--resume --out {run}" in err and "Traceback" not in err
    saved = CheckpointStore(run).latest()
    assert saved is not None and saved.step >= 1
