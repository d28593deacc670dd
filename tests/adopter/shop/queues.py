"""The shop's own queues."""

import os

from redis import Redis
from rq import Queue

redis = Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
queue = Queue("shop", connection=redis)
