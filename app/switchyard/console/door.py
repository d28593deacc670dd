"""Who is at the console: whoever gave ADMIN_TOKEN, or in local mode anyone on this machine."""

from __future__ import annotations

import hmac
import re
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta

from flask import Request, Response
from itsdangerous import BadData, URLSafeTimedSerializer

from app.switchyard.cache.cache import Cache
from app.switchyard.cache.limits import IfUnavailable, allow
from app.switchyard.config import Settings
from app.switchyard.cutover.stages import GUARDRAIL
from app.switchyard.errors import BadInput, SwitchyardError, Unauthorized
from app.switchyard.http import from_here
from app.switchyard.signing import signer

COOKIE = "switchyard_console"
LIFE_SECONDS = int(timedelta(hours=12).total_seconds())
TRIES, TRIES_SECONDS = 20, 300
"""From one address: over all processes, and by each of them where the cache is away."""
ADDRESSES = 1000
"""Of how many a process remembers the tries."""
LOCAL = "local"
"""Who it is where nobody is asked."""
_NAME = re.compile(r"[^\s<>\x00-\x1f\x7f](?:[^<>\x00-\x1f\x7f]{0,58}[^\s<>\x00-\x1f\x7f])?")


class FormExpired(SwitchyardError):
    """The form is not of this console, or of an older session; nothing was changed."""

    status = 403
    title = "Form expired"


class TooManyTries(SwitchyardError):
    """Too many tokens were tried."""

    status = 429
    title = "Too many tries"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever sent the request; `who` is None before they logged in."""

    who: str | None
    csrf: str


class Door:
    """Lets people in, and knows them again by a signed cookie."""

    def __init__(self, settings: Settings, cache: Cache) -> None:
        self._settings = settings
        self._cache = cache
        self._tries: dict[str, deque[float]] = {}
        self._lock = threading.Lock()
        token = settings.admin_token
        self._token = None if token is None else token.get_secret_value()
        self.open = settings.local and token is None
        """Whether nobody is asked for a token."""

    def visitor(self, request: Request) -> Visitor:
        """Who sent the request. Raises Unauthorized where nobody may come from there at all, and
        SecretKeyMissing where nobody can be known again."""
        if self.open and not from_here(request):
            raise Unauthorized("without ADMIN_TOKEN only this machine is served, in local mode")
        if not self.open and self._token is None:
            raise Unauthorized("ADMIN_TOKEN is not set: nobody can log in")
        try:
            found = self._signer().loads(request.cookies.get(COOKIE, ""), max_age=LIFE_SECONDS)
            known = Visitor(found["who"], found["csrf"])
        except (BadData, KeyError, TypeError):
            known = Visitor(None, secrets.token_urlsafe(24))
        return Visitor(LOCAL, known.csrf) if self.open else known

    def check_form(self, request: Request, visitor: Visitor) -> None:
        """Raises FormExpired unless the form was made by this console for this visitor."""
        origin = request.headers.get("Origin")
        # A proxy on the way may have changed the Host.
        here = {request.host, (self._settings.backend_url or "").partition("://")[2].strip("/")}
        if origin is not None and origin.partition("://")[2] not in here - {""}:
            raise FormExpired("the form was sent from another site")
        given = request.form.get("csrf", "")
        if not hmac.compare_digest(given.encode(), visitor.csrf.encode()):
            raise FormExpired("the form is too old: load the page again")

    def enter(self, request: Request, name: str, token: str) -> Visitor:
        """The visitor that `token` lets in as `name`. Raises Unauthorized, BadInput, TooManyTries.

        Who comes in gets a new session, so that an old cookie cannot be theirs.
        """
        if not self._may_try(request.remote_addr or "nowhere"):
            raise TooManyTries("too many tries: wait a few minutes")
        if not hmac.compare_digest(token.encode(), (self._token or "").encode()):
            raise Unauthorized("that is not ADMIN_TOKEN")
        if not _NAME.fullmatch(name) or name == GUARDRAIL:
            raise BadInput("give your name, of 1 to 60 characters: the history shows it")
        return Visitor(name, secrets.token_urlsafe(24))

    def _may_try(self, address: str) -> bool:
        with self._lock:
            now = time.monotonic()
            tries = self._tries.pop(address, deque(maxlen=TRIES))
            if len(self._tries) >= ADDRESSES:
                del self._tries[next(iter(self._tries))]
            self._tries[address] = tries
            if len(tries) == TRIES and now - tries[0] < TRIES_SECONDS:
                return False
            tries.append(now)
        name = f"console-login:{address}"
        limit = allow(self._cache, name, TRIES, TRIES_SECONDS, if_unavailable=IfUnavailable.OPEN)
        return limit.allowed

    def remember(self, request: Request, answer: Response, visitor: Visitor) -> None:
        """Give the visitor their cookie."""
        who = None if self.open else visitor.who
        behind = request.headers.get("X-Forwarded-Proto", "").split(",")[0].strip()
        answer.set_cookie(
            COOKIE,
            self._signer().dumps({"who": who, "csrf": visitor.csrf}),
            max_age=LIFE_SECONDS,
            path="/console",
            secure=request.is_secure or behind == "https",
            httponly=True,
            samesite="Lax",
        )

    def _signer(self) -> URLSafeTimedSerializer:
        # With the token in it, a new token ends every session.
        return signer(self._settings, f"console\n{self._token or ''}")
