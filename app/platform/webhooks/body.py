"""What a webhook's request brings: its body as it came, and what that is said to be."""

from __future__ import annotations

from flask import request

MAX_BYTES = 1024 * 1024
"""Events are a few kilobytes."""


def posted() -> bytes:
    """The request's body. Raises RequestEntityTooLarge above MAX_BYTES."""
    request.max_content_length = MAX_BYTES
    return request.get_data(cache=False)


def content_type() -> str:
    """What the request says that its body is."""
    given = request.headers.get("Content-Type", "")
    return given if given.isascii() and 0 < len(given) <= 200 else "application/octet-stream"
