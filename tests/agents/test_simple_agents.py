from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.agents.baselines import ExpertAgent, HumanAgent, RandomAgent
from aem_gym.protocols import Agent, EpisodeStart, TurnInput
from aem_gym.registry import AGENTS
from aem_gym.types import PromptTemplate


def situation(observation: str = "", turn: int = 0, slot: int = 0, **info: Any) -> TurnInput:
    return TurnInput(slot=slot, turn=turn, observation=observation, info=info, history=())


@pytest.mark.parametrize("name", ["random", "expert", "human"])
def test_found_by_name_and_fits_the_role(name: str) -> None:
    agent = AGENTS.load(name)()
    assert isinstance(agent, Agent) and agent.name == name


@given(st.integers(0, 2**63 - 1), st.integers(0, 100), st.lists(st.text(), min_size=1))
def test_random_draws_depend_on_the_episode_alone(key: int, turn: int, actions: list[str]) -> None:
    alone, crowded = RandomAgent(), RandomAgent()
    alone.begin(EpisodeStart(0, key))
    for slot in range(4):
        crowded.begin(EpisodeStart(slot, key if slot == 2 else key // (slot + 2)))
    (one,) = alone.act([situation(turn=turn, admissible_actions=actions)])
    many = crowded.act(
        [situation(turn=turn, slot=s, admissible_actions=actions) for s in (3, 2, 0)]
    )
    assert one.action in actions and many[1] == one


def test_random_draws_are_uniform_and_differ_between_turns() -> None:
    agent = RandomAgent()
    agent.begin(EpisodeStart(0, key=1))
    actions = ["a", "b", "c", "d"]
    drawn = [
        agent.act([situation(turn=t, admissible_actions=actions)])[0].action for t in range(2000)
    ]
    assert all(420 <= count <= 580 for count in Counter(drawn).values())  # 500 +- 4 sigma
    pairs = Counter(zip(drawn, drawn[1:], strict=False))
    assert len(pairs) == 16 and min(pairs.values()) > 75  # 125 each: turns are independent


def test_random_words_where_nothing_is_listed() -> None:
    agent = RandomAgent()
    agent.begin(EpisodeStart(0, key=1))
    said = {agent.act([situation("You see: a key!", turn=t)])[0].action for t in range(60)}
    assert said == {"You", "see", "a", "key"}
    assert agent.act([situation(" ?! ")])[0].action == ""


def test_random_respects_hidden_actions() -> None:
    template = PromptTemplate(hidden_actions=("help",))
    shy, bold = RandomAgent(), RandomAgent(hide=False)
    for agent in (shy, bold):
        agent.begin(EpisodeStart(0, 1, template=template))
    turns = [situation(turn=t, admissible_actions=["help", "go"]) for t in range(30)]
    assert {r.action for r in shy.act(turns)} == {"go"}
    assert {r.action for r in bold.act(turns)} == {"go", "help"}
    assert shy.act([situation(admissible_actions=["help"])])[0].action == "help"


def test_expert_passes_on_the_answer_or_says_there_is_none() -> None:
    knows = TurnInput(0, 0, "x", {}, (), ask_expert=lambda: ("because", "go north"))
    good, bad = ExpertAgent().act([knows, situation(turn=3)])
    assert (good.thought, good.action, good.error) == ("because", "go north", None)
    assert bad.error is not None and "NoExpertError" in bad.error and "turn 3" in bad.error


def human(lines: str) -> tuple[HumanAgent, io.StringIO]:
    sink = io.StringIO()
    return HumanAgent(source=io.StringIO(lines), sink=sink), sink


def test_human_reads_lines() -> None:
    agent, sink = human("?\n\n  go north \n\\?\nq\nnever\n")
    agent.begin(EpisodeStart(0, 1, instructions="Rules.", goal="win"))
    seen = [situation(f"room {i}", admissible_actions=["go north", "wait"]) for i in range(3)]
    first, second, third = agent.act(seen)
    assert (first.action, first.stop) == ("go north", False)
    assert (second.action, second.stop) == ("?", False)
    assert third.stop
    shown = sink.getvalue()
    assert "Rules." in shown and "Goal: win" in shown and shown.count("  wait\n") == 1
    assert [shown.count(f"room {i}\n") for i in range(3)] == [1, 1, 1]


def test_human_stops_at_the_end_of_the_input() -> None:
    agent, _ = human("")
    assert agent.act([situation("x")])[0].stop


def test_human_uses_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("?\nlook\n"))
    assert HumanAgent().act([situation("a room")])[0].action == "look"
    assert capsys.readouterr().out == "a room\n>   (anything)\n> "
