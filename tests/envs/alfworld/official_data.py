"""Official-format data for tests: written by the exporter, with small rules of our own."""

from __future__ import annotations

from pathlib import Path

from aem_gym.envs.alfworld.authoring.export import export_games

GRAMMAR = """grammar :: \"\"\"
    {
        "task": [{
            "rhs": "Your task is to: UNKNOWN GOAL."
        }]
    }
\"\"\";
action PutObject {
    template :: "%s";
}
"""
"""As much of a grammar as the native engine asks of one."""
TEMPLATES = {"0.4": "move {o} to {r}", "0.3": "put {o} in/on {r}"}


def rules(folder: Path, dialect: str = "0.4") -> Path:
    """A folder with rules that only the native engine can use."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alfred.pddl").write_text("(define (domain alfred))")
    (folder / "alfred.twl2").write_text(GRAMMAR % TEMPLATES[dialect])
    return folder


def make_data(folder: Path, games: int = 12, split: str = "train", dialect: str = "0.4") -> Path:
    """A data folder with so many games."""
    logic = rules(folder / "logic", dialect)
    export_games(folder, games=games, split=split, logic=logic, env_args={"dialect": dialect})
    return folder


def sample(test_data: Path) -> Path:
    """The real game's folder."""
    return next((test_data / "alfworld").rglob("game.tw-pddl")).parent
