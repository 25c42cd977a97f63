"""The parts of image building that need no engine."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import pytest

from aem_gym.envs.swe.images.builder import _failed, _lines
from aem_gym.envs.swe.images.host import (
    FOLDER,
    check_debootstrap,
    find_interpreter,
    host_settings,
    pack,
    pip_settings,
)
from aem_gym.envs.swe.sandbox.base import SandboxError

CONFIG = """\
:env:.default-timeout='180'
:env:.index-url='https://own.example/simple'
:env:.find-links='/opt/wheels'
global.cert='/etc/ssl/ca.crt'
global.extra-index-url='file:///opt/simple https://more.example/simple\\nhttp://third.example'
global.index-url='https://other.example/simple'
global.trusted-host='third.example'
"""


def test_pip_gets_the_settings_that_hold_elsewhere_too() -> None:
    assert pip_settings(CONFIG) == {
        "PIP_DEFAULT_TIMEOUT": "180",
        "PIP_INDEX_URL": "https://own.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://more.example/simple http://third.example",
        "PIP_TRUSTED_HOST": "third.example",
    }
    assert pip_settings("") == {}


def test_certificates_and_proxies_are_taken_over_if_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GIT_SSL_CAINFO", raising=False)
    assert host_settings().files == {}
    bundle = tmp_path / "ca.crt"
    bundle.write_text("certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    settings = host_settings()
    assert settings.files == {"ca.crt": b"certificate"}
    assert settings.environment["PIP_CERT"] == f"{FOLDER}/ca.crt"
    assert settings.environment["https_proxy"] == "http://proxy.example:3128"


def test_an_interpreter_is_packed_without_what_it_does_not_need() -> None:
    version = "{}.{}".format(*sys.version_info[:2])
    try:
        found = find_interpreter(version)
    except SandboxError as error:
        assert "pyenv install" in str(error)
        pytest.skip(f"no Python {version} of a prefix of its own")
    with pack(found) as stream, tarfile.open(fileobj=stream) as archive:
        names = archive.getnames()
        assert {entry.uid for entry in archive.getmembers()} == {0}
    assert f"bin/python{version}" in names and f"lib/python{version}/os.py" in names
    assert not [name for name in names if "site-packages" in name or "/test/" in name]
    with pytest.raises(SandboxError, match=r"no Python 2\.1 .*pyenv install 2\.1"):
        find_interpreter("2.1")


def test_debootstrap_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        with pytest.raises(SandboxError, match="sudo"):
            check_debootstrap("bookworm")
        return
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match="apt-get install debootstrap"):
        check_debootstrap("bookworm")


def test_output_is_cut_into_lines_whatever_the_chunks() -> None:
    chunks = [b"one\r\ntw", b"o\n\n", b"\x1b[31mred\x1b[0m", b" end\r", b"\xff last"]
    assert list(_lines(chunks)) == ["one", "two", "red end", "\ufffd last"]


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("Temporary failure in name resolution", "AEM_SWE_BUILD_NETWORK=host"),
        ("SSL: CERTIFICATE_VERIFY_FAILED", "PIP_CERT=FILE"),
        ("No space left on device", "images prune"),
    ],
)
def test_a_failure_comes_with_advice(line: str, advice: str) -> None:
    told = _failed("install it", 1, [line])
    assert told.startswith("install it: exit code 1\n") and line in told and advice in told
