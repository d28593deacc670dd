"""The one door for text from outside: what may be a name, what can be stored, and what may be shown
of an error."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import Any

from app.switchyard.errors import BadInput

LONGEST_ERROR = 10_000
"""Characters kept of an error: some hold all that they were given."""
LONGEST_REASON = 300
SHORTEST_SECRET = 4
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_USER_INFO = re.compile(r"(?<=://)[^\s/?#]*@")
_SECRET = re.compile(r"token|secret|password|passwd|authorization|api_?key|credential", re.I)
_MASK = "••••••"
_hidden: set[str] = set()


def plain(what: str, text: str, most: int) -> str:
    """`text`, which is to name something. Raises BadInput where it is empty, longer than `most`
    characters, or has one that no database or header takes."""
    if not 0 < len(text) <= most:
        raise BadInput(f"{what} must have 1 to {most} characters, not {len(text)}")
    if _CONTROL.search(text):
        raise BadInput(f"{what} must have no control characters, and be Unicode: {text[:80]!a}")
    return text


def one_line(text: str) -> str:
    """`text`, of any length, where a database can be asked for it. Raises ValueError."""
    if _CONTROL.search(text):
        raise ValueError("must have no control characters, and be Unicode")
    return text


def storable(text: str) -> str:
    """`text` as every database takes it: with a mark for each NUL and each lone surrogate."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def said(failure: BaseException) -> str:
    """What an error says, whatever it is: also one that cannot say it."""
    try:
        text = str(failure)
    except Exception:  # noqa: BLE001 - it is somebody else's code that runs here
        text = "(it cannot be shown)"
    return storable(text[:LONGEST_ERROR])


def error_of(failure: BaseException) -> str:
    """An error's kind and what it says."""
    return f"{type(failure).__name__}: {said(failure)}"


def hide(*secrets: str | None) -> None:
    """Never show these in a reason."""
    _hidden.update(one for one in secrets if one is not None and len(one) >= SHORTEST_SECRET)


def reason(failure: BaseException) -> str:
    """Why something outside could not be used: one line, with no secret in it."""
    text = without_secrets(" ".join(next(_reasons(failure)).split()))
    return _CONTROL.sub("", text)[:LONGEST_REASON]


def without_secrets(text: str) -> str:
    """`text` with a mark for each secret of hide(), and for who is named in an address."""
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, "…")
    return _USER_INFO.sub("…@", text)


def masked(value: Any) -> Any:
    """JSON with what is called a secret hidden."""
    if isinstance(value, dict):
        return {k: _MASK if _SECRET.search(k) and v else masked(v) for k, v in value.items()}
    return [masked(item) for item in value] if isinstance(value, list) else value


def answered(status: int) -> str:
    """What an HTTP status that is no success means."""
    return f"it answered {status}" + (": it refuses the key" if status in (401, 403) else "")


def _reasons(failure: BaseException) -> Iterator[str]:
    """What may be said of it, the most precise first."""
    chain = list(_chain(failure))
    for one in chain:
        status = getattr(getattr(one, "response", None), "status_code", None)
        if status is not None:
            yield answered(status)
    for one in reversed(chain):
        if isinstance(one, ssl.SSLCertVerificationError):
            yield f"its TLS certificate is not trusted: {one.verify_message}"
        elif isinstance(one, ssl.SSLError):
            yield f"TLS failed: {getattr(one, 'reason', None) or said(one)}"
        elif isinstance(one, OSError) and one.strerror:
            yield one.strerror
        elif isinstance(one, TimeoutError):
            yield "no answer in time"
    # Not SQLAlchemy's own text, which has the statement and its values.
    lines = said(getattr(failure, "orig", None) or failure).strip().splitlines()
    yield lines[0] if lines else type(failure).__name__


def _chain(failure: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, as far as that is known."""
    seen: list[BaseException] = []
    following: BaseException | None = failure
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        inner = (getattr(following, "reason", None), *following.args, following.__cause__)
        unsaid = None if following.__suppress_context__ else following.__context__
        following = next((e for e in (*inner, unsaid) if isinstance(e, BaseException)), None)
