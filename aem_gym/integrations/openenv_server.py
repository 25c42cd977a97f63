"""Serves an environment of ours to OpenEnv clients: `aem-gym serve ENV`.

A session is a WebSocket. It gets an environment at its first reset, and gives it back when it
ends, however that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import msgspec

import aem_gym
from aem_gym.concurrency import run_async
from aem_gym.errors import ConfigError, EnvironmentFailure, MissingDependencyError, describe
from aem_gym.integrations.openenv_guard import App, Guard, is_loopback
from aem_gym.integrations.openenv_host import EnvHost, Seat, ServedSettings, plain
from aem_gym.openenv_protocol import PROTOCOL, TOKEN_ENV
from aem_gym.rollout.envs import CheckedStep

try:
    import uvicorn  # type: ignore[import-not-found]
    from openenv.core.env_server.http_server import (  # type: ignore[import-not-found]
        create_fastapi_app,
    )
    from openenv.core.env_server.interfaces import (  # type: ignore[import-not-found]
        Environment,
    )
    from openenv.core.env_server.types import (  # type: ignore[import-not-found]
        Action,
        EnvironmentMetadata,
        Observation,
        State,
    )
except ImportError as error:
    raise MissingDependencyError("openenv", "openenv-server", "aem-gym serve") from error

_SHORTEST_TOKEN = 16
_SHUTDOWN_SECONDS = 5
_PING_SECONDS = 20.0
"""A client that answers no ping for so long has vanished."""
_SPARE_CONNECTIONS = 64
"""Connections beyond those of sessions: health checks, documentation."""


class TextAction(Action):  # type: ignore[misc]  # without openenv it is Any
    """An action in text; or a question, which changes nothing."""

    text: str = ""
    ask: Literal["act", "expert", "describe"] = "act"
    env_args: dict[str, Any] = {}
    """With `describe`: arguments of the environment."""


class TextObservation(Observation):  # type: ignore[misc]
    """The answer to a reset or an action; `info` holds `admissible_actions`, `won`, `score`, ..."""

    text: str = ""
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = {}
    error: str | None = None
    """Why the episode cannot go on, where the environment has failed."""
    failure: str | None = None
    """Whose failure that is: `env_error`, `infrastructure`, or `config` (wrong arguments)."""


class ServedSession(Environment):  # type: ignore[misc]
    """One session. Raises EnvironmentFailure where an action comes before a reset."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, host: EnvHost) -> None:
        super().__init__()
        self._host = host
        self._seat: Seat | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._state = State(episode_id=None, step_count=0, protocol=PROTOCOL, seed=None)

    async def reset_async(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        env_args: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        **more: Any,
    ) -> TextObservation:
        """Begin an episode.

        Args:
            seed: chooses the task; the same one gives the same episode. Default: any.
            episode_id: a name that the state repeats.
            env_args: arguments of the environment that the server lets clients set.
            options: of the environment's reset (`task_id`).
            more: an argument that clients may set (`split`), or else an option.
        """
        seed = secrets.randbelow(2**31) if seed is None else seed
        args = dict(env_args or {})
        args |= {name: more.pop(name) for name in self._host.arguments if name in more}
        try:
            pool = await self._host.pool(args)
        except ConfigError as error:
            return _refused(error)
        if self._seat is None or self._seat.pool is not pool:
            self._stand_up()
            self._loop, self._seat = asyncio.get_running_loop(), self._host.seat(pool)
        self._state = State(episode_id=episode_id, step_count=0, protocol=PROTOCOL, seed=seed)
        asked = {**(options or {}), **more} or None
        return _observation(await self._host.reset(self._seat, seed, asked))

    async def step_async(
        self, action: TextAction, timeout_s: float | None = None, **_: Any
    ) -> TextObservation:
        """Act, or answer a question of the client."""
        if action.ask == "describe":
            return await self._describe(action.env_args)
        if self._seat is None:
            raise EnvironmentFailure("there is no episode: send a reset first")
        if action.ask == "expert":
            return TextObservation(info={"expert": await self._host.ask_expert(self._seat)})
        self._state.step_count += 1
        return _observation(await self._host.step(self._seat, action.text))

    async def _describe(self, args: dict[str, Any]) -> TextObservation:
        try:
            about = self._host.describe(await self._host.pool(args))
        except ConfigError as error:
            return _refused(error)
        return TextObservation(info={"environment": plain(msgspec.to_builtins(about))})

    def reset(self, seed: int | None = None, episode_id: str | None = None, **more: Any) -> Any:
        """`reset_async`, from synchronous code."""
        return run_async(self.reset_async(seed, episode_id, **more))

    def step(self, action: TextAction, timeout_s: float | None = None, **more: Any) -> Any:
        """`step_async`, from synchronous code."""
        return run_async(self.step_async(action, timeout_s, **more))

    @property
    def state(self) -> State:
        return self._state

    def get_metadata(self) -> EnvironmentMetadata:
        """Name and description, for `GET /metadata`."""
        about = f"{self._host.settings.env} of aem_gym ({PROTOCOL})"
        name = self._host.settings.env
        return EnvironmentMetadata(name=name, description=about, version=aem_gym.__version__)

    def close(self) -> None:
        """Give the environment back. Any thread may call it."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: all of them are
                self._loop.call_soon_threadsafe(self._stand_up)

    def _stand_up(self) -> None:
        if self._seat is not None:
            seat, self._seat = self._seat, None
            self._host.leave(seat)


def _observation(answer: CheckedStep) -> TextObservation:
    lost = isinstance(answer.info.get("error"), str) and bool(answer.info["error"])
    failed = answer.error is not None and not lost  # else the info says it
    return TextObservation(
        done=answer.terminated or answer.truncated,
        reward=answer.reward,
        text=answer.observation,
        terminated=answer.terminated,
        truncated=answer.truncated,
        info=plain(answer.info),
        error=answer.error if failed else None,
        failure=str(answer.failure) if failed else None,
    )


def _refused(error: ConfigError) -> TextObservation:
    return TextObservation(done=True, truncated=True, error=describe(error), failure="config")


# The server -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where it listens, and its limits."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one."""
    sessions: int = 256
    """Most sessions at once."""
    idle_seconds: float = 3600.0
    """A session that sends nothing for so long is closed."""
    largest_message: int = 1024 * 1024
    """Most bytes of a message, or of the body of a request."""
    token_env: str = TOKEN_ENV
    """The environment variable that holds the token, if there is one."""


