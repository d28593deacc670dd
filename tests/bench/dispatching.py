"""Rows: what it takes to record a run and send it; and to decide where."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
from openfeature import api
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from redis import Redis
from rq import Queue

import flags
from app.switchyard.clock import iso, utcnow
from app.switchyard.dispatch import dispatch, dispatch_many
from app.switchyard.runs.models import new_run_id
from flags import StageRow
from queues.backend import TASK, connect
from tests.bench.harness import DATABASES, Bench, Row, in_turn, rate, rival, run, said

NOOP = "tests.bench.rivals.noop.noop"
_COLUMNS = (
    *("id", "job", "key", "payload", "backend", "reason", "stage", "stage_version", "status"),
    *("epoch", "sends", "attempt", "losses", "created_at", "due_at", "check_at"),
)


def _floor(url: str, redis: Redis) -> Callable[[int], None]:
    """One INSERT and one pipeline by hand: nothing that records a run and sends it takes less."""
    names, on_sqlite = ", ".join(_COLUMNS), url.startswith("sqlite")
    marks = ", ".join(["?" if on_sqlite else "%s"] * len(_COLUMNS))
    insert = f"INSERT INTO switchyard_runs ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"
    connection: Any
    if on_sqlite:
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    else:
        connection = psycopg.connect(url, autocommit=True)

    def one(n: int) -> None:
        now, run_id = utcnow(), new_run_id()
        times = [now, now, now + timedelta(seconds=5)]
        given = [str(one.replace(tzinfo=None)) for one in times] if on_sqlite else times
        fixed = ("rq", "STATIC", "legacy", 0, "pending", 1, 0, 1, 0)
        connection.execute(
            insert, (run_id, "bench-noop", run_id, json.dumps({"n": n}), *fixed, *given)
        )
        job = f"{run_id}-1"
        fields: dict[Any, Any] = {
            "data": json.dumps([TASK, None, [run_id, 1], {}]),
            "description": f"bench-noop {run_id}",
            "origin": "bench",
            "status": "queued",
            "timeout": 600,
            "result_ttl": 0,
            "failure_ttl": 604800,
            "created_at": iso(now),
            "enqueued_at": iso(now),
        }
        with redis.pipeline(transaction=False) as pipe:
            pipe.hset(f"rq:job:{job}", mapping=fields)
            pipe.sadd("rq:queues", "rq:queue:bench")
            pipe.rpush("rq:queue:bench", job)
            pipe.execute()

    return one


def one(bench: Bench) -> Iterator[Row]:
    """dispatch-one."""
    count = bench.some(500)
    redis = connect(bench.redis_url)
    queue = Queue("bench", connection=redis)

    def many(work: Callable[[int], object]) -> Callable[[], float]:
        def measured() -> float:
            redis.flushall()
            return rate(count, lambda: [work(n) for n in range(count)])

        return measured

    ours = many(lambda n: dispatch("bench-noop", {"n": n}))
    for label in DATABASES:
        name, unit = f"dispatch-one, {label}", "a second"
        with bench.runtime(label) as (_, environ):
            floor = many(_floor(environ["DATABASE_URL"], redis))
            yield in_turn(name, unit, "INSERT and pipeline by hand", ours, floor, bench.rounds)
            enqueue = many(lambda n: queue.enqueue(NOOP, n))
            yield in_turn(name, unit, "rq Queue.enqueue", ours, enqueue, bench.rounds)
            if label == "Postgres":
                for what, command in _rivals(bench, "enqueue", count):
                    theirs = lambda command=command: said(command)  # noqa: E731
                    yield in_turn(name, unit, what, ours, theirs, bench.rounds)


def many(bench: Bench) -> Iterator[Row]:
    """dispatch-many."""
    count = bench.some(10_000)
    redis = connect(bench.redis_url)
    queue = Queue("bench", connection=redis)
    items = [{"n": n} for n in range(count)]

    def ours() -> float:
        redis.flushall()
        return rate(count, lambda: dispatch_many("bench-noop", items))

    def enqueue_many() -> float:
        redis.flushall()
        prepare: Any = Queue.prepare_data
        return rate(count, lambda: queue.enqueue_many([prepare(NOOP, (n,)) for n in range(count)]))

    for label in DATABASES:
        name, unit = f"dispatch-many, {label}", f"a second, of {count:,}"
        with bench.runtime(label):
            yield in_turn(name, unit, "rq Queue.enqueue_many", ours, enqueue_many, bench.rounds)
            if label == "Postgres":
                for what, command in _rivals(bench, "batch", count):
                    theirs = lambda command=command: said(command)  # noqa: E731
                    yield in_turn(name, unit, what, ours, theirs, bench.rounds)


def _rivals(bench: Bench, what: str, count: int) -> Iterator[tuple[str, list[str]]]:
    with bench.database("Postgres") as url:
        run(rival("procrastinate", "schema", url, 0))
        way = "batch" if what == "batch" else "defer"
        yield (
            f"procrastinate {'batch_defer' if way == 'batch' else 'defer'}",
            rival("procrastinate", way, url, count),
        )
    if what == "enqueue":
        with bench.database("Postgres") as url:
            yield "dbos enqueue", rival("dbos", "enqueue", url, count)


def decide(bench: Bench) -> Iterator[Row]:
    """decide: one in a ramp, beside OpenFeature's SDK and its in-memory provider."""
    count = bench.some(100_000)
    ours_flags = flags.Flags(
        lambda: [StageRow("bench", "ramp", 50.0, 1)],
        lambda _job: "inngest",
        environ={"USE_INNGEST": "true"},
    )
    variants = {"rq": "rq", "inngest": "inngest"}
    api.set_provider(InMemoryProvider({"bench": InMemoryFlag("inngest", variants)}))
    client, few = api.get_client(), count // 10

    def ours() -> float:
        keys = [f"key-{n % 100}" for n in range(count)]
        return rate(count, lambda: [ours_flags.decide("bench", key) for key in keys])

    def theirs() -> float:
        return rate(few, lambda: [client.get_string_details("bench", "rq") for _ in range(few)])

    name = "decide in a ramp"
    yield in_turn(name, "a second", "OpenFeature in-memory provider", ours, theirs, bench.rounds)
