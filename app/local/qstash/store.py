"""All that QStash remembers, in one SQLite file: a restart loses nothing."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from typing import Any

DEDUPE_SECONDS = 600.0
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_ID_LENGTH = 63  # as long as the service's own
_TABLES = """
CREATE TABLE IF NOT EXISTS messages (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL,
  dead INTEGER NOT NULL DEFAULT 0, at REAL NOT NULL, doc TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS messages_due ON messages (dead, at);
CREATE INDEX IF NOT EXISTS messages_id ON messages (id);
CREATE TABLE IF NOT EXISTS schedules (id TEXT PRIMARY KEY, next REAL NOT NULL, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dedupe (id TEXT PRIMARY KEY, message TEXT NOT NULL, until REAL NOT NULL);
"""


class Store:
    """Messages and schedules. Any thread may call it."""

    def __init__(self, path: str) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        # A killed process loses nothing so; only a machine that loses power might.
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + _TABLES)

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    def _do(self, sql: str, *bound: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(sql, bound).fetchall()

    def duplicate(self, dedupe_id: str | None, now: float) -> str | None:
        """The message that this id was used for within the window; a failed one counts too."""
        rows = self._do("SELECT message FROM dedupe WHERE id=? AND until>?", dedupe_id, now)
        return rows[0]["message"] if rows else None

    def add(self, doc: dict[str, Any], *times: float) -> str:
        """Keep a new message, to be delivered at each of the times, Unix seconds; its id."""
        letters = (secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
        message_id = doc["messageId"] = "msg_" + "".join(letters)
        with self._lock:
            if doc.get("deduplicationId"):
                until = doc["createdAt"] / 1000 + DEDUPE_SECONDS
                used = (doc["deduplicationId"], message_id, until)
                self._do("INSERT OR REPLACE INTO dedupe VALUES (?,?,?)", *used)
            for at in times:
                sql = "INSERT INTO messages (id, at, doc) VALUES (?,?,?)"
                self._do(sql, message_id, at, json.dumps(doc))
        return message_id

    def due(self, now: float) -> list[sqlite3.Row]:
        """What is to be delivered by now, the longest due first."""
        sql = "SELECT seq, doc FROM messages WHERE NOT dead AND at<=? ORDER BY at, seq LIMIT 2000"
        return self._do(sql, now)

    def move(self, seq: int, doc: dict[str, Any], at: float, *, dead: bool = False) -> None:
        """Keep a message for later, or as a dead letter."""
        change = "UPDATE messages SET at=?, dead=?, doc=? WHERE seq=?"
        self._do(change, at, dead, json.dumps(doc), seq)

    def remove(self, seq: int) -> None:
        """Forget one delivery."""
        self._do("DELETE FROM messages WHERE seq=?", seq)

    def get(self, message_id: str) -> dict[str, Any] | None:
        """A message that is not delivered yet, or a dead letter."""
        rows = self._do("SELECT doc FROM messages WHERE id=? ORDER BY seq", message_id)
        return json.loads(rows[0]["doc"]) if rows else None

    def cancel(self, message_ids: list[str]) -> int:
        """Forget messages that are not dead; how many there were."""
        count = 0
        with self._lock:
            for message_id in message_ids:
                doc = self.get(message_id)
                if doc is not None and "dlqId" not in doc:
                    self._do("DELETE FROM messages WHERE id=?", message_id)
                    count += 1
        return count

    def waiting(self) -> list[dict[str, Any]]:
        """Every message still to be delivered."""
        return self._docs(dead=False)

    def dead(self) -> list[dict[str, Any]]:
        """The dead letters."""
        return self._docs(dead=True)

    def _docs(self, *, dead: bool) -> list[dict[str, Any]]:
        rows = self._do("SELECT doc FROM messages WHERE dead=? ORDER BY seq", dead)
        return [json.loads(row["doc"]) for row in rows]

    def save_schedule(self, doc: dict[str, Any], next_at: float) -> None:
        """Create a schedule or overwrite it."""
        bound = (doc["scheduleId"], next_at, json.dumps(doc))
        self._do("INSERT OR REPLACE INTO schedules VALUES (?,?,?)", *bound)

    def schedules(self, due: float | None = None) -> list[dict[str, Any]]:
        """All schedules, or those whose next time has come."""
        most = 1e18 if due is None else due
        rows = self._do("SELECT next, doc FROM schedules WHERE next<=? ORDER BY id", most)
        return [{**json.loads(r["doc"]), "nextScheduleTime": int(r["next"] * 1000)} for r in rows]

    def remove_schedule(self, schedule_id: str) -> bool:
        """Forget one; whether it was there."""
        gone = self._do("DELETE FROM schedules WHERE id=? RETURNING id", schedule_id)
        return bool(gone)
