"""The jobs of webhooks, with gaps that a test can wait for."""

from __future__ import annotations

from dataclasses import replace

from app.jobs import webhooks
from app.jobs.catalogue import catalogue

assert webhooks.DELIVERY_GAPS
catalogue.add(replace(catalogue["deliver-webhook"], gaps=(0.2,)))
