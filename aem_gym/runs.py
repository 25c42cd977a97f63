"""The folder of a run: its claim, its settings, and its checkpoints.

A checkpoint is a folder `RUN/checkpoints/step-000010/` with the files of whoever saves, and a
manifest: step, meta data, versions, size and SHA-256 of each file. It is whole or absent, and
damage is noticed. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import logging
import platform
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import msgspec

from aem_gym.config import Config
from aem_gym.errors import CheckpointError, ConfigError, OutputError
from aem_gym.io import atomic_folder, atomic_write, explained, tidy_folder
from aem_gym.settings import CONFIG_NAME, load_config
from aem_gym.types import PromptTemplate
from aem_gym.yaml_io import dump_yaml

logger = logging.getLogger(__name__)

METRICS, EVALUATIONS = "metrics.jsonl", "evaluations.jsonl"
TEMPLATE, SUMMARY = "prompt_template.json", "summary.json"
ADAPTER, BASE = "adapter", "model"
"""Folders: what was trained, and the base model where it exists nowhere else."""
START = "start"
"""Folder of the adapter that RL began with, where one was given or cloned."""
BASE_MARK = "base.txt"
"""File with the fingerprint of a pretrained base model."""
LOCK_NAME = ".lock"
MANIFEST = "manifest.json"
_CHUNK = 1 << 20


def resume_command(folder: Path) -> str:
    """The command that continues a run."""
    return f"python train.py --resume --out {shlex.quote(str(folder))}"


def run_config(folder: Path) -> Config:
    """The configuration of a run. Raises CheckpointError if `folder` is not one."""
    if not (folder / CONFIG_NAME).is_file():
        whole = next((p for p in folder.resolve().parents if (p / CONFIG_NAME).is_file()), None)
        advice = f"Train one with: python train.py --out {shlex.quote(str(folder))}"
        if whole is not None:
            advice = f"It is a part of the run {whole}: give that"
        raise CheckpointError(f"{folder} is not a run: it has no {CONFIG_NAME}. {advice}")
    return load_config(folder / CONFIG_NAME)


def run_template(folder: Path) -> PromptTemplate:
    """The prompt template a run was trained with. Raises CheckpointError where there is none."""
    path, older = folder / TEMPLATE, folder / "recipe.json"  # as it was called before 0.2
    try:
        if older.exists() and not path.exists():
            values = msgspec.json.decode(older.read_bytes(), type=dict[str, Any])
            values["reward_source"] = values.pop("learn_from", "return")
            return msgspec.convert(values, PromptTemplate)
        return msgspec.json.decode(path.read_bytes(), type=PromptTemplate)
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): the run ended before or in its warm start. "
            f"Continue it with: {resume_command(folder)}"
        ) from error


def run_adapter(folder: Path) -> Path:
    """The newest adapter of a run. Raises CheckpointError where there is none yet."""
    if (folder / ADAPTER).is_dir():
        return folder / ADAPTER
    checkpoint = CheckpointStore(folder).latest()
    if checkpoint is None:
        raise CheckpointError(
            f"{folder} holds no adapter and no checkpoint yet. Continue the run with: "
            f"{resume_command(folder)}"
        )
    return checkpoint.folder / ADAPTER


# Going on with a run ----------------------------------------------------------------------------

_MAY_CHANGE = {
    *("out", "resume", "steps", "device", "threads", "workers", "step_timeout", "save_every"),
    *("keep_checkpoints", "loggers", "micro_batch", "micro_batch_tokens", "card"),
    *(
        "gradient_checkpointing",
        "shard_base",
        "reset_timeout",
        "max_concurrent_episodes",
        "sampler_url",
    ),
    *("replan", "breaker", "max_bad_steps", "breaker_wait", "patience"),
    *("compress_episodes", "keep_episodes"),
}
"""Settings that may differ on resume. Some change results by rounding: `device`, `threads`,
`micro_batch`, `micro_batch_tokens`, `gradient_checkpointing`, `max_concurrent_episodes`,
`shard_base`."""
_WHY_STEPS = (
    " The learning rate of a {schedule} schedule depends on the number of steps: it was to come "
    "down to its end with step {then}. Add --replan to plan it anew, as in a run of {now} steps, "
    "from here on (with lr_schedule constant steps may always change)"
)


def how_to_go_on(store: CheckpointStore) -> str:
    """What is saved of a run, and the command that continues it."""
    step = max(store.steps(), default=0)
    saved = f"Step {step} is saved" if step else "No step is saved yet"
    return f"{saved}. Continue with: {resume_command(store.run)}"


def how_to_go_on_otherwise(store: CheckpointStore) -> str:
    """The same where settings may have to change, of which most belong to a run for good."""
    run, step = shlex.quote(str(store.run)), max(store.steps(), default=0)
    weights = f", which may begin with these weights (--adapter {run})" if step else ""
    return f"{how_to_go_on(store)} once the cause is gone; other settings need a new run{weights}"


def _shown(value: object) -> str:
    return "unset" if value is None else repr(value)


def check_resume(saved: Config, now: Config) -> None:
    """May a run begun with `saved` continue with `now`? Only what changes no result may differ.

    Raises:
        ConfigError: other settings differ; names them with both values.
    """
    planned = saved.lr_schedule != "constant" and not now.replan
    free = _MAY_CHANGE - ({"steps"} if planned else set())
    differing = [
        f"{name} ({_shown(getattr(saved, name))} then, {_shown(getattr(now, name))} now)"
        for name in vars(saved)
        if name not in free and dump_yaml(getattr(saved, name)) != dump_yaml(getattr(now, name))
    ]
    about = {"schedule": saved.lr_schedule, "then": saved.steps, "now": now.steps}
    if differing:
        raise ConfigError(
            f"--resume: the run in {now.run_folder} was begun with other settings: "
            f"{'; '.join(differing)}. Leave those flags out, or start a new run with another --out."
            + (_WHY_STEPS.format(**about) if planned and saved.steps != now.steps else "")
        )


def check_base(run: Path, fingerprint: str) -> None:
    """Note the fingerprint of the base model in a new run; compare it in one that goes on.

    Raises:
        CheckpointError: the model has changed, so that the adapter would mean something else.
    """
    mark = run / BASE_MARK
    noted = mark.read_text(encoding="utf-8") if mark.is_file() else ""
    if not noted:
        atomic_write(mark, fingerprint)
    elif fingerprint not in ("", noted):
        raise CheckpointError(
            f"{run}: the base model has other weights now than when the run began. Put those back "
            "that it was begun with, or start a new run with another --out"
        )


def run_summary(run: Path) -> dict[str, Any] | None:
    """The summary of a finished run; None if it cannot be read, and is then written again."""
    try:
        found = json.loads((run / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_finished(checkpoint: Checkpoint, config: Config) -> bool:
    """Whether there is no step left, or the evaluations had ended the run before."""
    stale = int(checkpoint.meta.get("stale", 0))
    return checkpoint.step >= config.steps or 0 < config.patience <= stale


def remove_results(run: Path) -> None:
    """Remove what an earlier end of this run left; its checkpoint holds the same adapter."""
    (run / SUMMARY).unlink(missing_ok=True)
    shutil.rmtree(run / ADAPTER, ignore_errors=True)


@dataclass(frozen=True)
class Claim:
    """A run's folder, held by this process until `release` or the process ends."""

    folder: Path
    resuming: bool
    """True if there are checkpoints to go on from."""
    lock: IO[bytes]
    fresh: bool = False
    """True if the folder was empty, so that all in it is this process's own."""

    def withdraw(self) -> None:
        """Empty a fresh folder again, which frees its name: the run did not start."""
        if not self.fresh:
            return
        for item in self.folder.iterdir():
            if item.is_dir():
                shutil.rmtree(item, ignore_errors=True)
            else:
                item.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def release(self) -> None:
        """Let another process have the folder."""
        self.lock.close()


