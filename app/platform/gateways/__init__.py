"""The outside services a body may call, behind one wall: SDKs are used nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.platform.gateways.hooks import Hook
    from app.platform.gateways.smtp import Mailer
    from app.platform.gateways.storage import Storage
    from app.platform.gateways.stripe import StripeGateway


@dataclass(frozen=True, slots=True)
class Gateways:
    """The gateways of one process; None: off."""

    stripe: StripeGateway
    mailer: Mailer | None = None
    admin_email: str | None = None
    """Who is notified of what happened."""
    admin_hook: Hook | None = None
    storage: Storage | None = None
    targets: Mapping[str, Hook] = field(default_factory=dict)
    """Who webhooks are relayed to, by name."""
    platform: str = "Switchyard"
    """The platform's name, as creators know it."""
