"""What every row of the benchmark uses: databases, rivals in an environment of their own,
processes, and two sides measured in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from sqlalchemy import func, select

from app.local.parts import read_procfile
from app.platform.config import ROOT, load
from app.platform.wiring import make_runtime
from app.switchyard.runs.models import RunRow
from app.switchyard.runtime import Runtime
from tests.conftest import new_postgres
from tests.support.environments import empty, install_once
from tests.support.tables import create_all

Measure = Callable[[], float]
DATABASES = ("SQLite", "Postgres")
RIVALS = ("dbos>=3", "procrastinate>=3", "psycopg[binary]>=3.2", "rq>=3")
"""What is installed apart, into var/environments/rivals, when a row first needs it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its rival's; `ratio` above 1 means we are better."""

    name: str
    ours: float
    rival: float
    rival_name: str
    unit: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a row is measured."""

    redis_url: str
    postgres: str
    """The server: each measurement has a database of its own."""
    folder: Path
    quick: bool
    """A look at whether it works: a tenth of the work, and one round."""
    full: bool
    """As large as the aims have it: tens of minutes, and 10 GB of disk."""

    def some(self, count: int) -> int:
        """So many, or a tenth in a quick run."""
        return max(count // 10, 10) if self.quick else count

    @property
    def rounds(self) -> int:
        return 1 if self.quick else 3

    @contextmanager
    def database(self, label: str) -> Iterator[str]:
        """A new one, empty: its DATABASE_URL."""
        if label == "Postgres":
            with new_postgres(self.postgres) as url:
                yield url
            return
        path = self.folder / f"{time.monotonic_ns()}.db"
        yield f"sqlite:///{path}"
        for file in self.folder.glob(f"{path.name}*"):
            file.unlink()

    @contextmanager
    def runtime(self, label: str) -> Iterator[tuple[Runtime, dict[str, str]]]:
        """The product on a new database, every job on RQ; and the environment of its processes."""
        with self.database(label) as url:
            environ = {
                "DATABASE_URL": url,
                "REDIS_URL": self.redis_url,
                "SWITCHYARD_JOBS": "tests.bench.jobs",
                "INNGEST_DEV": "http://127.0.0.1:9",
                "LOG_LEVEL": "ERROR",
                "PYTHONDONTWRITEBYTECODE": "",  # what is installed is compiled once
            }
            runtime = make_runtime(load(environ))
            create_all(runtime.db.engine)
            try:
                yield runtime, {**os.environ, **environ}
            finally:
                runtime.db.dispose()


def in_turn(
    name: str,
    unit: str,
    rival_name: str,
    ours: Measure,
    rival: Measure,
    rounds: int,
    *,
    warm: bool = True,
) -> Row:
    """Medians of `rounds` rounds of A B A B …; where they are in this process, after one of each
    that is not counted."""
    if warm and rounds > 1:
        ours(), rival()
    pairs = [(ours(), rival()) for _ in range(rounds)]
    mine, theirs = (statistics.median(one) for one in zip(*pairs, strict=True))
    return row(name, mine, theirs, rival_name, unit)


def row(
    name: str, ours: float, rival: float, rival_name: str, unit: str, *, less: bool = False
) -> Row:
    """A row; `less` is better, or else more."""
    ratio = rival / ours if less else ours / rival
    places = 1 if max(ours, rival) >= 10 else 3
    return Row(name, round(ours, places), round(rival, places), rival_name, unit, round(ratio, 2))


def rate(count: int, work: Callable[[], object]) -> float:
    """How many a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def rival(name: str, *args: object) -> list[str]:
    """The command of a rival's script."""
    script = ROOT / "tests" / "bench" / "rivals" / f"{name}_rival.py"
    python = empty("rivals")
    install_once(python, *RIVALS)
    return [str(python), str(script), *map(str, args)]


def run(command: list[str]) -> str:
    """What a command says. Raises where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{command[1:]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def said(command: list[str]) -> float:
    """The number that a rival's script says."""
    return float(run(command).split()[-1])


def procfile(name: str, bind: str = "") -> list[str]:
    """A command of the Procfile, with this interpreter; web listens at `bind`."""
    command = read_procfile()[name].replace("${BIND:-0.0.0.0}:${PORT:-3005}", bind)
    program, *words = command.replace("${WEB_THREADS:-16}", "16").split()
    return [sys.executable, "-m", "rq.cli" if program == "rq" else program, *words]


@contextmanager
def processes(
    commands: list[list[str]], environ: dict[str, str]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run the commands until the block ends."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [
        subprocess.Popen(command, env=environ, cwd=ROOT, **quiet)  # type: ignore[call-overload]
        for command in commands
    ]
    try:
        yield running
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def drained(left: Callable[[], int], count: int) -> float:
    """How many a second, from when a tenth is done to the last: nobody's start-up is counted."""
    deadline = time.perf_counter() + 300

    def still() -> int:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{left()} of {count} not done after 300 s")
        time.sleep(0.02)
        return left()

    while (at_start := still()) > count * 0.9:
        pass
    start = time.perf_counter()
    while still() > 0:
        pass
    return at_start / (time.perf_counter() - start)


def open_runs(runtime: Runtime) -> int:
    """How many runs have not ended."""
    chosen = select(func.count()).select_from(RunRow).where(RunRow.check_at.is_not(None))
    with runtime.db.autocommit() as connection:
        return connection.scalar(chosen) or 0


def counted(url: str, statement: str) -> int:
    """The one number that a statement gives on Postgres."""
    with psycopg.connect(url) as connection:
        found = connection.execute(statement.encode()).fetchone()
    return 0 if found is None else int(found[0])


def save(kept: list[dict[str, object]], rows: list[Row], path: Path) -> None:
    """Write var/bench.json as the contract has it: what was measured before, and now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*kept, *map(asdict, rows)], indent=2))
