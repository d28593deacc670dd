"""What is on the wire: strict JSON and its shapes, signatures, bearer tokens."""

import hashlib
import hmac
import json
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import parse_qs

import jcs  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Text = Annotated[str, Field(min_length=1)]


class Shape(BaseModel):
    """What somebody may send: nothing more, and no type but the right one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Shaped = TypeVar("Shaped", bound=Shape)


def shaped(shape: type[Shaped], value: Any) -> Shaped:
    """The value as that shape; raises ValueError, naming the first place that does not fit."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        # Whether the real server knows the key or not.
        unknown = first["type"] == "extra_forbidden"
        said = "the stand-in does not do this" if unknown else first["msg"]
        raise ValueError(f"{where}: {said}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def loads(raw: bytes | str) -> Any:
    """JSON as Go reads it: NaN and Infinity, which Python writes and reads, are refused."""
    return json.loads(raw, parse_constant=_refuse_constant)


def dumps(value: object) -> bytes:
    """Compact UTF-8 JSON; like Go it replaces a lone surrogate, which UTF-8 cannot carry."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode(errors="replace")


def bearer(signing_key: str) -> str:
    """The Authorization header the SDK must send: sha256 of the decoded key, in hex.

    A self-hosted server takes the key in plain hex, without the cloud's `signkey-…-` prefix.
    """
    try:
        key = bytes.fromhex(signing_key)
    except ValueError:
        raise ValueError("the signing key must be plain hex of even length") from None
    return f"Bearer {hashlib.sha256(key).hexdigest()}"


def sign(body: bytes, signing_key: str, now: float) -> str:
    """x-inngest-signature for a request: HMAC-SHA256 over the canonical body and Unix seconds."""
    canonical = jcs.canonicalize(loads(body)) if body else b""
    return f"t={int(now)}&s={_mac(canonical, signing_key, str(int(now)))}"


def verify(body: bytes, header: str, signing_key: str) -> bool:
    """Whether an SDK's answer carries a right signature; it signs the body as sent."""
    parts = parse_qs(header)
    moment, given = parts.get("t", [""])[0], parts.get("s", [""])[0]
    return hmac.compare_digest(given, _mac(body, signing_key, moment))


def _mac(body: bytes, signing_key: str, moment: str) -> str:
    return hmac.new(signing_key.encode(), body + moment.encode(), hashlib.sha256).hexdigest()
