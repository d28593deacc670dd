"""Three steps through the catalogue beside the same by hand on Inngest's SDK, one by one and in
bursts: each with a server of its own, in one process tree."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import inngest

from tests.bench.by_hand import EVENT, make_client
from tests.bench.harness import DATABASES, Bench, Row, in_turn, processes, rate
from tests.proof.recovery import stack
from tests.support.sides import free_port
from tests.support.standins import InngestStandIn
from tests.support.waiting import until

BURST = 60
Send = Callable[[int], object]


def overhead(bench: Bench) -> Iterator[Row]:
    """On either database."""
    for label in DATABASES:
        with (
            by_hand() as (server, send),
            bench.database(label) as url,
            stack(bench.redis_url, "web", database_url=url) as ours,
        ):
            own = partial(_rate, ours.inngest, partial(ours.dispatch, "inngest"))
            hand = partial(_rate, server, send)
            for what, count, rounds in (
                ("one by one", 1, 5 * bench.rounds),
                (f"in bursts of {BURST}", BURST, 2 * bench.rounds),
            ):
                sides = partial(own, count), partial(hand, count)
                name = f"inngest overhead: three steps {what}, {label}"
                yield in_turn(name, "runs a second", "by hand on Inngest's SDK", *sides, rounds)


def _rate(server: InngestStandIn, send: Send, count: int) -> float:
    """Runs a second, from before they are sent until the server knows that all have ended."""
    goal = _ended(server) + count

    def work() -> None:
        send(count)
        until(lambda: _ended(server) >= goal, "all ended", every_seconds=0.002)

    return rate(count, work)


def _ended(server: InngestStandIn) -> int:
    with server.engine.lock:
        return sum(run.ended for run in server.engine.runs.values())


@contextmanager
def by_hand() -> Iterator[tuple[InngestStandIn, Send]]:
    """Its server, and what sends that so many events."""
    port = free_port()
    with InngestStandIn([f"http://127.0.0.1:{port}/api/inngest"]) as server:
        command = [sys.executable, "-m", "gunicorn", "tests.bench.by_hand:make_app()"]
        command += ["--bind", f"127.0.0.1:{port}", "--worker-class", "gthread", "--threads", "16"]
        environ = {**os.environ, "INNGEST_DEV": server.url}
        with processes([[*command, "--no-control-socket"]], environ):
            until(lambda: not any(server.sync().values()), "the app by hand came up")
            client = make_client(server.url)

            def send(count: int) -> object:
                events = [inngest.Event(name=EVENT, data={"n": n}) for n in range(count)]
                return client.send_sync(events)

            yield server, send
