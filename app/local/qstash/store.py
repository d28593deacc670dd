"""All that QStash remembers, in one SQLite file: a restart loses nothing."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from typing import Any

DEDUPE_SECONDS = 600.0
EVENTS_KEPT = 10_000
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_LONG = range(63)  # as long as the service's own
_TABLES = """
CREATE TABLE IF NOT EXISTS messages (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL,
  state TEXT NOT NULL, at REAL NOT NULL, queue TEXT, flow TEXT, doc TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS messages_due ON messages (state, at);
CREATE INDEX IF NOT EXISTS messages_id ON messages (id);
CREATE TABLE IF NOT EXISTS schedules (id TEXT PRIMARY KEY, next REAL NOT NULL, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dedupe (id TEXT PRIMARY KEY, message TEXT NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY AUTOINCREMENT, doc TEXT NOT NULL);
"""
WAITING, COPY, DEAD = "waiting", "copy", "dead"
"""A message to be delivered; a second delivery of one, on demand; one in the dead letter queue."""


class Store:
    """Messages, schedules and events. Any thread may call it."""

    def __init__(self, path: str) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        # A killed process loses nothing so; only a machine that loses power might.
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + _TABLES)

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            self._db.close()

    def _do(self, sql: str, *bound: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(sql, bound).fetchall()

    def duplicate(self, dedupe_id: str | None, now: float) -> str | None:
        """The message that this id was used for within the window; a failed one counts too."""
        rows = self._do("SELECT message FROM dedupe WHERE id=? AND until>?", dedupe_id, now)
        return rows[0]["message"] if rows else None

    def add(self, doc: dict[str, Any], at: float, *, copy_at: float | None = None) -> str:
        """Keep a new message, and maybe a second delivery of it; its id."""
        message_id = doc["messageId"] = "msg_" + "".join(secrets.choice(_ALPHABET) for _ in _LONG)
        sql = "INSERT INTO messages (id, state, at, queue, flow, doc) VALUES (?,?,?,?,?,?)"
        rest = (doc.get("flowControlKey"), json.dumps(doc))
        with self._lock:
            if doc.get("deduplicationId"):
                until = doc["createdAt"] / 1000 + DEDUPE_SECONDS
                used = (doc["deduplicationId"], message_id, until)
                self._do("INSERT OR REPLACE INTO dedupe VALUES (?,?,?)", *used)
            self._do(sql, message_id, WAITING, at, doc.get("queueName"), *rest)
            if copy_at is not None:
                self._do(sql, message_id, COPY, copy_at, None, *rest)
        self.event("CREATED", doc, doc["createdAt"] / 1000)
        return message_id

    def due(self, now: float) -> list[sqlite3.Row]:
        """What is to be delivered by now, the longest due first."""
        return self._do(
            "SELECT seq, state, queue, flow, doc FROM messages"
            " WHERE state IN ('waiting', 'copy') AND at<=? ORDER BY at, seq LIMIT 2000",
            now,
        )

    def first_in(self, queue: str) -> int:
        """The number of the queue's first message: a queue delivers in its order."""
        sql = "SELECT min(seq) AS first FROM messages WHERE state='waiting' AND queue=?"
        return int(self._do(sql, queue)[0]["first"] or 0)

    def move(self, seq: int, doc: dict[str, Any], at: float, state: str = WAITING) -> None:
        """Keep a message for later, or among the dead."""
        change = "UPDATE messages SET at=?, state=?, doc=? WHERE seq=?"
        self._do(change, at, state, json.dumps(doc), seq)

    def remove(self, seq: int) -> None:
        """Forget one delivery."""
        self._do("DELETE FROM messages WHERE seq=?", seq)

    def get(self, message_id: str) -> dict[str, Any] | None:
        """A message that is not delivered yet, or dead."""
        sql = "SELECT doc FROM messages WHERE id=? AND state<>'copy'"
        rows = self._do(sql, message_id)
        return json.loads(rows[0]["doc"]) if rows else None

    def cancel(self, message_ids: list[str], now: float) -> int:
        """Forget messages; how many there were."""
        count = 0
        with self._lock:
            for message_id in message_ids:
                doc = self.get(message_id)
                if doc is not None and "dlqId" not in doc:
                    self._do("DELETE FROM messages WHERE id=?", message_id)
                    self.event("CANCELED", doc, now)
                    count += 1
        return count

    def kept(self, state: str, after: int = 0) -> list[tuple[int, dict[str, Any]]]:
        """The messages that stand so, by number, from a place on."""
        rows = self._do("SELECT seq, doc FROM messages WHERE state=? AND seq>?", state, after)
        return [(row["seq"], json.loads(row["doc"])) for row in rows]

    def waiting(self) -> list[dict[str, Any]]:
        """Every message still to be delivered."""
        return [doc for _, doc in self.kept(WAITING)]

    def dead(self) -> list[dict[str, Any]]:
        """The dead letter queue."""
        return [doc for _, doc in self.kept(DEAD)]

    def save_schedule(self, doc: dict[str, Any], next_at: float) -> None:
        """Create a schedule or overwrite it."""
        bound = (doc["scheduleId"], next_at, json.dumps(doc))
        self._do("INSERT OR REPLACE INTO schedules VALUES (?,?,?)", *bound)

    def schedules(self, due: float | None = None) -> list[dict[str, Any]]:
        """All schedules, or those whose next time has come."""
        most = 1e18 if due is None else due
        rows = self._do("SELECT next, doc FROM schedules WHERE next<=? ORDER BY id", most)
        return [{**json.loads(r["doc"]), "nextScheduleTime": int(r["next"] * 1000)} for r in rows]

    def remove_schedule(self, schedule_id: str) -> None:
        """Forget one."""
        self._do("DELETE FROM schedules WHERE id=?", schedule_id)

    def event(self, state: str, doc: dict[str, Any], now: float, **more: Any) -> None:
        """Note what happened to a message."""
        names = ("messageId", "url", "method", "scheduleId", "queueName", "label", "maxRetries")
        said = {name: doc[name] for name in names if doc.get(name) is not None}
        text = json.dumps({"state": state, "time": int(now * 1000), **said, **more})
        with self._lock:
            self._do("INSERT INTO events (doc) VALUES (?)", text)
            old = "DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?"
            self._do(old, EVENTS_KEPT)

    def events(self) -> list[dict[str, Any]]:
        """What happened, the latest first."""
        return [json.loads(r["doc"]) for r in self._do("SELECT doc FROM events ORDER BY seq DESC")]
