"""`aem-gym play aem_gym/WebShop-v0 --web` in a real browser, as a person uses it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import gymnasium as gym
import pytest

import aem_gym  # noqa: F401  registers the environments
from tests.test_cli import run

pytest.importorskip("selenium", reason='pip install "aem-gym[dev]"')

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

ENV, SEED = "aem_gym/WebShop-v0", 5
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs Chromium and its driver: apt-get install chromium chromium-driver",
)


@contextmanager
def playing(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address that it prints."""
    command = [
        sys.executable,
        "-m",
        "aem_gym.cli",
        "play",
        ENV,
        "--web",
        "--no-open",
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        [*command, "--seed", str(SEED), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address is not None, process.communicate()[1]
        yield process, address[0]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    with playing() as (_, address):
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.add_argument("--headless=new")
    if os.geteuid() == 0:  # root's Chromium has no sandbox
        options.add_argument("--no-sandbox")
    options.add_experimental_option(
        "prefs", {"profile.managed_default_content_settings.javascript": 2}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def reads(browser: Chrome, selector: str, text: str) -> None:
    """Wait until an element reads so.

    The page may be replaced between finding an element and reading it. The driver reports that
    under several names, not as a stale element alone.
    """
    wait = WebDriverWait(browser, 20, 0.05, [WebDriverException])
    wait.until(lambda _: text in [found.text for found in every(browser, selector)], f"no {text!r}")


def every(browser: Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def click(browser: Chrome, action: str, turn: int) -> None:
    """Click what sends an action, and see that it was sent."""
    every(browser, f'button[value="{action}"]')[0].click()
    reads(browser, f".steps li:nth-child({turn}) code", action)


def is_gone(element: WebElement) -> bool:
    """Whether its page was replaced, by whatever name the driver reports that (see `reads`)."""
    try:
        element.is_enabled()
    except WebDriverException:
        return True
    return False


def start(browser: Chrome, seed: int) -> None:
    field = every(browser, "#seed")[0]
    field.clear()
    field.send_keys(str(seed))
    field.submit()
    WebDriverWait(browser, 20, 0.05).until(lambda _: is_gone(field))
    reads(browser, ".turns span", "0 of 15 turns taken")


@needs_chromium
def test_a_person_buys_what_is_wanted(browser: Chrome, shop: str) -> None:
    env = gym.make(ENV)
    _, info = env.reset(seed=SEED)
    goal = env.unwrapped.session.goal  # type: ignore[attr-defined]
    browser.get(shop)
    reads(browser, ".wish p", info["goal"])
    every(browser, "#words")[0].send_keys(goal.title)
    every(browser, ".search button")[0].click()
    reads(browser, ".steps li code", f"search[{goal.title}]")
    click(browser, f"click[{goal.asin.lower()}]", 2)
    for turn, option in enumerate(goal.options, 3):
        click(browser, f"click[{option}]", turn)
        reads(browser, '[aria-pressed="true"] span', option)
    turn = 3 + len(goal.options)
    click(browser, "click[features]", turn)
    click(browser, "click[< prev]", turn + 1)
    click(browser, "click[buy now]", turn + 2)
    reads(browser, "#score", "1.000")
    parts = [row.text for row in every(browser, "tbody th")]
    assert parts == ["Attributes", "Options", "Price", "Kind of article"]
    reads(browser, ".pair section:last-child p", f"{goal.title} {goal.asin}")
    every(browser, ".receipt .main")[0].click()
    reads(browser, ".turns span", "0 of 15 turns taken")
    assert every(browser, "#seed")[0].get_attribute("value") == str(SEED + 1)
    assert browser.get_log("browser") == []  # no rule of the page was broken


@needs_chromium
@pytest.mark.parametrize("width", [320, 768, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_of_the_expert_fits(browser: Chrome, shop: str, width: int, scheme: str) -> None:
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(shop)
    start(browser, SEED)
    turn = 0
    while not every(browser, "#score"):
        size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        assert size["width"] <= width
        every(browser, 'form[action="/expert"] button')[0].click()
        turn += 1
        reads(browser, ".turns span", f"{turn} of 15 turns taken")
    reads(browser, "#score", "1.000")


# The command ------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_stops_it_in_one_line() -> None:
    with playing() as (process, _):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.split(), err) == (0, ["stopped"], "")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("alfworld", "--web"), ("no web page", ENV, "terminal")),
        ((ENV, "--web", "--agent", "expert"), ("--agent expert", "people")),
        ((ENV, "--port", "80"), ("--port", "--web")),
        ((ENV, "--no-open"), ("--no-open", "--web")),
        ((ENV, "--web", "--port", "x"), ("--port", "'x'")),
    ],
)
def test_what_does_not_go_together(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    status, out, err = run(capsys, "play", *flags)
    assert (status, out) == (2, "") and all(word in err for word in words)
