"""Environments served by a real OpenEnv server, and used through one.

`make test-engines` makes the environment that AEM_OPENENV_PYTHON names, and runs this.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from aem_gym.agents.baselines import ExpertAgent, RandomAgent
from aem_gym.envs.openenv.env import OpenEnv
from aem_gym.errors import ConfigError, InfrastructureError
from aem_gym.evaluation import eval_spec, run_episode
from aem_gym.registry import env_factory, find_env
from aem_gym.rollout.collector import Collector, CollectorSettings, requests_for
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool, env_kwargs, env_parameters
from aem_gym.settings import settle
from aem_gym.types import Episode, StopReason
from tests.test_docs import blocks
from tests.training.runs import SMALL, lines, train_process

PYTHON = os.environ.get("AEM_OPENENV_PYTHON", "")
pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON, reason="needs OpenEnv: make test-engines"),
]
ROOT = Path(__file__).parents[2]
TOKEN = "of-thirty-two-characters-or-more"
FAULTY, COUNTER = "tests.rollout.pool_envs:Faulty", "tests.rollout.pool_envs:Counter"
SMALL_ALFWORLD = ("alfworld", "--env-arg", "difficulty=small", "--allow", "difficulty")
EASY_WEBSHOP = ("webshop", "--env-arg", "difficulty=easy")
START_SECONDS = 180.0
"""OpenEnv imports a web interface, which takes its time on a busy machine."""


class Server:
    """`aem-gym serve ...` in the environment that has OpenEnv."""

    def __init__(self, log: Path, *args: str, port: int = 0, **environment: str) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [PYTHON, "-u", "-m", "aem_gym", "serve", *args, "--port", str(port)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def url(self) -> str:
        """Its address, once it answers."""
        until = time.monotonic() + START_SECONDS
        while " is served at " not in (text := self.log.read_text()):
            assert self.process.poll() is None and time.monotonic() < until, text
            time.sleep(0.05)
        return text.split(" is served at ")[1].split()[0]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        return self.process.wait(30)


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts servers, and ends them with the tests."""
    folder, started = tmp_path_factory.mktemp("openenv"), list[Server]()

    def start(*args: str, port: int = 0, **environment: str) -> Server:
        server = Server(folder / f"{len(started)}.log", *args, port=port, **environment)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="module")
def servers(start: Start) -> dict[str, Server]:
    """The servers that most tests share; all start at once."""
    return {
        "alfworld": start(*SMALL_ALFWORLD, "--largest-message", "65536"),
        "webshop": start(*EASY_WEBSHOP),
        "faulty": start(FAULTY, "--workers", "1", "--step-timeout", "1", "--idle-seconds", "2"),
        "token": start(*SMALL_ALFWORLD, "--workers", "2", AEM_OPENENV_TOKEN=TOKEN),
        "open": start(COUNTER, "--host", "0.0.0.0", "--token-env", "OTHER", OTHER=TOKEN),
        "counter": start(COUNTER, "--sessions", "8"),
    }


def play(
    env: str, agent: Any, episodes: int, env_args: dict[str, Any] | None = None
) -> list[Episode]:
    """Episodes side by side, as a run collects them."""
    with EnvPool(EnvSpec(env, env_args or {})) as pool:
        template = next(iter(pool.describe().prompt_templates.values()))
        collector = Collector(pool, agent, CollectorSettings(template))
        return collector.run(requests_for(range(episodes), 1, "t"))


# The same as in this process ---------------------------------------------------------------------


@pytest.mark.parametrize("agent", [ExpertAgent, RandomAgent])
@pytest.mark.parametrize(
    ("name", "env_args", "extra"),
    [
        ("alfworld", {"difficulty": "small"}, {}),
        ("alfworld", {"difficulty": "full", "max_turns": 9}, {"difficulty": "full"}),
        ("webshop", {"difficulty": "easy", "split": "test"}, {"split": "test"}),
    ],
)
def test_an_episode_is_that_of_this_process(
    servers: dict[str, Server], name: str, env_args: Any, extra: Any, agent: Callable[[], Any]
) -> None:
    here = play(name, agent(), 16, env_args)
    extra = extra | {k: v for k, v in env_args.items() if k == "max_turns"}
    there = play(f"openenv:{servers[name].url()}", agent(), 16, extra)
    assert here == there and len({e.task_id for e in here}) > 8
    assert all(e.error is None for e in there)


