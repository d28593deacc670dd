"""What the stand-in remembers: objects, balances and idempotency keys' results, in SQLite."""

import json
import random
import sqlite3
import string
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from app.local.stripe.errors import ApiError, missing
from app.local.stripe.faults import Rule
from app.switchyard.clock import Clock

KEY_LIFE_SECONDS = 24 * 3600
SETTLE_SECONDS = 2 * 24 * 3600
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS objects (seq INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL,
    kind TEXT NOT NULL, owner TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_kind ON objects (kind, owner, seq);
CREATE INDEX IF NOT EXISTS by_group
    ON objects (kind, owner, json_extract(body, '$.transfer_group'), seq);
CREATE INDEX IF NOT EXISTS by_destination
    ON objects (kind, owner, json_extract(body, '$.destination'), seq);
CREATE TABLE IF NOT EXISTS balances (
    owner TEXT, currency TEXT, amount INTEGER NOT NULL, PRIMARY KEY (owner, currency));
CREATE TABLE IF NOT EXISTS arrivals (
    owner TEXT NOT NULL, currency TEXT NOT NULL, amount INTEGER NOT NULL, due INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_owner ON arrivals (owner);
CREATE TABLE IF NOT EXISTS results (owner TEXT, key TEXT, stored_at INTEGER NOT NULL,
    fingerprint TEXT, request_id TEXT, status INTEGER, body TEXT, PRIMARY KEY (owner, key));
CREATE INDEX IF NOT EXISTS by_age ON results (stored_at);
CREATE TABLE IF NOT EXISTS plans (seq INTEGER PRIMARY KEY, due INTEGER NOT NULL,
    owner TEXT NOT NULL, payout TEXT NOT NULL, status TEXT NOT NULL, code TEXT);
CREATE INDEX IF NOT EXISTS by_due ON plans (due);
CREATE INDEX IF NOT EXISTS undelivered ON objects (seq)
    WHERE kind = 'event' AND json_extract(body, '$.pending_webhooks') > 0;
"""
FUNDS = {
    False: "SELECT owner, currency, amount FROM balances UNION ALL"
    " SELECT owner, currency, amount FROM arrivals WHERE due <= ?",
    True: "SELECT owner, currency, amount FROM arrivals WHERE due > ?",
}
"""By whether it is still pending."""
COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
UNKEPT = ("ending_before", "types", "delivery_success")
"""Parameters of lists that Stripe has and this stand-in has not."""


class Result(NamedTuple):
    """The stored answer of an idempotency key."""

    fingerprint: str
    request_id: str
    status: int
    body: str


class Store:
    """One SQLite connection behind one lock; `owner` is an account's id, or "" the platform.

    Without `path` everything is in memory. Time is `clock` plus what the admin route added to it.
    """

    def __init__(
        self, path: Path | None, *, seed: int, clock: Clock, settle_seconds: int | None
    ) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(
            path or ":memory:", check_same_thread=False, isolation_level=None
        )
        # A commit then survives the process's death, if not the machine's.
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + SCHEMA)
        self._seed = seed
        self._clock = clock
        meta = dict(self._rows("SELECT name, value FROM meta"))
        self._ids: int = meta.get("ids", 0)
        self._ahead: int = meta.get("ahead", 0)
        known: int = meta.get("settle", SETTLE_SECONDS)
        self.settle_seconds = known if settle_seconds is None else settle_seconds
        """How long a bank takes, by the stand-in's clock."""
        self.listened_to: Sequence[str] = ()
        """The types of new events to be delivered, as globs."""

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, one writer at a time; one commit."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                sql = "INSERT OR REPLACE INTO meta VALUES ('ids', ?), ('ahead', ?), ('settle', ?)"
                self._db.execute(sql, (self._ids, self._ahead, self.settle_seconds))
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def now(self) -> int:
        """Seconds since 1970, UTC, by the stand-in's clock."""
        return int(self._clock().timestamp()) + self._ahead

    def advance(self, seconds: int) -> None:
        with self.transaction():
            self._ahead += seconds

    def new_id(self, prefix: str) -> str:
        """An id made from the seed and a stored count: the same seed gives the same ids."""
        self._ids += 1
        chance = random.Random(f"{self._seed}:{self._ids}")
        return f"{prefix}_{''.join(chance.choices(string.ascii_letters + string.digits, k=24))}"

    def put(self, owner: str, body: dict[str, Any]) -> dict[str, Any]:
        """Inserts or overwrites the object `body["id"]`, of kind `body["object"]`."""
        self._db.execute(
            "INSERT INTO objects (id, kind, owner, body) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (body["id"], body["object"], owner, json.dumps(body)),
        )
        return body

    def find(self, kind: str, owner: str, id_: str) -> dict[str, Any] | None:
        sql = "SELECT body FROM objects WHERE id = ? AND kind = ? AND owner = ?"
        return next((json.loads(body) for (body,) in self._rows(sql, id_, kind, owner)), None)

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Every owner's objects of a kind, oldest first."""
        rows = self._rows("SELECT body FROM objects WHERE kind = ? ORDER BY seq", kind)
        return [json.loads(body) for (body,) in rows]

    def page(self, kind: str, owner: str, url: str, query: dict[str, Any]) -> dict[str, Any]:
        """A list object, newest first; `query` is the request's, its filters named as fields."""
        query = dict(query)
        limit = query.pop("limit", 10)
        where, values = "kind = ? AND owner = ?", [kind, owner]
        for name in UNKEPT:
            if name in query:
                raise ApiError(400, f"This stand-in does not know {name}.", param=name)
        if (id_ := query.pop("starting_after", None)) is not None:
            sql = "SELECT seq FROM objects WHERE id = ? AND kind = ? AND owner = ?"
            rows = self._rows(sql, id_, kind, owner)
            if not rows:
                raise missing(kind, id_, "starting_after", status=400)
            where += " AND seq < ?"
            values.append(rows[0][0])
        for field, wanted in query.items():
            for name, bound in (wanted if isinstance(wanted, dict) else {"": wanted}).items():
                where += f" AND json_extract(body, '$.{field}') {COMPARISONS.get(name, '=')} ?"
                values.append(bound)
        sql = f"SELECT body FROM objects WHERE {where} ORDER BY seq DESC LIMIT {limit + 1}"
        rows = self._rows(sql, *values)
        data = [json.loads(body) for (body,) in rows[:limit]]
        return {"object": "list", "url": url, "has_more": len(rows) > limit, "data": data}

    def balances(self) -> dict[str, dict[str, int]]:
        """Available minor units by owner and currency."""
        sql = f"SELECT owner, currency, SUM(amount) FROM ({FUNDS[False]}) GROUP BY owner, currency"
        found: dict[str, dict[str, int]] = {}
        for owner, currency, amount in self._rows(sql, self.now()):
            found.setdefault(owner, {})[currency] = amount
        return found

    def balance(self, owner: str, *, pending: bool = False) -> dict[str, int]:
        """Minor units by currency: those available, or those still pending."""
        sql = f"SELECT currency, SUM(amount) FROM ({FUNDS[pending]}) WHERE owner = ?"
        return dict(self._rows(f"{sql} GROUP BY currency", self.now(), owner))

    def move(self, owner: str, currency: str, amount: int) -> None:
        """Adds `amount` minor units, which may be negative, to a balance."""
        self._db.execute(
            "INSERT INTO balances VALUES (?, ?, ?)"
            " ON CONFLICT (owner, currency) DO UPDATE SET amount = amount + excluded.amount",
            (owner, currency, amount),
        )

    def expect(self, owner: str, currency: str, amount: int, due: int) -> None:
        """Adds `amount` minor units that are available once the clock reaches `due`."""
        sql = "INSERT INTO arrivals (owner, currency, amount, due) VALUES (?, ?, ?, ?)"
        self._db.execute(sql, (owner, currency, amount, due))

    def undelivered(self, after: int) -> list[tuple[int, str]]:
        """Events still to be delivered, in their order, past the place `after`: place and body."""
        return self._rows(
            "SELECT seq, body FROM objects WHERE seq > ? AND kind = 'event'"
            " AND json_extract(body, '$.pending_webhooks') > 0 ORDER BY seq",
            after,
        )

    def plan(self, due: int, owner: str, payout: str, status: str, code: str | None) -> None:
        """Has a payout change its status once the clock reaches `due`."""
        sql = "INSERT INTO plans (due, owner, payout, status, code) VALUES (?, ?, ?, ?, ?)"
        self._db.execute(sql, (due, owner, payout, status, code))

    def is_due(self) -> bool:
        """Whether a planned change's time has come."""
        return bool(self._rows("SELECT 1 FROM plans WHERE due <= ? LIMIT 1", self.now()))

    def take_due(self) -> list[tuple[int, int, str, str, str, str | None]]:
        """The changes whose time has come, no longer planned: due, place, owner, payout, …"""
        sql = "DELETE FROM plans WHERE due <= ? RETURNING due, seq, owner, payout, status, code"
        return sorted(self._rows(sql, self.now()))

    def result(self, owner: str, key: str) -> Result | None:
        """The stored result of a key younger than 24 h."""
        rows = self._rows(
            "SELECT fingerprint, request_id, status, body FROM results"
            " WHERE owner = ? AND key = ? AND stored_at > ?",
            *(owner, key, self.now() - KEY_LIFE_SECONDS),
        )
        return Result(*rows[0]) if rows else None

    def remember(self, owner: str, key: str, result: Result) -> None:
        """Stores a key's result, where there is a key, and prunes those 24 h old."""
        if not key:
            return
        now = self.now()
        self._db.execute("DELETE FROM results WHERE stored_at <= ?", (now - KEY_LIFE_SECONDS,))
        sql = "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?)"
        self._db.execute(sql, (owner, key, now, *result))

    def _rows(self, sql: str, *values: object) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()


class Call(NamedTuple):
    """A request that was let in; `owner` is the account acted for, `ids` are those in the path."""

    store: Store
    api_key: str
    owner: str
    ids: tuple[str, ...]
    params: dict[str, Any]
    fate: Rule | None = None
    """What the bank is told to do with a new payout."""
