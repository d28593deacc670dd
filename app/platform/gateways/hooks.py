"""Webhooks: their sources and targets, and how to send one.

They are signed by Standard Webhooks (https://www.standardwebhooks.com).
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr
from standardwebhooks.webhooks import Webhook

from app.switchyard import effects
from app.switchyard.config import WEB, hidden
from app.switchyard.errors import SwitchyardError

STRIPE = "stripe"
"""The source that has its own endpoint and secret."""
TIMEOUT_SECONDS = 10.0
"""The limit for connecting, and for each wait for the answer."""

# They log the whole URL, for each call and for malformed headers in answers.
for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class HookRefused(SwitchyardError, status=502, title="Webhook refused"):
    """The receiver refused it with a 4xx other than 408 and 429."""


class HookUnavailable(SwitchyardError, status=503, title="Webhook receiver unavailable"):
    """No answer accepted it, but it may have arrived. Send it again under the same id."""


def _signing_secret(text: str) -> None:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not text.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 bytes")


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Address = Annotated[SecretStr, hidden(WEB)]
"""An address, kept secret since it may contain a token."""
SigningSecret = Annotated[SecretStr, hidden(_signing_secret)]
Sources = dict[Name, Annotated[list[SigningSecret], Field(min_length=1)]]
"""WEBHOOK_SOURCES: the secrets of each source, of which there are two during a rotation."""


class Hook(BaseModel, frozen=True, extra="forbid"):
    """An address that gets webhooks, which are signed if there is a secret.

    A call is sent once and follows no redirect. Safe in threads and after a fork.
    """

    url: Address
    secret: SigningSecret | None = None

    def post(self, body: Mapping[str, Any], id: str, now: datetime) -> None:
        """Send `body` as JSON. See send()."""
        data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        self.send(data, {"Content-Type": "application/json"}, id, now)

    def send(self, data: bytes, headers: Mapping[str, str], id: str, now: datetime) -> None:
        """Send `data` (UTF-8) at `now` (UTC) under `id`, by which receivers recognize repetitions.

        Raises HookRefused and HookUnavailable, which name the host, but never the path or query.
        """
        import requests  # most processes send none

        effects.allow("calling a webhook")
        named = {"webhook-id": id, "webhook-timestamp": str(int(now.timestamp()))}
        if self.secret is not None:
            signer = Webhook(self.secret.get_secret_value())
            named["webhook-signature"] = signer.sign(id, now, data.decode())
        host = urlsplit(self.url.get_secret_value()).hostname
        try:
            with requests.post(
                self.url.get_secret_value(),
                data=data,
                headers={**headers, **named},
                timeout=TIMEOUT_SECONDS,
                allow_redirects=False,
                stream=True,  # the answer's body is not read
            ) as answer:
                status = answer.status_code
        except (requests.RequestException, OSError, ValueError) as failure:
            # Without the failure's text, which contains the URL.
            raise HookUnavailable(f"{host}: {type(failure).__name__}") from None
        if 400 <= status < 500 and status not in (408, 429):
            raise HookRefused(f"{host} answered {status}")
        if not 200 <= status < 300:
            raise HookUnavailable(f"{host} answered {status}")


class Target(Hook):
    """A target of relayed webhooks, which are signed with its own secret."""

    secret: SigningSecret
    sources: list[Name] | None = None
    """The sources whose webhooks it gets; by default all of them."""

    def wants(self, source: str) -> bool:
        """Whether it gets the webhooks of `source`."""
        return self.sources is None or source in self.sources


Targets = dict[Name, Target]
"""WEBHOOK_TARGETS: the targets by name."""


def check(sources: Collection[str], targets: Mapping[str, Target]) -> None:
    """Raise ValueError where a target wants an unknown source, or a source has Stripe's name."""
    if STRIPE in sources:
        raise ValueError("stripe has an endpoint of its own, and STRIPE_WEBHOOK_SECRET")
    for name, target in targets.items():
        if unknown := sorted(set(target.sources or ()) - {STRIPE, *sources}):
            raise ValueError(f"{name}: there is no source {unknown[0]!r}")