@pytest.mark.parametrize(("name", "difficulty"), [("alfworld", "small"), ("webshop", "easy")])
def test_every_answer_is_the_same_byte_for_byte(
    servers: dict[str, Server], name: str, difficulty: str
) -> None:
    """Infos, flags and rewards, in and after an episode; also of nonsense, and of a chosen task."""
    actions = [
        "look",
        "",
        "\ud800",
        "search[a b]",
        "click[buy now]",
        "go to fridge 1",
        "\x00é\n" * 3,
    ]
    there = gym.make(find_env(f"openenv:{servers[name].url()}"), disable_env_checker=True)
    here = gym.make(find_env(name), difficulty=difficulty, disable_env_checker=True)
    with closing(there), closing(here):
        task = here.reset(seed=5)[1]["task_id"]
        for options in (None, {"task_id": task}):
            assert here.reset(seed=9, options=options) == there.reset(seed=9, options=options)
            for action in actions:
                clean = action.encode(errors="replace").decode()  # as the collector gives it
                one, other = here.step(clean), there.step(action)
                assert one == other
                if one[2] or one[3]:
                    break


@pytest.mark.parametrize(("name", "difficulty"), [("alfworld", "small"), ("webshop", "easy")])
def test_it_declares_what_the_environment_declares(
    servers: dict[str, Server], name: str, difficulty: str
) -> None:
    """Prompt templates, instructions, limits, suggested settings, and the evaluation's protocol."""
    env = f"openenv:{servers[name].url()}"
    here = settle({"env": name, "env_args": {"difficulty": difficulty}}).config
    there = settle({"env": env}).config
    assert there.env == env
    for setting, value in vars(here).items():
        if setting not in ("env", "env_args", "warmstart_env_args", "out"):
            assert getattr(there, setting) == value, setting
    assert "split" in env_parameters(env)[0] and "url" not in env_parameters(env)[0]
    specs, about = [], []
    for config in (here, there):
        kwargs = env_kwargs(config, config.eval_split)
        with EnvPool(EnvSpec(config.env, kwargs)) as pool:
            about.append(pool.describe())
            template = next(iter(about[-1].prompt_templates.values()))
            specs.append(eval_spec(config, template, about[-1]))
    assert about[1].waits and about[1].has_expert
    for field in ("instructions", "prompt_templates", "lexicon", "max_turns", "task_types"):
        assert getattr(about[0], field) == getattr(about[1], field), field
    assert about[0].protocol == about[1].protocol
    assert (specs[0].split, specs[0].tasks) == (specs[1].split, specs[1].tasks)


def test_a_run_through_it_is_the_run_in_this_process(
    servers: dict[str, Server], tmp_path: Path
) -> None:
    settings = {**SMALL, "steps": 2, "eval_every": 1, "eval_episodes": 4}
    flags = [f"{k}={v}" for k, v in settings.items() if k != "loggers"]
    envs = {"here": "alfworld", "there": f"openenv:{servers['alfworld'].url()}"}
    for name, env in envs.items():
        out = ["--env", env, "--out", str(tmp_path / name)]
        process = train_process([*flags, *out], cwd=tmp_path)
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    runs = [lines(tmp_path / name / "metrics.jsonl") for name in envs]
    assert len(runs[0]) == len(runs[1]) == 2
    for one, other in zip(*runs, strict=True):
        timed = {key for key in one if key.startswith("seconds")}
        assert {k: one[k] for k in one.keys() - timed} == {k: other[k] for k in one.keys() - timed}


def test_32_sessions_at_once_and_the_expert_wins_all(
    servers: dict[str, Server], capsys: pytest.CaptureFixture[str]
) -> None:
    """In full rooms, where the expert has 50 turns."""
    env, args = f"openenv:{servers['alfworld'].url()}", {"difficulty": "full"}
    took: dict[str, float] = {}
    for agent in (RandomAgent(), ExpertAgent()):
        began = time.perf_counter()
        episodes = play(env, agent, 32, args)
        seconds = time.perf_counter() - began
        took[agent.name] = 1e3 * seconds / sum(len(e.turns) for e in episodes)
        assert all(e.error is None for e in episodes)
    assert [e.stop_reason for e in episodes] == [StopReason.WON] * 32
    with capsys.disabled():
        print("\n32 sessions, ms a step:", {k: round(v, 2) for k, v in took.items()})


# OpenEnv's own client ----------------------------------------------------------------------------


