"""All that QStash remembers, in one SQLite file: a restart loses nothing."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from croniter import croniter

from app.local.standin import Sqlite

DEDUPE_SECONDS = 600.0
_TABLES = """
CREATE TABLE IF NOT EXISTS messages (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL,
  dead INTEGER NOT NULL DEFAULT 0, at REAL NOT NULL, doc TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS messages_due ON messages (dead, at);
CREATE INDEX IF NOT EXISTS messages_id ON messages (id);
CREATE TABLE IF NOT EXISTS schedule (id TEXT PRIMARY KEY, next REAL NOT NULL, last REAL,
  doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dedupe (id TEXT PRIMARY KEY, message TEXT NOT NULL, until REAL NOT NULL);
"""


class Store(Sqlite):
    """Messages and schedules. `clock` gives Unix seconds, `times` when to deliver what is due."""

    def __init__(
        self, path: str, clock: Callable[[], float], times: Callable[[float], list[float]]
    ) -> None:
        super().__init__(path, _TABLES)
        self.clock = clock
        self._times = times

    def accept(self, doc: dict[str, Any]) -> dict[str, Any]:
        """Keep a message, unless its deduplication id was used before. The answer to a publish."""
        sql = "SELECT message FROM dedupe WHERE id=? AND until>?"
        for (known,) in self._rows(sql, doc.get("deduplicationId"), self.clock()):
            return {"messageId": known, "deduplicated": True}
        return {"messageId": self.add(doc, *self._times(doc["notBefore"] / 1000))}

    def add(self, doc: dict[str, Any], *times: float) -> str:
        """Keep a new message for delivery at each of the times, in Unix seconds. Returns its id."""
        message_id: str = f"msg_{secrets.token_hex(32)[:63]}"
        doc["messageId"] = message_id
        with self._lock:
            if doc.get("deduplicationId"):
                until = doc["createdAt"] / 1000 + DEDUPE_SECONDS
                used = (doc["deduplicationId"], message_id, until)
                self._rows("INSERT OR REPLACE INTO dedupe VALUES (?,?,?)", *used)
            for at in times:
                sql = "INSERT INTO messages (id, at, doc) VALUES (?,?,?)"
                self._rows(sql, message_id, at, json.dumps(doc))
        return message_id

    def due(self, now: float) -> list[tuple[int, dict[str, Any]]]:
        """The messages that are due, longest due first, each with its number."""
        sql = "SELECT seq, doc FROM messages WHERE NOT dead AND at<=? ORDER BY at, seq LIMIT 2000"
        return [(seq, json.loads(doc)) for seq, doc in self._rows(sql, now)]

    def move(self, seq: int, doc: dict[str, Any], at: float, *, dead: bool = False) -> None:
        """Keep a message for later, or as a dead letter."""
        change = "UPDATE messages SET at=?, dead=?, doc=? WHERE seq=?"
        self._rows(change, at, dead, json.dumps(doc), seq)

    def remove(self, seq: int) -> None:
        """Forget one delivery."""
        self._rows("DELETE FROM messages WHERE seq=?", seq)

    def get(self, message_id: str) -> dict[str, Any] | None:
        """A message that is not delivered yet, or a dead letter."""
        rows = self._rows("SELECT doc FROM messages WHERE id=? ORDER BY seq", message_id)
        return json.loads(rows[0][0]) if rows else None

    def cancel(self, message_ids: list[str]) -> int:
        """Forget messages that are not dead. Returns how many there were."""
        sql = "DELETE FROM messages WHERE id=? AND NOT dead RETURNING id"
        return sum(bool(self._rows(sql, message_id)) for message_id in message_ids)

    def kept(self, *, dead: bool = False) -> list[dict[str, Any]]:
        """The dead letters, or every message still to be delivered."""
        rows = self._rows("SELECT doc FROM messages WHERE dead=? ORDER BY seq", dead)
        return [json.loads(doc) for (doc,) in rows]

    def plan(self, schedule: dict[str, Any], after: float, last: float | None = None) -> None:
        """Create or overwrite a schedule, whose next time is the first one after `after`."""
        start = datetime.fromtimestamp(after, UTC)
        next_at = croniter(schedule["cron"], start).get_next(datetime).timestamp()
        bound = (schedule["scheduleId"], next_at, last, json.dumps(schedule))
        self._rows("INSERT OR REPLACE INTO schedule VALUES (?,?,?,?)", *bound)

    def schedules(self) -> list[tuple[float, float | None, dict[str, Any]]]:
        """The schedules, each with its next and its last time, Unix seconds."""
        rows = self._rows("SELECT next, last, doc FROM schedule ORDER BY id")
        return [(next_at, last, json.loads(doc)) for next_at, last, doc in rows]

    def unschedule(self, schedule_id: str) -> bool:
        """Forget a schedule. Whether it existed."""
        return bool(self._rows("DELETE FROM schedule WHERE id=? RETURNING id", schedule_id))

    def tick(self, now: float) -> None:
        """Create the messages of the schedules that are due."""
        for (text,) in self._rows("SELECT doc FROM schedule WHERE next<=?", now):
            schedule, at = json.loads(text), int(now * 1000)
            message = {name: value for name, value in schedule.items() if name != "cron"}
            self.accept({**message, "createdAt": at, "notBefore": at})
            self.plan(schedule, now, now)
