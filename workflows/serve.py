"""Inngest's HTTP handler in the Flask app, with the checks that the SDK leaves to its user."""

from __future__ import annotations

import inngest.flask
from flask import Flask, request
from inngest import Inngest

from app.errors import Unauthorized
from app.runtime import Runtime
from workflows.functions import make_functions

PATH = "/api/inngest"
SIGNATURE_AGE_SECONDS = 300
"""Inngest's specification: a signature older than five minutes must be refused."""


def serve(app: Flask, client: Inngest, made: Runtime) -> None:
    """Mount the handler at /api/inngest; signed mode closes unsigned syncs and old signatures."""
    signed = made.settings.inngest_signed

    def check_age() -> None:
        if signed and request.path == PATH:
            _require_recent(request.headers.get("x-inngest-signature"), made)

    app.before_request(check_age)
    inngest.flask.serve(
        app,
        client,
        make_functions(client, made),
        serve_path=PATH,
        enable_unauthed_sync=not signed,
    )


def _require_recent(signature: str | None, made: Runtime) -> None:
    """Raises Unauthorized unless the signature is there and not older (or newer) than allowed."""
    fields = dict(part.split("=", 1) for part in (signature or "").split("&") if "=" in part)
    stamp = fields.get("t", "")
    if not stamp.isdecimal():
        raise Unauthorized("the request is not signed")
    if abs(made.store.clock().timestamp() - int(stamp)) > SIGNATURE_AGE_SECONDS:
        raise Unauthorized("the signature is too old")