def real_client(url: str, seeds: Sequence[int], **environment: str) -> list[dict[str, Any]]:
    job = [PYTHON, str(Path(__file__).with_name("openenv_client_job.py")), url, *map(str, seeds)]
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    done = subprocess.run(job, capture_output=True, text=True, timeout=300, env=environ)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["alfworld", "token"])
def test_openenvs_own_client_plays_the_same(servers: dict[str, Server], name: str) -> None:
    """It knows nothing of us; 16 sessions at once. Also where workers hold the environments."""
    given = {"AEM_OPENENV_TOKEN": TOKEN} if name == "token" else {}
    found = real_client(servers[name].url(), range(16), **given)
    for seed, there in enumerate(found):
        here = run_episode("alfworld", "expert", seed=seed, env_args={"difficulty": "small"})
        assert there["won"] and there["reward"] == 1.0 and there["steps"] == len(here.turns)
        assert there["actions"] == [turn.action for turn in here.turns]
        assert there["texts"][:-1] == [turn.observation for turn in here.turns]


def test_the_blocks_of_the_page_run(start: Start, tmp_path: Path) -> None:
    """As they are, but for the port; the one with OpenEnv's client in its environment."""
    page = ROOT / "docs" / "openenv.md"
    found = [block for block in blocks(page) if block.language in ("bash", "python")]
    bash = [line for block in found if block.language == "bash" for line in block.text.splitlines()]
    serve, served = (shlex.split(line) for line in bash if line.startswith("aem-gym serve"))
    (export,) = (line for line in bash if line.startswith("export "))
    made = subprocess.run(
        ["bash", "-c", f'{export.replace("python", sys.executable)}; echo "$AEM_OPENENV_TOKEN"'],
        capture_output=True,
        text=True,
    )
    here = start(*serve[2:])
    elsewhere = start(*served[2:], AEM_OPENENV_TOKEN=made.stdout.strip())
    assert elsewhere.url().startswith("http://0.0.0.0:")
    code = [b.text.replace("http://127.0.0.1:8000", here.url()) for b in found]
    ours, theirs = (text for text, b in zip(code, found, strict=True) if b.language == "python")
    for program, text, printed in (
        (sys.executable, ours, "won "),
        (PYTHON, theirs, "1.0 True"),
    ):
        done = subprocess.run([program, "-c", text], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.startswith(printed), done.stderr
    (train,) = (shlex.split(line) for line in bash if line.startswith("python train.py"))
    env = train[-1].replace("http://127.0.0.1:8000", here.url())
    few = ["steps=1", "groups=2", "group_size=2", "warmstart_episodes=20", "warmstart_steps=2"]
    few += ["eval_episodes=2", "threads=1", f"out={tmp_path / 'run'}"]
    process = train_process([*few, train[-2], env], cwd=tmp_path)
    assert process.wait(300) == 0


# Who is let in -----------------------------------------------------------------------------------


def http(
    url: str, method: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, bytes]:
    """Status and body of a raw request, with the headers as they are given."""
    host, _, port = url.removeprefix("http://").partition(":")
    host = "127.0.0.1" if host == "0.0.0.0" else host
    lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""])
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(head.encode() + body)
        answer = b""
        while more := line.recv(65536):
            answer += more
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]


