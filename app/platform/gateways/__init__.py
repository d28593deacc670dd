"""The outside services that jobs may call. SDKs are used nowhere else."""

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
    """The gateways of a process. None is off."""

    stripe: StripeGateway
    mailer: Mailer | None = None
    admin_email: str | None = None
    """The address that gets reports and alerts."""
    admin_hook: Hook | None = None
    storage: Storage | None = None
    targets: Mapping[str, Hook] = field(default_factory=dict)
    """The targets to which webhooks are relayed, by name."""
    platform: str = "Switchyard"
    """The name under which creators know the platform."""