def claim_output(folder: str | Path, resume: bool) -> Claim:
    """Make the folder of a run, or take one up again.

    Args:
        folder: where the run's files go.
        resume: whether a used folder is welcome.

    Raises:
        OutputError: the folder is used and `resume` is false; it holds something else than a
            run; another process is using it; or it cannot be written.
    """
    folder = Path(folder)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        used = any(item.name != LOCK_NAME for item in folder.iterdir())
        if used and not resume:
            raise OutputError(
                f"{folder} is in use already. Go on with that run: {resume_command(folder)}. "
                "Or start a new one in another folder: --out FOLDER"
            )
        if used and not (folder / "config.yaml").is_file():
            raise OutputError(
                f"{folder} holds files but no config.yaml, so it is not a run to go on with. "
                "Choose another folder with --out"
            )
        lock = _lock(folder)
    resuming = any((folder / "checkpoints").glob("step-*"))
    if resume and not resuming:
        logger.warning("%s holds no checkpoint: starting from the beginning", folder)
    return Claim(folder, resuming, lock, fresh=not used)


def check_begun(folder: Path) -> None:
    """Raise OutputError where there is no run in `folder` to go on with; names those beside it."""
    with contextlib.suppress(OSError):
        if any(item.name != LOCK_NAME for item in folder.iterdir()):
            return
    raise OutputError(f"--resume: there is no run in {folder}. {_near_runs(folder)}")


def _near_runs(folder: Path) -> str:
    """What there is beside a folder that is not there, in a sentence."""
    beside = sorted(path.parent.name for path in folder.parent.glob(f"*/{CONFIG_NAME}"))
    near = difflib.get_close_matches(folder.name, beside, n=1, cutoff=0.5)
    guess = f"Did you mean --out {shlex.quote(str(folder.parent / near[0]))}? " if near else ""
    shown = ", ".join(beside[:8]) + (", ..." if len(beside) > 8 else "")
    there = f"Runs in {folder.parent}: {shown or 'none'}. "
    return f"{guess}{there}Without --resume a new run begins there"


