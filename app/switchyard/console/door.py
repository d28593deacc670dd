"""Who uses the console or the API, and what they may do: holders of ADMIN_TOKEN or READ_ONLY_TOKEN,
or in local mode anyone on this machine. Counts wrong tokens."""

from __future__ import annotations

import hmac
import re
import secrets
import threading
import time
from collections import deque
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

from flask import Request, abort, current_app, g, request, session
from flask_wtf.csrf import generate_csrf, validate_csrf
from pydantic import SecretStr
from werkzeug.wrappers import Response
from wtforms import ValidationError

from app.switchyard import nonces
from app.switchyard.access import Access, AccessCheck
from app.switchyard.audit import GUARDRAIL
from app.switchyard.cache.cache import Cache
from app.switchyard.cache.limits import IfUnavailable, allow
from app.switchyard.config import SECRET
from app.switchyard.errors import (
    BadInput,
    Forbidden,
    SecretKeyMissing,
    SettingsError,
    SwitchyardError,
    Unauthorized,
)
from app.switchyard.http import bearer, client_address, from_here, is_secret
from app.switchyard.logs import logger_of
from app.switchyard.runtime import Runtime

log = logger_of(__name__)

SESSION, FORM_TOKEN = "switchyard", "switchyard_csrf"
"""The console's key in Flask's session, which may be the host's. It touches nothing else there."""
IDLE, LONGEST = 12 * 3600, 24 * 3600
"""A session ends after so many seconds without use, and at this age in seconds."""
NOTED = 60
"""How precisely the time of a session's last use is kept, in seconds."""
LOCAL = "local"
"""The visitor's name where nobody logs in."""
HOST = "host"
"""The visitor's name where the host gives none that can be shown."""
BEARER = "api"
"""The name of a token's bearer who gives none."""
_TAKEN = frozenset({GUARDRAIL, LOCAL, BEARER})
"""Nobody has one of these names: a caller with one of the last two may sign as anybody."""
CSRF_HEADER = "X-CSRF-Token"
_NAME = re.compile(r"[^\s<>\x00-\x1f\x7f](?:[^<>\x00-\x1f\x7f]{0,58}[^\s<>\x00-\x1f\x7f])?")


class FormExpired(SwitchyardError, status=403, title="Form expired"):
    """The form is not this console's, or is from an older session. Nothing was changed."""


class TooManyTries(SwitchyardError, status=429, title="Too many tries"):
    """Too many tokens were tried."""


class Session(NamedTuple):
    """The contents of a cookie. It is signed with the app's secret key, and anybody can read it."""

    who: str
    id: str
    since: float
    seen: float
    """When it began and when it was last used, in Unix seconds."""
    token: str
    """A MAC of the token that opened it. A change of the token ends the session."""


