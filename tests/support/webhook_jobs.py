"""The jobs of webhooks, with gaps that a test can wait for."""

from __future__ import annotations

from dataclasses import replace

from app.platform.webhooks import jobs as webhooks
from app.switchyard.job import catalogue

assert webhooks.DELIVERY_GAPS
catalogue.add(replace(catalogue["deliver-webhook"], gaps=(0.2,)))
