"""The outside services a body may call, behind one wall: SDKs are used nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from app.gateways.stripe import StripeGateway


@dataclass(frozen=True, slots=True)
class Gateways:
    """The gateways of one process."""

    stripe: StripeGateway
