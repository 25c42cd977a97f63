"""What holds for all tests: no network, one thread, a cache of their own.

Modules that need an optional package are skipped as a whole where it is missing.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiny import Tiny, make_tiny_policy
from tests.training.runs import flags, train_process

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a script's background job. Processes that tests start and interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No timing assertion in tests: a busy machine is not an error.
settings.register_profile("aem-gym", deadline=None)
settings.load_profile("aem-gym")

_CACHE = None
if "AEM_GYM_CACHE" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="aem-gym-tests-")
    os.environ["AEM_GYM_CACHE"] = _CACHE.name


ROOT = Path(__file__).parent
_TRAIN = 'pip install "aem-gym[train]"'
NEEDS = {
    "torch": (
        _TRAIN,
        ("agents", "credit", "integrations", "training", "test_bad_input.py", "test_docs.py")
        + ("test_evaluation.py", "test_logprobs.py", "test_presets.py", "test_public.py"),
    ),
}
"""Optional package -> the command that installs it, and the folders and files that need it."""


class _Skipped(pytest.Module):
    """A module that is not imported, because a package is missing that it needs."""

    reason = ""

    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip(self.reason, allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """Skip a module as a whole where an optional package is missing, naming the fix."""
    for package, (fix, places) in NEEDS.items():
        here = any(module_path.is_relative_to(ROOT / place) for place in places)
        if here and importlib.util.find_spec(package) is None:
            module = _Skipped.from_parent(parent, path=module_path)
            module.reason = f"needs {package}: {fix}"
            return module
    return None


@cache
def _no_engine() -> str:
    """Why no container engine answers; empty if one does. Asked once for all tests."""
    from aem_gym.envs.swe.sandbox.base import SandboxError
    from aem_gym.envs.swe.sandbox.engines import open_engine

    try:
        open_engine("auto").close()
    except SandboxError as error:
        return f"needs a container engine: {error}"
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `docker` where no engine answers, unless AEM_REQUIRE_DOCKER=1 wants one.

    Those marked `engines` are slow, and run where `-m engines` asks for them.
    """
    if item.get_closest_marker("engines") and "engines" not in item.config.option.markexpr:
        pytest.skip("slow: make test-engines")
    if item.get_closest_marker("docker") and not os.environ.get("AEM_REQUIRE_DOCKER"):
        reason = _no_engine()
        if reason:
            pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _remove_cache() -> Iterator[None]:
    yield
    if _CACHE is not None:
        _CACHE.cleanup()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data named by AEM_TEST_DATA; skips where there is none."""
    folder = os.environ.get("AEM_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the folder of real data: set AEM_TEST_DATA")
    return Path(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished uninterrupted run, made by train.py; do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    process = train_process(flags(folder), cwd=folder.parent)
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    (folder.parent / "stdout").write_text(stdout)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny policy cloned from a few demonstrations (tests/tiny.py)."""
    return make_tiny_policy(tmp_path_factory.mktemp("tiny") / "model")
