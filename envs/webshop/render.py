"""Pages as text that shows what can be clicked, and what was."""

from __future__ import annotations

from collections.abc import Callable, Collection

from aem_gym.envs.webshop.pages import BUTTON, LINK, OPTION, Page


def text_rich(page: Page, chosen: Callable[[str], bool], visited: Collection[str]) -> str:
    """One piece a line; what can be clicked, and what was clicked, is marked.

    Args:
        page: what is shown.
        chosen: tells whether an option, as it is shown, was clicked.
        visited: ids of the articles that were looked at.
    """
    lines: list[str] = []
    clicked: list[str] = []
    for kind, content in page.nodes:
        if kind == BUTTON:
            lines.append(f"[button] {content} [button_]")
        elif kind == OPTION:
            if chosen(content):
                lines.append(f"  [clicked button] {content} [clicked button_]")
                clicked.append(f"You have clicked {content}.")
            else:
                lines.append(f"  [button] {content} [button_]")
        elif kind == LINK:
            mark = "clicked button" if content in visited else "button"
            lines.append(f"\n[{mark}] {content} [{mark}_]")
        else:
            lines.append(content)
    return "\n".join([*reversed(clicked), *lines, ""])