def make_app(host: EnvHost, settings: ServerSettings) -> App:
    """OpenEnv's application for our sessions, behind the guard.

    Raises:
        ConfigError: the address can be reached from elsewhere, and there is no token.
    """
    token = _token(settings)
    app = create_fastapi_app(
        partial(ServedSession, host),
        TextAction,
        TextObservation,
        max_concurrent_envs=settings.sessions,
        env_name=host.settings.env,
    )
    # We have no tools to offer there, and it opens sessions that nobody's hanging up ends.
    app.router.routes[:] = [r for r in app.router.routes if getattr(r, "path", "") != "/mcp"]
    idle, largest = settings.idle_seconds, settings.largest_message
    return Guard(app, token=token, idle_seconds=idle, largest_body=largest)


def serve(
    served: ServedSettings, settings: ServerSettings, announce: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM. `announce` gets the address once it can be used.

    Raises:
        ConfigError: the environment cannot be made, the port cannot be used, or a token is missing.
    """
    _check_installation()
    _token(settings)
    host = EnvHost(served)
    with contextlib.closing(host), _listen(settings) as listening:
        app = make_app(host, settings)
        config = uvicorn.Config(
            app,
            ws_max_size=settings.largest_message,
            ws_ping_interval=_PING_SECONDS,
            ws_ping_timeout=_PING_SECONDS,
            limit_concurrency=settings.sessions + _SPARE_CONNECTIONS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            log_level="warning",
        )
        _serve_beside(uvicorn.Server(config), host, listening, announce)


def _serve_beside(
    server: Any, host: EnvHost, listening: socket.socket, announce: Callable[[str], None]
) -> None:
    """Run the server in a thread, and the environments in this one."""

    def run() -> None:
        try:
            asyncio.run(server.serve(sockets=[listening]))
        finally:
            host.stop()

    thread = threading.Thread(target=run, name="aem-gym-serve", daemon=True)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        thread.start()
        name, port = listening.getsockname()[:2]
        announce(f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}")
        host.work()
        raise ConfigError("the server has ended by itself: see its log, or AEM_GYM_DEBUG=1")
    except KeyboardInterrupt:
        server.should_exit = True
        host.work()
    finally:
        signal.signal(signal.SIGTERM, before)


def _listen(settings: ServerSettings) -> socket.socket:
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise ConfigError(
            f"port {settings.port} of {settings.host} cannot be used: {error.strerror or error}. "
            "Give another with --port; --port 0 takes any free one"
        ) from error


def _token(settings: ServerSettings) -> str | None:
    """The token that clients have to bring; None: none, on the loopback address only."""
    token = os.environ.get(settings.token_env, "").strip()
    if not token and is_loopback(settings.host):
        return None
    made = "$(python -c 'import secrets; print(secrets.token_urlsafe(32))')"
    if not token:
        raise ConfigError(
            f"--host {settings.host} can be reached from elsewhere, so a token is needed: export "
            f"{settings.token_env}={made} and give it to the clients in the same variable; or "
            "leave --host out, to serve this machine only"
        )
    if len(token) < _SHORTEST_TOKEN:
        raise ConfigError(
            f"{settings.token_env}: expected at least {_SHORTEST_TOKEN} characters, got "
            f"{len(token)}: export {settings.token_env}={made}"
        )
    return token


def _check_installation() -> None:
    with contextlib.suppress(PackageNotFoundError):
        older = version("openenv-core")
        raise ConfigError(
            f"openenv-core {older} is installed beside openenv, and both are the same module: pip "
            'uninstall -y openenv-core openenv, then pip install "aem-gym[openenv-server]"'
        )
