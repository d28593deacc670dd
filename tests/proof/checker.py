"""Whether each accepted intent had its effects once: raw SQL, and the effects' own log.

It shares no code with the product, whose faults must not be able to hide themselves here.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

INTENTS, EFFECTS = "intents.jsonl", "effects.log"
TICK = "tick/"
_MINUTE = "%Y-%m-%dT%H:%M"


@dataclass(frozen=True)
class Verdict:
    """What did not hold."""

    lost: Counter[str]
    """Effects of accepted intents that did not happen."""
    doubled: Counter[str]
    """Effects that happened more than once, or unasked; keys that stand for more than one run."""
    unfinished: list[str]
    """Runs that did not succeed, with why."""

    def __bool__(self) -> bool:
        return not (self.lost or self.doubled or self.unfinished)


def rows(database_url: str, sql: str) -> list[tuple[Any, ...]]:
    """What a query gives."""
    if database_url.startswith("sqlite:///"):
        path = database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            return connection.execute(sql).fetchall()
    with psycopg.connect(database_url, autocommit=True) as server:
        return server.execute(sql.encode()).fetchall()


def note(folder: Path, job: str, key: str, effects: list[str], accepted: bool | None) -> None:
    """Put an intent on the caller's own record: before it is dispatched (`accepted` is None), and
    once it was accepted or refused. One write, so that many processes may do so at once."""
    line = json.dumps({"job": job, "key": key, "effects": effects, "accepted": accepted})
    with (folder / INTENTS).open("ab", buffering=0) as log:
        log.write(f"{line}\n".encode())


def check(database_url: str, folder: Path) -> Verdict:
    """Compare what was accepted with what happened, once everything has drained."""
    noted: dict[tuple[str, ...], bool | None] = {}
    for line in (folder / INTENTS).read_text().splitlines():
        one = json.loads(line)
        intent = (one["job"], one["key"], *one["effects"])
        noted[intent] = one["accepted"] if noted.get(intent) is None else noted[intent]
    expected, possible = Counter[str](), Counter[str]()
    for (_job, _key, *effects), accepted in noted.items():
        if accepted is not False:
            (possible if accepted is None else expected).update(effects)
    done = Counter(dict(rows(database_url, "SELECT what, count(*) FROM marks GROUP BY what")))
    done.update(what for _key, what in _effects(folder / EFFECTS))
    expected.update(_every_minute([what for what in done if what.startswith(TICK)]))
    doubled = done - expected - possible
    keys = "SELECT job || ' ' || key, count(*) - 1 FROM switchyard_runs GROUP BY job, key"
    doubled.update(dict(rows(database_url, f"{keys} HAVING count(*) > 1")))
    return Verdict(expected - done, doubled, unfinished(database_url, {job for job, *_ in noted}))


def unfinished(database_url: str, jobs: set[str]) -> list[str]:
    """The runs of these jobs that did not succeed, or not yet."""
    names = ", ".join(f"'{job}'" for job in jobs)
    sql = f"SELECT id, job, status, error FROM switchyard_runs WHERE job IN ({names})"
    return [
        " ".join(map(str, row)) for row in rows(database_url, f"{sql} AND status <> 'succeeded'")
    ]


def _effects(log: Path) -> set[tuple[str, str]]:
    """Key and name of each effect outside: under the same key it is the same one."""
    lines = log.read_text().splitlines() if log.exists() else []
    split = [line.split(" ") for line in lines if line.endswith(" .")]  # else it broke off
    return {(key, what) for key, what, _end in split}


def _every_minute(ticks: list[str]) -> list[str]:
    """A clock leaves out none between the first and the last."""
    if not ticks:
        return []
    first, last = (datetime.strptime(f(ticks), f"{TICK}{_MINUTE}") for f in (min, max))  # noqa: DTZ007 - names, not times
    minutes = int((last - first) / timedelta(minutes=1))
    return [f"{TICK}{first + timedelta(minutes=n):{_MINUTE}}" for n in range(minutes + 1)]
