"""What all HTTP entrances share: who may call, a request's id, and errors as
application/problem+json (RFC 9457), which say what was wrong and reveal nothing of the code."""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from math import ceil
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Request, Response, g, request
from pydantic import BaseModel, SecretStr, ValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest, HTTPException, UnsupportedMediaType

from app.switchyard import logs, telemetry
from app.switchyard.config import LOOPBACK, Settings
from app.switchyard.errors import BadInput, SwitchyardError, Unauthorized
from app.switchyard.text import reason

log = logs.logger_of(__name__)
M = TypeVar("M", bound=BaseModel)

AGAIN_SECONDS = 5
"""The Retry-After of an answer that the database could not be used, in seconds."""
REQUEST_ID, _REQUEST_ID = "X-Request-Id", "switchyard.request_id"
"""The header, and the key in the request's environment."""
_SANE_ID = re.compile(r"[A-Za-z0-9._+/=:-]{1,128}")
_PROXIED = re.compile(
    r"(?i)X-Forwarded.*|Forwarded.*|Via|X-Real-Ip|.*(Client|Connecting|User)-Ip|Cdn-Loop|Cf-.+"
    r"|X-(Original|Envoy|Amzn|Azure|Cloud)-.+"
)


def problem(
    status: int, title: str, detail: str, errors: Sequence[dict[str, str]] = ()
) -> Response:
    """A problem document. `errors` lists each error in the input."""
    body: dict[str, object] = {"type": "about:blank", "title": title, "status": status}
    body |= {"detail": detail} | ({"errors": errors} if errors else {})
    return Response(json.dumps(body), status, content_type="application/problem+json")


def refusal(failure: SwitchyardError) -> Response:
    """An error of the product's own as a problem document."""
    if failure.status >= 500:
        log.error("request failed: %s", failure)
    errors = failure.errors if isinstance(failure, BadInput) else ()
    answer = problem(failure.status, failure.title, str(failure), errors)
    if failure.retry_after is not None:
        answer.headers["Retry-After"] = str(ceil(failure.retry_after))
    return answer


def identify(app: Flask | Blueprint) -> None:
    """Give each request of the app, or of a blueprint, an id for its answer and its log lines.

    The caller's own id is used if it fits a header and a log.
    """

    @app.before_request
    def begin() -> None:
        given = request.headers.get(REQUEST_ID, "")
        own = given if _SANE_ID.fullmatch(given) else secrets.token_hex(16)
        own = request.environ.setdefault(_REQUEST_ID, own)
        logs.bind(request_id=own)

    @app.after_request
    def stamp(answer: Response) -> Response:
        answer.headers[REQUEST_ID] = request.environ.get(_REQUEST_ID)
        return answer

    @app.teardown_request
    def end(_failure: BaseException | None) -> None:
        logs.unbind("request_id")


def traced(pages: Blueprint) -> None:
    """Trace each call of these pages as a span, where tracing is on."""

    @pages.before_request
    def begin() -> None:
        g.switchyard_span = ExitStack()
        name = f"{request.method} {request.url_rule}"
        g.switchyard_span.enter_context(telemetry.spans.request(name, request.headers))

    @pages.after_request
    def note(answer: Response) -> Response:
        telemetry.spans.note("http.response.status_code", answer.status_code)
        return answer

    @pages.teardown_request
    def end(_failure: BaseException | None) -> None:
        g.pop("switchyard_span", ExitStack()).close()


def register_problems(app: Flask | Blueprint) -> None:
    """Answer every error of the app, or of a blueprint, with a problem document and an id."""
    identify(app)
    app.register_error_handler(SwitchyardError, refusal)

    @app.errorhandler(HTTPException)
    def http(failure: HTTPException) -> Any:
        if failure.response is not None:  # from a host's access check
            return failure.response
        return problem(failure.code or 500, failure.name, failure.description or failure.name)

    @app.errorhandler(DBAPIError)
    @app.errorhandler(NoConnection)
    def no_database(failure: SQLAlchemyError) -> Response:
        log.error("database failed: %s", reason(failure))
        answer = problem(503, "Database unavailable", "nothing was recorded; try again")
        answer.headers["Retry-After"] = str(AGAIN_SECONDS)
        return answer

    @app.errorhandler(Exception)
    def unexpected(failure: Exception) -> Response:
        log.exception("request failed")
        detail = "the server failed; its log says why"
        return problem(500, "Internal error", detail)


