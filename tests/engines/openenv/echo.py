"""An OpenEnv server that is not ours: `python echo.py PORT`. Two texts are its action."""

import sys

import uvicorn
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class EchoAction(Action):
    message: str
    tone: str = "calm"


class EchoObservation(Observation):
    echo: str = ""
    length: int = 0


class Echo(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, **kwargs):
        self.words = []
        return EchoObservation(echo=f"say it, {seed}", reward=0.0)

    def step(self, action, timeout_s=None, **kwargs):
        if action.message == "fail":
            raise ValueError("failed on purpose")
        self.words.append(action.message)
        text = f"{action.message} ({action.tone})"
        won = action.message == "please"
        return EchoObservation(echo=text, length=len(text), done=won, reward=float(won))

    @property
    def state(self):
        return State(step_count=len(getattr(self, "words", [])))


app = create_fastapi_app(Echo, EchoAction, EchoObservation, max_concurrent_envs=4)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
