"""What the stand-in remembers: objects, balances and idempotency keys' results, in SQLite."""

import json
import random
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import stripe

from app.local.standin import MEMORY, Sqlite
from app.local.stripe.errors import missing
from app.switchyard.clock import Clock

KEY_LIFE_SECONDS = 24 * 3600
SETTLE_SECONDS = 2 * 24 * 3600
_TABLES = """
CREATE TABLE IF NOT EXISTS objects (seq INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL,
    kind TEXT NOT NULL, owner TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_kind ON objects (kind, owner, seq);
CREATE INDEX IF NOT EXISTS by_group
    ON objects (kind, owner, json_extract(body, '$.transfer_group'), seq);
CREATE TABLE IF NOT EXISTS funds (owner TEXT, currency TEXT, due INTEGER, amount INTEGER NOT NULL,
    PRIMARY KEY (owner, currency, due));
CREATE TABLE IF NOT EXISTS results (owner TEXT, key TEXT, stored_at INTEGER NOT NULL,
    fingerprint TEXT, status INTEGER, body TEXT, PRIMARY KEY (owner, key));
CREATE TABLE IF NOT EXISTS plans (seq INTEGER PRIMARY KEY, due INTEGER NOT NULL,
    owner TEXT NOT NULL, payout TEXT NOT NULL, status TEXT NOT NULL, code TEXT);
CREATE INDEX IF NOT EXISTS undelivered ON objects (seq)
    WHERE kind = 'event' AND json_extract(body, '$.pending_webhooks') > 0;
"""


class Result(NamedTuple):
    """The stored answer of an idempotency key."""

    fingerprint: str
    status: int
    body: str


class Store(Sqlite):
    """`owner` is an account's id, or "" the platform."""

    def __init__(self, path: str, *, clock: Clock, settle_seconds: int) -> None:
        super().__init__(path, _TABLES)
        self._clock = clock
        self._random = random.Random(0) if path == MEMORY else random.SystemRandom()
        self.settle_seconds = settle_seconds
        """How long a bank takes, by the stand-in's clock."""
        self.listened_to: Sequence[str] = ()
        """The types of new events to be delivered, as globs."""

    def now(self) -> int:
        """Seconds since 1970, UTC, by the stand-in's clock."""
        return int(self._clock().timestamp())

    def new_id(self, prefix: str) -> str:
        """An id as long as Stripe's own; without a file the same calls get the same ids."""
        return f"{prefix}_{self._random.getrandbits(96):024x}"

    def put(
        self,
        owner: str,
        body: dict[str, Any],
        event: str = "",
        at: int | None = None,
        **data: Any,
    ) -> dict[str, Any]:
        """Insert or overwrite the object `body["id"]`, of kind `body["object"]`.

        With an `event`'s type, that is recorded too: of the time `at` (now), with `data` besides.
        """
        self._rows(
            "INSERT INTO objects (id, kind, owner, body) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            *(body["id"], body["object"], owner, json.dumps(body)),
        )
        if event:
            account = body["id"] if body["object"] == "account" else owner
            about = {
                "id": self.new_id("evt"),
                "object": "event",
                "api_version": stripe.api_version,
                "created": self.now() if at is None else at,
                "data": {"object": body, **data},
                "livemode": False,
                "pending_webhooks": int(any(fnmatchcase(event, one) for one in self.listened_to)),
                "type": event,
            }
            self.put(account, about | ({"account": account} if account else {}))
        return body

    def find(self, kind: str, owner: str, id_: str) -> dict[str, Any] | None:
        """The object, or None where its owner has none such."""
        sql = "SELECT body FROM objects WHERE id = ? AND kind = ? AND owner = ?"
        return next((json.loads(body) for (body,) in self._rows(sql, id_, kind, owner)), None)

    def page(self, kind: str, owner: str, query: dict[str, Any]) -> dict[str, Any]:
        """A list object, newest first; `query` has the request's parameters."""
        where, values, limit = "kind = ? AND owner = ?", [kind, owner], query["limit"]
        if (id_ := query["starting_after"]) is not None:
            if self.find(kind, owner, id_) is None:
                raise missing(kind, id_, "starting_after")
            where += " AND seq < (SELECT seq FROM objects WHERE id = ?)"
            values.append(id_)
        if (group := query.get("transfer_group")) is not None:
            where += " AND json_extract(body, '$.transfer_group') = ?"
            values.append(group)
        if (created := query.get("created")) is not None:
            where += " AND json_extract(body, '$.created') >= ?"
            values.append(created["gte"])
        sql = f"SELECT body FROM objects WHERE {where} ORDER BY seq DESC LIMIT {limit + 1}"
        data = [json.loads(body) for (body,) in self._rows(sql, *values)]
        more = {"has_more": len(data) > limit, "data": data[:limit]}
        return {"object": "list", "url": f"/v1/{kind}s", **more}

    def balance(self, owner: str, *, pending: bool = False) -> dict[str, int]:
        """Minor units by currency: those available, or those still pending."""
        sql = "SELECT currency, SUM(amount) FROM funds WHERE owner = ? AND (due > ?) = ?"
        return dict(self._rows(f"{sql} GROUP BY currency", owner, self.now(), pending))

    def move(self, owner: str, currency: str, amount: int, due: int = 0) -> None:
        """Add `amount` minor units, which may be negative, to a balance; available at `due`."""
        self._rows(
            "INSERT INTO funds VALUES (?, ?, ?, ?)"
            " ON CONFLICT (owner, currency, due) DO UPDATE SET amount = amount + excluded.amount",
            *(owner, currency, due, amount),
        )

    def undelivered(self, after: int) -> list[tuple[int, str]]:
        """Events still to be delivered, in their order, past the place `after`: place and body."""
        return self._rows(
            "SELECT seq, body FROM objects WHERE seq > ? AND kind = 'event'"
            " AND json_extract(body, '$.pending_webhooks') > 0 ORDER BY seq",
            after,
        )

    def plan(self, due: int, owner: str, payout: str, status: str, code: str = "") -> None:
        """Have a payout change its status once the clock reaches `due`; `code` of a failure."""
        sql = "INSERT INTO plans (due, owner, payout, status, code) VALUES (?, ?, ?, ?, ?)"
        self._rows(sql, due, owner, payout, status, code)

    def take_due(self) -> list[tuple[int, int, str, str, str, str]]:
        """The changes whose time has come, no longer planned: due, place, owner, payout, …"""
        sql = "DELETE FROM plans WHERE due <= ? RETURNING due, seq, owner, payout, status, code"
        return sorted(self._rows(sql, self.now()))

    def result(self, owner: str, key: str) -> Result | None:
        """The stored result of a key younger than 24 h."""
        young = "owner = ? AND key = ? AND stored_at > ?"
        sql = f"SELECT fingerprint, status, body FROM results WHERE {young}"
        rows = self._rows(sql, owner, key, self.now() - KEY_LIFE_SECONDS)
        return Result(*rows[0]) if rows else None

    def remember(self, owner: str, key: str, result: Result) -> None:
        """Store a key's result, where there is a key, and prune those 24 h old."""
        if not key:
            return
        now, sql = self.now(), "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)"
        self._rows("DELETE FROM results WHERE stored_at <= ?", now - KEY_LIFE_SECONDS)
        self._rows(sql, owner, key, now, *result)


class Call(NamedTuple):
    """A request that was let in: `owner` is the account acted for, `id` the one in the path."""

    store: Store
    owner: str
    path: str
    id: str
    params: dict[str, Any]
    key: str
    """Of idempotency, or empty."""
