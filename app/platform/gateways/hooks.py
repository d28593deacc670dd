"""Webhooks sent out, signed as Standard Webhooks has it (https://www.standardwebhooks.com)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from app.switchyard import effects
from app.switchyard.errors import SwitchyardError

# Their lines on each call, and on an answer's malformed header, print the whole URL.
for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class HookError(SwitchyardError, status=502, title="Webhook not sent"):
    """A webhook could not be sent; the message names its host, never its path or query."""


class HookRefused(HookError, title="Webhook refused"):
    """The receiver does not want it: a 4xx other than 408 and 429."""


class HookUnavailable(HookError, status=503, title="Webhook receiver unavailable"):
    """No answer that accepts it: it may have arrived. Send it again under the same id."""


class Hook:
    """An address that takes webhooks, signed where there is a `secret` (`whsec_` and base64).

    A call is sent once and follows no redirect; connecting, and each wait for the answer, take at
    most `timeout` seconds. Safe in threads and after a fork.
    """

    def __init__(self, url: str, secret: SecretStr | None = None, timeout: float = 10.0) -> None:
        self._url = SecretStr(url)
        self._host = urlsplit(url).hostname
        self._secret = secret
        self._timeout = timeout

    def post(self, body: Mapping[str, Any], id: str, now: datetime) -> None:
        """Send `body` as JSON. See send()."""
        data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        self.send(data, {"Content-Type": "application/json"}, id, now)

    def send(self, data: bytes, headers: Mapping[str, str], id: str, now: datetime) -> None:
        """Send `data`, UTF-8, as the message `id`, by which a repetition is known, at `now` UTC.

        Raises HookRefused and HookUnavailable.
        """
        effects.allow("calling a webhook")
        named = {"webhook-id": id, "webhook-timestamp": str(int(now.timestamp()))}
        if self._secret is not None:
            signer = Webhook(self._secret.get_secret_value())
            named["webhook-signature"] = signer.sign(id, now, data.decode())
        try:
            with requests.post(
                self._url.get_secret_value(),
                data=data,
                headers={**headers, **named},
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,  # the answer's body is not read
            ) as answer:
                status = answer.status_code
        except (requests.RequestException, OSError, ValueError) as failure:
            # Not its text, which holds the URL.
            raise HookUnavailable(f"{self._host}: {type(failure).__name__}") from None
        if 400 <= status < 500 and status not in (408, 429):
            raise HookRefused(f"{self._host} answered {status}")
        if not 200 <= status < 300:
            raise HookUnavailable(f"{self._host} answered {status}")
