"""Episodes to training rows: token ids and the spans the policy generated."""

from __future__ import annotations

from collections.abc import Iterable

from aem_gym.types import Episode, Span, TrainingRow


def sequences(episodes: Iterable[tuple[int, Episode]]) -> list[TrainingRow]:
    """The training rows of (number, episode) pairs, episode by episode, turn by turn.

    A `transcript` episode is one row with a span per turn, a `window` episode one row per turn.
    Tokens are those kept from generation. Turns without response tokens have no span.
    """
    rows: list[TrainingRow] = []
    for number, episode in episodes:
        rows += (
            _transcript(number, episode)
            if episode.context == "transcript"
            else _window(number, episode)
        )
    return rows


def _transcript(number: int, episode: Episode) -> list[TrainingRow]:
    ids: list[int] = []
    spans: list[Span] = []
    for place, turn in enumerate(episode.turns):
        ids += turn.prompt_ids
        if turn.response_ids:
            spans.append(Span(len(ids), len(ids) + len(turn.response_ids), number, place))
        ids += turn.response_ids
    return [TrainingRow(tuple(ids), tuple(spans))] if spans else []


def _window(number: int, episode: Episode) -> list[TrainingRow]:
    return [
        TrainingRow(
            turn.prompt_ids + turn.response_ids,
            (Span(len(turn.prompt_ids), len(turn.prompt_ids + turn.response_ids), number, place),),
        )
        for place, turn in enumerate(episode.turns)
        if turn.response_ids
    ]
