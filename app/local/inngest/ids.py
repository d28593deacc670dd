"""Identifiers in the shapes the real server uses: ULIDs, and UUIDs made from names."""

import base64
import binascii
import secrets
import uuid
from datetime import UTC, datetime

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ENTROPY_BITS = 80
ENVIRONMENT_ID = "00000000-0000-4000-b000-000000000000"


def named_uuid(name: str) -> str:
    """The same name always gives the same UUID, as for apps and functions."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def iso(seconds: float, timespec: str = "milliseconds") -> str:
    """Unix seconds as ISO 8601 in UTC, ending in Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec)[:-6] + "Z"


def ulid(now: float) -> str:
    """A fresh ULID; `now` in Unix seconds."""
    return _ulid(int(now * 1000), secrets.randbits(_ENTROPY_BITS))


def event_ulid(seed: str | None, index: int, now: float) -> str:
    """An event's internal id, the same again for the same request (x-inngest-event-id-seed).

    The SDK sends its retries with the same seed, so a retry whose first try did arrive starts
    nothing a second time.
    """
    milliseconds, _, entropy = (seed or "").partition(",")
    try:
        number = int.from_bytes(base64.b64decode(entropy, validate=True))
        return _ulid(int(milliseconds), number + index)
    except (binascii.Error, ValueError):
        return ulid(now)


def _ulid(milliseconds: int, entropy: int) -> str:
    number = (milliseconds << _ENTROPY_BITS) | (entropy % (1 << _ENTROPY_BITS))
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
