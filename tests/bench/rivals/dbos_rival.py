"""dbos at its best documented settings: `enqueue URL COUNT` says how many a second; `work URL NAME`
works its queue until it is killed."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

dbos: Any = importlib.import_module("dbos")
QUEUE = "bench"


@dbos.DBOS.workflow()  # type: ignore[untyped-decorator]
def noop(n: int) -> None:
    """Nothing."""


@dbos.DBOS.step()  # type: ignore[untyped-decorator]
def step(n: int) -> int:
    """Nothing, on record."""
    return n


@dbos.DBOS.workflow()  # type: ignore[untyped-decorator]
def three(n: int) -> list[int]:
    """Three steps."""
    return [step(number) for number in range(3)]


def main(what: str, url: str, more: str, kind: str = "noop") -> None:
    """See the module."""
    dbos.DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "log_level": "ERROR",
            "executor_id": more,
            "application_version": "1",
        }
    )
    if what != "work":
        dbos.DBOS.listen_queues([])
    dbos.DBOS.launch()
    # Quick to look, and no more at once than keeps both processes busy.
    queue = dbos.DBOS.register_queue(QUEUE, worker_concurrency=50, polling_interval_sec=0.05)
    if what == "work":
        time.sleep(3600)
    workflow = three if kind == "three" else noop
    start = time.perf_counter()
    for n in range(int(more)):
        dbos.DBOS.enqueue_workflow(queue.name, workflow, n)
    sys.stdout.write(f"{int(more) / (time.perf_counter() - start)}\n")
    dbos.DBOS.destroy()


main(*sys.argv[1:])
