"""Inngest's HTTP handler, behind checks that the SDK leaves to its user or makes too late."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import chain
from typing import Any

from flask import Blueprint, Flask, Response, make_response, request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from app.switchyard.errors import BadInput, Unauthorized
from app.switchyard.http import problem, register_problems, require_here, traced
from app.switchyard.runtime import Runtime
from app.switchyard.signed import Signature, is_mac, signed_body
from workflows.client import make_client, note_sync, signing_keys

PATH = "/api/inngest"
SIGNATURE = "x-inngest-signature"
SIGNATURE_AGE_SECONDS = 300
"""Inngest's specification: a signature older than five minutes must be refused."""
STEP = "step"
"""The step id in the address of a call for a whole function."""
MAX_BYTES = 4 * 1024 * 1024
"""The most that Inngest sends. For a larger state it sends the address at which to fetch it."""
CANONICAL_BYTES = 4096
"""A body up to this size is also checked in its canonical form, which takes a millisecond."""
_CALLERS = ("ValidationError", "QueryParamMissingError")
_NO_CALL = ("unsupported probe", "events not in request")
"""The SDK's errors for a call that it cannot read: their names, and how those without begin."""
_FORM = re.compile(r"t=([1-9][0-9]{0,11})&s=([0-9a-f]{64})")


def serve(app: Flask, runtime: Runtime) -> None:
    """Mount the handler at /api/inngest. Signed mode refuses unsigned syncs and old signatures.

    Unsigned calls are accepted only where INNGEST_DEV is set or in local mode, and only from this
    machine without a proxy: an app that has no Inngest yet accepts runs from nobody. Without
    Inngest's package every call is answered with 503.
    """
    settings = runtime.settings
    signed, open_here = settings.inngest_signed, settings.local or settings.inngest_dev is not None
    keys = [key.encode() for key in signing_keys(settings)] if signed else []
    pages = Blueprint("switchyard_inngest", __name__)
    register_problems(pages)
    traced(pages)

    @pages.before_request
    def check() -> None:
        if signed:
            now = runtime.store.clock().timestamp()
            signed_body(request, SIGNATURE, partial(_read, keys), now=now, limit=MAX_BYTES)
            return
        request.max_content_length = MAX_BYTES
        if "Origin" in request.headers:  # sent by a browser, for a page of any site
            raise Unauthorized("no page may call this")
        if request.mimetype not in ("", "application/json"):
            raise UnsupportedMediaType("a call of Inngest's is JSON")
        require_here(request, settings, open_here)

    @pages.after_request
    def judge(answer: Response) -> Response:
        """The SDK's answer, except where it blames us for an error of the caller's or Inngest's."""
        if answer.status_code != 500 and request.method != "PUT":
            return answer
        said = answer.get_json(silent=True)
        said = said if isinstance(said, dict) else {}
        text = str(said.get("message"))
        if said.get("code") == "function_not_found":
            return problem(404, "No function of this app", text[:500])
        if "stack" in said:  # a job's error, whatever it says
            return answer
        if said.get("name") in _CALLERS or text.startswith(_NO_CALL):
            return problem(400, "No call of Inngest's", " ".join(text.splitlines()[:3])[:500])
        if request.method == "PUT":
            note_sync(runtime, said)
        if text.startswith("Failed request to "):
            return problem(503, "Backend unavailable", "inngest: it cannot be reached")
        return answer

    pages.route(PATH, methods=["GET", "POST", "PUT"])(_handler(runtime, keys))
    app.register_blueprint(pages)


def _handler(runtime: Runtime, keys: Sequence[bytes]) -> Callable[[], Response]:
    """The SDK's view. It is created at the first call: no command needs it, and it loads slowly."""
    view = cache(partial(_view, runtime))

    def handle() -> Response:
        # This app never plans steps ahead, and the address of a call is not signed.
        if not set(request.args.getlist("stepId")) <= {STEP}:
            raise BadRequest("this app has no step that could be called by itself")
        answer = make_response(view()())  # text for a HEAD
        if keys and answer.status_code == 401:
            _sign_canonical_form(keys)
            answer = make_response(view()())
        return answer

    return handle


def _sign_canonical_form(keys: Sequence[bytes]) -> None:
    """Sign the request's body again, in its canonical form: the SDK checks no other, and Inngest's
    specification signs the bytes that are sent. Raises BadInput where it has no such form."""
    body = request.get_data()
    canonical = _canonical(body)
    if canonical is None:
        raise BadInput("the body is not JSON with a canonical form")
    stamp, given = _FORM.fullmatch(request.headers[SIGNATURE]).groups()  # type: ignore[union-attr]
    for key in keys:
        if is_mac([key], [bytes.fromhex(given)], [body, stamp.encode()]):
            made = hmac.new(key, canonical + stamp.encode(), hashlib.sha256).hexdigest()
            request.environ["HTTP_X_INNGEST_SIGNATURE"] = f"t={stamp}&s={made}"


def _view(runtime: Runtime) -> Any:
    client = make_client(runtime.settings)
    import inngest.flask

    from workflows.functions import make_functions

    holder = Flask(__name__, static_folder=None)
    inngest.flask.serve(
        holder,
        client,
        make_functions(client, runtime),
        serve_path=PATH,
        enable_unauthed_sync=not runtime.settings.inngest_signed,
    )
    [view] = holder.view_functions.values()
    return view


def _read(keys: Sequence[bytes], text: str) -> Signature | None:
    """The header of a call that is signed with one of the keys."""
    parts = _FORM.fullmatch(text)
    if parts is None:
        return None
    at = int(parts[1])
    fits = partial(_fits, keys, parts[1].encode(), bytes.fromhex(parts[2]))
    return Signature(at - SIGNATURE_AGE_SECONDS, at + SIGNATURE_AGE_SECONDS, fits)


def _fits(keys: Sequence[bytes], stamp: bytes, given: bytes, sent: Iterable[bytes]) -> bool:
    pieces = iter(sent)
    begun = next(pieces, b"")
    if is_mac(keys, [given], chain([begun], pieces, [stamp])):
        return True
    # A function call is sent in the canonical form that is signed. A sync differs slightly.
    canonical = _canonical(begun) if 0 < len(begun) <= CANONICAL_BYTES else None
    return canonical is not None and is_mac(keys, [given], [canonical, stamp])


def _canonical(body: bytes) -> bytes | None:
    """JSON in the form of RFC 8785, or None where it has none."""
    import jcs  # type: ignore[import-untyped]

    try:
        canonical: bytes = jcs.canonicalize(json.loads(body))
    except (ValueError, OverflowError, RecursionError):
        return None
    return canonical
