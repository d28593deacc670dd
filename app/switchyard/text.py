"""The one door for text from outside: which text may be a name, which can be stored, and how much
of an error may be shown."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

from app.switchyard.errors import BadInput

LONGEST_ERROR = 10_000
"""How many characters of an error are kept, since some contain all of their input."""
LONGEST_REASON = 300
SHORTEST_SECRET = 4
LEVELS = 300
"""How deep JSON is shown. A payload has at most 255 levels; Python gives up before 1,000."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_USER_INFO = re.compile(r"(?<=://)[^\s/?#]*@")
_SECRET = re.compile(r"token|secret|password|passwd|authorization|api_?key|credential", re.I)
_AROUND_REDIS_ERROR = re.compile(
    r"\ACommand # \d+ \(.*\) of pipeline caused error: "
    r"|Error running script \(call to \w+\): "
    r"|@user_script: ?\d+: "
    r"| script: (\w+, )?on @\w+:\d+\.?\Z",
    re.DOTALL,
)
"""What redis-py and the servers add to an error: the command with its values, and the script."""
_MASK = "••••••"
_hidden: set[str] = set()


def plain(what: str, text: str, most: int) -> str:
    """`text`, to be used as a name. Raises BadInput where it is empty, longer than `most`
    characters, or has a character that some database or header refuses."""
    if not 0 < len(text) <= most:
        raise BadInput(f"{what} must have 1 to {most} characters, not {len(text)}")
    if _CONTROL.search(text):
        raise BadInput(f"{what} must be Unicode without control characters: {text[:80]!a}")
    return text


def one_line(text: str) -> str:
    """`text` of any length, if a database accepts it in a query. Raises ValueError."""
    if _CONTROL.search(text):
        raise ValueError("must be Unicode without control characters")
    return text


def whole_number(text: str) -> int | None:
    """A number of up to 15 digits, or None where the text is anything else. Python's int() takes
    more: other scripts' digits, underscores, and as many digits as nobody waits for."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else None


def storable(text: str) -> str:
    """`text` in a form that every database accepts: NULs and lone surrogates are replaced."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def said(failure: BaseException) -> str:
    """The text of any error, also of one whose str() fails."""
    try:
        text = str(failure)
    except BaseException:  # noqa: BLE001 - str() runs somebody else's code
        text = "(it cannot be shown)"
    return storable(text[:LONGEST_ERROR])


def error_of(failure: BaseException) -> str:
    """An error's class and text."""
    return f"{type(failure).__name__}: {said(failure)}"


def hide(*secrets: str | None) -> None:
    """Never show these values in a reason."""
    _hidden.update(one for one in secrets if one is not None and len(one) >= SHORTEST_SECRET)


def secrets_of(url: str) -> Iterator[str]:
    """The secrets in a URL, as they are written there and as they are read."""
    parts = urlsplit(url)
    written = [item.partition("=")[::2] for item in parts.query.split("&")]
    secrets = [value for name, value in written if _SECRET.search(name)]
    for secret in (parts.password or "", *secrets):
        yield from (secret, unquote(secret), unquote_plus(secret))


def reason(failure: BaseException) -> str:
    """Why something outside could not be used, in one line without secrets."""
    text = without_secrets(" ".join(next(_reasons(failure)).split()))
    return _CONTROL.sub("", text)[:LONGEST_REASON]


def without_secrets(text: str) -> str:
    """`text` with every secret of hide() replaced, and the user names in addresses."""
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, "…")
    return _USER_INFO.sub("…@", text)


def masked(value: Any, levels: int = LEVELS) -> Any:
    """JSON with the values of secret-sounding names hidden, and without what is too deep."""
    if not isinstance(value, dict | list):
        return value
    if not levels:
        return "…"
    if isinstance(value, list):
        return [masked(item, levels - 1) for item in value]
    return {
        k: _MASK if _SECRET.search(k) and v else masked(v, levels - 1) for k, v in value.items()
    }


def answered(status: int) -> str:
    """The meaning of an unsuccessful HTTP status."""
    return f"it answered {status}" + (": it refuses the key" if status in (401, 403) else "")


def _reasons(failure: BaseException) -> Iterator[str]:
    """Possible reasons, the most precise first."""
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
    # SQLAlchemy's own text is left out, since it contains the statement and its values.
    text = _AROUND_REDIS_ERROR.sub("", said(getattr(failure, "orig", None) or failure))
    lines = text.strip().splitlines()
    yield lines[0] if lines else type(failure).__name__


def _chain(failure: BaseException) -> Iterator[BaseException]:
    """The error and its causes."""
    seen: list[BaseException] = []
    following: BaseException | None = failure
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        inner = (getattr(following, "reason", None), *following.args, following.__cause__)
        unsaid = None if following.__suppress_context__ else following.__context__
        following = next((e for e in (*inner, unsaid) if isinstance(e, BaseException)), None)


def trace_id(traceparent: str | None) -> str | None:
    """The id of the trace in a run's W3C traceparent, as log lines and pages show it."""
    return traceparent.split("-")[1] if traceparent else None