class Door:
    """Admits people, recognizes them by Flask's session, and logs them out for good."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tries = Tries(runtime.cache)
        settings = runtime.settings
        tokens = ((Access.ALL, settings.admin_token), (Access.READ_ONLY, settings.read_only_token))
        self._tokens = {level: token for level, token in tokens if token is not None}
        self.is_local = settings.local and settings.admin_token is None
        """Whether everybody on this machine is admitted."""
        self.open = self.is_local
        """Whether no token is needed."""

    def visitor(self, request: Request) -> str | None:
        """Who sent the request. None before they have logged in.

        Raises Unauthorized where nobody is admitted from there, SecretKeyMissing where sessions
        cannot be signed, and SQLAlchemy's errors where ended sessions cannot be looked up.
        """
        g.switchyard_access = None
        if self.is_local and not from_here(request, self._runtime.settings):
            raise Unauthorized("without ADMIN_TOKEN only this machine is served, in local mode")
        if not self.open and not self._tokens:
            raise Unauthorized("ADMIN_TOKEN is not set: nobody can log in")
        _require_key(0 if self.open else SECRET)
        if self.open:
            g.switchyard_access = Access.ALL
            return LOCAL
        known = self._known()
        return None if known is None else known.who

    def caller(self, request: Request) -> str:
        """Who calls the API: a token's bearer, or else the console's visitor, who needs the form
        token of their session to change anything. Raises as visitor() and check_form()."""
        given = bearer(request)
        level = None if given is None else self._opened(given)
        if level is not None:
            g.switchyard_access = level
            return BEARER
        if given is not None and not self.open:
            raise Unauthorized("the bearer token is neither ADMIN_TOKEN nor READ_ONLY_TOKEN")
        who = self.visitor(request)
        if who is None:
            raise Unauthorized("send Authorization: Bearer ADMIN_TOKEN, or READ_ONLY_TOKEN")
        # from_here() has refused a local caller's page of another site.
        if not self.is_local and request.method not in ("GET", "HEAD", "OPTIONS"):
            self.check_form(request)
        return who

    def _opened(self, given: str) -> Access | None:
        """What the token's bearer may do."""
        opened = (level for level, token in self._tokens.items() if is_secret(given, token))
        return next(opened, None)

    def _known(self) -> Session | None:
        try:
            known = Session(**session[SESSION])
        except (KeyError, TypeError):
            return None
        now = self._now()
        if now - known.seen >= IDLE or now - known.since >= LONGEST:
            return None
        mac = known.token.encode()
        opened = (may for may, t in self._tokens.items() if hmac.compare_digest(mac, _mac(t)))
        level = next(opened, None)
        if level is None or nonces.used_for(self._runtime.db, _nonce(known)) is not None:
            return None
        # A page's own polling does not count as use.
        if now - known.seen >= NOTED and "HX-Request" not in request.headers:
            session[SESSION] = known._replace(seen=now)._asdict()
        g.switchyard_access = level
        return known

    def may_act(self) -> bool:
        """Whether the visitor may change anything."""
        return g.get("switchyard_access") is Access.ALL

    def check_form(self, request: Request) -> None:
        """Raise FormExpired unless this console created the form for this session."""
        origin = request.headers.get("Origin")
        backend = self._runtime.settings.backend_url or ""
        # A proxy on the way may have changed the Host.
        here = {request.host, backend.partition("://")[2].strip("/")} - {""}
        if origin is not None and origin.partition("://")[2] not in here:
            raise FormExpired("the form was sent from another site")
        token = request.headers.get(CSRF_HEADER) or request.form.get("csrf")
        try:
            validate_csrf(token, time_limit=LONGEST, token_key=FORM_TOKEN)
        except ValidationError:
            raise FormExpired("the form is too old: load the page again") from None

    def form_token(self) -> str:
        """The token that a form of this session must contain."""
        token: str = generate_csrf(token_key=FORM_TOKEN)
        return token

    def enter(self, request: Request, name: str, token: str) -> None:
        """Begin a session for `name`, if `token` admits them. Raises Unauthorized, BadInput and
        TooManyTries.

        Each login gets a new session, so that nobody can plant an old cookie.
        """
        client = client_address(request, self._runtime.settings)
        refused = TooManyTries("too many tries: wait a few minutes")
        if client is not None and not self._tries.one_more("both", client, name):
            raise refused
        level = self._opened(token)
        if level is None:
            of = ("client", client or "of a proxy"), ("name", name)
            counts = [self._tries.one_more(*each) for each in of]
            log.warning("console: not let in", extra={"client": client, "many": not all(counts)})
            raise Unauthorized("that is not ADMIN_TOKEN") if all(counts) else refused
        if not _is_name(name):
            raise BadInput("give your name, of 1 to 60 characters: the history shows it")
        now = self._now()
        _forget()
        mac = _mac(self._tokens[level]).decode()
        session[SESSION] = Session(name, secrets.token_urlsafe(16), now, now, mac)._asdict()
        log.info("console: came in", extra={"who": name, "may": level})

    def leave(self) -> None:
        """End the session, in this browser and wherever else its cookie is."""
        known = self._known()
        if known is not None:
            ends = datetime.fromtimestamp(known.since + LONGEST, UTC)
            nonces.use(self._runtime.db, _nonce(known), known.who, ends)
        _forget()

    def _now(self) -> float:
        return self._runtime.store.clock().timestamp()


class HostDoor(Door):
    """The host's own login decides who is admitted, and no token is needed."""

    def __init__(self, runtime: Runtime, check: AccessCheck) -> None:
        super().__init__(runtime)
        self._check = check
        self.is_local, self.open = False, True

    def visitor(self, request: Request) -> str:
        """Who sent the request. Raises Forbidden where the host admits nobody, SettingsError where
        its answer makes no sense, and what the host raises."""
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
        # A host's users may have no name, or a number.
        return name if isinstance(name, str) and _is_name(name) else HOST

    def enter(self, request: Request, name: str, token: str) -> None:
        """Raise Forbidden, since the login is the host's."""
        raise Forbidden("this app has a login of its own")


def _require_key(least: int = 0) -> None:
    if not current_app.secret_key:
        raise SecretKeyMissing("SECRET_KEY is not set: sessions are signed with it")
    if len(current_app.secret_key) < least:
        raise SecretKeyMissing(f"the app's secret key has less than {least} characters")


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name not in _TAKEN


def _mac(token: SecretStr) -> bytes:
    key: Any = current_app.secret_key
    text = f"switchyard console\n{token.get_secret_value()}".encode()
    key = key if isinstance(key, bytes) else key.encode()
    return hmac.new(key, text, "sha256").hexdigest().encode()


def _nonce(known: Session) -> str:
    return f"session:{known.id}"


def _forget() -> None:
    session.pop(SESSION, None)
    session.pop(FORM_TOKEN, None)
    g.pop(FORM_TOKEN, None)


TRIES, TRIES_SECONDS = 20, 300
REMEMBERED = 1000
"""For how many names and clients a process counts tries itself."""


class Tries:
    """Counts logins by client, by the given name, and by both together.

    Only the last count belongs to one person, and refuses whatever they send. Others may contribute
    to the first two, so beyond those only wrong tokens are refused as too many.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._own: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def one_more(self, *of: str) -> bool:
        """Count a try. False where there were TRIES within TRIES_SECONDS."""
        name = blake2b("\n".join(of).encode(), digest_size=16).hexdigest()
        with self._lock:
            now = time.monotonic()
            tries = self._own.pop(name, deque(maxlen=TRIES))
            if len(self._own) >= REMEMBERED:
                del self._own[next(iter(self._own))]
            self._own[name] = tries
            if len(tries) == TRIES and now - tries[0] < TRIES_SECONDS:
                return False
            tries.append(now)
        of_all = (self._cache, f"console-login:{name}", TRIES, TRIES_SECONDS)
        return allow(*of_all, if_unavailable=IfUnavailable.OPEN).allowed
