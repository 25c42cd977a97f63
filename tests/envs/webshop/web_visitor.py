"""Who visits the web page without a browser: a small shop, and forms sent by hand."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from aem_gym.envs.webshop.authoring.web.app import page_app
from aem_gym.envs.webshop.catalogue import Catalogue, MemoryCatalogue, parse_product
from aem_gym.envs.webshop.engine import ActionResult, Session
from aem_gym.envs.webshop.goals import ShopGoal
from aem_gym.envs.webshop.reward import Nouns
from aem_gym.loopback import Guarded
from aem_gym.text_env import TextEnv
from aem_gym.types import StepResult, Task
from tests.envs.webshop.webshop_shop import goal, row, shop

SECRET = "secret"
_VOID = {"meta", "link", "input", "option"}


class SmallShop(TextEnv):
    """The small shop; a task wants the article whose number is its seed."""

    max_turns = 6

    def __init__(self, catalogue: Catalogue | None = None, wanted: ShopGoal | None = None) -> None:
        super().__init__()
        self.catalogue, self.wanted = catalogue or shop(), wanted

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        return super().reset(seed=seed, options={"number": seed or 0})

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        every = self.catalogue.every()
        product = self.catalogue.product(every[options["number"] % len(every)])
        self.session = Session(self.catalogue, self.wanted or goal(product), Nouns())
        return Task(product.asin, goal=self.session.goal.text), self._outcome(ActionResult())

    def act(self, action: str) -> StepResult:
        return self._outcome(self.session.step(action))

    def _outcome(self, result: ActionResult) -> StepResult:
        return StepResult(
            self.session.text(),
            reward=result.reward,
            terminated=result.done,
            score=result.reward,
            action_valid=result.valid,
        )


class ExpertShop(SmallShop):
    """With an expert that knows but one thing."""

    def expert(self) -> tuple[str, str]:
        return "I look for a <b>shirt</b>.", "search[shirt]"


def shop_of(word: str) -> SmallShop:
    """A shop where everything is called by one word, and its one article is found by `needle`."""
    product = parse_product(
        row(
            "B000000001",
            name=word,
            full_description="needle",
            small_description=[word],
            customization_options={word: [{"value": word}, {"value": f"{word}2"}]},
        )
    )
    wanted = ShopGoal(product.asin, word, word, (word,), (word,))
    return SmallShop(MemoryCatalogue([product], {product.asin: 1.0}), wanted)


class Page(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.pieces: list[tuple[str, str]] = []
        """(the innermost element around it, a text)"""
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.pieces.append((self._open[-1], data.strip()))

    @property
    def words(self) -> str:
        """All that can be read, with single spaces."""
        return " ".join(" ".join(text for tag, text in self.pieces if tag != "style").split())

    def texts(self, tag: str) -> list[str]:
        """The texts directly in elements of a kind."""
        return [text for inside, text in self.pieces if inside == tag]

    def shape(self) -> str:
        """Its elements, with the names of their attributes."""
        return " ".join(f"{tag}({','.join(attributes)})" for tag, attributes in self.elements)

    def values(self, tag: str, name: str) -> list[str]:
        """The values of the elements of a kind and a name."""
        return [a.get("value", "") for t, a in self.elements if t == tag and a.get("name") == name]


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    text: str
    page: Page = field(init=False)

    def __post_init__(self) -> None:
        is_page = self.headers.get("Content-Type", "").startswith("text/html")
        object.__setattr__(self, "page", Page(self.text if is_page else ""))


class Visitor:
    """Sends requests to a shop's page, and checks that both sides keep to WSGI."""

    def __init__(self, env: SmallShop, seed: int = 0) -> None:
        self.env = env
        app = page_app(env, seed=seed, token=SECRET)
        self._app = validator(Guarded(validator(app)))

    def send(self, method: str, path: str, body: bytes = b"", **headers: str | None) -> Reply:
        """Any request. `headers` are as WSGI names them; None leaves one out."""
        path, _, query = path.partition("?")
        asked: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
        asked |= {"SCRIPT_NAME": "", "HTTP_HOST": "localhost:8000", "wsgi.input": io.BytesIO(body)}
        if method == "POST":
            asked["CONTENT_TYPE"] = "application/x-www-form-urlencoded"
            asked["CONTENT_LENGTH"] = str(len(body))
        setup_testing_defaults(asked)
        asked = {name: text for name, text in (asked | headers).items() if text is not None}
        started: list[tuple[str, dict[str, str]]] = []

        def start(status: str, answered: list[tuple[str, str]], _: Any = None) -> Any:
            started.append((status, dict(answered)))

        parts = self._app(asked, start)
        text = b"".join(parts).decode()
        parts.close()  # type: ignore[attr-defined]
        status, answered = started[-1]
        return Reply(int(status.split()[0]), answered, text)

    def look(self) -> Page:
        """The page as it is now."""
        reply = self.send("GET", "/")
        assert reply.status == 200
        return reply.page

    def post(self, path: str, **fields: str) -> Reply:
        """A form, with what the page would send along."""
        state = self.look().values("input", "state")[0]
        form = {"token": SECRET, "state": state} | fields
        return self.send("POST", path, urlencode(form, errors="replace").encode())

    def act(self, action: str) -> Page:
        """Send an action, and look."""
        assert self.post("/act", action=action).status == 303
        return self.look()
