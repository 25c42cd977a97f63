"""One session of an OpenEnv server, by WebSocket: a message goes out, its answer comes back."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from aem_gym.errors import (
    ConfigError,
    EnvironmentFailure,
    InfrastructureError,
    MissingDependencyError,
    describe,
)
from aem_gym.openenv_protocol import TOKEN_ENV

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_CLOSE_SECONDS = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds between attempts to reach a server again."""
_ENVIRONMENTS_OWN = ("EXECUTION_ERROR", "VALIDATION_ERROR")
"""Codes of errors that say something of the environment, not of the server or the session."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and which environment variable holds its token."""

    http: str
    """The base of its HTTP paths, without a slash at the end."""
    ws: str
    local: bool
    token_env: str

    @staticmethod
    def of(url: str) -> Address:
        """From `http://HOST:PORT[/BASE][?token_env=NAME]`; https, ws and wss work too.

        Raises:
            ConfigError: it is not one, or holds a user name or a password.
        """
        example = "openenv:http://127.0.0.1:8000"
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"openenv:{url}: {error}. Write {example}, say") from error
        if parts.scheme not in _SCHEMES or not host:
            raise ConfigError(f"openenv:{url}: expected http://HOST:PORT after openenv:, {example}")
        if "@" in parts.netloc:
            raise ConfigError(
                "openenv: the address holds a user name or password, which would be written into "
                f"the run's files. Leave it out: a token goes into the variable {TOKEN_ENV}"
            )
        query = parse_qs(parts.query)
        if set(query) - {"token_env"} or parts.fragment:
            raise ConfigError(f"openenv:{url}: expected nothing but token_env=NAME after the ?")
        socket_scheme, base = _SCHEMES[parts.scheme], parts.path.rstrip("/")
        plain = "https" if socket_scheme == "wss" else "http"
        return Address(
            urlunsplit((plain, parts.netloc, base, "", "")),
            urlunsplit((socket_scheme, parts.netloc, f"{base}/ws", "", "")),
            _is_local(host),
            query.get("token_env", [TOKEN_ENV])[0],
        )

    def headers(self) -> dict[str, str]:
        """The headers that bring the token, where there is one."""
        token = os.environ.get(self.token_env, "").strip()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def refused(self, status: int, text: str) -> InfrastructureError:
        """The error for an answer that is no session."""
        advice = "is an OpenEnv server there?"
        if status in (401, 403):
            has = "is not the server's" if self.headers() else "is empty"
            advice = f"the environment variable {self.token_env}, where its token goes, {has}"
        return InfrastructureError(
            f"{self.http} answered {status} ({text.strip()[:200]}): {advice}"
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class OpenEnvSession:
    """A session, which is opened by `open` or by the first `begin`. One call at a time.

    Args:
        address: of the server.
        connect_timeout: seconds to open a session, and to go on trying where one was lost.
        call_timeout: seconds for an answer.
        largest_message: most bytes of one.
    """

    def __init__(
        self, address: Address, connect_timeout: float, call_timeout: float, largest_message: int
    ) -> None:
        self.address = address
        self._connect_timeout, self._call_timeout = connect_timeout, call_timeout
        self._largest = largest_message
        self._line: Any = None
        self._lost = "it was never opened"
        self._held = contextlib.ExitStack()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Open a new session in place of the present one.

        Raises:
            InfrastructureError: no server answers, or it does not let us in.
            MissingDependencyError: without the package `websockets`.
        """
        try:
            from websockets.exceptions import InvalidStatus, WebSocketException
            from websockets.sync.client import connect
        except ImportError as error:
            raise MissingDependencyError("websockets", "openenv", "openenv:URL") from error
        self.close()
        address, proxy = self.address, {"proxy": None} if self.address.local else {}
        try:
            self._line = self._held.enter_context(
                connect(
                    address.ws,
                    additional_headers=address.headers(),
                    open_timeout=self._connect_timeout,
                    close_timeout=_CLOSE_SECONDS,
                    max_size=self._largest,
                    compression=None,
                    **proxy,
                )
            )
        except InvalidStatus as error:
            body = (error.response.body or b"").decode("utf-8", "replace")
            raise address.refused(error.response.status_code, body) from error
        except (OSError, WebSocketException) as error:
            raise InfrastructureError(
                f"no OpenEnv server can be reached at {address.http}: {describe(error)}. Start one "
                "there: aem-gym serve ENV"
            ) from error

    def ask(self, kind: str, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer's data to a message of some kind: `reset`, `step`, `state`.

        Raises:
            InfrastructureError: the session is lost, and with it the episode.
            EnvironmentFailure: the environment refuses it.
        """
        with self._lock:
            answer = self._exchange(
                {"type": kind} if data is None else {"type": kind, "data": data}
            )
        found: Any = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(found, dict):
            raise EnvironmentFailure(f"{self.address.http}: expected data, got {answer!r:.200}")
        if answer.get("type") != "error":
            return found
        message = f"{found.get('message', 'no reason given')}"
        if found.get("code") in _ENVIRONMENTS_OWN:
            details = f" {found['errors']!r:.300}" if "errors" in found else ""
            raise EnvironmentFailure(f"{message}{details}")
        if found.get("code") == "CAPACITY_REACHED":
            message += ". Start it with more: aem-gym serve ... --sessions N"
        self._drop(f"{self.address.http}: {message}")
        raise self._loss()

    def begin(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a reset, of a new session where the present one is lost.

        Raises:
            InfrastructureError: it could not be had within `connect_timeout`.
            EnvironmentFailure: the environment refuses it.
        """
        until, pause = time.monotonic() + self._connect_timeout, _FIRST_PAUSE
        while True:
            try:
                if self._line is None:
                    self.open()
                return self.ask("reset", data)
            except InfrastructureError:
                if time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _exchange(self, message: Mapping[str, Any]) -> Any:
        if self._line is None:
            raise self._loss()
        text = json.dumps(message)
        try:
            with contextlib.suppress(Exception):  # what the server said before it hung up comes
                self._line.send(text)
            return json.loads(self._line.recv(self._call_timeout))
        except TimeoutError:
            self._drop(f"{self.address.http} gave no answer for {self._call_timeout:g} s")
        except ValueError as error:
            self._drop(f"{self.address.http} answered something else than JSON: {error}")
        except Exception as error:  # websockets has several, and sockets raise others
            self._drop(f"the session at {self.address.http} was lost: {describe(error)}")
        except BaseException:  # a time limit of the caller: the answer is still to come
            self._drop(f"a call of {self.address.http} was given up")
            raise
        raise self._loss()

    def _loss(self) -> InfrastructureError:
        return InfrastructureError(self._lost)

    def _drop(self, why: str) -> None:
        self._lost = why
        self.close()

    def close(self) -> None:
        """End the session. Any thread may call it; a call under way then fails."""
        self._line, held, self._held = None, self._held, contextlib.ExitStack()
        with contextlib.suppress(Exception):
            held.close()
