"""A creator's profile in the cache, as the migration guide has it."""

from __future__ import annotations

from typing import Any

from app.switchyard.cache.cache import Cache


def cache_creator_profile(cache: Cache, creator_id: str, profile: Any, ttl: float = 300) -> bool:
    """Keep a creator's profile for `ttl` seconds; whether it is kept."""
    return cache.put(_name(creator_id), profile, ttl)


def creator_profile(cache: Cache, creator_id: str) -> Any:
    """The creator's profile, or None."""
    return cache.get(_name(creator_id))


def invalidate_creator_profile(cache: Cache, creator_id: str) -> bool:
    """Forget the creator's profile; see Cache.delete."""
    return cache.delete(_name(creator_id))


def _name(creator_id: str) -> str:
    return f"creator_profile:{creator_id}"
