"""A seeded policy is what it always was: values recorded with aem_gym 0.1.0 (commit d954532)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aem_gym.agents.build import open_agent
from aem_gym.agents.tiny import Tiny
from aem_gym.protocols import EpisodeStart, TurnInput
from aem_gym.settings import settle
from aem_gym.types import Demo, DemoStep, PromptTemplate

THINGS = ("cabinet", "mug", "apple", "fridge")
TEMPLATE = PromptTemplate(system="You play.", response_format="short")
GOAL = "look around"
IDS = (
    *(297, 282, 67, 91, 16, 1, 38, 280, 75, 86, 16, 201, 201, 78, 81, 81, 77, 223, 67, 84, 81, 87),
    *(80, 70, 201, 201, 309, 319, 16, 2, 310, 316, 275, 308, 319, 1, 309, 325, 16, 2, 310, 294),
    *(275, 308, 325, 1, 309, 326, 16, 2, 310, 315, 275, 308, 318, 1),
)
SAID = (
    (
        (150, 287, 94, 327, 184, 151),
        (-5.93542, -4.98632, -4.85171, -4.70782, -5.46093, -5.52334),
        (5.538, 5.57603, 5.52593, 5.54224, 5.52602, 5.5504),
    ),
    (
        (283, 162, 195, 259, 241, 43),
        (-6.0453, -6.15299, -4.50182, -5.08359, -5.65382, -4.78873),
        (5.53927, 5.51202, 5.54229, 5.58419, 5.57346, 5.56265),
    ),
    (
        (165, 124, 35, 137, 111, 134),
        (-5.25234, -5.16354, -5.09753, -5.61306, -5.72425, -5.16286),
        (5.52105, 5.49301, 5.56201, 5.57086, 5.56034, 5.54185),
    ),
    (
        (41, 171, 48, 48, 90, 67),
        (-6.1747, -4.48083, -4.97636, -5.01376, -4.70751, -5.45746),
        (5.53403, 5.56269, 5.53871, 5.55746, 5.5604, 5.55399),
    ),
)


def demo(number: int) -> Demo:
    def step(turn: int) -> DemoStep:
        thing = THINGS[(number + turn) % 4]
        actions = tuple(f"go to {name} {1 + turn % 2}" for name in THINGS)
        chosen = actions[(number + turn) % 4]
        seen = f"You see a {thing} {1 + turn}."
        return DemoStep(seen, f"I want {thing}", chosen, admissible_actions=actions)

    return Demo(GOAL, tuple(step(turn) for turn in range(3)))


@pytest.mark.parametrize("merge", [True, False])
def test_tokens_adapter_and_draws_are_as_recorded(tmp_path: Path, merge: bool) -> None:
    given = {"model": "tiny", "max_new_tokens": 6, "device": "cpu", "threads": 1, "seed": 3}
    config = replace(settle(given).config, sampler_options={"merge": merge})
    Tiny.make(tmp_path, config, TEMPLATE, [demo(number) for number in range(8)], ())
    agent = open_agent(config, TEMPLATE, str(tmp_path))
    start = EpisodeStart(0, 10, "Do it.", GOAL, TEMPLATE)
    (row,) = agent.tokenize(demo(0), start)
    assert row.ids == IDS
    parameters = agent.learner.parameters()
    assert len(parameters) == 42
    name, first = next(iter(parameters.items()))
    assert name == "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert float(first.detach().abs().sum()) == pytest.approx(65.024055, abs=1e-4)
    draws = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in parameters.items():
            if "lora_B" in name:
                weight += 0.05 * torch.randn(weight.shape, generator=draws)
    agent.policy.publish(agent.learner)
    agent.begin(start)
    agent.begin(replace(start, slot=1, key=11))
    said = []
    for turn in range(2):
        texts = [f"You see a mug {1 + turn + slot}." for slot in (0, 1)]
        info = {"admissible_actions": []}
        said += agent.act([TurnInput(s, turn, text, info, ()) for s, text in enumerate(texts)])
    for response, (ids, logprobs, entropies) in zip(said, SAID, strict=True):
        assert response.response_ids == ids
        assert response.logprobs == pytest.approx(logprobs, abs=5e-5)
        assert response.entropies == pytest.approx(entropies, abs=5e-5)
