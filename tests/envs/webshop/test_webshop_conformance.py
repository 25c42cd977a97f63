"""The official engine's recordings, replayed; and the command's report when they differ."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from aem_gym.envs.webshop.authoring.cli import webshop
from aem_gym.envs.webshop.authoring.conformance import main
from aem_gym.envs.webshop.dataset import draw_prices, load_products
from aem_gym.envs.webshop.goals import human_goals, official_order, parse_goal, synthetic_goals


@pytest.fixture(scope="module")
def peer(test_data: Path) -> Path:
    return test_data / "webshop" / "peer"


def command(peer: Path, **changed: Path) -> list[str]:
    files = {
        "products": "items_shuffle_1000.json",
        "attributes": "items_ins_v2_1000.json",
        "human-goals": "items_human_ins.json",
        "goals": "goals_and_prices.json",
        "nouns": "title_nouns.json",
        "traces": "traces.json",
        "search": "lucene_top50.json",
    }
    paths = {name: peer / file for name, file in files.items()} | changed
    args = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    for file in ("reward_tuples.json", "reward_tuples_synthetic.json"):
        args += ["--rewards", str(peer / file)]
    return args


def test_every_recording_agrees(peer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(peer)) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["differences"] == 0
    kinds = {"text", "text_rich", "available_actions", "reward", "done", "reward parts"}
    assert kinds | {"search order"} <= figures["matches"].keys()
    assert all(right == total > 0 for right, total in figures["matches"].values())


def test_a_difference_is_found(
    peer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = json.loads((peer / "traces.json").read_text())
    traces[0]["steps"][0]["text"] += "!"
    (tmp_path / "traces.json").write_text(json.dumps(traces))
    assert main(command(peer, traces=tmp_path / "traces.json")) == 1
    out = capsys.readouterr().out
    assert traces[0]["name"] in out and json.loads(out.splitlines()[-1])["differences"] == 1


def test_both_commands_do_the_same(peer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(peer)
    assert webshop.main(["conformance", *arguments], standalone_mode=False) == 0
    shown = capsys.readouterr().out
    module = [sys.executable, "-m", "aem_gym.envs.webshop.conformance"]
    done = subprocess.run([*module, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, shown)
    done = subprocess.run(module, capture_output=True, text=True)
    assert done.returncode == 2 and "--human-goals" in done.stderr


def test_what_is_missing_is_said(
    peer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(peer, products=tmp_path / "none.json")) == 2
    assert "items_ins_v2*.json" in capsys.readouterr().err
    (tmp_path / "cut.json").write_bytes((peer / "items_human_ins.json").read_bytes()[:5000])
    assert main(command(peer, **{"human-goals": tmp_path / "cut.json"})) == 2
    assert "not a whole JSON file" in capsys.readouterr().err


def test_prices_and_goals_are_drawn_as_in_the_original(peer: Path) -> None:
    stock = load_products(
        *[
            peer / f
            for f in ("items_shuffle_1000.json", "items_ins_v2_1000.json", "items_human_ins.json")
        ]
    )
    assert [skipped.row for skipped in stock.skipped] == [992, 993, 994]
    recorded = json.loads((peer / "goals_and_prices.json").read_text())
    rng = random.Random(1)
    prices = draw_prices(stock.products, rng)
    assert prices == recorded["prices"]
    goals = official_order(human_goals(stock.products, prices, rng))
    assert goals == [parse_goal(goal) for goal in recorded["goals"]]
    synthetic = synthetic_goals(stock.products, prices, random.Random(1))
    assert len(synthetic) > 1000 and all(0 < goal.weight <= 1 for goal in synthetic)
