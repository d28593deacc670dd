"""Limits and presence over both clients."""

from __future__ import annotations

import pytest

from app.switchyard.cache import presence
from app.switchyard.cache.cache import Cache
from app.switchyard.cache.limits import IfUnavailable, Verdict, allow
from app.switchyard.errors import BadInput
from tests.support.cached import Kit
from tests.support.waiting import until

KEY = "switchyard:limit:t"


def once(cache: Cache, limit: int = 2, window: float = 60, name: str = "t") -> Verdict:
    return allow(cache, name, limit, window, if_unavailable=IfUnavailable.CLOSED)


def test_so_many_and_no_more(kit: Kit) -> None:
    assert [once(kit.cache).allowed for _ in range(4)] == [True, True, False, False]
    assert once(kit.cache, name="other").allowed
    assert 30 < once(kit.cache).retry_after <= 60
    assert 0 < kit.raw.pttl(KEY) <= 60_000


def test_each_one_counts_for_a_window_from_its_own_time(kit: Kit) -> None:
    once(kit.cache)
    once(kit.cache)
    (first, when), second = kit.raw.zrange(KEY, 0, -1, withscores=True)
    kit.raw.zadd(KEY, {first: when - 45_000_000, second[0]: second[1] - 20_000_000})
    assert 5 < once(kit.cache).retry_after <= 15
    assert 30 < once(kit.cache, limit=1).retry_after <= 40
    kit.raw.zadd(KEY, {first: when - 60_000_001})
    assert once(kit.cache).allowed
    assert not once(kit.cache).allowed


def test_what_is_refused_does_not_count(kit: Kit) -> None:
    for _ in range(10):
        once(kit.cache)
    assert kit.raw.zcard(KEY) == 2


def test_many_at_once_are_let_through_exactly_so_often(kit: Kit) -> None:
    assert sum(kit.together("limit", 2, limit=7, window=600)) == 7


@pytest.mark.parametrize(("limit", "window"), [(0, 60), (-1, 60), (10_001, 60), (1, 0), (1, 1e9)])
def test_bad_input_is_refused(kit: Kit, limit: int, window: float) -> None:
    with pytest.raises(BadInput):
        once(kit.cache, limit, window)


def test_who_is_there(kit: Kit) -> None:
    assert presence.present(kit.cache) == []
    for user in ("ana", "bob", "ana"):
        presence.seen(kit.cache, user)
    assert sorted(presence.present(kit.cache)) == ["ana", "bob"]
    assert 0 < kit.raw.ttl("switchyard:presence") <= 60


def test_who_was_not_seen_for_a_minute_is_gone(kit: Kit) -> None:
    for user in ("ana", "bob", "eve"):
        presence.seen(kit.cache, user)
    now = kit.raw.time()[0]
    kit.raw.zadd("switchyard:presence", {"ana": now - 61, "bob": now - 30})
    assert presence.present(kit.cache) == ["eve", "bob"]
    presence.seen(kit.cache, "ana")
    assert "ana" in presence.present(kit.cache)
    kit.raw.pexpire("switchyard:presence", 1)
    until(lambda: presence.present(kit.cache) == [])
