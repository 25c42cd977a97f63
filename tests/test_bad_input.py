"""What goes wrong for a user ends in one line that names the fix, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aem_gym import cli
from aem_gym.errors import OutputError
from aem_gym.io import explained
from aem_gym.runs import CheckpointStore
from tests.training.runs import flags, result_files, train_process
from tests.training.runs import run as train

MODULE = Path(__file__).stem


def command(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """Status and stderr of `aem-gym ARGS`, in this process; stdout must stay empty."""
    status = cli.run(cli.app, list(args), "aem-gym")
    out = capsys.readouterr()
    assert out.out == "" and "Traceback" not in out.err
    return status, out.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that came to its end."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, eval_every=0, steps=2)
    return folder


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--set", "modulator_options.lamb=1"], ["modulator_options", "'lam'", "threshold"]),
        (["--set", "estimator_options.normalize=1"], ["estimator_options", "'normalise'"]),
        (["--set", "loss_options.clip_hi=1"], ["loss_options", "'clip_high'", "dual_clip"]),
        (["--set", "model_options.hiden=64"], ["model_options", "'hidden'", "vocab_size"]),
        (["--set", "model_options.heads=5"], ["model_options.hidden", "multiple of", "64"]),
        (["--set", "model_options.layers=-3"], ["model_options.layers", "above 0", "-3"]),
        (["--set", "model_options.layers=two"], ["model_options.layers", "int", "'two'"]),
        (["--env-arg", "difficulty=tiny"], ["difficulty", "'tiny'", "full, small"]),
        (["--eval-split", "test"], ["split", "valid_unseen"]),
        (["--env", "no_such_package:Foo-v0"], ["no_such_package", "Install it"]),
        (["--env", f"{MODULE}_broken:Foo-v0"], ["SyntaxError", "correct"]),
        (["--model", ""], ["unknown model ''"]),
        (["--warmstart", "none"], ["--warmstart", "auto"]),
    ],
)
def test_a_wrong_setting_is_reported_at_once_and_leaves_no_folder(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    words: list[str],
) -> None:
    (tmp_path / f"{MODULE}_broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run = tmp_path / "run"
    status, err = command(capsys, "train", *flags(run), *args)
    assert status == 2
    for word in words:
        assert word in err
    assert "demonstrations" not in err, "nothing may be played before"
    assert not run.exists(), "the corrected command must find the folder free"


def test_a_device_that_is_not_there_is_reported_before_anything_is_played(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status, err = command(capsys, "train", *flags(tmp_path / "run", device="cuda"))
    assert status == 2 and "device=cpu" in err
    assert "demonstrations" not in err and not (tmp_path / "run").exists()


def test_scores_that_cannot_be_kept_are_not_made(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for wrong in (["--out", str(tmp_path / "file" / "a.json")], ["--temperature", "nan"]):
        status, err = command(capsys, "eval", str(finished), "--episodes", "2", *wrong)
        assert status == 2 and err.startswith("error: "), err
        assert wrong[0].strip("-") in err


def test_an_unreadable_summary_is_made_again(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "summary.json").write_text("garb")
    summary = train(run, eval_every=0, steps=2, resume=True)
    assert summary["steps"] == 2
    assert json.loads((run / "summary.json").read_text()) == summary
    assert result_files(run) == result_files(finished)


def test_a_disk_that_fills_up_is_one_line_and_loses_nothing(finished: Path, tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the system refuses to write on, too."""
    run = tmp_path / "run"
    limit = max(file.stat().st_size for file in (finished / "model").iterdir()) + 1000

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    changes: dict[str, Any] = {"eval_every": 0, "steps": 40, "token_samples": "all"}
    with train_process(flags(run, **changes), preexec_fn=bound) as child:
        out, err = child.communicate(timeout=200)
    assert (child.returncode, out) == (2, ""), err
    assert err.splitlines()[-1].startswith("error: cannot write ") and "Traceback" not in err
    saved = CheckpointStore(run).latest()
    assert saved is not None and saved.step < 40
    rest = saved.step + 1
    whole = train(tmp_path / "whole", **{**changes, "steps": rest})
    again = train(run, **{**changes, "steps": rest}, resume=True)
    assert (whole["steps"], again["steps"]) == (rest, rest)
    assert result_files(run) == result_files(tmp_path / "whole")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_known_however_a_library_says_it(error: Exception) -> None:
    said = r"cannot write x: the disk is full\. Free some space"
    with pytest.raises(OutputError, match=said), explained(Path("x")):
        raise error


def test_other_errors_are_not_taken_for_the_disks() -> None:
    with pytest.raises(ZeroDivisionError), explained(Path("x")):
        raise ZeroDivisionError


def test_worker_processes_say_nothing_of_ids_registered_twice(tmp_path: Path) -> None:
    (tmp_path / "twice_env.py").write_text(
        "import gymnasium as gym\n"
        "from aem_gym.spaces import TextSpace\n"
        "class Twice(gym.Env):\n"
        "    observation_space = action_space = TextSpace()\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return 'hello', {}\n"
        "gym.register('twice/Twice-v0', entry_point='twice_env:Twice')\n"
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from aem_gym.rollout.pool import EnvPool, EnvSpec\n"
        "if __name__ == '__main__':\n"
        "    with EnvPool(EnvSpec('twice_env:twice/Twice-v0', {}), workers=1) as pool:\n"
        "        print(pool.reset([(0, 1, None)])[0].observation)\n"
    )
    script = tmp_path / "main.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("hello\n", ""), done.stderr
