"""A job of RQ's that holds its worker: a module that imports nothing it does not need."""

import time

import redis

BEGUN = "begun"


def hold(number: int, url: str, seconds: float) -> None:
    """Count that it began, and stay."""
    redis.Redis.from_url(url).hincrby(BEGUN, str(number))
    time.sleep(seconds)
