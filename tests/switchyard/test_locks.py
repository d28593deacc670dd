"""Locks over both clients: one holder, a fence that rises, and no harm by who outlived theirs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.switchyard.cache.cache import Cache
from app.switchyard.cache.client import CacheUnavailable, CircuitBreaker
from app.switchyard.cache.locks import acquire_lock
from app.switchyard.errors import BadInput
from tests.support.cached import Kit, connecting
from tests.support.waiting import until

KEY = "switchyard:lock:payout:1"


def test_one_holder_at_a_time(kit: Kit) -> None:
    with ThreadPoolExecutor(20) as pool:
        taken = list(pool.map(lambda _: acquire_lock(kit.cache, "payout:1", 60), range(20)))
    (held,) = [lock for lock in taken if lock is not None]
    assert 0 < kit.raw.pttl(KEY) <= 60_000
    assert acquire_lock(kit.cache, "payout:2", 60) is not None
    assert held.release()
    assert acquire_lock(kit.cache, "payout:1", 60) is not None


def test_a_lock_ends_by_itself(kit: Kit) -> None:
    assert acquire_lock(kit.cache, "payout:1", 0.01) is not None
    until(lambda: acquire_lock(kit.cache, "payout:1", 60) is not None)


def test_who_outlives_a_lock_cannot_release_its_successor_s(kit: Kit) -> None:
    first = acquire_lock(kit.cache, "payout:1", 60)
    assert first is not None
    kit.raw.delete(KEY)  # as when its time is over
    assert not first.release()
    second = acquire_lock(kit.cache, "payout:1", 60)
    assert second is not None
    assert not first.release()
    assert kit.raw.get(KEY) == str(second.fence)
    assert second.release()


@pytest.mark.parametrize("lost", [False, True])
def test_the_fence_rises_even_where_the_cache_lost_everything(kit: Kit, lost: bool) -> None:
    fences = []
    for n in range(20):
        lock = acquire_lock(kit.cache, f"payout:{n}", 60)
        assert lock is not None
        fences.append(lock.fence)
        if lost:
            kit.raw.flushdb()
    assert fences == sorted(set(fences))
    assert lost or kit.raw.get("switchyard:fence") == str(fences[-1])


def test_the_fence_rises_where_the_clock_stepped_back(kit: Kit) -> None:
    ahead = 4_000_000_000_000_000
    kit.raw.set("switchyard:fence", ahead)
    lock = acquire_lock(kit.cache, "payout:1", 60)
    assert lock is not None
    assert lock.fence == ahead + 1


@pytest.mark.parametrize(("name", "seconds"), [("", 60), ("k" * 201, 60), ("k", 0), ("k", -1)])
def test_bad_input_is_refused(kit: Kit, name: str, seconds: float) -> None:
    with pytest.raises(BadInput):
        acquire_lock(kit.cache, name, seconds)


def test_without_a_cache_no_lock_is_taken_for_anothers() -> None:
    cache = Cache(CircuitBreaker(connecting("redis", "redis://127.0.0.1:1/0"), seconds=30))
    with pytest.raises(CacheUnavailable):
        acquire_lock(cache, "payout:1", 60)
