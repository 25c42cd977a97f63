"""The content of pages: pieces of text, buttons, options, links to articles.

The order and the exact characters are those of the official templates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from aem_gym.envs.webshop.catalogue import Product

TEXT, BUTTON, OPTION, LINK = range(4)
Node = tuple[int, str]
"""(kind, text)"""

BACK, NEXT, PREVIOUS, BUY = "Back to Search", "Next >", "< Prev", "Buy Now"
SUB_PAGES = ("Description", "Features", "Reviews", "Attributes")
BUTTON_NAMES = frozenset(name.lower() for name in (BACK, NEXT, PREVIOUS, BUY, "Search", *SUB_PAGES))
"""Names that an option cannot have: clicking them would do something else, or nothing."""
PER_PAGE = 10
SEPARATOR = " [SEP] "
_BLANKS = " \t\n\f\r"
_HTML_SAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"}


@dataclass(frozen=True, slots=True)
class Page:
    nodes: tuple[Node, ...]
    clickables: dict[str, Node]
    """What a click names -> what is clicked. Of equal names the last thing counts."""
    text: str
    """The page in the official `text` mode."""
    has_search_bar: bool = False
    values: Mapping[str, str] = field(default_factory=dict)
    """Of options that are shown under another name than their value: the value."""


@lru_cache(maxsize=4096)
def search_page(goal: str) -> Page:
    """The page with the search bar, where a session begins."""
    nodes = ((TEXT, "WebShop"), (TEXT, "Instruction: "), (TEXT, goal), (BUTTON, "Search"))
    return _page(nodes, has_search_bar=True)


def results_page(goal: str, number: int, total: int, products: Sequence[Product]) -> Page:
    """A page of results: ten articles. `number` counts from 1."""
    buttons = [(BUTTON, PREVIOUS)] if number > 1 else []
    nodes = [*_head(goal), (TEXT, f"Page {number} (Total results: {total})"), *buttons]
    nodes.append((BUTTON, NEXT))
    return _joined(_page(nodes), [_listing(product) for product in products])


def item_page(goal: str, product: Product, show_attributes: bool, strict: bool = False) -> Page:
    """An article with its options.

    Unless `strict`, a value that is in several groups, or is called like a button, is shown
    and clicked as `group: value`; in the original only the last one of equal names can be clicked.
    """
    return _joined(_item_head(goal), [_item(product, show_attributes, strict)])


@lru_cache(maxsize=4096)
def _item_head(goal: str) -> Page:
    return _page([*_head(goal), (BUTTON, PREVIOUS)])


@lru_cache(maxsize=65536)
def _listing(product: Product) -> Page:
    """An article's part of a page of results."""
    return _page([(LINK, product.asin), (TEXT, product.title), (TEXT, product.price_tag)])


@lru_cache(maxsize=8192)
def _item(product: Product, show_attributes: bool, strict: bool) -> Page:
    """An article's page below its head."""
    nodes: list[Node] = []
    names: dict[str, Node] = {}
    values: dict[str, str] = {}
    for name, shown in product.options:
        nodes.append((TEXT, name))
        for value in shown:
            label = value if strict else _label(product, name, value)
            if label != value:
                values[label] = value
            nodes.append((OPTION, label))
            names[label] = (OPTION, name)
    nodes += [(TEXT, product.title), (TEXT, f"Price: {product.price_tag}")]
    nodes.append((TEXT, "Rating: N.A."))
    links = SUB_PAGES if show_attributes else SUB_PAGES[:-1]
    page = _page([*nodes, *((BUTTON, name) for name in (*links, BUY))])
    page.clickables.update(names)
    return replace(page, values=values)


def _label(product: Product, name: str, value: str) -> str:
    """The name of an option: its value, with its group where that alone is not clear."""
    groups = sum(value in values for _, values in product.options)
    return f"{name}: {value}" if groups > 1 or value in BUTTON_NAMES else value


def _joined(head: Page, parts: Sequence[Page]) -> Page:
    """One page of several; the parts are not changed."""
    nodes, clickables, texts = list(head.nodes), dict(head.clickables), [head.text]
    values: Mapping[str, str] = {}
    for part in parts:
        nodes += part.nodes
        clickables |= part.clickables
        texts.append(part.text)
        values = part.values or values
    return Page(tuple(nodes), clickables, SEPARATOR.join(texts), values=values)


def sub_page(goal: str, product: Product, name: str) -> Page:
    """A page of details about an article."""
    details = {
        "Description": [product.description],
        "Features": [f" {bullet}" for bullet in product.bullets],
        "Reviews": [],
        "Attributes": [
            *(f" {attribute}" for attribute in product.attributes),
            *(product.category, product.query, product.product_category),
        ],
    }[name]
    return _page([*_head(goal), (BUTTON, PREVIOUS), *((TEXT, text) for text in details)])


def done_page(asin: str, options: dict[str, str], reward: float) -> Page:
    """The receipt, with the headings of fields that the text environment never fills in."""
    texts = [
        *("Thank you for shopping with us!", "Your code: ", "None"),
        *(" (Paste it in your MTurk interface.)", "Purchased", "asin", asin, "options"),
        *(_json(options), "attrs", "None", "category", "None", "query", "None"),
        *("product category", "None", "Target", "asin", "options", "attrs", "price upper"),
        *("instuction text", "category", "product category", "query", "Goal ", "None", "Reward"),
        *("Your score (min 0.0, max 1.0)", str(reward), "Reward Details ", "None"),
    ]
    return _page([(TEXT, text) for text in texts])


def _head(goal: str) -> list[Node]:
    return [(TEXT, "Instruction:"), (TEXT, goal), (BUTTON, BACK)]


def _page(nodes: Sequence[Node], has_search_bar: bool = False) -> Page:
    # As in HTML: empty texts are no nodes, and a lone line break is not shown.
    read = [(kind, _parsed(text)) for kind, text in nodes]
    kept = tuple(node for node in read if node[1] not in ("", "\n"))
    clickables: dict[str, Node] = {}
    for kind in (BUTTON, LINK):
        clickables |= {node[1].lower(): node for node in kept if node[0] == kind}
    text = SEPARATOR.join([node[1].strip() for node in kept])
    return Page(kept, clickables, text, has_search_bar)


def _parsed(text: str) -> str:
    """A text as the original's HTML parser gives it back: nothing but blanks becomes one."""
    if text.strip(_BLANKS):
        return text
    return "\n" if "\n" in text else text and " "


def _json(options: dict[str, str]) -> str:
    text = json.dumps(options, sort_keys=True)
    return "".join(_HTML_SAFE.get(letter, letter) for letter in text)


def text_rich(page: Page, chosen: Callable[[str], bool], visited: Collection[str]) -> str:
    """One piece a line; what can be clicked, and what was clicked, is marked.

    `chosen` tells whether an option, named as it is shown, was clicked; `visited` are the ids of
    the articles that were opened.
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
