"""What goes wrong, each a function: a profile deals them like cards, from the seed."""

from __future__ import annotations

import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from shutil import copytree
from typing import TypeVar

import psutil

from app.platform.config import ROOT
from app.switchyard.cutover.drain import Drain
from app.switchyard.runs.handoff import hand_over
from flags import Side
from queues.backend import connect
from tests.proof import checker
from tests.proof.platform import OUTAGES, PARTS, Platform
from tests.proof.servers import each_of

MIGRATIONS = "migrations/switchyard/versions"
FULL_SECONDS = 2.0
FULL_BYTES = 4096
RIVALS = 5
FAULTS: list[dict[str, float]] = [
    {"double": 0.3},
    {"swallow": 0.3},
    {"unknown_outcome": 0.3},
    {"drop": 0.3},
    {"late": 0.5},
    {},
]


@dataclass(frozen=True)
class Schedule:
    """`weight` is how many of it are in a deck of cards, 0 for one in the first deck alone."""

    name: str
    weight: int
    happens: Callable[..., None]
    needs: str


SCHEDULES: list[Schedule] = []
Happening = TypeVar("Happening", bound=Callable[..., None])


def schedule(weight: int, needs: str = "") -> Callable[[Happening], Happening]:
    """Register one; `needs` is the only database that it can happen to."""

    def register(happens: Happening) -> Happening:
        name = happens.__name__
        SCHEDULES.append(Schedule(name, weight, happens, needs))
        return happens

    return register


def deck(platform: Platform, *, first: bool) -> list[Schedule]:
    """What can happen to this platform, each as often as it weighs, and a profile allows."""
    database = "postgres" if "postgres" in platform.servers else "sqlite"
    can = [one for one in SCHEDULES if one.needs in ("", database)]
    return [
        one for one in can for _ in range(min(one.weight, platform.profile.most_alike) or first)
    ]


def deal(platform: Platform) -> Iterator[Schedule]:
    """Cards without end: each deck is shuffled anew."""
    first = True
    while True:
        cards = deck(platform, first=first)
        platform.random.shuffle(cards)
        yield from cards
        first = False


@schedule(24)
def killed(platform: Platform) -> None:
    """The kind that was killed least, so that each has its share."""
    platform.kill(min(platform.kinds(), key=lambda kind: platform.killed[kind]))


@schedule(1)
def worker_frozen(platform: Platform) -> None:
    platform.freeze("worker")


@schedule(1)
def web_frozen(platform: Platform) -> None:
    platform.freeze("web")


@schedule(1)
def stopped(platform: Platform) -> None:
    """By SIGTERM, as at a deploy."""
    process = platform.processes[platform.random.choice(PARTS)]
    process.terminate()


@schedule(0)
def relays_stopped(platform: Platform) -> None:
    names = {"relay-1", "relay-2"}
    platform.stopped |= names
    for name in names & platform.processes.keys():
        platform.processes[name].terminate()
    platform.after(
        platform.profile.relay_seconds, lambda: platform.stopped.difference_update(names)
    )


@schedule(2, "postgres")
def connections_cut(platform: Platform) -> None:
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    checker.rows(
        platform.url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
    )


@schedule(1, "sqlite")
def disk_full(platform: Platform) -> None:
    """For all that the parts write: no file may grow."""

    def limit(size: int) -> None:
        bounds = (size, psutil.RLIM_INFINITY)
        for part in list(platform.processes.values()):
            each_of(part, lambda one: one.rlimit(psutil.RLIMIT_FSIZE, bounds))

    limit(FULL_BYTES)
    platform.after(FULL_SECONDS, lambda: limit(psutil.RLIM_INFINITY))


@schedule(1)
def redis_full(platform: Platform) -> None:
    redis = connect(platform.valkey.url)
    redis.config_set("maxmemory-policy", "noeviction")
    redis.config_set("maxmemory", "1")

    def free() -> None:
        with suppress(*OUTAGES):  # started anew meanwhile, it has none of this
            redis.config_set("maxmemory", "0")

    platform.after(FULL_SECONDS, free)


@schedule(2)
def redis_flushed(platform: Platform) -> None:
    platform.suffers("redis flushed")
    connect(platform.valkey.url).flushall()


@schedule(2)
def inngest_restarted(platform: Platform) -> None:
    platform.suffers("inngest restarted")
    platform.serve("inngest")


@schedule(1)
def qstash_restarted(platform: Platform) -> None:
    platform.serve("qstash")


@schedule(3)
def service_faulty(platform: Platform) -> None:
    fault = platform.random.choice(FAULTS)
    name = platform.random.choice(list(platform.services))
    platform.faults.update(f"{name}_{one}" for one in fault)
    platform.services[name].fault(**fault)


@schedule(4)
def handed_over(platform: Platform) -> None:
    sql = "SELECT id FROM switchyard_runs WHERE check_at IS NOT NULL ORDER BY id"
    runs = [row[0] for row in checker.rows(platform.url, sql)]
    some = platform.random.sample(runs, min(len(runs), platform.random.randint(1, 40)))
    hand_over(platform.runtime.store, some, platform.random.choice(["rq", "inngest"]))


@schedule(2)
def drained(platform: Platform) -> None:
    """All of it, to either side; cut short now and then."""
    stop = threading.Event()
    cut = platform.random.random() < 0.3

    def progress(_done: int, _of: int) -> None:
        if cut:
            stop.set()

    to = platform.random.choice(list(Side))
    Drain(platform.runtime, None, to, True, 0.0, stop, progress, chunk=20)()


@schedule(0)
def same_keys(platform: Platform, folder: Path | None = None) -> None:
    """Five processes dispatch the same keys, each with a payload of its own."""
    platform.names += 1
    keys = [f"k{platform.names}-{n}" for n in range(10)]
    for number in range(RIVALS if folder is None else 2):
        command = ["-m", "tests.proof.rivals", str(platform.folder), str(number), *keys]
        platform.rivals.append(platform.spawn("rivals", command, platform.environ, folder))


def older_code(folder: Path) -> Path | None:
    """The code before the last migration, where the clone has its history."""
    said = _git("log", "-1", "--format=%H", "--diff-filter=A", "--", MIGRATIONS).decode().strip()
    archive = said and _git("archive", f"{said}~1")
    if not archive:
        return None
    with tarfile.open(fileobj=BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
    if not (folder / MIGRATIONS).is_dir():
        return None
    copytree(ROOT / "tests" / "proof", folder / "tests" / "proof", dirs_exist_ok=True)
    return folder


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False).stdout


def begin(platform: Platform, older: Path | None) -> None:
    """The tables; with older code at work before, while and after they are migrated."""
    upgrade = ["-m", "flask", "--app", "app", "db", "upgrade"]
    platform.make_marks()
    old = ("old-web", "old-worker", "old-relay", "old-clock")
    if older is not None:
        assert platform.spawn("old-release", upgrade, platform.environ, older).wait(120) == 0
        for name in old:
            platform.start(name, older)
        same_keys(platform, older)
        platform.faults["older_code"] += 1
        with suppress(subprocess.TimeoutExpired):
            platform.rivals[0].wait(6.0)  # it is at it, or done, when the tables change
    assert platform.spawn("release", upgrade, platform.environ).wait(120) == 0
    platform.open()
    platform.tend()

    def retire() -> None:
        for name in old:
            platform.processes.pop(name).terminate()

    if older is not None:
        platform.after(platform.profile.relay_seconds, retire)
