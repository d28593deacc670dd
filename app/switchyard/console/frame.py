"""What every page of the console has: the door, the form check, the headers and the errors."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint, Response, g, redirect, render_template, request, url_for
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection
from werkzeug.wrappers import Response as AnyResponse

from app.switchyard import words
from app.switchyard.audit import By
from app.switchyard.console.door import Door
from app.switchyard.errors import BadInput, Forbidden, SwitchyardError
from app.switchyard.http import each_once, identify
from app.switchyard.logs import logger_of
from app.switchyard.runtime import Runtime
from app.switchyard.text import reason, whole_number

log = logger_of(__name__)

Page = str | AnyResponse | tuple[str, int]
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
MAX_BYTES, LOGIN_BYTES = 1024 * 1024, 16 * 1024
"""The largest form, since a host may have no limit, and the largest one before a login, since a
form is parsed before its token can be checked."""
NAME = "switchyard_console"
"""The blueprint's name. A host may have a `console` of its own."""
STATIC, LOGIN = f"{NAME}.static", f"{NAME}.login"
OPEN_TO_ALL = frozenset({STATIC, LOGIN, f"{NAME}.enter"})
COME_AND_GO = frozenset({f"{NAME}.enter", f"{NAME}.logout"})

SAYING = (words.when, words.duration, words.between, words.number, words.plural, words.pretty)


def framed(pages: Blueprint, runtime: Runtime, door: Door) -> None:
    """Add the frame to a blueprint whose pages extend `switchyard/base.html`."""
    identify(pages)

    @pages.before_request
    def who_is_it() -> AnyResponse | None:
        if request.endpoint == STATIC:
            return None
        g.switchyard_visitor = who = door.visitor(request)
        request.max_content_length = LOGIN_BYTES if who is None else MAX_BYTES
        if request.method == "POST":
            door.check_form(request)
            each_once(request.form)
            own = request.endpoint in COME_AND_GO and not door.open
            if g.switchyard_visitor is not None and not own and not door.may_act():
                raise Forbidden("you may look at everything here, and change nothing")
        if g.switchyard_visitor is None and request.endpoint not in OPEN_TO_ALL:
            wanted = here() if request.method == "GET" else None
            return redirect(url_for(LOGIN, next=wanted), 303)
        return None

    @pages.after_request
    def headers(answer: Response) -> Response:
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        if request.endpoint != STATIC:
            answer.headers["Cache-Control"] = "no-store"
        return answer

    @pages.context_processor
    def shared() -> dict[str, Any]:
        return {
            "visitor": g.get("switchyard_visitor"),
            "form_token": door.form_token,
            "open_door": door.open,
            "may_act": door.may_act(),
            "use_inngest": runtime.settings.use_inngest,
            "here": here(),
            "ago": partial(words.ago, now=runtime.store.clock()),
            **{one.__name__: one for one in SAYING},
        }

    @pages.errorhandler(SwitchyardError)
    def refused(failure: SwitchyardError) -> tuple[str, int]:
        if failure.status >= 500:
            log.error("page failed: %s", failure)
        return error_page(failure.title, str(failure)), failure.status

    @pages.errorhandler(DBAPIError)
    @pages.errorhandler(NoConnection)
    def no_database(failure: SQLAlchemyError) -> tuple[str, int]:
        log.error("database failed: %s", reason(failure))
        return error_page("Database unavailable", "nothing was changed; try again"), 503


def by() -> By:
    """Who sent this form, and why."""
    return By(g.switchyard_visitor, request.form.get("why", ""))


def number(field: str) -> int:
    """A number in the form, or in a page's address; 0 where none is given. Raises BadInput."""
    given = request.args if request.method == "GET" else request.form
    found = whole_number(given.get(field) or "0")
    if found is None:
        raise BadInput(f"{field} must be a number")
    return found


def moving(
    title: str, back: tuple[str, str], *, refusal: SwitchyardError | None = None, **shown: Any
) -> Page:
    """The progress of an act that handles a batch per request. htmx continues it, or else its
    button. `shown` has the template's names, and `fields` what the next request must contain."""
    shown["fields"] |= {"why": request.form.get("why", "")}
    shown |= {"title": title, "back": back, "refusal": refusal and str(refusal)}
    page = render_template("switchyard/moving.html", **shown)
    return page if refusal is None else (page, refusal.status)


def here() -> str:
    """The address of this page, also where the app is mounted below a path."""
    return request.script_root + request.full_path.rstrip("?")


def is_poll() -> bool:
    """Whether a page polls itself, and takes from the answer what has changed."""
    return request.method == "GET" and "HX-Request" in request.headers


def error_page(title: str, detail: str) -> str:
    """A page that says what went wrong."""
    return render_template("switchyard/error.html", title=title, detail=detail)
