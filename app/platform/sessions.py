"""The sessions of visitors: Flask's, with a cookie that https keeps to itself."""

from __future__ import annotations

from flask import Flask, request
from flask.sessions import SecureCookieSessionInterface


class _Sessions(SecureCookieSessionInterface):
    def get_cookie_secure(self, app: Flask) -> bool:
        # A proxy declares https with X-Forwarded-Proto.
        behind = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip()
        return request.is_secure or behind == "https"


def set_up(app: Flask) -> None:
    """Give an app these sessions. Cookies of requests by https are sent by https alone."""
    app.session_interface = _Sessions()
    app.config.update(SESSION_COOKIE_NAME="switchyard", SESSION_COOKIE_SAMESITE="Lax")
