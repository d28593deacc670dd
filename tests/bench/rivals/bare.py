"""An app with nothing in it."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.get("/healthz")
def healthz() -> str:
    """It is there."""
    return "ok"
