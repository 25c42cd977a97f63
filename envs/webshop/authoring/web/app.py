"""The web page of a shop, as a WSGI application.

It works without scripts: every click is a form. What a form sends is taken only with the token of
this run, which no other web site knows. All text is escaped, whatever an article is called.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import gymnasium as gym

from aem_gym.envs.webshop.authoring.web.views import Visit, receipt, view

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    import jinja2

_FIELDS = 8
_SEED_DIGITS = 18
_STALE = "stale"
_HTML = "text/html; charset=utf-8"


class RefusedRequest(Exception):
    """A request that cannot be answered: a status, and a sentence for the person."""

    def __init__(self, status: str, text: str, allow: str = "") -> None:
        super().__init__(text)
        self.status, self.text, self.allow = status, text, allow


def page_app(env: gym.Env[str, str], *, seed: int = 0, token: str | None = None) -> WSGIApplication:
    """The page of a running shop; `seed` is that of the first task.

    Forms have to send back the `token`, which is a new secret by default.
    """
    return ShopApp(Visit(env, seed), token or secrets.token_urlsafe(16))


class ShopApp:
    """Shows a visit and takes its clicks. For one thread; all browsers see the same visit."""

    def __init__(self, visit: Visit, token: str) -> None:
        self._visit, self._token = visit, token
        self._takes: Mapping[str, Callable[[Mapping[str, str]], None]] = {
            "/act": lambda form: visit.act(_needed(form, "action")),
            "/search": lambda form: visit.act(f"search[{_needed(form, 'words')}]"),
            "/expert": self._expert,
            "/task": self._task,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        headers = [("Content-Type", _HTML), ("Content-Security-Policy", _csp())]
        status, page = "200 OK", ""
        try:
            place = self._take(environ)
            if place:
                status = "303 See Other"
                headers.append(("Location", place))
            else:
                page = self._page(environ.get("QUERY_STRING", "") == _STALE)
        except RefusedRequest as refusal:
            status = refusal.status
            headers += [("Allow", refusal.allow)] if refusal.allow else []
            page = _render("error.html", status=status, text=refusal.text)
        start_response(status, headers)
        return [page.encode(errors="replace")]

    def _take(self, environ: WSGIEnvironment) -> str:
        """Do what was asked; where to go on, or nothing if only the page was asked for."""
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        take = self._takes.get(path)
        if take is None and path not in ("", "/"):
            raise RefusedRequest("404 Not Found", "There is nothing at this address.")
        if take is None and method == "GET":
            return ""
        if take is None or method != "POST":
            allow = "GET" if take is None else "POST"
            raise RefusedRequest(
                "405 Method Not Allowed", f"Expected {allow}, got {method}.", allow
            )
        form = _form(environ)
        if not secrets.compare_digest(form.get("token", "").encode(), self._token.encode()):
            text = "This click comes from an earlier run of the shop, or from another web site."
            raise RefusedRequest("403 Forbidden", text)
        if take != self._task and form.get("state") != self._visit.state:
            return f"/?{_STALE}"
        take(form)
        return "/"

    def _expert(self, _form: Mapping[str, str]) -> None:
        if not self._visit.has_expert:
            raise RefusedRequest("404 Not Found", "This shop has no expert.")
        self._visit.let_expert_act()

    def _task(self, form: Mapping[str, str]) -> None:
        seed = _needed(form, "seed").strip()
        if not (seed.isascii() and seed.isdigit() and len(seed) <= _SEED_DIGITS):
            text = f"seed: expected a whole number of at most {_SEED_DIGITS} digits, got {seed!r}."
            raise RefusedRequest("400 Bad Request", text)
        self._visit.begin(int(seed))

    def _page(self, stale: bool) -> str:
        visit = self._visit
        return _render(
            "page.html",
            visit=visit,
            goal=visit.info["goal"],
            view=view(visit.session),
            receipt=receipt(visit.session) if visit.over else None,
            token=self._token,
            stale=stale,
        )


def _form(environ: WSGIEnvironment) -> dict[str, str]:
    """The fields that were sent; of repeated ones the last."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    try:
        fields = parse_qs(
            body.decode(errors="replace"), keep_blank_values=True, max_num_fields=_FIELDS
        )
    except ValueError as error:
        raise RefusedRequest("400 Bad Request", f"Expected at most {_FIELDS} fields.") from error
    return {name: values[-1] for name, values in fields.items()}


def _needed(form: Mapping[str, str], name: str) -> str:
    if name not in form:
        raise RefusedRequest("400 Bad Request", f"Expected the field {name!r}.")
    return form[name]


def _render(template: str, **values: object) -> str:
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> jinja2.Environment:
    import jinja2
    from markupsafe import Markup

    templates = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(_file),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["style"] = Markup(_file("style.css"))
    return templates


@cache
def _csp() -> str:
    """The page's policy for browsers: show it in its own style, and send its forms here."""
    digest = base64.b64encode(hashlib.sha256(_file("style.css").encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


@cache
def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