PATHS = [("GET", path) for path in ("/health", "/docs", "/redoc", "/openapi.json", "/schema")]
PATHS += [("GET", "/metadata"), ("GET", "/state"), ("GET", "/web"), ("GET", "/nothing")]
PATHS += [("POST", "/reset"), ("POST", "/step"), ("POST", "/mcp"), ("OPTIONS", "/reset")]
UPGRADE = {
    **{"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def test_every_path_wants_the_token(servers: dict[str, Server]) -> None:
    url = servers["token"].url()
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
    servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = servers["token"].url()
    for wrong, message in (("", "AEM_OPENENV_TOKEN.*empty"), ("wrong", "not the server's")):
        monkeypatch.setenv("AEM_OPENENV_TOKEN", wrong)
        with pytest.raises(InfrastructureError, match=message):
            OpenEnv(url=url)
    monkeypatch.setenv("AEM_OPENENV_TOKEN", TOKEN)
    assert run_episode(f"openenv:{url}", "expert", seed=1).won
    other = servers["open"].url().replace("0.0.0.0", "127.0.0.1")
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
    start: Start, host: str, token: str, message: str
) -> None:
    server = start(*SMALL_ALFWORLD, "--host", host, AEM_OPENENV_TOKEN=token)
    assert server.process.wait(START_SECONDS) == 2
    assert message in server.log.read_text()


def test_no_web_site_gets_in_without_a_token(servers: dict[str, Server]) -> None:
    url = servers["alfworld"].url()
    host = {"Host": url.removeprefix("http://")}
    upgrade = UPGRADE | {"Connection": "Upgrade"}
    for wrong in ({"Host": "evil.example"}, host | {"Origin": "http://evil.example"}):
        assert http(url, "GET", "/health", wrong)[0] == 403
        assert http(url, "GET", "/ws", wrong | upgrade)[0] == 403
    assert http(url, "GET", "/health", host)[0] == 200


# What goes wrong ---------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def test_failures_of_an_environment_are_answers(servers: dict[str, Server]) -> None:
    """Each reads as in this process, and the server goes on with the others."""
    url = servers["faulty"].url()
    faults = ["raise", "exit", "number", "four", "nan", "info", "key", "none", "win", "pid", "huge"]
    faults += ["unpicklable"]
    spec = EnvSpec("tests.rollout.pool_envs:Faulty")
    with EnvPool(spec, workers=1) as here, EnvPool(EnvSpec(f"openenv:{url}")) as there:
        for slot, fault in enumerate(faults):
            for action in (fault, "again"):
                answers = []
                for pool in (here, there):
                    if action == fault:
                        assert pool.reset([(slot, 3, None)])[0].observation == "seed3"
                    answers.append(pool.step([(slot, action)])[0])
                one, other = answers
                assert (one.error, one.failure) == (other.error, other.failure), action
                assert (one.reward, one.terminated) == (other.reward, other.terminated)
                assert fault == "pid" or one.observation == other.observation
                if one.terminated:
                    break
        for fault in ("hang", "die"):  # its worker is killed, and another takes its place
            assert there.reset([(0, 1, None)])[0].error is None
            assert there.step([(0, fault)])[0].failure is StopReason.ENV_ERROR
        assert there.reset([(0, 4, None)])[0].observation == "seed4"


def test_a_session_that_is_idle_is_closed_and_opened_again(servers: dict[str, Server]) -> None:
    with closing(OpenEnv(url=servers["faulty"].url())) as env:
        assert env.reset(seed=1)[0] == "seed1"
        time.sleep(4)
        with pytest.raises(InfrastructureError, match="nothing came for 2 s"):
            env.step("word")
        assert env.reset(seed=2)[0] == "seed2" and env.step("word")[0] == "word"


def test_a_message_that_is_too_large_ends_its_session_only(servers: dict[str, Server]) -> None:
    url = servers["alfworld"].url()
    with closing(OpenEnv(url=url)) as env, closing(OpenEnv(url=url)) as other:
        env.reset(seed=1)
        other.reset(seed=1)
        with pytest.raises(InfrastructureError, match="1009|too big"):
            env.step("x" * 70_000)
        assert other.step("look")[4]["action_valid"]
        assert env.reset(seed=1)[1]["task_id"] == other.reset(seed=1)[1]["task_id"]
    host = {"Host": url.removeprefix("http://")}
    assert http(url, "POST", "/reset", host, b"x" * 70_000)[0] == 413


def test_arguments_that_clients_may_not_set_are_refused(servers: dict[str, Server]) -> None:
    url = servers["webshop"].url()
    with pytest.raises(ConfigError, match="argument that clients may set.*--allow difficulty"):
        OpenEnv(url=url, difficulty="full")
    with pytest.raises(ConfigError, match="unknown split 'nowhere'"):
        OpenEnv(url=url, split="nowhere")


VANISHING = """
import sys, time
from aem_gym.envs.openenv.env import OpenEnv
held = [OpenEnv(url=sys.argv[1]) for _ in range(8)]
for env in held:
    env.reset(seed=1)
print("held", flush=True)
time.sleep(600)
"""


def eight_more(url: str) -> bool:
    """Whether there are eight free sessions, and no ninth."""
    held: list[OpenEnv] = []
    try:
        while len(held) < 9:
            held.append(OpenEnv(url=url))
    except InfrastructureError as error:
        assert "--sessions" in str(error)
    finally:
        for env in held:
            env.close()
    return len(held) == 8


def test_sessions_are_free_when_a_client_vanishes(servers: dict[str, Server]) -> None:
    url = servers["counter"].url()
    assert wait_for(lambda: eight_more(url))
    command = [sys.executable, "-c", VANISHING, url]
    client = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout is not None and client.stdout.readline() == "held\n"
        with pytest.raises(InfrastructureError, match="--sessions"):
            OpenEnv(url=url)
    finally:
        client.kill()
        client.wait()
    assert wait_for(lambda: eight_more(url))


class Killer:
    """An agent that ends a server at its third turn."""

    name = "killer"

    def __init__(self, server: Server) -> None:
        self.server, self.inner = server, RandomAgent()

    def begin(self, start: Any) -> None:
        self.inner.begin(start)

    def act(self, inputs: Any) -> Any:
        if inputs[0].turn == 2 and self.server.process.poll() is None:
            self.server.end(signal.SIGKILL)
        return self.inner.act(inputs)

    def end(self, slot: int) -> None:
        self.inner.end(slot)


def test_a_server_that_is_killed_is_infrastructure_and_may_come_back(start: Start) -> None:
    server = start(*SMALL_ALFWORLD)
    url = server.url()
    with EnvPool(EnvSpec(f"openenv:{url}", {"connect_timeout": 3.0})) as pool:
        template = next(iter(pool.describe().prompt_templates.values()))
        requests = requests_for(range(8), 1, "t")
        lost = Collector(pool, Killer(server), CollectorSettings(template)).run(requests)
        assert {e.stop_reason for e in lost} == {StopReason.INFRASTRUCTURE}
        assert all(len(e.turns) == 3 and e.error for e in lost)
        down = Collector(pool, ExpertAgent(), CollectorSettings(template)).run(requests)
        assert {e.stop_reason for e in down} == {StopReason.INFRASTRUCTURE}
        assert all("no OpenEnv server can be reached" in str(e.error) for e in down)
        again = start(*SMALL_ALFWORLD, port=int(url.rpartition(":")[2]))
        assert again.url() == url
        back = Collector(pool, ExpertAgent(), CollectorSettings(template)).run(requests)
        assert {e.stop_reason for e in back} == {StopReason.WON}
    with pytest.raises(InfrastructureError, match="cannot be reached|can be reached"):
        OpenEnv(url="http://127.0.0.1:9", connect_timeout=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_with_all_it_started(start: Start, number: int) -> None:
    server = start(*SMALL_ALFWORLD, "--workers", "2")
    env = OpenEnv(url=server.url())
    env.reset(seed=1)
    children = children_of(server.process.pid)
    assert len(children) >= 2
    assert server.end(number) == 0 and server.log.read_text().endswith("stopped\n")
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    with pytest.raises(InfrastructureError):
        env.step("look")
    env.close()


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


# Servers of others -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = [PYTHON, str(Path(__file__).with_name("openenv_echo.py")), str(port)]
    process = subprocess.Popen(program)

    def answers() -> bool:
        assert process.poll() is None
        with closing(socket.socket()) as line:
            return line.connect_ex(("127.0.0.1", port)) == 0

    assert wait_for(answers, START_SECONDS)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


def test_another_environment_that_speaks_text_can_be_used(echo: str) -> None:
    """The text that an action needs is found, and the only one of an observation."""
    with EnvPool(EnvSpec(f"openenv:{echo}", {"max_turns": 3})) as pool:
        assert pool.describe().max_turns == 3 and not pool.describe().has_expert
        assert pool.reset([(0, 7, None)])[0].observation == "say it, 7"
        assert pool.step([(0, "hello")])[0].observation == "hello (calm)"
        won = pool.step([(0, "please")])[0]
        assert (won.reward, won.terminated, won.info["won"]) == (1.0, True, True)
        pool.reset([(0, 8, None)])
        failed = pool.step([(0, "fail")])[0]
        assert failed.failure is StopReason.ENV_ERROR and "failed on purpose" in str(failed.error)
    with closing(OpenEnv(url=echo, action_key="message", observation_key="echo")) as env:
        assert env.reset(seed=1)[0] == "say it, 1"


def test_another_environment_says_what_is_missing(echo: str) -> None:
    with pytest.raises(ConfigError, match="takes no arguments.*leave out split"):
        OpenEnv(url=echo, split="train")
    with closing(OpenEnv(url=echo, observation_key="length")) as env:
        env_pool = EnvPool(EnvSpec(f"openenv:{echo}", {"observation_key": "length"}))
        with env_pool as pool:
            assert "observation_key" in str(pool.reset([(0, 1, None)])[0].error)
        assert env.max_turns == 50
