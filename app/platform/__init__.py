"""The platform: the migration guide's own jobs, as an ordinary Flask app that adopts the layer."""

from __future__ import annotations

_MODULES = (
    *("payouts.jobs", "webhooks.jobs", "earnings.jobs", "statements.jobs", "mail.jobs"),
    *("media.jobs", "mail.admins"),
)
JOBS = tuple(f"{__name__}.{module}" for module in _MODULES)
"""The modules that declare the platform's jobs."""
