"""procrastinate at its best documented settings: `defer URL COUNT` and `batch URL COUNT` say how
many a second; `work URL NAME` works its queue until it is killed."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

procrastinate: Any = importlib.import_module("procrastinate")


def main(what: str, url: str, more: str) -> None:
    """See the module."""
    kind = procrastinate.PsycopgConnector if what == "work" else procrastinate.SyncPsycopgConnector
    app = procrastinate.App(connector=kind(conninfo=url))

    @app.task(queue="bench", name="noop")  # type: ignore[untyped-decorator]
    async def noop(n: int) -> None:
        """Nothing."""

    if what == "work":
        app.run_worker(queues=["bench"], name=more, concurrency=10)
        return
    with app.open():
        if what == "schema":
            app.schema_manager.apply_schema()
            return
        count = int(more)
        start = time.perf_counter()
        if what == "batch":
            for since in range(0, count, 1000):
                noop.batch_defer(*({"n": n} for n in range(since, min(since + 1000, count))))
        else:
            for n in range(count):
                noop.defer(n=n)
        sys.stdout.write(f"{count / (time.perf_counter() - start)}\n")


main(*sys.argv[1:])
