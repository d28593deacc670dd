"""Webhooks sent out, signed as Standard Webhooks has it (https://www.standardwebhooks.com)."""

from __future__ import annotations

import hmac
import json
import logging
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr

from app.platform.gateways.guard import AddressRefused
from app.switchyard import effects
from app.switchyard.errors import BadInput, SwitchyardError

Transport = Callable[[str, bytes, Mapping[str, str], float], int]
"""POSTs to a URL within so many seconds; the status that was answered."""

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


class HookSender:
    """Posts JSON to an address, signed where there is a `secret` (`whsec_` and base64).

    A call takes at most `timeout_seconds` in all, is sent once and follows no redirect. Safe in
    threads and after a fork.
    """

    def __init__(
        self,
        secret: str | None = None,
        timeout_seconds: float = 10.0,
        transport: Transport | None = None,
    ) -> None:
        self._key = None if secret is None else b64decode(secret.removeprefix("whsec_"))
        self._timeout_seconds = timeout_seconds
        self._transport = transport or _post

    def post(self, url: SecretStr, body: Mapping[str, Any], id: str, now: datetime) -> None:
        """Send `body` as JSON. See send()."""
        data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        self.send(url, data, {"Content-Type": "application/json"}, id, now)

    def send(
        self, url: SecretStr, data: bytes, headers: Mapping[str, str], id: str, now: datetime
    ) -> None:
        """Send `data` as the message `id`, by which its receiver tells a repetition, at `now` UTC.

        Raises HookRefused, HookUnavailable, BadInput for an id or address that cannot be sent, and
        what else the transport refuses.
        """
        effects.allow("calling a webhook")
        if not _ID.fullmatch(id):
            raise BadInput("a webhook's id has 1 to 200 letters, digits, _ and -")
        host = _host(url)
        headers = {
            **headers,
            "webhook-id": id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._key is not None:
            signed = f"{id}.{headers['webhook-timestamp']}.".encode() + data
            code = b64encode(hmac.digest(self._key, signed, "sha256")).decode()
            headers["webhook-signature"] = f"v1,{code}"
        # The HTTP library's timeout begins anew with each byte, and does not cover the look-up of
        # the name.
        answered: SimpleQueue[int | str | AddressRefused] = SimpleQueue()
        Thread(target=self._send, args=(url, data, headers, answered), daemon=True).start()
        try:
            answer = answered.get(timeout=self._timeout_seconds)
        except Empty:
            answer = f"no answer within {self._timeout_seconds:g} s"
        if isinstance(answer, AddressRefused):
            raise answer
        if isinstance(answer, str):
            raise HookUnavailable(f"{host}: {answer}")
        if 400 <= answer < 500 and answer not in (408, 429):
            raise HookRefused(f"{host} answered {answer}")
        if not 200 <= answer < 300:
            raise HookUnavailable(f"{host} answered {answer}")

    def _send(
        self,
        url: SecretStr,
        data: bytes,
        headers: Mapping[str, str],
        answered: SimpleQueue[int | str | AddressRefused],
    ) -> None:
        try:
            answered.put(
                self._transport(url.get_secret_value(), data, headers, self._timeout_seconds)
            )
        except AddressRefused as refused:
            answered.put(refused)
        except Exception as failure:  # noqa: BLE001 - the caller is told; the text holds the URL
            answered.put(type(failure).__name__)


@dataclass(frozen=True, slots=True)
class HookTarget:
    """An address, and what signs for it."""

    url: SecretStr
    sender: HookSender


def _post(url: str, data: bytes, headers: Mapping[str, str], timeout_seconds: float) -> int:
    with (
        requests.Session() as session,
        session.post(
            url,
            data=data,
            headers=headers,
            timeout=timeout_seconds,
            allow_redirects=False,
            stream=True,
        ) as answer,
    ):
        return answer.status_code


def _host(url: SecretStr) -> str:
    try:
        parts = urlsplit(url.get_secret_value())
        host = parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        host = None
    if not host:
        raise BadInput("a webhook's address must be an http:// or https:// URL")
    return host
