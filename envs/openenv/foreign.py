"""Servers of other environments that speak text: which field of an action it goes into, and back.

Both are read off the server's own `GET /schema`.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError

from aem_gym.envs.openenv.session import Address
from aem_gym.errors import ConfigError, EnvironmentFailure, InfrastructureError
from aem_gym.types import StepResult

_SECONDS = 30.0
_LARGEST = 4 * 1024 * 1024
_NO_TEXT = ("metadata", "done", "reward")


@dataclass(frozen=True, slots=True)
class TextFields:
    """How text travels in the messages of a server."""

    action_key: str
    observation_key: str

    def action(self, text: str) -> dict[str, Any]:
        """The data of an action."""
        return {self.action_key: text}

    def read(self, answer: Mapping[str, Any]) -> StepResult:
        """An answer's text and reward. `done` ends the task: won with a positive reward.

        Raises:
            EnvironmentFailure: it holds no text.
        """
        observation = answer.get("observation")
        text = observation.get(self.observation_key) if isinstance(observation, dict) else None
        if not isinstance(text, str):
            raise EnvironmentFailure(
                f"expected a text in observation[{self.observation_key!r}], got "
                f"{observation!r:.200}: name the field that holds one with observation_key"
            )
        reward, done = float(answer.get("reward") or 0.0), bool(answer.get("done"))
        return StepResult(text, reward, done, won=done and reward > 0)


def text_fields_of(
    address: Address,
    action_key: str | None,
    observation_key: str | None,
    env_args: Mapping[str, Any],
) -> TextFields:
    """The fields for text of the server at `address`.

    Raises:
        ConfigError: there is not exactly one to choose; lists those that there are. Or arguments
            of the environment are given, which such a server has no way to take.
        InfrastructureError: it does not answer.
    """
    if env_args:
        raise ConfigError(
            f"{address.http} is no server of aem-gym, and takes no arguments of its environment: "
            f"leave out {', '.join(env_args)}"
        )
    schema = _schema(address) if not (action_key and observation_key) else {}
    return TextFields(
        action_key or _only_text(address, schema, "action", "action_key"),
        observation_key or _only_text(address, schema, "observation", "observation_key"),
    )


def _only_text(address: Address, schema: Mapping[str, Any], role: str, setting: str) -> str:
    part = schema.get(role, {})
    fields = {k: v for k, v in part.get("properties", {}).items() if k not in _NO_TEXT}
    texts: list[str] = [name for name, field in fields.items() if field.get("type") == "string"]
    needed: list[str] = [name for name in part.get("required", []) if name in texts]
    for found in (texts, needed):
        if len(found) == 1:
            return found[0]
    raise ConfigError(
        f"{address.http}: expected one text in its {role}s, got {', '.join(texts) or 'none'} (of "
        f"{', '.join(fields) or 'no fields'}). Name the field with --set env_args.{setting}=NAME; "
        "an environment that does not speak text needs a wrapper of its own (docs/environments.md)"
    )


def _schema(address: Address) -> dict[str, Any]:
    request = urllib.request.Request(f"{address.http}/schema", headers=address.headers())
    handlers = [urllib.request.ProxyHandler({})] if address.local else []
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=_SECONDS) as answer:
            found: Any = json.loads(answer.read(_LARGEST))
    except HTTPError as error:
        raise address.refused(error.code, error.reason) from error
    except (URLError, OSError, ValueError) as error:
        raise InfrastructureError(f"{address.http}/schema cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}
