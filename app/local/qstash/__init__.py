"""QStash on loopback: the part of its REST protocol that this product calls, and deliveries."""

from app.local.qstash.server import QStashStandIn

__all__ = ["QStashStandIn"]
