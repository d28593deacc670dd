"""A stand-in for the Inngest server: the recorded wire protocol, on loopback, for the real SDK.

It is at least as strict as the real one. Like the real self-hosted server without Redis it
keeps its state in memory only, so a restart loses the runs in flight.
"""

from app.local.inngest.faults import Faults
from app.local.inngest.server import create_app
from app.local.inngest.standin import InngestStandIn

__all__ = ["Faults", "InngestStandIn", "create_app"]
