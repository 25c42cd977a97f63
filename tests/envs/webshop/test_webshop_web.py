"""The shop's web page: what it shows, what it takes, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import re
from urllib.parse import urlencode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aem_gym.envs.webshop.authoring.web.views import receipt
from aem_gym.envs.webshop.pages import LINK
from tests.envs.webshop.web_visitor import SECRET, ExpertShop, Page, SmallShop, Visitor, shop_of

TARGET = "B000000000"
"""What the task of seed 0 wants."""


def possible(env: SmallShop) -> set[str]:
    """What can be clicked, as the engine has it."""
    return {f"click[{name}]" for name in env.session.page.clickables}


# A visit ----------------------------------------------------------------------------------------


def test_a_purchase_by_clicks_is_paid_and_explained() -> None:
    visitor = Visitor(SmallShop())
    page = visitor.look()
    assert "0 of 6 turns taken" in page.words and visitor.env.session.goal.text in page.words
    assert visitor.post("/search", words="cotton shirt").headers["Location"] == "/"
    page = visitor.look()
    assert "Page 1 (Total results: 25)" in page.words and "$19.99" in page.words
    for action in (f"click[{TARGET.lower()}]", "click[navy blue]", "click[large]"):
        assert action in page.values("button", "action")
        page = visitor.act(action)
    chosen = [a["value"] for _, a in page.elements if a.get("aria-pressed") == "true"]
    assert chosen == ["click[navy blue]", "click[large]"]
    page = visitor.act("click[buy now]")
    assert "0.750 of 1" in page.words  # 1 attribute, 1 of 2 options, the price
    for said in ("1 of the 1 asked for", "1 of the 2 asked for", "within the limit of $30.00"):
        assert said in page.words
    assert "color: navy blue, size: large" in page.words and "navy blue, small" in page.words
    assert page.values("button", "action") == []
    assert "search[cotton shirt]" in page.texts("code")


@settings(max_examples=25)
@given(st.data())
def test_the_page_offers_just_what_can_be_clicked_and_tells_the_target_at_the_end(
    data: st.DataObject,
) -> None:
    visitor = Visitor(SmallShop())
    page = visitor.look()
    assert page.values("button", "action") == [] and TARGET.lower() not in page.words.lower()
    page = visitor.act("search[shirt]")
    while page.values("button", "action"):
        offered = set(page.values("button", "action"))
        assert offered == possible(visitor.env)
        assert not page.texts("h3")  # of what was bought and what was wanted
        page = visitor.act(data.draw(st.sampled_from(sorted(offered))))
        assert "did nothing" not in page.words
        if visitor.env.session.place == "search":
            page = visitor.act("search[lamp]")
    assert "Wanted" in page.texts("h3") and TARGET in page.words


@given(st.integers(0, 9), st.lists(st.sampled_from(["navy blue", "small", "large"])))
def test_the_parts_of_a_receipt_add_up(place: int, options: list[str]) -> None:
    env = SmallShop()
    env.reset(seed=3)
    session = env.session
    session.step("search[desk lamp shirt]")
    links = [text for kind, text in session.page.nodes if kind == LINK]
    for name in (links[place], *options, "buy now"):
        session.step(f"click[{name}]")
    ended, reward = receipt(session), session.purchase
    assert ended.kind is not None and ended.bought is not None and reward is not None
    total = sum(part.share * part.weight for part in ended.parts) * ended.kind.share
    assert total == pytest.approx(ended.score) and ended.score == reward.total


def test_the_turns_end_without_a_purchase() -> None:
    visitor = Visitor(SmallShop())
    for _ in range(SmallShop.max_turns):
        page = visitor.act("search[lamp]")
    assert "Nothing was bought" in page.words and "0.000 of 1" in page.words
    assert TARGET in page.words
    assert "6 of 6 turns taken" in visitor.act("search[lamp]").words


def test_tasks_by_seed() -> None:
    visitor = Visitor(SmallShop(), seed=4)
    first = visitor.look()
    assert first.values("button", "seed") == ["4", "5"]
    visitor.act("search[lamp]")
    assert visitor.post("/task", seed="4").status == 303
    again = visitor.look()
    assert again.words == first.words
    visitor.post("/task", seed=" 7 ")
    assert "task 7" in visitor.look().words and visitor.env.session.goal.asin == "B000000007"
    for seed in ("", "-1", "1.5", "x", "\u0663", "9" * 19):
        reply = visitor.post("/task", seed=seed)
        assert reply.status == 400 and "18 digits" in reply.text
    assert "task 7" in visitor.look().words


def test_the_expert_takes_a_turn_where_there_is_one() -> None:
    visitor = Visitor(ExpertShop())
    assert visitor.post("/expert").status == 303
    page = visitor.look()
    assert "search[shirt]" in page.texts("code")
    assert page.texts("q") == ["I look for a <b>shirt</b>."]
    without = Visitor(SmallShop())
    assert without.post("/expert").status == 404
    assert "expert" not in without.look().words


def test_a_page_that_is_out_of_date_spends_no_turn() -> None:
    visitor = Visitor(SmallShop())
    old = visitor.look().values("input", "state")[0]
    visitor.act("search[lamp]")
    reply = visitor.post("/act", action="click[next >]", state=old)
    assert (reply.status, reply.headers["Location"]) == (303, "/?stale")
    page = visitor.send("GET", "/?stale").page
    assert "out of date" in page.words and "1 of 6 turns taken" in page.words
    assert visitor.env.session.number == 1


# Texts ------------------------------------------------------------------------------------------


def walk(word: str) -> list[Page]:
    """Every kind of page of a shop where everything is called so."""
    visitor = Visitor(shop_of(word))
    visitor.env.max_turns = 9
    actions = (word, "search[needle]", "click[b000000001]", "click[features]")
    return [visitor.look(), *map(visitor.act, (*actions, "click[< prev]", "click[buy now]"))]


@pytest.fixture(scope="module")
def plain() -> list[str]:
    return [page.shape() for page in walk("wool")]


@settings(max_examples=60)
@given(st.text().map("w{}".format))
@example("w<script>alert(1)</script>")
@example('w\' onclick=\'alert(1)\' " onfocus="alert(1)" autofocus x="')
@example("w</style></title></textarea><!--<img src=x onerror=alert(1)>")
@example("w{{ 7 * 7 }}{% raw %}")
@example("w\ud800\x00\r\n")
def test_no_name_becomes_markup(plain: list[str], word: str) -> None:
    pages = walk(word)
    assert [page.shape() for page in pages] == plain
    shown = " ".join(word.encode(errors="replace").decode().split())
    assert all(shown in page.words for page in pages)


@settings(max_examples=50)
@given(st.text(), st.sampled_from(["/act", "/search"]))
@example("click[[]]", "/act")
@example("x] " * 30, "/search")
def test_any_text_is_an_action(text: str, path: str) -> None:
    visitor = Visitor(SmallShop())
    name = "action" if path == "/act" else "words"
    assert visitor.post(path, **{name: text}).status == 303
    assert "1 of 6 turns taken" in visitor.look().words


# Requests ---------------------------------------------------------------------------------------

FORM = {"token": SECRET, "state": "1.0", "action": "search[lamp]"}


@pytest.mark.parametrize(
    ("method", "path", "form", "status"),
    [
        ("GET", "/nowhere", None, 404),
        ("GET", "/../../etc/passwd", None, 404),
        ("GET", "/style.css", None, 404),
        ("GET", "//", None, 404),
        ("GET", "/act", None, 405),
        ("PUT", "/", None, 405),
        ("POST", "/", FORM, 405),
        ("POST", "/nowhere", FORM, 404),
        ("POST", "/act", {**FORM, "token": "guess"}, 403),
        ("POST", "/act", {**FORM, "token": "\u00e9"}, 403),
        ("POST", "/act", {"state": "1.0", "action": "search[lamp]"}, 403),
        ("POST", "/task", {"seed": "3"}, 403),
        ("POST", "/expert", {}, 403),
        ("POST", "/act", {"token": SECRET, "state": "1.0"}, 400),
        ("POST", "/act", {**FORM, **dict.fromkeys("abcdefgh", "x")}, 400),
        ("POST", "/act", {**FORM, "action": "x" * 70_000}, 413),
    ],
)
def test_a_request_that_is_refused_changes_nothing(
    method: str, path: str, form: dict[str, str] | None, status: int
) -> None:
    visitor = Visitor(SmallShop())
    reply = visitor.send(method, path, urlencode(form).encode() if form else b"")
    assert reply.status == status and "Traceback" not in reply.text
    assert ("Allow" in reply.headers) == (status == 405)
    page = visitor.look()
    assert "0 of 6 turns taken" in page.words and "task 0" in page.words
    assert visitor.send("POST", "/act", urlencode(FORM).encode()).status == 303
    assert "1 of 6 turns taken" in visitor.look().words


@given(st.binary(max_size=300), st.sampled_from(["/act", "/search", "/expert", "/task"]))
def test_no_body_makes_it_fail(body: bytes, path: str) -> None:
    for sent in (body, b"token=secret&state=1.0&" + body):
        reply = Visitor(SmallShop()).send("POST", path, sent)
        assert reply.status in (303, 400, 403, 404)


def test_another_name_of_this_machine_is_refused() -> None:
    visitor = Visitor(SmallShop())
    reply = visitor.send("POST", "/act", urlencode(FORM).encode(), HTTP_HOST="shop.example:8000")
    assert reply.status == 403 and "0 of 6 turns taken" in visitor.look().words


def test_the_token_is_new_in_every_run() -> None:
    from aem_gym.envs.webshop.authoring.web.app import page_app

    tokens = set()
    for _ in range(2):
        body = page_app(SmallShop())(
            {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: lambda _: None
        )
        tokens |= set(Page(b"".join(body).decode()).values("input", "token"))
    assert len(tokens) == 2 and min(map(len, tokens)) >= 20


# What a browser receives ------------------------------------------------------------------------


def test_nothing_but_its_own_style_is_allowed() -> None:
    reply = Visitor(SmallShop()).send("GET", "/")
    rules = reply.headers["Content-Security-Policy"]
    style = re.search(r"<style>(.*?)</style>", reply.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert "default-src 'none'" in rules and f"style-src 'sha256-{digest}'" in rules
    assert "form-action 'self'" in rules and "frame-ancestors 'none'" in rules
    for page in walk("wool"):
        for tag, attributes in page.elements:
            assert tag not in ("script", "img", "iframe", "base")
            assert not [name for name in attributes if name == "style" or name[:2] == "on"]
            for name in ("href", "src", "action"):
                value = attributes.get(name, "#")
                assert value[0] in "/#" or value.startswith("data:image/svg+xml,"), value


def test_everything_has_a_name_for_who_cannot_see_it() -> None:
    for page in walk("wool"):
        attributes = [(tag, attrs) for tag, attrs in page.elements]
        assert ("html", {"lang": "en"}) in attributes
        labels = {attrs["for"] for tag, attrs in attributes if tag == "label"}
        fields = [a for tag, a in attributes if tag == "input" and a.get("type") != "hidden"]
        assert fields and all(field["id"] in labels for field in fields)
        assert len(page.texts("h1")) == 1 and page.texts("title")
        assert all(a["aria-label"] for tag, a in attributes if tag == "meter")


def luminance(color: str) -> float:
    """As WCAG 2 defines it."""
    digits = color.lstrip("#")
    digits = "".join(d * 2 for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(scheme: int) -> None:
    text = Visitor(SmallShop()).send("GET", "/").text
    colors = dict(re.findall(r"--([\w-]+): (#\w+);", text.split(":root {")[scheme + 1]))
    behind = ("ground", "card", "tint")
    pairs = [(ink, on) for ink in ("ink", "soft", "accent") for on in behind]
    for ink, on in [*pairs, ("on-accent", "accent"), ("ink", "warn")]:
        darker, lighter = sorted((luminance(colors[ink]), luminance(colors[on])))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (ink, on)
