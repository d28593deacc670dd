"""Settings of `rq worker --config queues.settings`: where Redis is, and which queues there are."""

from __future__ import annotations

from app.switchyard import config
from app.switchyard import job as catalogue

_settings = config.load()
_jobs = catalogue.load(_settings.switchyard_jobs)

REDIS_URL = _settings.redis_url
QUEUES = list(
    dict.fromkeys(
        [*(spec.queue for spec in _jobs.values()), *config.split(_settings.legacy_queues)]
    )
)
