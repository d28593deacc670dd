"""QStash on loopback: as much of its REST protocol as this product calls, and its signed
deliveries."""

from app.local.qstash.server import QStashStandIn

__all__ = ["QStashStandIn"]
