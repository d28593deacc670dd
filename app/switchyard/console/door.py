"""Who is at the console: whoever gave ADMIN_TOKEN, or in local mode anyone on this machine."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flask import Request, abort, current_app, g, session
from flask_wtf.csrf import generate_csrf, validate_csrf
from werkzeug.wrappers import Response
from wtforms import ValidationError

from app.switchyard import nonces
from app.switchyard.access import Access, AccessCheck
from app.switchyard.console.tries import Tries
from app.switchyard.cutover.stages import GUARDRAIL
from app.switchyard.errors import (
    BadInput,
    Forbidden,
    SecretKeyMissing,
    SettingsError,
    SwitchyardError,
    Unauthorized,
)
from app.switchyard.http import client_address, from_here
from app.switchyard.runtime import Runtime

log = logging.getLogger(__name__)

SESSION, FORM_TOKEN = "switchyard", "switchyard_csrf"
"""What the console keeps in Flask's session, which may be a host's: nothing else is touched."""
IDLE, LONGEST = 12 * 3600, 24 * 3600
"""Seconds: a session ends when it was not used for so long, and when it is so old."""
NOTED = 60
"""How exactly it is noted when it was last used."""
LOCAL = "local"
"""Who it is where nobody is asked."""
HOST = "host"
"""Who it is where the host gives no name that can be shown."""
_NAME = re.compile(r"[^\s<>\x00-\x1f\x7f](?:[^<>\x00-\x1f\x7f]{0,58}[^\s<>\x00-\x1f\x7f])?")


class FormExpired(SwitchyardError, status=403, title="Form expired"):
    """The form is not of this console, or of an older session; nothing was changed."""


class TooManyTries(SwitchyardError, status=429, title="Too many tries"):
    """Too many tokens were tried."""


class Session(NamedTuple):
    """What a cookie says; it is signed with the app's secret key, and anybody can read it."""

    who: str
    id: str
    since: float
    seen: float
    """Unix seconds: when it began, and was last used."""
    token: str
    """A MAC of the ADMIN_TOKEN that opened it: another one ends it."""


class Door:
    """Lets people in, knows them again by Flask's session, and lets them out for good."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tries = Tries(runtime.cache)
        token = runtime.settings.admin_token
        self._token = None if token is None else token.get_secret_value()
        self.open = runtime.settings.local and token is None
        """Whether nobody is asked for a token."""

    def visitor(self, request: Request) -> str | None:
        """Who sent the request; None before they logged in.

        Raises Unauthorized where nobody may come from there at all, SecretKeyMissing where nobody
        can be known again, and SQLAlchemy's errors where no end of a session can be.
        """
        if self.open and not from_here(request, self._runtime.settings):
            raise Unauthorized("without ADMIN_TOKEN only this machine is served, in local mode")
        if not self.open and self._token is None:
            raise Unauthorized("ADMIN_TOKEN is not set: nobody can log in")
        _require_key()
        if self.open:
            return LOCAL
        known = self._known()
        return None if known is None else known.who

    def _known(self) -> Session | None:
        try:
            known = Session(**session[SESSION])
        except (KeyError, TypeError):
            return None
        now = self._now()
        if now - known.seen >= IDLE or now - known.since >= LONGEST:
            return None
        if not hmac.compare_digest(known.token.encode(), self._mac().encode()):
            return None
        if nonces.used_for(self._runtime.db, _nonce(known)) is not None:
            return None
        if now - known.seen >= NOTED:
            session[SESSION] = known._replace(seen=now)._asdict()
        return known

    def may_act(self) -> bool:
        """Whether the visitor may change anything, beside seeing it."""
        return True

    def check_form(self, request: Request) -> None:
        """Raises FormExpired unless the form was made by this console for this session."""
        origin = request.headers.get("Origin")
        backend = self._runtime.settings.backend_url or ""
        # A proxy on the way may have changed the Host.
        here = {request.host, backend.partition("://")[2].strip("/")} - {""}
        if origin is not None and origin.partition("://")[2] not in here:
            raise FormExpired("the form was sent from another site")
        try:
            validate_csrf(request.form.get("csrf"), time_limit=LONGEST, token_key=FORM_TOKEN)
        except ValidationError:
            raise FormExpired("the form is too old: load the page again") from None

    def form_token(self) -> str:
        """What a form of this session must bring along."""
        token: str = generate_csrf(token_key=FORM_TOKEN)
        return token

    def enter(self, request: Request, name: str, token: str) -> None:
        """Begin a session of `name`, whom `token` lets in. Raises Unauthorized, BadInput,
        TooManyTries.

        Who comes in gets a new session, so that an old cookie cannot be theirs.
        """
        client = client_address(request, self._runtime.settings)
        refused = TooManyTries("too many tries: wait a few minutes")
        if not self._tries.one_more("both", client, name):
            raise refused
        if not hmac.compare_digest(token.encode(), (self._token or "").encode()):
            counts = [self._tries.one_more("client", client), self._tries.one_more("name", name)]
            log.warning("console: not let in", extra={"client": client, "many": not all(counts)})
            raise Unauthorized("that is not ADMIN_TOKEN") if all(counts) else refused
        if not _NAME.fullmatch(name) or name == GUARDRAIL:
            raise BadInput("give your name, of 1 to 60 characters: the history shows it")
        now = self._now()
        _forget()
        session[SESSION] = Session(name, secrets.token_urlsafe(16), now, now, self._mac())._asdict()
        log.info("console: came in", extra={"who": name})

    def leave(self) -> None:
        """End the session, in this browser and wherever else its cookie is."""
        known = self._known()
        if known is not None:
            ends = datetime.fromtimestamp(known.since + LONGEST, UTC)
            nonces.use(self._runtime.db, _nonce(known), known.who, ends)
        _forget()

    def _now(self) -> float:
        return self._runtime.store.clock().timestamp()

    def _mac(self) -> str:
        key: Any = current_app.secret_key
        text = f"switchyard console\n{self._token}".encode()
        return hmac.new(key if isinstance(key, bytes) else key.encode(), text, "sha256").hexdigest()


class HostDoor(Door):
    """The host's own login decides who comes in; nobody is asked for a token."""

    def __init__(self, runtime: Runtime, check: AccessCheck) -> None:
        super().__init__(runtime)
        self._check = check
        self.open = True

    def visitor(self, request: Request) -> str:
        """Who sent the request. Raises Forbidden where the host says no one who may come in,
        SettingsError where it says something else, and what the host raises."""
        answer = self._check()
        if isinstance(answer, Response):
            abort(answer)
        level, name = answer if isinstance(answer, tuple) else (answer, HOST)
        if level is None:
            raise Forbidden("this app does not let you in here")
        if level not in list(Access):
            raise SettingsError(f"access gave {level!r}, not one of {', '.join(Access)} or None")
        _require_key()
        g.switchyard_access = Access(level)
        return name if _NAME.fullmatch(name) and name != GUARDRAIL else HOST

    def may_act(self) -> bool:
        """Whether the visitor may change anything, beside seeing it."""
        return g.get("switchyard_access") is Access.ALL

    def enter(self, request: Request, name: str, token: str) -> None:
        """Raises Forbidden: one logs in at the host."""
        raise Forbidden("this app has a login of its own")


def _require_key() -> None:
    if current_app.secret_key is None:
        raise SecretKeyMissing("SECRET_KEY is not set: sessions are signed with it")


def _nonce(known: Session) -> str:
    return f"session:{known.id}"


def _forget() -> None:
    session.pop(SESSION, None)
    session.pop(FORM_TOKEN, None)
    g.pop(FORM_TOKEN, None)
