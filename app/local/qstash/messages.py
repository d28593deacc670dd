"""Messages accepted and schedules kept, with what a bad day does to them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from croniter import croniter

from app.local.luck import Luck
from app.local.qstash.store import Store


class Messages:
    """What is to be delivered, and when. Any thread may call it."""

    def __init__(self, store: Store, luck: Luck, clock: Callable[[], float]) -> None:
        self.store = store
        self.luck = luck
        self.clock = clock

    def accept(self, doc: dict[str, Any]) -> dict[str, Any]:
        """Keep a message: what a publish answers."""
        known = self.store.duplicate(doc.get("deduplicationId"), self.clock())
        if known is not None:
            return {"messageId": known, "deduplicated": True}
        return {"messageId": self.store.add(doc, *self.luck.times(doc["notBefore"] / 1000))}

    def plan(self, schedule: dict[str, Any], after: float) -> None:
        """Keep a schedule, its next time the first one after `after`, Unix seconds."""
        start = datetime.fromtimestamp(after, UTC)
        next_at = croniter(schedule["cron"], start).get_next(datetime).timestamp()
        self.store.save_schedule(schedule, next_at)

    def tick(self, now: float) -> None:
        """Make the messages of the schedules whose time has come."""
        for schedule in self.store.schedules(due=now):
            del schedule["nextScheduleTime"]
            at = int(now * 1000)
            message = {**schedule["message"], "createdAt": at, "notBefore": at}
            answer = self.accept({**message, "scheduleId": schedule["scheduleId"]})
            states = {answer["messageId"]: "IN_PROGRESS"}
            self.plan({**schedule, "lastScheduleTime": at, "lastScheduleStates": states}, now)
