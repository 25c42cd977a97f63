"""OpenEnv: the environment of an OpenEnv server, as one of ours."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from aem_gym.envs.openenv.foreign import TextFields, text_fields_of
from aem_gym.envs.openenv.session import Address, OpenEnvSession
from aem_gym.errors import ConfigError, EnvironmentFailure, InfrastructureError
from aem_gym.openenv_protocol import PROTOCOL, ServedEnv
from aem_gym.text_env import TextEnv
from aem_gym.types import INFO_DEFAULTS, StepResult, Task

_KNOWN = (*INFO_DEFAULTS, "submitted", "error")
"""Keys of an info that have a field of their own."""
_FAILED = "EnvironmentFailure: "
_SETTINGS = (
    *("max_turns", "connect_timeout", "call_timeout", "largest_message"),
    *("action_key", "observation_key"),
)
_MEGABYTE = 1024 * 1024


class OpenEnv(TextEnv):
    """An environment of an OpenEnv server, one session of it: `openenv:http://127.0.0.1:8000`.

    With `aem-gym serve`, an episode is the one that the environment would give in this process:
    texts, rewards, flags, info, expert, prompt templates and failures. Of other servers, those
    that speak text can be used: one text goes in, one comes out.

    A server that is lost ends the episode as a failure of infrastructure; the next reset opens a
    new session.

    Args:
        url: `http://HOST:PORT`, or https. A token is read from the environment variable
            AEM_OPENENV_TOKEN, or from the one named by `?token_env=NAME` at the end of the url.
        max_turns: turn limit; default the served environment's, or 50 where it tells none.
        render_mode: None or `ansi`.
        connect_timeout: seconds to open a session, or to open it again.
        call_timeout: seconds for an answer.
        largest_message: most bytes of an answer.
        action_key: of other servers, the field of an action that gets the text; default the only
            text that an action has.
        observation_key: the field of an observation that holds the text; likewise.
        env_args: arguments of the served environment, those that the server lets clients set.

    Raises:
        InfrastructureError: no server answers there, or it wants another token.
        ConfigError: an argument or a value that it refuses, or it does not speak text.
    """

    waits: ClassVar[bool] = True

    def __init__(
        self,
        *,
        url: str,
        max_turns: int | None = None,
        render_mode: str | None = None,
        connect_timeout: float = 10.0,
        call_timeout: float = 600.0,
        largest_message: int = 64 * _MEGABYTE,
        action_key: str | None = None,
        observation_key: str | None = None,
        **env_args: Any,
    ) -> None:
        address = Address.of(url)
        self._session = OpenEnvSession(address, connect_timeout, call_timeout, largest_message)
        self._env_args = env_args
        self._truncated = False
        self._fields: TextFields | None = None
        about = ServedEnv("")
        self._session.open()
        try:
            if _is_ours(self._session):
                if max_turns is not None:
                    env_args["max_turns"] = max_turns
                about = _described(self._session, env_args)
                max_turns = about.max_turns
            else:
                self._fields = text_fields_of(address, action_key, observation_key, env_args)
            super().__init__(max_turns=max_turns, render_mode=render_mode)
        except BaseException:
            self._session.close()
            raise
        self._take(about)

    def _take(self, about: ServedEnv) -> None:
        """Be as the served environment is."""
        self.instructions = about.instructions
        if about.prompt_templates:
            self.prompt_templates = about.prompt_templates  # type: ignore[misc]
        self.lexicon, self.task_types = about.lexicon, about.task_types
        self.protocol = about.protocol
        if about.has_expert:
            self.expert: Callable[[], tuple[str, str]] = self._ask_expert

    @classmethod
    def described(cls, url: str) -> type[OpenEnv]:
        """This class with what the server at `url` declares: settings, templates, arguments."""
        session = OpenEnvSession(Address.of(url), 10.0, 60.0, 64 * _MEGABYTE)
        session.open()
        try:
            about = _described(session, {}) if _is_ours(session) else ServedEnv("")
        finally:
            session.close()
        values: dict[str, Any] = {
            "__doc__": cls.__doc__,
            "__module__": cls.__module__,
            "__init__": _maker((*_SETTINGS, *about.arguments)),
            "instructions": about.instructions,
            "defaults": about.defaults,
            "model_defaults": about.model_defaults,
            "served_digest": hashlib.blake2b(msgspec.json.encode(about)).hexdigest()[:32],
        }
        if about.prompt_templates:
            values["prompt_templates"] = about.prompt_templates
        return type(cls.__name__, (cls,), values)

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        if self._fields is not None:
            answer = self._session.begin({**self._seeded(), **options})
            task_id = str(options.get("task_id") or f"seed-{self._seed}")
            return Task(task_id), self._fields.read(answer)
        data = {**self._seeded(), "env_args": self._env_args, "options": dict(options)}
        observation, result = self._read(self._session.begin(data))
        info = observation["info"]
        return Task(info["task_id"], info["task_type"], info["goal"]), result

    def _seeded(self) -> dict[str, Any]:
        return {} if self._seed is None else {"seed": self._seed}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        self._seed = seed
        return super().reset(seed=seed, options=options)

    def act(self, action: str) -> StepResult:
        action = action.encode(errors="replace").decode()  # JSON in UTF-8 holds no lone surrogates
        if self._fields is not None:
            return self._fields.read(self._session.ask("step", self._fields.action(action)))
        return self._read(self._session.ask("step", {"text": action}))[1]

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """As `TextEnv.step`; truncated also where the served environment says so."""
        observation, reward, terminated, truncated, info = super().step(action)
        if self._truncated and not terminated:
            self._over = truncated = True
        return observation, reward, terminated, truncated, info

    def _read(self, answer: Mapping[str, Any]) -> tuple[dict[str, Any], StepResult]:
        """The observation of one of our servers, and the same as a result."""
        observation = answer["observation"]
        _raise_failure(observation)
        info = observation["info"]
        self._truncated = bool(observation["truncated"])
        result = StepResult(
            observation["text"],
            reward=float(answer["reward"] or 0.0),
            terminated=observation["terminated"],
            won=info["won"],
            score=info["score"],
            admissible_actions=info["admissible_actions"],
            action_valid=info["action_valid"],
            error=info.get("error") or "",
            submitted=info.get("submitted", False),
            extra={key: value for key, value in info.items() if key not in _KNOWN},
        )
        return observation, result

    def _ask_expert(self) -> tuple[str, str]:
        """(thought, action) of the served environment's expert."""
        answer = self._session.ask("step", {"ask": "expert"})
        advice = answer["observation"]["info"]["expert"]
        if advice is None:
            raise EnvironmentFailure("the served environment's expert failed: see the server's log")
        thought, action = advice
        return thought, action

    def abandon(self) -> None:
        """End a call that hangs: the server closes the session."""
        self._session.close()

    def close(self) -> None:
        self._session.close()
        super().close()


