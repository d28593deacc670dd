"""/console: the overview, each job and its moves, the ledger of runs, and the history."""

from __future__ import annotations

import re

from flask import Blueprint, g, redirect, render_template, request, url_for

from app.switchyard.console import jobs, overview, runs
from app.switchyard.console.door import Door
from app.switchyard.console.frame import LOGIN, NAME, Page, framed
from app.switchyard.errors import SwitchyardError
from app.switchyard.looks import Looks
from app.switchyard.runtime import Runtime

_NEXT = re.compile(r"(?:[/?][\w./?=&%-]*)?")


def blueprint(runtime: Runtime, door: Door, looks: Looks) -> Blueprint:
    """The operators' pages, for visitors whom `door` admits."""
    pages = Blueprint(
        NAME,
        __name__,
        static_folder="static",
        static_url_path="/static",
        template_folder="templates",
    )
    framed(pages, runtime, door)
    overview.add(pages, runtime, looks)
    jobs.add(pages, runtime)
    jobs.add_moves(pages, runtime)
    runs.add(pages, runtime)
    runs.add_many(pages, runtime)

    @pages.get("/login")
    def login() -> Page:
        if g.switchyard_visitor is not None:
            return redirect(url_for(".overview"), 303)
        wanted = request.args.get("next", "")
        return render_template("switchyard/login.html", next=wanted, name="", refusal=None)

    @pages.post("/login")
    def enter() -> Page:
        name, token = (request.form.get(field, "").strip() for field in ("name", "token"))
        wanted = request.form.get("next", "")
        try:
            door.enter(request, name, token)
        except SwitchyardError as refused:
            page = render_template(
                "switchyard/login.html", next=wanted, name=name, refusal=str(refused)
            )
            return page, refused.status
        home = url_for(".overview")
        inside = wanted.startswith(home) and _NEXT.fullmatch(wanted.removeprefix(home))
        return redirect(wanted if inside else home, 303)

    @pages.post("/logout")
    def logout() -> Page:
        door.leave()
        return redirect(url_for(LOGIN), 303)

    return pages
