"""What every page of the console has: its door, its form check, its headers, its errors."""

from __future__ import annotations

import json
import logging
import re
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, current_app, g, redirect, render_template, request, url_for
from sqlalchemy.exc import DBAPIError
from werkzeug.wrappers import Response as AnyResponse

from app.switchyard.console.door import Door, Visitor
from app.switchyard.errors import SwitchyardError
from app.switchyard.runtime import Runtime

log = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
OPEN_TO_ALL = frozenset({"console.static", "console.login", "console.enter"})
_SECRET = re.compile(r"token|secret|password|passwd|authorization|api_?key|credential", re.I)
_MASK = "••••••"


def framed(pages: Blueprint, made: Runtime, door: Door) -> None:
    """Hang the frame on a blueprint of pages that extend `console/base.html`."""

    @pages.before_request
    def who_is_it() -> AnyResponse | None:
        if request.endpoint == "console.static":
            return None
        g.visitor = door.visitor(request)
        if request.method == "POST":
            door.check_form(request, g.visitor)
        if g.visitor.who is None and request.endpoint not in OPEN_TO_ALL:
            wanted = request.full_path.rstrip("?") if request.method == "GET" else None
            return redirect(url_for("console.login", next=wanted), 303)
        return None

    @pages.after_request
    def headers(answer: Response) -> Response:
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        if request.endpoint != "console.static":
            answer.headers["Cache-Control"] = "no-store"
            if "visitor" in g:
                door.remember(request, answer, g.visitor)
        return answer

    @pages.context_processor
    def shared() -> dict[str, Any]:
        return {
            "visitor": g.get("visitor", Visitor(None, "")),
            "open_door": door.open,
            "with_mail": "mail" in current_app.blueprints,
            "use_inngest": made.settings.use_inngest,
        }

    @pages.errorhandler(SwitchyardError)
    def refused(failure: SwitchyardError) -> tuple[str, int]:
        if failure.status >= 500:
            log.error("page failed: %s", failure)
        return error_page(failure.title, str(failure)), failure.status

    @pages.errorhandler(DBAPIError)
    def no_database(failure: DBAPIError) -> tuple[str, int]:
        log.error("database failed: %s", type(failure).__name__)
        return error_page("Database unavailable", "nothing was changed; try again"), 503


def error_page(title: str, detail: str) -> str:
    """A page that says what went wrong."""
    return render_template("console/error.html", title=title, detail=detail)


def when(moment: str | datetime | None) -> str:
    """A time in UTC, to the second, for people."""
    text = moment.isoformat() if isinstance(moment, datetime) else moment
    return "–" if text is None else text[:19].replace("T", " ")


def pretty(value: Any) -> str:
    """JSON for people, with what is called a secret hidden."""
    return json.dumps(_masked(value), indent=2, ensure_ascii=False)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _MASK if _SECRET.search(k) and v else _masked(v) for k, v in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value
