"""Inngest's HTTP handler in the Flask app, with the checks that the SDK leaves to its user."""

from __future__ import annotations

import re
from typing import Any

import inngest.flask
from flask import Flask, Response, request
from inngest import Inngest

from app.switchyard.errors import BadInput, SwitchyardError, Unauthorized
from app.switchyard.http import refusal, require_here
from app.switchyard.runtime import Runtime
from workflows.functions import make_functions

PATH = "/api/inngest"
SIGNATURE_AGE_SECONDS = 300
"""Inngest's specification: a signature older than five minutes must be refused."""
_TIME = re.compile(r"[0-9]{1,12}")


def serve(app: Flask, client: Inngest, made: Runtime) -> None:
    """Mount the handler at /api/inngest; signed mode closes unsigned syncs and old signatures.

    Unsigned calls are taken where INNGEST_DEV is set, which says so, and in local mode from this
    machine: an app that has no Inngest yet takes a run from nobody.
    """
    settings = made.settings
    signed = settings.inngest_signed

    def check() -> Response | None:
        if request.path == PATH:
            try:
                refuse()
            except SwitchyardError as refused:
                return refusal(refused)
        return None

    def refuse() -> None:
        if signed:
            _require_recent(request.headers.get("x-inngest-signature"), made)
        elif "Origin" in request.headers:  # a browser's call: of a page of any site
            raise Unauthorized("no page may call this")
        elif settings.inngest_dev is None:
            require_here(request, settings)
        if not signed and request.method == "POST" and "probe" not in request.args:
            _require_call(request.get_json(force=True, silent=True))

    app.before_request(check)
    inngest.flask.serve(
        app,
        client,
        make_functions(client, made),
        serve_path=PATH,
        enable_unauthed_sync=not signed,
    )


def _require_call(body: Any) -> None:
    """Raises BadInput for what the SDK would answer with an error of its own, and Inngest retry."""
    parts = ("ctx", "event", "steps")
    if not (isinstance(body, dict) and all(isinstance(body.get(part), dict) for part in parts)):
        raise BadInput("the body is not a call of Inngest's: an object with ctx, event and steps")


def _require_recent(signature: str | None, made: Runtime) -> None:
    """Raises Unauthorized unless the signature is there and not older (or newer) than allowed."""
    fields = dict(part.split("=", 1) for part in (signature or "").split("&") if "=" in part)
    stamp = fields.get("t", "")
    if not _TIME.fullmatch(stamp):
        raise Unauthorized("the request is not signed")
    if abs(made.store.clock().timestamp() - int(stamp)) > SIGNATURE_AGE_SECONDS:
        raise Unauthorized("the signature is too old")
