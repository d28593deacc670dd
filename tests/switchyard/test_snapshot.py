"""The stages as last read, in the cache for a process that starts without a database."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from app.switchyard.cache.cache import Cache
from app.switchyard.cache.client import CircuitBreaker
from app.switchyard.cache.snapshot import StageSnapshot
from flags import Flags, StageRow
from tests.support.cached import Kit, connecting
from tests.switchyard.test_flags import Store

DEAD = "redis://127.0.0.1:1/0"


class Stages(Store):
    """Beside processes that decide by them and by the snapshot in a cache."""

    def __init__(self, cache: Cache, database_url: str = "sqlite:////one.db") -> None:
        super().__init__()
        self.cache = cache
        self.url = make_url(database_url)

    def snapshot(self) -> StageSnapshot:
        return StageSnapshot(self.cache, self.url)

    def process(self, switch: str = "true") -> Flags:
        snapshot = self.snapshot()
        return Flags(
            lambda: snapshot.keep([*self.load()]),
            lambda job: "inngest",
            snapshot=snapshot.read,
            environ={"USE_INNGEST": switch},
            monotonic=lambda: self.time,
        )


@pytest.fixture
def stages(kit: Kit) -> Stages:
    return Stages(kit.cache)


LIVE, LEGACY = StageRow("a", "live", None, 5), StageRow("a", "legacy", None, 6)


def test_a_cold_start_without_a_database_reads_the_last_known_stages(stages: Stages) -> None:
    stages.rows = [LIVE, StageRow("b", "ramp", 1.0, 4, (("pinned", "serverless"),))]
    stages.process().decide("a", "k")
    stages.away = True
    cold = stages.process()
    assert cold.decide("a", "k") == ("inngest", "STALE", "live", 5)
    assert cold.decide("b", "pinned") == ("inngest", "STALE", "ramp", 4)
    assert cold.decide("never staged", "k").backend == "rq"
    # Any off switch wins; and another database's stages are not its own.
    assert stages.process("false").decide("a", "k").backend == "rq"
    other = Stages(stages.cache, "sqlite:////other.db")
    other.away = True
    assert other.process().decide("a", "k") == ("rq", "ERROR", "legacy", 0)


def test_an_older_reading_never_replaces_a_newer_one(kit: Kit, stages: Stages) -> None:
    late = stages.snapshot()
    stages.rows = [LEGACY]
    stages.process().decide("a", "k")
    late.keep([LIVE])
    stages.away = True
    assert stages.process().decide("a", "k").backend == "rq"
    assert 0 < kit.raw.ttl(late._key) <= 600


def test_no_snapshot_means_legacy(kit: Kit, stages: Stages) -> None:
    stages.away = True
    assert stages.process().decide("a", "k") == ("rq", "ERROR", "legacy", 0)
    snapshot = stages.snapshot()
    odd = ("{", "", "[" * 100_000, '[["a", {}, null, "x"]]', '[["a", "ramp", "x", 5]]', "[1]")
    for rows in (*odd, '{"a": 1}', '[["a", "live"]]'):
        kit.raw.hset(snapshot._key, "rows", rows)
        assert snapshot.read() == []
        assert stages.process().decide("a", "k") == ("rq", "ERROR", "legacy", 0), rows
    stages.cache = Cache(CircuitBreaker(connecting("redis", DEAD)))
    assert stages.process().decide("a", "k") == ("rq", "ERROR", "legacy", 0)


def test_what_a_process_knows_itself_wins_over_a_snapshot(stages: Stages) -> None:
    stages.rows = [LEGACY]
    known = stages.process()
    assert known.decide("a", "k").backend == "rq"
    stages.snapshot().keep([StageRow("a", "live", None, 9)])
    stages.away = True
    stages.time += 5
    assert known.decide("a", "k") == ("rq", "STALE", "legacy", 6)


def test_a_snapshot_is_kept_when_it_is_news_only(kit: Kit, stages: Stages) -> None:
    snapshot = stages.snapshot()
    snapshot.keep([LIVE])
    kit.raw.delete(snapshot._key)
    snapshot.keep([LIVE])
    assert snapshot.read() == []
    snapshot.keep([LEGACY])
    assert snapshot.read() == [LEGACY]
