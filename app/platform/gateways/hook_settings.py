"""WEBHOOK_SOURCES and WEBHOOK_TARGETS: whose webhooks are taken, and who gets them."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, Secret, SecretStr

STRIPE = "stripe"
"""The source with an endpoint and a secret of its own."""


def signing_secret(value: SecretStr) -> SecretStr:
    """A Standard Webhooks secret. Raises ValueError, which shows nothing of it."""
    text = value.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not text.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 bytes")
    return value


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
SigningSecret = Annotated[SecretStr, AfterValidator(signing_secret)]
Sources = dict[Name, Annotated[list[SigningSecret], Field(min_length=1)]]
"""The secrets of each source: two while one takes the other's place."""


class Target(BaseModel):
    """Who gets webhooks, signed with a secret of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Secret[HttpUrl]
    """Secret, as it may hold a token."""
    secret: SigningSecret
    sources: list[Name] | None = None
    """Whose webhooks it gets; by default everybody's."""

    def wants(self, source: str) -> bool:
        """Whether the webhooks of `source` go to it."""
        return self.sources is None or source in self.sources


Targets = dict[Name, Target]


def check(sources: Collection[str], targets: Mapping[str, Target]) -> None:
    """Raises ValueError where a target wants a source that there is not, and for Stripe's name."""
    known = {STRIPE, *sources}
    if STRIPE in sources:
        raise ValueError("stripe has an endpoint of its own, and STRIPE_WEBHOOK_SECRET")
    for name, target in targets.items():
        if unknown := sorted(set(target.sources or ()) - known):
            raise ValueError(f"{name}: there is no source {unknown[0]!r}")
