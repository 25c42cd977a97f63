"""How the repositories of SWE-bench are installed and tested: facts, by repository and version.

Of pytest, sympy and flask they are known here; of the others through the extra `swebench`, whose
prebuilt images then need no installation at all.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aem_gym.errors import ConfigError, MissingDependencyError

_PYTEST_RUN = "python -m pytest --junitxml={report}"
_SYMPY_RUN = "PYTHONWARNINGS=ignore::UserWarning,ignore::SyntaxWarning bin/test -C --verbose"


@dataclass(frozen=True, slots=True)
class InstallSpec:
    """How one version of a repository is installed and tested."""

    python: str
    pins: tuple[str, ...]
    """Requirements that hold at the time of the version."""
    test_command: str
    """Test files are appended; `{report}` as in `SweTask.test_command`."""
    before: tuple[str, ...] = ()
    """Shell commands before the installation."""
    scm_version: bool = False
    """Its version comes from tags, which a checkout of one commit has not."""

    def install(self, version: str) -> tuple[str, ...]:
        """The shell commands that install the repository in its folder."""
        told = f"SETUPTOOLS_SCM_PRETEND_VERSION={version}.0 " if self.scm_version else ""
        pins = " ".join(f"'{pin}'" for pin in self.pins)
        return (
            *self.before,
            f"{told}python -m pip install -e .",
            f"python -m pip install {pins}",
        )


# Later ones warn where `pkg_resources` is imported, and tests take warnings for errors.
_SETUPTOOLS = "setuptools==68.0.0"


def _pytest(*pins: str, before: tuple[str, ...] = ()) -> InstallSpec:
    return InstallSpec("3.9", (_SETUPTOOLS, *pins), _PYTEST_RUN, before, scm_version=True)


def _flask(python: str, click: str, jinja: str, markup: str) -> InstallSpec:
    tools = ("pytest==7.4.4", "asgiref==3.7.2", "blinker==1.6.2", "python-dotenv==1.0.0")
    pins = (f"click=={click}", f"Jinja2=={jinja}", f"MarkupSafe=={markup}", "itsdangerous==2.1.2")
    return InstallSpec(
        python, ("setuptools==70.0.0", "Werkzeug==2.3.7", *pins, *tools), _PYTEST_RUN
    )


_ATTRS, _MORE, _PY = "attrs==23.1.0", "more-itertools==10.1.0", "py==1.11.0"
_OLD = ("atomicwrites==1.4.1", _ATTRS, _MORE, _PY, "six==1.16.0")
_PLUGGY, _PACKAGING, _INI = "pluggy==0.13.1", "packaging==23.1", "iniconfig==2.0.0"
_WCWIDTH, _TOML = "wcwidth==0.2.6", "toml==0.10.2"
_FIVE = (_ATTRS, _MORE, _PACKAGING, _PLUGGY, _PY)
_SIX = (_ATTRS, _INI, _PACKAGING, _PLUGGY, _PY)
_EIGHT = (_INI, _PACKAGING, "pluggy==1.3.0", "exceptiongroup==1.1.3", "tomli==2.0.1", _ATTRS)

_PYTEST: dict[str, InstallSpec] = {
    "4.4": _pytest(*_OLD, _PLUGGY),
    "4.5": _pytest(*_OLD, "pluggy==0.11.0", _WCWIDTH),
    "4.6": _pytest(*_OLD, _PLUGGY, _PACKAGING, _WCWIDTH),
    **dict.fromkeys(("5.0", "5.1", "5.2"), _pytest(*_FIVE, "atomicwrites==1.4.1", _WCWIDTH)),
    "5.3": _pytest(*_FIVE, _WCWIDTH),
    "5.4": _pytest(*_FIVE),
    "6.0": _pytest(*_SIX, _MORE, _TOML),
    "6.2": _pytest(*_SIX, _TOML),
    "6.3": _pytest(*_SIX, _TOML, before=("sed -i 's/>=>=/>=/' setup.cfg",)),
    "7.0": _pytest(*_SIX),
    **dict.fromkeys(("7.1", "7.2"), _pytest(*_SIX, "tomli==2.0.1")),
    **dict.fromkeys(("7.4", "8.0", "8.1", "8.2", "8.3", "8.4"), _pytest(*_EIGHT)),
}
_SYMPY = InstallSpec("3.9", (_SETUPTOOLS, "mpmath==1.3.0"), _SYMPY_RUN)
_NEW_FLASK = _flask("3.11", "8.1.3", "3.1.2", "2.1.1")

RECIPES: Mapping[str, Mapping[str, InstallSpec]] = MappingProxyType(
    {
        "pytest-dev/pytest": _PYTEST,
        "sympy/sympy": {f"1.{minor}": _SYMPY for minor in range(15)} | {"0.7": _SYMPY},
        "pallets/flask": {
            "2.0": _flask("3.9", "8.0.1", "3.0.1", "2.1.3"),
            "2.1": _flask("3.10", "8.1.3", "3.1.2", "2.1.1"),
            **dict.fromkeys(("2.2", "2.3", "3.0", "3.1"), _NEW_FLASK),
        },
    }
)
"""Repository -> version -> recipe."""


def find_recipe(repo: str, version: str) -> InstallSpec:
    """The recipe of a version of a repository.

    Raises:
        ConfigError: it is not known here; says what is.
    """
    versions = RECIPES.get(repo)
    if versions is None:
        known = ", ".join(sorted(RECIPES))
        raise ConfigError(
            f"expected a repository that can be built here ({known}), got {repo}. Leave out "
            "--mirrors to use SWE-bench's prebuilt images"
        )
    if version not in versions:
        known = ", ".join(versions)
        raise ConfigError(f"expected a version of {repo} among {known}, got {version!r}")
    return versions[version]


def official_command(repo: str, version: str) -> str:
    """The test command of a repository from the extra `swebench`; empty: it knows none.

    Raises:
        MissingDependencyError: the extra is not installed.
    """
    try:
        constants = importlib.import_module("swebench.harness.constants")
    except ImportError as error:
        purpose = f"the test command of {repo} {version}"
        raise MissingDependencyError("swebench", "swebench", purpose) from error
    specs = constants.MAP_REPO_VERSION_TO_SPECS
    command = specs.get(repo, {}).get(version, {}).get("test_cmd", "")
    return str(command[-1] if isinstance(command, list) else command)
