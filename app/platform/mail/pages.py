"""/console/mail: what local mode's mail server took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Blueprint, abort, render_template, request

from app.platform.config import settings_of
from app.platform.mail import taken
from app.switchyard.console.door import Door
from app.switchyard.console.frame import framed
from app.switchyard.http import require_here
from app.switchyard.runtime import Runtime

SHOWN = 200


def blueprint(runtime: Runtime) -> Blueprint:
    """The pages; in local mode only, for callers on this machine whom the console lets in."""
    pages = Blueprint(
        "mail", __name__, url_prefix="/console/mail", template_folder="page_templates"
    )
    folder = settings_of(runtime).mail_folder

    @pages.before_request
    def here() -> None:
        require_here(request, settings_of(runtime), settings_of(runtime).local)

    framed(pages, runtime, Door(runtime))

    @pages.get("")
    def newest() -> str:
        names = [] if folder is None else taken.names(folder)[:SHOWN]
        shown = [(name, _read(folder, name)) for name in names]
        return render_template("console/mails.html", mails=shown, kept=folder is not None)

    @pages.get("/<name>")
    def one(name: str) -> str:
        mail = _read(folder, name)
        text = mail.get_body(("plain",))
        return render_template(
            "console/mail.html", mail=mail, text="" if text is None else text.get_content()
        )

    return pages


def _read(folder: Path | None, name: str) -> Any:
    mail = None if folder is None else taken.read(folder, name)
    return abort(404, "no such mail was taken") if mail is None else mail
