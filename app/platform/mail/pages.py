"""/console/mail: what local mode's mail server took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Blueprint, abort, render_template, request, url_for
from werkzeug.wrappers import Response

from app.platform.config import settings_of
from app.platform.mail import taken
from app.switchyard.console.door import Door
from app.switchyard.console.frame import HEADERS, framed
from app.switchyard.http import require_here
from app.switchyard.runtime import Runtime

SHOWN = 200
_PAGE = HEADERS["Content-Security-Policy"] + "; frame-src 'self'"
# A mail's HTML has an origin of its own, and can neither run, load nor send anything.
_MAIL = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'self'; sandbox"
)


def blueprint(made: Runtime) -> Blueprint:
    """The pages; in local mode only, for callers on this machine whom the console lets in."""
    pages = Blueprint(
        "mail", __name__, url_prefix="/console/mail", template_folder="page_templates"
    )
    folder = settings_of(made).mail_folder

    @pages.before_request
    def here() -> None:
        require_here(request, settings_of(made))

    framed(pages, made, Door(made))

    @pages.after_request
    def closed(answer: Response) -> Response:
        answer.headers.setdefault("Content-Security-Policy", _PAGE)
        return answer

    @pages.get("")
    def newest() -> str:
        names = [] if folder is None else taken.names(folder)[:SHOWN]
        shown = [(name, _heads(_taken(folder, name))) for name in names]
        return render_template("console/mails.html", mails=shown, kept=folder is not None)

    @pages.get("/<name>")
    def one(name: str) -> str:
        mail = _taken(folder, name)
        text = mail.get_body(("plain",))
        return render_template(
            "console/mail.html",
            heads=_heads(mail),
            text="" if text is None else text.get_content(),
            html=url_for("mail.html", name=name),
        )

    @pages.get("/<name>/html")
    def html(name: str) -> Response:
        body = _taken(folder, name).get_body(("html",))
        shown = "" if body is None else str(body.get_content())
        answer = Response(shown, content_type="text/html; charset=utf-8")
        answer.headers["Content-Security-Policy"] = _MAIL
        answer.headers["X-Frame-Options"] = "SAMEORIGIN"
        return answer

    return pages


def _taken(folder: Path | None, name: str) -> Any:
    mail = None if folder is None else taken.read(folder, name)
    return abort(404, "no such mail was taken") if mail is None else mail


def _heads(mail: Any) -> dict[str, str]:
    return {name: str(mail[name] or "") for name in ("Date", "To", "Subject", "Message-ID")}
