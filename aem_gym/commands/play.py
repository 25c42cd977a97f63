"""`aem-gym play ENV`: one episode, printed as it happens, or many on a web page."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from aem_gym.commands.flags import env_arg_option, parse_env_args

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import WSGIApplication

    from aem_gym.protocols import Agent
    from aem_gym.rollout.envs import CheckedStep
    from aem_gym.rollout.pool import EnvPool
    from aem_gym.types import PromptTemplate, Turn

_SLOT = 0


@click.command()
@click.argument("env")
@click.option(
    "--agent",
    "who",
    default="human",
    show_default=True,
    help="human, random, expert, the folder of a run, or an agent of another package.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="The task.")
@click.option("--web", is_flag=True, help="Play on a web page, where ENV has one.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Of the web page; 0 for any free one. [8000, or any free one if it is taken]",
)
@click.option("--no-open", is_flag=True, help="Do not open the web page in a browser.")
@env_arg_option
def play(
    env: str,
    who: str,
    seed: int,
    web: bool,
    port: int | None,
    no_open: bool,
    env_arg: tuple[str, ...],
) -> None:
    """Play one episode of ENV and print it. You are the agent, unless --agent says who is.

    ENV is a name that `aem-gym envs` lists; a short lower-case name such as `alfworld` also works.

    With --web you play on a web page, for this machine's browsers only, until Ctrl-C.
    """
    from aem_gym.errors import ConfigError, UnknownNameError
    from aem_gym.evaluation import find_agent
    from aem_gym.rollout.envs import EnvSpec
    from aem_gym.rollout.pool import EnvPool, env_parameters
    from aem_gym.settings import settle

    kwargs = parse_env_args(env_arg)
    names, takes_any = env_parameters(env)
    for key in kwargs:
        if key not in names and not takes_any:
            raise UnknownNameError(f"argument of {env}:", key, names)
    if web:
        if who != "human":
            raise ConfigError(
                f"--agent {who}: a web page is for people. Leave --agent or --web out"
            )
        _serve(env, kwargs, seed, port, not no_open)
        return
    if port is not None or no_open:
        raise ConfigError(f"{'--no-open' if no_open else '--port'}: only with --web")
    agent, _ = find_agent(who)
    config = settle({"env": env}).config
    limits: dict[str, Any] = {
        "step_timeout": config.step_timeout,
        "reset_timeout": config.reset_timeout,
    }
    with EnvPool(EnvSpec(env, kwargs), **limits) as pool:
        templates = pool.describe().prompt_templates
        template = getattr(agent, "template", None) or next(iter(templates.values()))
        _episode(pool, agent, template, seed)


def _serve(env: str, kwargs: Mapping[str, Any], seed: int, port: int | None, browser: bool) -> None:
    import webbrowser

    from aem_gym.loopback import LoopbackServer
    from aem_gym.rollout.envs import EnvSpec

    page_app = _page_app(env)
    live = EnvSpec(env, kwargs).make()
    try:
        server = LoopbackServer(page_app(live, seed=seed), port)
        click.echo(f"{env} is at {server.url} (Ctrl-C stops it)")
        if browser and _has_screen():
            threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
        server.run()
    except KeyboardInterrupt:
        click.echo("\nstopped")
    finally:
        live.close()


def _page_app(env: str) -> Callable[..., WSGIApplication]:
    """The environment's `page_app`. Raises ConfigError if it has none, and names those that do."""
    from aem_gym.errors import ConfigError
    from aem_gym.registry import env_factory, env_tool

    page_app = env_tool(env_factory(env), "page_app")
    if page_app is not None:
        return page_app
    raise ConfigError(
        f"--web: {env!r} has no web page. Those that have: {', '.join(_pages()) or 'none'}. "
        "Leave --web out to play in the terminal"
    )


def _pages() -> Iterator[str]:
    """Ids of the environments that have a page."""
    from aem_gym.errors import ConfigError
    from aem_gym.registry import env_factory, env_ids, env_tool

    for name in env_ids():
        try:
            page_app = env_tool(env_factory(name), "page_app")
        except ConfigError:  # another package's, that cannot be loaded: `aem-gym envs` says why
            continue
        if page_app is not None:
            yield name


def _has_screen() -> bool:
    """Whether there is a browser to open, and not one inside this terminal."""
    shown = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform != "linux" or any(os.environ.get(name) for name in shown)


def _episode(pool: EnvPool, agent: Agent, template: PromptTemplate, seed: int) -> None:
    from aem_gym.console import printable
    from aem_gym.errors import EnvironmentFailure
    from aem_gym.protocols import EpisodeStart, TurnInput
    from aem_gym.seeding import derive
    from aem_gym.types import Turn

    instructions = pool.describe().instructions
    person = agent.name == "human"  # who is shown everything by the agent itself
    now = pool.reset([(_SLOT, seed, None)])[0]
    if now.error is not None:
        raise EnvironmentFailure(now.error)
    if instructions and not person:
        click.echo(f"{instructions}\n")
    goal = now.info["goal"]
    agent.begin(EpisodeStart(_SLOT, derive(seed, "play"), instructions, goal, template))
    turns: list[Turn] = []
    while now.error is None:
        over = now.terminated or now.truncated
        if over or not person:
            click.echo(printable(now.observation))
        if over:
            break
        situation = TurnInput(
            _SLOT, len(turns), now.observation, now.info, turns, lambda: pool.ask_expert(_SLOT)
        )
        response = agent.act([situation])[0]
        if response.stop or response.error:
            click.echo(f"({agent.name} stops{': ' + response.error if response.error else ''})")
            break
        if not person:
            thought = f"({response.thought}) " if response.thought else ""
            click.echo(printable(f"> {thought}{response.action}"))
        before, now = now, pool.step([(_SLOT, response.action)])[0]
        text = response.text or response.action
        turns.append(Turn(before.observation, text, response.thought, response.action, now.reward))
    agent.end(_SLOT)
    click.echo(_ending(now, turns))
    if now.error is not None:
        raise EnvironmentFailure(now.error)


def _ending(now: CheckedStep, turns: list[Turn]) -> str:
    how = "won" if now.info["won"] else "over" if now.terminated else "not finished"
    total = sum(turn.reward for turn in turns)
    return f"[{how}: {len(turns)} turns, return {total:g}, score {now.info['score']:g}]"