def _is_ours(session: OpenEnvSession) -> bool:
    """Whether the server serves an environment of ours; another version of it is refused."""
    said = session.ask("state").get("protocol")
    if isinstance(said, str) and said.startswith("aem_gym/") and said != PROTOCOL:
        raise ConfigError(
            f"{session.address.http} speaks {said}, and this program {PROTOCOL}: install the same "
            "version of aem-gym on both sides"
        )
    return said == PROTOCOL


def _described(session: OpenEnvSession, env_args: Mapping[str, Any]) -> ServedEnv:
    answer = session.ask("step", {"ask": "describe", "env_args": dict(env_args)})
    observation = answer["observation"]
    _raise_failure(observation)
    return msgspec.convert(observation["info"]["environment"], ServedEnv)


def _raise_failure(observation: Mapping[str, Any]) -> None:
    """Raise what the environment raised on the server, so that it reads as if it were here."""
    error, failure = observation["error"], observation["failure"]
    if error is None:
        return
    if failure == "config":
        raise ConfigError(error.partition(": ")[2] or error)
    text = error.removeprefix(_FAILED)
    if failure == "infrastructure":
        raise InfrastructureError(text.removeprefix("InfrastructureError: "))
    raise EnvironmentFailure(text)


def _maker(names: tuple[str, ...]) -> Callable[..., None]:
    """An `__init__` that names the arguments of a served environment."""

    def __init__(self: OpenEnv, **arguments: Any) -> None:
        OpenEnv.__init__(self, **arguments)

    kind = inspect.Parameter.KEYWORD_ONLY
    listed = [inspect.Parameter(name, kind) for name in dict.fromkeys(names)]
    __init__.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
    return __init__
