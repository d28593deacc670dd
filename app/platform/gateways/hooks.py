"""Webhooks sent out, signed as Standard Webhooks has it (https://www.standardwebhooks.com)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from app.switchyard import effects
from app.switchyard.errors import BadInput, SwitchyardError

# A dot would let one id and timestamp be signed as another pair.
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")

# Their lines on each call, and on an answer's malformed header, print the whole URL.
for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class HookError(SwitchyardError):
    """A webhook could not be sent; the message names its host, never its path or query."""

    status = 502
    title = "Webhook not sent"


class HookRefused(HookError):
    """The receiver does not want it: a 4xx other than 408 and 429."""

    title = "Webhook refused"


class HookUnavailable(HookError):
    """No answer that accepts it: it may have arrived. Send it again under the same id."""

    status = 503
    title = "Webhook receiver unavailable"


class Hook:
    """An address that takes webhooks, signed where there is a `secret` (`whsec_` and base64).

    A call is sent once and follows no redirect; connecting, and each wait for the answer, take at
    most `timeout_seconds`. Safe in threads and after a fork. Raises BadInput for no HTTP address.
    """

    def __init__(self, url: str, secret: SecretStr | None = None, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput("a webhook's address must be an http:// or https:// URL")
        self._url = SecretStr(url)
        self._host = parts.hostname
        self._secret = secret
        self._timeout = timeout

    def post(self, body: Mapping[str, Any], id: str, now: datetime) -> None:
        """Send `body` as JSON. See send()."""
        data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        self.send(data, {"Content-Type": "application/json"}, id, now)

    def send(self, data: bytes, headers: Mapping[str, str], id: str, now: datetime) -> None:
        """Send `data`, UTF-8, as the message `id`, by which a repetition is known, at `now` UTC.

        Raises HookRefused, HookUnavailable, and BadInput for an id that cannot be signed.
        """
        effects.allow("calling a webhook")
        if not _ID.fullmatch(id):
            raise BadInput("a webhook's id has 1 to 200 letters, digits, _ and -")
        named = {"webhook-id": id, "webhook-timestamp": str(int(now.timestamp()))}
        if self._secret is not None:
            signer = Webhook(self._secret.get_secret_value())
            named["webhook-signature"] = signer.sign(id, now, data.decode())
        try:
            with (
                requests.Session() as session,
                session.post(
                    self._url.get_secret_value(),
                    data=data,
                    headers={**headers, **named},
                    timeout=self._timeout,
                    allow_redirects=False,
                    stream=True,  # the answer's body is not read
                ) as answer,
            ):
                status = answer.status_code
        except (requests.RequestException, OSError, ValueError) as failure:
            # Not its text, which holds the URL.
            raise HookUnavailable(f"{self._host}: {type(failure).__name__}") from None
        if 400 <= status < 500 and status not in (408, 429):
            raise HookRefused(f"{self._host} answered {status}")
        if not 200 <= status < 300:
            raise HookUnavailable(f"{self._host} answered {status}")