def read(model: type[M], value: Any) -> M:
    """Input from outside as a `model`. Raises BadInput, which lists every error in it."""
    try:
        return model.model_validate(value)
    except ValidationError as failure:
        misfits = failure.errors(include_url=False, include_input=False)
        raise BadInput.misfits("", misfits) from None


def each_once(given: MultiDict[str, str]) -> dict[str, str]:
    """A form's or a query's fields. Raises BadInput where one is given twice: which of the two is
    meant?"""
    for name, values in given.lists():
        if len(values) > 1:
            raise BadInput(f"{name}: given {len(values)} times")
    return given.to_dict()


def read_body(model: type[M], signed: str | None = None) -> M:
    """The request's JSON body (or the one that was signed) as `model`.

    Raises BadInput as read() does, also where a field is given twice, and werkzeug's 400 and 415.
    """
    if signed is None and not request.is_json:
        raise UnsupportedMediaType("send Content-Type: application/json")
    text = request.get_data() if signed is None else signed
    try:
        return read(model, loads(text, "the body"))
    except ValueError:
        raise BadRequest("the body is not valid JSON") from None


def loads(text: str | bytes, what: str) -> Any:
    """JSON from outside. Raises ValueError where it is none, and BadInput where it is nested too
    deeply or a field is given twice. `what` it is begins the message."""
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except RecursionError:
        raise BadInput(f"{what} is not JSON: it is nested too deeply") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise BadInput("a field of the JSON is given twice")
    return fields


def require_admin(request: Request, settings: Settings) -> None:
    """Raise Unauthorized unless the request has ADMIN_TOKEN or, in local mode, comes from this
    machine (with a loopback Host, so that no page of another site can be behind it)."""
    given = bearer(request)
    if given is not None and settings.admin_token is not None:
        if is_secret(given, settings.admin_token):
            return
        raise Unauthorized("the bearer token is not ADMIN_TOKEN")
    if settings.local and settings.admin_token is None and from_here(request, settings):
        return
    raise Unauthorized("send Authorization: Bearer ADMIN_TOKEN")


def require_here(request: Request, settings: Settings, served: bool) -> None:
    """Raise Unauthorized unless this is `served` at all and the caller is on this machine."""
    if not (served and from_here(request, settings)):
        raise Unauthorized("served in local mode only, to callers on this machine")


def is_secret(given: str, secret: SecretStr | None) -> bool:
    """Whether it is the secret. The comparison takes the same time whatever is wrong."""
    wanted = "" if secret is None else secret.get_secret_value()
    return hmac.compare_digest(given.encode(), wanted.encode()) and wanted != ""


def bearer(request: Request) -> str | None:
    """The token in the request's Authorization header."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


def is_proxied(request: Request) -> bool:
    """Whether a proxy declares that it forwarded the request."""
    return any(map(_PROXIED.fullmatch, request.headers.keys()))


def client_address(request: Request, settings: Settings) -> str | None:
    """The client's address, as the first of TRUSTED_PROXIES saw it, or else that of the connection.
    None where that is a proxy's, which many clients share."""
    seen = [part.strip() for part in request.headers.get("X-Forwarded-For", "").split(",")]
    if 0 < settings.trusted_proxies <= len(seen):
        return seen[-settings.trusted_proxies]
    return None if is_proxied(request) else request.remote_addr or None


def from_here(request: Request, settings: Settings) -> bool:
    """Whether the request comes from this machine, and neither through a proxy nor from a page of
    another site."""
    if settings.trusted_proxies or is_proxied(request):
        return False
    # nginx names nobody by itself, and calls with its own idea of a Host; but it speaks this.
    if request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        return False
    try:
        near = ipaddress.ip_address(request.remote_addr or "").is_loopback
        host = urlsplit(f"//{request.host}").hostname
    except ValueError:
        return False
    origin = request.headers.get("Origin")
    own = origin is None or origin.partition("://")[2] == request.host.lower()
    return near and host in LOOPBACK and own
