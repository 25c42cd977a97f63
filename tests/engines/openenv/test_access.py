"""Who is let in by a server of `aem-gym serve`."""

from __future__ import annotations

import pytest

from aem_gym.envs.openenv.env import OpenEnv
from aem_gym.errors import ConfigError, InfrastructureError
from aem_gym.evaluation import run_episode
from aem_gym.registry import env_factory
from tests.engines.openenv.servers import (
    MARKS,
    SMALL_ALFWORLD,
    START_SECONDS,
    TOKEN,
    Server,
    Start,
    http,
)

pytestmark = MARKS


PATHS = [("GET", path) for path in ("/health", "/docs", "/redoc", "/openapi.json", "/schema")]
PATHS += [("GET", "/metadata"), ("GET", "/state"), ("GET", "/web"), ("GET", "/nothing")]
PATHS += [("POST", "/reset"), ("POST", "/step"), ("POST", "/mcp"), ("OPTIONS", "/reset")]
UPGRADE = {
    **{"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def test_every_path_wants_the_token(openenv: dict[str, Server]) -> None:
    url = openenv["token"].url()
    host = {"Host": url.removeprefix("http://")}
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        for method, path in PATHS:
            assert http(url, method, path, host | given)[0] == 401, path
        for path in ("/ws", "/mcp", "/web/ws"):
            headers = host | given | UPGRADE | {"Connection": "Upgrade"}
            assert http(url, "GET", path, headers)[0] == 401, path
    right = host | {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/health", "/docs", "/openapi.json", "/schema", "/metadata", "/state"):
        assert http(url, "GET", path, right)[0] == 200, path
    assert http(url, "POST", "/mcp", right, b"{}")[0] in (404, 405)


def test_our_client_brings_the_token_from_its_variable(
    openenv: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = openenv["token"].url()
    for wrong, message in (("", "AEM_OPENENV_TOKEN.*empty"), ("wrong", "not the server's")):
        monkeypatch.setenv("AEM_OPENENV_TOKEN", wrong)
        with pytest.raises(InfrastructureError, match=message):
            OpenEnv(url=url)
    monkeypatch.setenv("AEM_OPENENV_TOKEN", TOKEN)
    assert run_episode(f"openenv:{url}", "expert", seed=1).won
    other = openenv["open"].url().replace("0.0.0.0", "127.0.0.1")
    monkeypatch.setenv("COUNTING", TOKEN)
    env = f"openenv:{other}?token_env=COUNTING"
    assert run_episode(env, "random", seed=1).won
    assert env_factory(env).instructions == "Say anything."
    with pytest.raises(ConfigError, match="user name"):
        OpenEnv(url="http://me:secret@127.0.0.1:8000")


@pytest.mark.parametrize(
    ("host", "token", "message"),
    [
        ("0.0.0.0", "", "a token is needed: export AEM_OPENENV_TOKEN="),
        ("::", "", "a token is needed"),
        ("0.0.0.0", "short", "at least 16 characters"),
        ("127.0.0.1", "short", "at least 16 characters"),
    ],
)
def test_other_addresses_are_refused_without_a_token(
    start_openenv: Start, host: str, token: str, message: str
) -> None:
    server = start_openenv(*SMALL_ALFWORLD, "--host", host, AEM_OPENENV_TOKEN=token)
    assert server.process.wait(START_SECONDS) == 2
    assert message in server.log.read_text()


def test_no_web_site_gets_in_without_a_token(openenv: dict[str, Server]) -> None:
    url = openenv["alfworld"].url()
    host = {"Host": url.removeprefix("http://")}
    upgrade = UPGRADE | {"Connection": "Upgrade"}
    for wrong in ({"Host": "evil.example"}, host | {"Origin": "http://evil.example"}):
        assert http(url, "GET", "/health", wrong)[0] == 403
        assert http(url, "GET", "/ws", wrong | upgrade)[0] == 403
    assert http(url, "GET", "/health", host)[0] == 200
