"""The settings for `rq worker --config queues.settings`: where Redis is, and which queues exist."""

from __future__ import annotations

from app.switchyard.config import split
from app.switchyard.runtime import process_runtime

_runtime = process_runtime()

REDIS_URL = _runtime.settings.redis_url
_declared = (spec.queue for spec in _runtime.catalogue.values())
QUEUES = list(dict.fromkeys([*_declared, *split(_runtime.settings.legacy_queues)]))