def _lock(folder: Path) -> IO[bytes]:
    """Hold the folder's lock file; the system lets go of it when the process ends."""
    stream = (folder / LOCK_NAME).open("ab")
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # not a POSIX system: no lock there
        pass
    except BlockingIOError:
        stream.close()
        raise OutputError(
            f"{folder} is being written by another process. Wait for it, or choose another --out"
        ) from None
    return stream


@dataclass(frozen=True)
class Checkpoint:
    step: int
    folder: Path
    meta: Mapping[str, Any]
    """What the saver noted beside its files."""
    versions: Mapping[str, str]
    """Package -> version that wrote it."""


class CheckpointStore:
    """The checkpoints of one run, of which the newest `keep` are kept, and that of step `spare`."""

    def __init__(self, run: str | Path, keep: int = 2, spare: int | None = None) -> None:
        self.run, self.folder, self.keep = Path(run), Path(run) / "checkpoints", keep
        self.spare = spare

    def steps(self) -> list[int]:
        """Steps that have a checkpoint folder, whole or damaged, ascending."""
        return sorted(
            int(item.name[5:])
            for item in self.folder.glob("step-*")
            if item.is_dir() and item.name[5:].isdigit()
        )

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def save(
        self, step: int, write: Callable[[Path], None], meta: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        """Save a checkpoint and drop the oldest beyond `keep`.

        Args:
            step: RL steps done.
            write: writes its files into the folder it is given.
            meta: JSON values to find again in `Checkpoint.meta`.

        Raises:
            OutputError: the disk does not take it; earlier checkpoints are untouched.
        """
        with atomic_folder(self.path(step)) as folder:
            write(folder)
            content = {
                "step": step,
                "meta": dict(meta or {}),
                "versions": _versions(),
                "files": {name: _describe(folder / name) for name in _files(folder)},
            }
            text = json.dumps({"content": content, "sha256": _digest(content)}, indent=1)
            (folder / MANIFEST).write_text(text, encoding="utf-8")
        older = [other for other in self.steps() if other not in (step, self.spare)]
        for other in older[: max(0, len(older) + 1 - self.keep)]:
            shutil.rmtree(self.path(other), ignore_errors=True)
        return _checkpoint(self.path(step), content)

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of `step`, every file verified.

        Raises:
            CheckpointError: it is missing or damaged; names the file and what is wrong.
        """
        folder = self.path(step)
        content = _manifest(folder)
        for name, expected in content["files"].items():
            _verify(folder / name, expected)
        return _checkpoint(folder, content)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint; None if there has never been one. Changes nothing.

        Raises:
            CheckpointError: there are checkpoints, but all are damaged.
        """
        damaged = self.steps()
        for step in reversed(damaged):
            try:
                return self.load(step)
            except CheckpointError as error:
                logger.warning("%s. Using the checkpoint before it", error)
        if damaged:
            raise CheckpointError(
                f"all checkpoints in {self.folder} are damaged (steps "
                f"{', '.join(map(str, damaged))}). Start a new run with another --out, or delete "
                f"{self.folder} and give --resume to make this run again from the beginning"
            )
        return None

    def recover(self) -> Checkpoint | None:
        """`latest`, for the process that continues the run: also tidies up.

        Leftovers of interrupted saves are removed; damaged checkpoints newer than the one that
        is used are set aside as `step-N.damaged`.

        Raises:
            CheckpointError: there are checkpoints, but all are damaged.
        """
        for leftover in (*self.folder.glob(".step-*.tmp"), *self.folder.glob(".step-*.old")):
            tidy_folder(self.folder / leftover.stem[1:])
        found = self.latest()
        for step in self.steps():
            if found is not None and step > found.step:
                aside = self.path(step).with_suffix(".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                self.path(step).replace(aside)
        return found


def _checkpoint(folder: Path, content: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(content["step"], folder, content["meta"], content["versions"])


def _files(folder: Path) -> list[str]:
    """Relative paths of all files below `folder`, the manifest left out."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name != MANIFEST)


def _describe(path: Path) -> dict[str, Any]:
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total.update(chunk)
    return {"size": path.stat().st_size, "sha256": total.hexdigest()}


def _digest(content: Any) -> str:
    """SHA-256 of JSON values in canonical form."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _manifest(folder: Path) -> Any:
    """The content of a checkpoint's manifest, verified."""
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_bytes())
        content, expected = document["content"], document["sha256"]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged: not a manifest ({error})") from error
    if _digest(content) != expected:
        raise CheckpointError(f"{path}: damaged: its content does not match its SHA-256")
    return content


def _verify(path: Path, expected: Mapping[str, Any]) -> None:
    try:
        size = path.stat().st_size
        if size != expected["size"]:
            raise CheckpointError(f"{path}: damaged: expected {expected['size']} bytes, got {size}")
        if _describe(path)["sha256"] != expected["sha256"]:
            raise CheckpointError(f"{path}: damaged: its content does not match its SHA-256")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _versions() -> dict[str, str]:
    """Versions of the software that decides whether a checkpoint can be read again."""
    found = {"python": platform.python_version()}
    for package in ("aem-gym", "torch", "transformers", "peft"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
